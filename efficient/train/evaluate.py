"""Evaluate: means over every example of a set, exactly once each, with one compile.

Batches are of one size; rows that only fill the last one up are False in its `mask`.
"""

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from efficient.core.transform import Transform
from efficient.train.step import TrainState

Score = Callable[[Any, Any, Any], Mapping[str, jax.Array]]


def evaluate(score: Score, weights: Any, model_state: Any, batches: Iterable[Any]) -> dict[str, float]:
    """The mean of each score over the examples of `batches`.

    Args:
      score: `score(weights, model_state, batch) -> {name: values [batch]}`, one value an example: a bool for
        an accuracy. Its compiled program is kept for as long as it is the same function.
      weights: what the model sees; it may hold leaves, if `score` calls the model through `lift`.
      model_state: as in `TrainState`.
      batches: all of one size; a batch without `mask` counts whole.

    Raises:
      ValueError: a score is not one number an example, or there is no example.
    """
    sums = jax.device_get([_sums(score, weights, model_state, batch) for batch in batches])
    examples = sum(int(count) for count, _ in sums)
    if examples == 0:
        raise ValueError("batches must hold at least one example, got none; is the iterator used up?")
    return {name: sum(float(total[name]) for _, total in sums) / examples for name in sums[0][1]}


def evaluator(
    score: Score, transform: Transform, batches: Iterable[Any]
) -> Callable[[TrainState], dict[str, float]]:
    """`evaluate` of a training state's weights, for `fit`; `batches` must give the same each time."""
    seen = jax.jit(transform.apply)
    return lambda state: evaluate(score, seen(state.params, state.compress), state.model_state, batches)


@functools.partial(jax.jit, static_argnames="score")
def _sums(score: Score, weights: Any, model_state: Any, batch: Any) -> tuple[jax.Array, dict[str, jax.Array]]:
    """How many examples a batch has, and the sum of each score over them."""
    values = score(weights, model_state, batch)
    mask = getattr(batch, "mask", None)
    rows = len(next(iter(values.values()))) if mask is None else len(mask)
    for name, value in values.items():
        if value.shape != (rows,):
            raise ValueError(
                f"{name} must be one number an example, [{rows}], got {value.shape!r}; do not average."
            )
    mask = jnp.ones(rows, bool) if mask is None else mask
    # A padding row may score NaN: it is put aside before the sum, not multiplied by zero.
    sums = {name: jnp.sum(jnp.where(mask, v, 0), dtype=jnp.float32) for name, v in values.items()}
    return jnp.sum(mask), sums
