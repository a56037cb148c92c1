"""Erdos-Renyi: large arrays are sparser, as the connections of a random graph would be.

Source: Mocanu et al., 2018, arXiv:1707.04780, equation 1; with the kernel's sizes, Evci et al., 2020,
arXiv:1911.11134, section 3 (ERK).
"""

import math
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from efficient.core.transform import recipe
from efficient.prune.allocation import Allocation
from efficient.prune.mask import kept_of


@recipe
def erdos_renyi(*, kernel: bool = True) -> Allocation:
    """The density of an array is eps * sum(shape) / prod(shape), at most 1.

    eps is such that the budget is met: what dense arrays cannot take goes to the others. The numbers of
    weights sum to the budget exactly: fractions are rounded by largest remainder, a tie to the first. Each
    array keeps one weight at least, and a budget below one each is raised to that. Where units are of several
    weights, each array's number is rounded to the nearest unit.

    Args:
      kernel: True counts all axes (ERK); False only the last two, inputs and outputs, so that all places of a
        convolution's kernel are alike.

    Source: module docstring. *Differs:* the budget is met exactly, also when arrays are capped; one weight at
    least.
    """

    def share(
        pooled: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], sparsity: Any
    ) -> dict[str, Any]:
        counts = weights_of([tuple(shapes[path]) for path in pooled], sparsity, kernel=kernel)
        kept = {}
        for (path, scores), count in zip(pooled.items(), counts, strict=True):
            weights = math.prod(shapes[path])
            kept[path] = count if weights == scores.size else _units(count, scores.size, weights)
        return kept

    return Allocation(share)


def weights_of(shapes: list[tuple[int, ...]], sparsity: Any, *, kernel: bool = True) -> list[Any]:
    """How many weights arrays of these shapes keep: Python numbers where `sparsity` is one, else traced."""
    xp: Any = np if isinstance(sparsity, float | int) else jnp
    sizes = np.array([math.prod(shape) for shape in shapes])
    least = np.minimum(sizes, 1)
    own = [shape if kernel else shape[-2:] for shape in shapes]
    # density * size / eps: the sum of the axes that count, for each place of those that do not.
    raw = np.array(
        [max(1, sum(o) * math.prod(s[: len(s) - len(o)])) for o, s in zip(own, shapes, strict=True)]
    )
    budget = xp.maximum(kept_of(int(sizes.sum()), sparsity), int(least.sum()))
    # The total is linear in eps between the values at which an array leaves its least or is dense: invert it.
    marks = np.unique(np.concatenate([np.zeros(1), least / raw, sizes / raw]))
    totals = np.clip(marks[:, None] * raw[None], least[None], sizes[None]).sum(1)
    quotas = xp.clip(xp.interp(budget, totals, marks) * raw, least, sizes)
    counts = _rounded(quotas, budget, least, sizes, xp)
    return counts.tolist() if xp is np else list(counts)


def _rounded(quotas: Any, budget: Any, least: np.ndarray, most: np.ndarray, xp: Any) -> Any:
    """Whole numbers near `quotas` that sum to `budget`, by largest remainder.

    Where the quotas are off (float32, of millions), what is left over goes to where there is room.
    """
    counts = xp.clip(xp.floor(quotas).astype(int), least, most)
    order = xp.argsort(counts - quotas, stable=True)
    place = xp.argsort(order, stable=True)

    def handed_out(amount: Any, room: Any) -> Any:
        """`amount` in `order`, to each as much as it has room for."""
        before = xp.cumsum(room[order]) - room[order]
        return xp.clip(amount - before, 0, room[order])[place]

    counts = counts + handed_out(budget - counts.sum(), xp.minimum(1, most - counts))
    counts = counts + handed_out(budget - counts.sum(), most - counts)
    return counts - handed_out(counts.sum() - budget, counts - least)


def _units(count: Any, units: int, weights: int) -> Any:
    """The number of units nearest to `count` weights, one at least."""
    if isinstance(count, int):
        return max(min(1, units), round(count * units / weights)) if weights else 0
    return jnp.maximum(min(1, units), jnp.round(count * (units / max(1, weights))).astype(jnp.int32))
