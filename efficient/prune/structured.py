"""Structured: whole channels, heads or layers, with every weight that belongs to them.

    found = dependencies(model.apply, variables, x)
    t = structured(found, group_norm(2), 0.5)
    state = t.init(variables)
    ... train as under any transform ...
    small = found.shrink(variables, state.fixed.keep)      # optimizer states too
    run = resized(model.apply, found, state.fixed.keep)    # run(small, x) is the masked model's result

Source: Li et al., 2017, arXiv:1608.08710 (filters by norm); Fang et al., 2023, arXiv:2301.12900 (groups).
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from efficient.core.dependencies import Dependencies
from efficient.core.paths import Where, flatten, map_with_path
from efficient.core.transform import Key, State, Transform, dense_value, is_float, recipe
from efficient.prune.allocation import Allocation
from efficient.prune.allocations.per_leaf import per_leaf
from efficient.prune.mask import masked, top_mask
from efficient.prune.prune import require_schedule
from efficient.prune.ranking import free_groups, pool_by_mean, scored_weights, start_memory
from efficient.prune.score import Score

EACH = per_leaf()


class Structured(NamedTuple):
    """What stays of each group, and what the score remembers of each weight."""

    keep: Mapping[str, Any]  # by name of a group, Bool [size]
    memory: Mapping[str, Any]  # by path


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Pruning:
    """The functions of the transform."""

    found: Dependencies
    score: Score
    sparsity: Any
    allocation: Allocation
    every: int
    groups: tuple[str, ...]
    counting: Where

    def pooled(self, memory: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, jax.Array]:
        """By group, the mean score of the weights of each index."""
        scores = {path: self.score.of(memory[path], v) for path, v in own.items()}
        return pool_by_mean(self.found, self.groups, scores)

    def chosen(self, pooled: Mapping[str, jax.Array], sparsity: Any) -> dict[str, jax.Array]:
        """By group, what stays."""
        kept = self.allocation.share(pooled, {name: one.shape for name, one in pooled.items()}, sparsity)
        return {name: top_mask(one, jnp.maximum(1, kept[name])) for name, one in pooled.items()}

    def scored(self, params: Any) -> dict[str, Any]:
        """The weights that count."""
        return scored_weights(self.found, self.groups, params, self.counting)

    def init(self, params: Any, *, stats: Any = None, key: Key | None = None) -> State:
        own = self.scored(params)
        memory = start_memory(self.score, own, stats=stats, key=key)
        first = self.sparsity(0) if callable(self.sparsity) else self.sparsity
        return State(train={}, fixed=Structured(self.chosen(self.pooled(memory, own), first), memory))

    def update(self, state: State, params: Any, *, grads: Any = None, step: Any) -> State:
        old: Structured = state.fixed
        own, given = self.scored(params), {} if grads is None else flatten(grads)[0]
        memory = {p: self.score.track(old.memory[p], v, given.get(p)) for p, v in own.items()}
        if not callable(self.sparsity):
            return State(state.train, Structured(old.keep, memory))

        def again(keep: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
            pooled = self.pooled(memory, own)
            low = jnp.finfo(jnp.float32).min
            left = {
                n: jnp.where(keep[n], jnp.nan_to_num(one, nan=low), -jnp.inf) for n, one in pooled.items()
            }
            made = self.chosen(left, self.sparsity(step))
            return {name: made[name] & mask for name, mask in keep.items()}

        keep = jax.lax.cond(step % self.every == 0, again, dict, old.keep)
        return State(state.train, Structured(keep, memory))

    def apply(self, params: Any, state: State) -> Any:
        masks = self.found.masks(state.fixed.keep)

        def one(path: str, value: Any) -> Any:
            return masked(dense_value(value), masks[path]) if path in masks and is_float(value) else value

        return map_with_path(one, params)


@recipe
def structured(
    found: Dependencies,
    score: Score,
    sparsity: float | Callable[[Any], Any],
    *,
    where: Where = "**",
    scored: Where = "**",
    allocation: Allocation = EACH,
    every: int = 1,
) -> Transform:
    """Zeros a fraction `sparsity` of the channels of every group: those of the lowest mean score.

    All weights of a channel go: those that make it, those that consume it, biases, norms, their statistics.
    What is gone stays gone. `State.fixed` is a `Structured`, whose `keep` the dependencies' `shrink` takes.

    Args:
      found: of the model, see `dependencies`; the paths of its weights must be those of the params.
      score: what a weight is worth; matrices and convolutions count, biases and norms do not.
      sparsity: the fraction of channels that goes, in [0, 1); or a schedule step -> sparsity.
      where: which of the free groups, by name (`params/Conv_0/kernel:3`).
      scored: which weights count, by path: for scores that know only some, such as those that make channels.
      allocation: how the budget is shared out among groups; it counts channels. Each keeps one at least.
      every: under a schedule, what stays is chosen anew at steps that `every` divides.

    Raises:
      ValueError: at once, `sparsity` or `every` out of range, or no free group that `where` chooses; at
        `init`, params without the groups' weights, or none of a group's that `scored` chooses.

    Source: module docstring.
    """
    require_schedule(sparsity, every)
    groups = free_groups(found, where)
    made = _Pruning(
        found=found,
        score=score,
        sparsity=sparsity,
        allocation=allocation,
        every=every,
        groups=groups,
        counting=scored,
    )
    return Transform(made.init, made.update, made.apply, made.apply)
