"""Tiles: arrays cut into boxes that stay or go whole. Most patterns are tiles of one size or another."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from efficient.prune.pattern import Pattern, best

Sizes = Callable[[tuple[int, ...], str], tuple[int, ...]]


def tiles(sizes: Sizes) -> Pattern:
    """The pattern whose units are boxes of `sizes(shape, path)` weights, one size an axis.

    A box is cut at the edge of the array; its score is the mean over the weights that it has. The number of
    boxes that stay is exact, that of weights where all boxes are of one size.

    Args:
      sizes: of a box along each axis, at least 1; longer than the axis is the whole axis. Raises `ValueError`
        where an array cannot be cut so.
    """

    def check(shape: tuple[int, ...], path: str) -> None:
        sizes(shape, path)

    def pool(scores: Float[Array, "*shape"]) -> Float[Array, "*units"]:
        return _means(scores, _within(sizes(scores.shape, "scores"), scores.shape))

    def spread(chosen: Bool[Array, "*units"], shape: tuple[int, ...]) -> Bool[Array, "*shape"]:
        for axis, size in enumerate(_within(sizes(shape, "scores"), shape)):
            chosen = jnp.repeat(chosen, size, axis=axis)
        return chosen[tuple(slice(length) for length in shape)]

    return Pattern(check, pool, best, spread)


def _within(sizes: tuple[int, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    """Sizes no longer than the axes, and never 0."""
    return tuple(max(1, min(size, length)) for size, length in zip(sizes, shape, strict=True))


def _means(scores: Float[Array, "*shape"], sizes: tuple[int, ...]) -> Float[Array, "*units"]:
    """The mean of each box. It is -inf only where one of its scores is: a sum that overflows is finite."""
    inner = tuple(range(1, 2 * scores.ndim, 2))

    def boxed(fill: float) -> Float[Array, "*boxes"]:  # [units, size, units, size, ...]
        padded = scores
        if any(length % size for length, size in zip(scores.shape, sizes, strict=True)):
            ends = [(0, -length % size) for length, size in zip(scores.shape, sizes, strict=True)]
            padded = jnp.pad(scores, ends, constant_values=fill)
        pairs = zip(padded.shape, sizes, strict=True)
        return padded.reshape([n for length, size in pairs for n in (length // size, size)])

    count = jnp.ones((1,) * scores.ndim)
    for axis, (length, size) in enumerate(zip(scores.shape, sizes, strict=True)):
        own = np.minimum(size, length - np.arange(0, length, size))
        count = count * jnp.expand_dims(
            jnp.asarray(own, jnp.float32), [a for a in range(scores.ndim) if a != axis]
        )
    mean = jnp.maximum(boxed(0.0).sum(inner) / count, jnp.finfo(scores.dtype).min)
    return jnp.where(jnp.isneginf(boxed(jnp.inf).min(inner, initial=jnp.inf)), -jnp.inf, mean)
