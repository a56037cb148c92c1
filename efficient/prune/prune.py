"""Prune: a score, a pattern, an allocation and a schedule make a transform."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from efficient.core.paths import flatten, map_with_path
from efficient.core.transform import Key, State, Transform, dense_value, is_float, recipe, require_state
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Pruning:
    """The functions of the transform."""

    score: Score
    goal: Any  # a sparsity or a schedule
    pattern: Pattern
    allocation: Allocation
    every: int

    @property
    def is_fixed(self) -> bool:
        """True where masks never change."""
        return not callable(self.goal)

    def first(self) -> Any:
        """The sparsity at `init`."""
        return self.goal(0) if callable(self.goal) else self.goal

    def masks(self, scores: Mapping[str, jax.Array], sparsity: Any) -> dict[str, jax.Array]:
        """Which weights stay."""
        pooled = {path: self.pattern.pool(one) for path, one in scores.items()}
        shapes = {path: one.shape for path, one in scores.items()}
        kept = self.allocation.share(pooled, shapes, sparsity)
        return {
            path: self.pattern.spread(self.pattern.choose(units, kept[path]), shapes[path])
            for path, units in pooled.items()
        }

    def init(self, params: Any, *, stats: Any = None, key: Key | None = None) -> State:
        own = {path: dense_value(v) for path, v in flatten(params)[0].items() if is_float(v)}
        if not own:
            raise ValueError(
                "params must have a floating leaf to prune, got none; check the pattern that scopes it."
            )
        memory = {}
        for i, (path, value) in enumerate(own.items()):
            known = (stats or {}).get(path)
            self.pattern.check(tuple(value.shape), path)
            own_key = None if key is None else jax.random.fold_in(key, i)
            memory[path] = self.score.start(value, path=path, stats=known, key=own_key)
            self._require_knowledge(known, path)
        masks = self.masks({path: self.score.of(memory[path], v) for path, v in own.items()}, self.first())
        forgets = self.is_fixed and self.score.track is keep_memory
        return State(train={}, fixed=Pruned(masks, {} if forgets else memory))

    def _require_knowledge(self, stats: Any, path: str) -> None:
        """Refuses to prune by a score that has seen nothing yet."""
        if self.score.is_blank(stats):
            with jax.ensure_compile_time_eval():
                first = float(self.first())
            if first > 0:
                raise ValueError(
                    f"sparsity must begin at 0 with {self.score!r}, which knows nothing of {path!r} before "
                    f"training, got {first}; give a schedule such as cubic_ramp(final=0.9, end=1000)."
                )

    def update(self, state: State, params: Any, *, grads: Any = None, step: Any) -> State:
        old: Pruned = state.fixed
        if self.is_fixed and self.score.track is keep_memory:
            return state
        own = {path: dense_value(v) for path, v in flatten(params)[0].items() if path in old.masks}
        given = {} if grads is None else flatten(grads)[0]
        memory = {p: self.score.track(old.memory[p], v, given.get(p)) for p, v in own.items()}
        if self.is_fixed:
            return State(state.train, Pruned(old.masks, memory))

        def again(masks: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
            now = {path: _clean(self.score.of(memory[path], own[path])) for path in masks}
            scores = {path: jnp.where(mask, now[path], -jnp.inf) for path, mask in masks.items()}
            made = self.masks(scores, self.goal(step))
            return {path: made[path] & mask for path, mask in masks.items()}

        masks = jax.lax.cond(step % self.every == 0, again, dict, old.masks)
        return State(state.train, Pruned(masks, memory))

    def apply(self, params: Any, state: State) -> Any:
        require_state(state, isinstance(state, State) and isinstance(state.fixed, Pruned))

        def one(path: str, value: Any) -> Any:
            if not is_float(value):
                return value
            if path not in state.fixed.masks:
                raise ValueError(f"params must be those of init, got a new path {path!r}; make a new state.")
            return masked(dense_value(value), state.fixed.masks[path])

        return map_with_path(one, params)


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
        floating leaf that `init` was not given. A score that learns while training, and has seen nothing,
        must begin at sparsity 0.

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
    require_schedule(goal, every)
    made = _Pruning(score=score, goal=goal, pattern=pattern, allocation=allocation, every=every)
    return Transform(made.init, made.update, made.apply, made.apply)


def _clean(scores: jax.Array) -> jax.Array:
    """NaN as the lowest finite score: it goes first, but after what has gone already."""
    return jnp.where(jnp.isnan(scores), jnp.finfo(scores.dtype).min, scores)


def require_schedule(sparsity: Any, every: int) -> None:
    """Refuses a sparsity, or a number of steps between masks, that makes no sense.

    Raises:
      ValueError: a number outside [0, 1), or `every` below 1.
    """
    if not callable(sparsity) and not 0 <= sparsity < 1:
        raise ValueError(f"sparsity must be in [0, 1), got {sparsity!r}; 0.9 zeros nine weights in ten.")
    if every < 1:
        raise ValueError(f"every must be at least 1, got {every}; it counts steps between masks.")
