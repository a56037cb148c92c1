"""What the channels of a network are worth, by their scales or their filters, and which are worth most."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from efficient.core.dependencies import Dependencies
from efficient.core.paths import flatten
from efficient.prune import Allocation, top_mask

NEAR = 0.05  # a scale below this is near zero
EDGES = np.linspace(0.0, 1.0, 41)  # of the histogram; its last bin has all that is larger

Worth = Mapping[str, Float[Array, " channels"]]  # by group


def by_scale(found: Dependencies, params: Any) -> Worth:
    """By group, |scale| of the normalization after each channel."""
    own = {path: jnp.abs(v) for path, v in flatten(params)[0].items() if path.endswith("scale")}
    return found.under("params").pool(own)


def by_norm(found: Dependencies, params: Any) -> Worth:
    """By group, the L1 norm of the filter that makes each channel."""
    kernels, made = flatten(params)[0], {}
    for name in found.free:
        kernel = kernels[name.removeprefix("params/").rpartition(":")[0]]
        made[name] = jnp.sum(jnp.abs(kernel), axis=tuple(range(kernel.ndim - 1)))
    return made


def best(worth: Worth, fraction: float, allocation: Allocation) -> dict[str, np.ndarray]:
    """By group, which channels stay: those worth most; one of each group at least."""
    kept = allocation.share(worth, {name: one.shape for name, one in worth.items()}, fraction)
    return {name: np.asarray(top_mask(one, jnp.maximum(1, kept[name]))) for name, one in worth.items()}


def near_zero(worth: Worth) -> float:
    """Percent of all channels whose scale is near zero."""
    return 100 * float(jnp.mean(jnp.concatenate(list(worth.values())) < NEAR))


def histogram(worth: Worth) -> list[int]:
    """How many scales fall into each bin of `EDGES`."""
    values = np.minimum(np.concatenate(list(worth.values())), EDGES[-1])
    counts: list[int] = np.histogram(values, EDGES)[0].tolist()
    return counts
