"""Walk: an episode of several steps whose one reward comes at the end, as an agent is taught it."""

import math
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from efficient.search.replay import Transition


def transitions(states: Sequence[np.ndarray], actions: Sequence[float], value: float) -> Transition:
    """The steps of an episode, each with the reward of the end.

    Args:
      states: float32 [features] of each step, at least one.
      actions: one number in [0, 1] a step.
      value: the reward.
    """
    steps, seen = len(states), jnp.asarray(np.stack(states))
    return Transition(
        state=seen,
        action=jnp.asarray(actions, jnp.float32)[:, None],
        reward=jnp.full(steps, value, jnp.float32),
        next_state=jnp.roll(seen, -1, 0),
        is_last=jnp.arange(steps) == steps - 1,
    )


def known_accuracy(accuracy: float) -> float:
    """An accuracy; NaN is none at all.

    Raises:
      ValueError: it is outside [0, 1].
    """
    known = 0.0 if math.isnan(accuracy) else float(accuracy)
    if not 0 <= known <= 1:
        raise ValueError(
            f"evaluate must return an accuracy in [0, 1], got {accuracy!r}; divide percent by 100."
        )
    return known


def spread(table: np.ndarray) -> np.ndarray:
    """Each column from 0 at its least to 1 at its largest; 0 where all are the same."""
    low, high = table.min(0), table.max(0)
    return (table - low) / np.where(high > low, high - low, 1.0)
