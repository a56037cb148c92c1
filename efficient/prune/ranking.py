"""Ranking: the order in which the channels of each group go; search then only asks how many stay.

    found = dependencies(model.apply, variables, x)
    ranked = ranking(found, absolute(), variables)
    keep = ranked.keep({"params/conv0/kernel:3": 12})      # the best 12; other groups stay whole
    small = found.shrink(variables, keep)

Source: Li et al., 2017, arXiv:1608.08710, section 3.1 (sort filters by score, drop the lowest).
"""

import dataclasses
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from efficient.core.dependencies import Dependencies
from efficient.core.paths import Where, flatten, matches
from efficient.core.transform import Key, dense_value, is_float
from efficient.prune.score import Score


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ranking:
    """By name of a group, in the order of the program, its indices: the best first."""

    order: Mapping[str, np.ndarray]  # int [size]

    @property
    def sizes(self) -> dict[str, int]:
        """How many indices each group has."""
        return {name: one.size for name, one in self.order.items()}

    def keep(self, counts: Mapping[str, int]) -> dict[str, np.ndarray]:
        """By name of every ranked group, bool [size]: the best `counts[name]` stay.

        Args:
          counts: by name of a group, from 1 to its size; groups that it leaves out stay whole.

        Raises:
          ValueError: a name that is not ranked, or a count out of range.
        """
        for name, count in counts.items():
            if name not in self.order:
                near = ", ".join(list(self.order)[:3])
                raise ValueError(f"counts must name ranked groups, got {name!r}; these are {near}, ...")
            size = self.order[name].size
            if not 1 <= operator.index(count) <= size:
                raise ValueError(
                    f"counts[{name!r}] must be a whole number from 1 to {size}, got {count!r}; keep one "
                    "index at least."
                )
        masks = {name: np.zeros(one.size, bool) for name, one in self.order.items()}
        for name, one in self.order.items():
            masks[name][one[: counts.get(name, one.size)]] = True
        return masks

    def __repr__(self) -> str:
        sizes = ", ".join(f"{name}: {size}" for name, size in self.sizes.items())
        return f"<Ranking: {sizes}>"


def ranking(
    found: Dependencies,
    score: Score,
    params: Any,
    *,
    where: Where = "**",
    scored: Where = "**",
    stats: Any = None,
    key: Key | None = None,
) -> Ranking:
    """Ranks the channels of free groups as `structured` does: by the mean score of their weights.

    A tie keeps the lower index first; NaN goes last.

    Args:
      found: of the model; the paths of its weights must be those of the params.
      score: what a weight is worth; matrices and convolutions count, biases and norms do not.
      params: the weights.
      where: which of the free groups, by name (`params/Conv_0/kernel:3`).
      scored: which weights count, by path: for scores that know only some, such as those that make channels.
      stats: by path, for scores that want them.
      key: for scores that draw.

    Raises:
      ValueError: `where` chooses no free group, params have no weights of the groups, or the score refuses.

    Example:
      >>> from efficient.core.dependencies import dependencies
      >>> from efficient.prune.scores import absolute
      >>> p = {"a": jnp.array([[1.0, 3.0, 2.0]]), "b": jnp.ones((3, 1))}
      >>> found = dependencies(lambda p, x: x @ p["a"] @ p["b"], p, jnp.ones((1, 1)))
      >>> ranking(found, absolute(), p).keep({"a:1": 2})["a:1"].tolist()
      [False, True, True]

    Source: module docstring.
    """
    groups = free_groups(found, where)
    own = scored_weights(found, groups, params, scored)
    memory = start_memory(score, own, stats=stats, key=key)
    pooled = pool_by_mean(found, groups, {path: score.of(memory[path], v) for path, v in own.items()})
    return Ranking(order={name: np.argsort(-np.asarray(one), kind="stable") for name, one in pooled.items()})


def free_groups(found: Dependencies, where: Where) -> tuple[str, ...]:
    """Names of the free groups that `where` chooses.

    Raises:
      ValueError: it chooses none.
    """
    groups = tuple(name for name in found.free if matches(where, name))
    if not groups:
        raise ValueError(
            f"where must choose a free group, got {where!r} among {list(found.free)[:3]!r}; print the "
            "dependencies."
        )
    return groups


def scored_weights(
    found: Dependencies, groups: Sequence[str], params: Any, scored: Where = "**"
) -> dict[str, Any]:
    """By path, the weights that count: matrices and convolutions of the groups that `scored` chooses.

    Raises:
      ValueError: params without weights of the groups, or `scored` chooses none of a group.
    """
    members = {member.path for name in groups for member in found.groups[name].members}
    own = {path: v for path, v in flatten(params)[0].items() if path in members and is_float(v)}
    if not own:
        raise ValueError(
            f"params must hold the weights of the groups, got none of {sorted(members)[:3]!r}; scope the "
            "transform to the tree whose dependencies were taken."
        )
    matrices = {path: dense_value(v) for path, v in own.items() if v.ndim > 1}
    counted = {path: v for path, v in matrices.items() if matches(scored, path, v)}
    for name in groups:
        paths = sorted(matrices.keys() & {member.path for member in found.groups[name].members})
        if paths and not counted.keys() & set(paths):
            raise ValueError(
                f"scored must choose a weight of every group, got {scored!r} and none of {paths!r} in group "
                f"{name!r}; widen it, or narrow where."
            )
    return counted


def start_memory(score: Score, weights: Mapping[str, Any], *, stats: Any, key: Key | None) -> dict[str, Any]:
    """By path, what the score knows of each weight at the start."""
    known = stats or {}
    keys = {p: None if key is None else jax.random.fold_in(key, i) for i, p in enumerate(weights)}
    return {p: score.start(v, path=p, stats=known.get(p), key=keys[p]) for p, v in weights.items()}


def pool_by_mean(
    found: Dependencies, groups: Sequence[str], scores: Mapping[str, jax.Array]
) -> dict[str, jax.Array]:
    """By group, float32 [size]: the mean score of the weights of each index."""
    total = found.pool(scores)
    count = found.pool({path: jnp.ones(one.shape) for path, one in scores.items()})
    return {name: total[name] / jnp.maximum(count[name], 1.0) for name in groups}
