"""Prune: a score, a pattern, an allocation and a schedule make a transform."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from efficient.core.paths import flatten, map_with_path
from efficient.core.transform import State, Transform, dense_value, is_float, recipe
from efficient.prune.allocation import Allocation
from efficient.prune.allocations.per_leaf import per_leaf
from efficient.prune.mask import masked
from efficient.prune.pattern import Pattern
from efficient.prune.patterns.unstructured import unstructured
from efficient.prune.score import Score, keep_memory

Schedule = Callable[[Any], Any]
EVERYTHING = unstructured()
EACH = per_leaf()


class Pruned(NamedTuple):
    """What stays, and what the score remembers; both by path."""

    masks: Mapping[str, Any]  # Bool [*shape]
    memory: Mapping[str, Any]


@recipe
def prune(
    score: Score,
    sparsity: float | Schedule | None = None,
    *,
    pattern: Pattern = EVERYTHING,
    allocation: Allocation = EACH,
    every: int = 1,
) -> Transform:
    """Zeros a fraction `sparsity` of the weights that it is given: the units of lowest score.

    A weight once zeroed stays so: a schedule that rises only adds zeros (one that falls changes nothing).
    A tie keeps the lower flat index; NaN goes first. `State.fixed` is a `Pruned`.

    Args:
      score: what a weight is worth.
      sparsity: in [0, 1); or a schedule step -> sparsity, such as `cubic_ramp`, applied by `update`; None is
        the pattern's own, such as 0.5 of 2:4.
      pattern: which weights stay or go together.
      allocation: how the budget is shared out among arrays.
      every: under a schedule, masks are made anew at steps that `every` divides.

    Raises:
      ValueError: at once, `sparsity` outside [0, 1), or None with a pattern that has none of its own, or
        `every` below 1; at `init`, no floating leaf, or one that score or pattern refuses; at `apply`, a
        floating leaf that `init` was not given.

    Example:
      >>> from efficient.prune.scores import absolute
      >>> t = prune(absolute(), 0.5)
      >>> params = {"kernel": jnp.array([[1.0, -4.0], [2.0, 0.5]])}
      >>> t.apply(params, t.init(params))["kernel"].tolist()
      [[0.0, -4.0], [2.0, 0.0]]
    """
    goal = pattern.sparsity if sparsity is None else sparsity
    if goal is None:
        raise ValueError(
            f"sparsity must be given where the pattern has none of its own, got None with {pattern!r}; "
            "0.9 zeros nine weights in ten."
        )
    if not callable(goal) and not 0 <= goal < 1:
        raise ValueError(f"sparsity must be in [0, 1), got {goal!r}; 0.9 zeros nine weights in ten.")
    if every < 1:
        raise ValueError(f"every must be at least 1, got {every}; it counts steps between masks.")

    def masks_of(scores: Mapping[str, jax.Array], amount: Any) -> dict[str, jax.Array]:
        pooled = {path: pattern.pool(s) for path, s in scores.items()}
        shapes = {path: s.shape for path, s in scores.items()}
        kept = allocation.share(pooled, shapes, amount)
        return {
            path: pattern.spread(pattern.choose(units, kept[path]), shapes[path])
            for path, units in pooled.items()
        }

    def init(params: Any, *, stats: Any = None, key: Any = None) -> State:
        own = {path: dense_value(v) for path, v in flatten(params)[0].items() if is_float(v)}
        if not own:
            raise ValueError(
                "params must have a floating leaf to prune, got none; check the pattern that scopes it."
            )
        for path, value in own.items():
            pattern.check(tuple(value.shape), path)
        memory = {
            path: score.start(value, path=path, stats=(stats or {}).get(path), key=_key(key, i))
            for i, (path, value) in enumerate(own.items())
        }
        scores = {path: score.of(memory[path], value) for path, value in own.items()}
        return State(train={}, fixed=Pruned(masks_of(scores, goal(0) if callable(goal) else goal), memory))

    def update(state: State, params: Any, *, grads: Any = None, step: Any) -> State:
        if not callable(goal) and score.track is keep_memory:
            return state
        own = {path: dense_value(v) for path, v in flatten(params)[0].items() if path in state.fixed.masks}
        given = {} if grads is None else flatten(grads)[0]
        memory = {path: score.track(state.fixed.memory[path], v, given.get(path)) for path, v in own.items()}
        if not callable(goal):
            return State(state.train, Pruned(state.fixed.masks, memory))

        def again(masks: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
            scores = {
                p: jnp.where(m, _clean(score.of(memory[p], own[p])), -jnp.inf) for p, m in masks.items()
            }
            made = masks_of(scores, goal(step))
            return {p: made[p] & mask for p, mask in masks.items()}

        masks = jax.lax.cond(step % every == 0, again, dict, state.fixed.masks)
        return State(state.train, Pruned(masks, memory))

    def apply(params: Any, state: State) -> Any:
        def one(path: str, value: Any) -> Any:
            if not is_float(value):
                return value
            if path not in state.fixed.masks:
                raise ValueError(f"params must be those of init, got a new path {path!r}; make a new state.")
            return masked(dense_value(value), state.fixed.masks[path])

        return map_with_path(one, params)

    return Transform(init, update, apply, apply)


def _clean(scores: jax.Array) -> jax.Array:
    """NaN as the lowest finite score: it goes first, but after what has gone already."""
    return jnp.where(jnp.isnan(scores), jnp.finfo(scores.dtype).min, scores)


def _key(key: Any, index: int) -> Any:
    return None if key is None else jax.random.fold_in(key, index)
