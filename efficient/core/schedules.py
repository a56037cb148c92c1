"""Schedules of a sparsity: functions of the step, as in optax, with values in [0, 1).

A transform's `update` is called with the number of optimizer steps that were taken: 1 after the first.
"""

import itertools
from collections.abc import Sequence

import optax


def constant(value: float) -> optax.Schedule:
    """`value` at every step.

    Raises:
      ValueError: `value` is not in [0, 1).
    """
    _require_sparsity("value", value)
    return optax.constant_schedule(value)


def cubic_ramp(*, initial: float = 0.0, final: float, begin: int = 0, end: int) -> optax.Schedule:
    """A ramp that prunes fast at first, while weights are many, and slowly at the end.

    s(t) = s_f + (s_i - s_f) (1 - (t - t_0) / (t_1 - t_0))^3 between t_0 and t_1, constant outside, with
    s_i = `initial`, s_f = `final`, t_0 = `begin`, t_1 = `end`.

    Args:
      initial: sparsity up to `begin`, in [0, 1).
      final: sparsity from `end` on, in [0, 1); below `initial` the ramp goes down.
      begin: step at which the ramp begins, >= 0.
      end: step at which it has arrived, > `begin`.

    Raises:
      ValueError: an argument is out of its range.

    Example:
      >>> ramp = cubic_ramp(final=0.8, begin=0, end=10)
      >>> [round(float(ramp(t)), 4) for t in (0, 5, 10, 11)]
      [0.0, 0.7, 0.8, 0.8]

    Source: Zhu and Gupta, 2017, arXiv:1710.01878, equation 1.
    *Differs:* defined at every step; the paper's interval Delta t between two prunings is the transform's.
    """
    _require_sparsity("initial", initial)
    _require_sparsity("final", final)
    if not 0 <= begin < end:
        raise ValueError(
            f"begin must be in [0, end) with end {end!r}, got {begin!r}; a ramp needs a step or more."
        )
    return optax.polynomial_schedule(
        initial, final, power=3, transition_steps=end - begin, transition_begin=begin
    )


def staircase(values: Sequence[float], boundaries: Sequence[int]) -> optax.Schedule:
    """`values[0]` before step `boundaries[0]`, and `values[i]` from step `boundaries[i - 1]` on.

    Args:
      values: one more than there are boundaries, each in [0, 1).
      boundaries: steps, >= 1, each after the one before.

    Raises:
      ValueError: an argument is out of its range, or the lengths do not agree.

    Example:
      >>> stairs = staircase((0.0, 0.5, 0.75), (10, 20))
      >>> [float(stairs(t)) for t in (9, 10, 19, 20)]
      [0.0, 0.5, 0.5, 0.75]

    Source: Han et al., 2015, arXiv:1506.02626, section 3.4: prune and retrain, in rounds.
    """
    if len(values) != len(boundaries) + 1:
        raise ValueError(
            f"values must be one more than the {len(boundaries)} boundaries, got {len(values)!r}; the first "
            "holds before the first boundary."
        )
    for value in values:
        _require_sparsity("values", value)
    if any(late <= early for early, late in itertools.pairwise((0, *boundaries))):
        raise ValueError(f"boundaries must be positive and rise, got {tuple(boundaries)!r}; sort them.")
    return optax.join_schedules([optax.constant_schedule(value) for value in values], list(boundaries))


def _require_sparsity(name: str, value: float) -> None:
    """Refuses what is not in [0, 1); NaN is not."""
    if not 0 <= value < 1:
        raise ValueError(f"{name} must be in [0, 1), got {value!r}; 0.9 keeps one weight in ten.")
