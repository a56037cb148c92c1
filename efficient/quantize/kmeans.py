"""k-means in one dimension: Lloyd's algorithm, and the exact optimum that it is held against.

Source: Han, Mao and Dally, 2016, arXiv:1510.00149, sections 3.1 (equation 2) and 3.2 (initialisation).
"""

import functools
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

Initialisation = Literal["linear", "density", "random"]


class Clustering(NamedTuple):
    """Centroids, ascending, and the index of each value's nearest."""

    centroids: jax.Array  # float32[k]
    indices: jax.Array  # int32, the values' shape
    iterations: jax.Array  # int32: Lloyd steps until nothing moved


def initial_centroids(
    values: Float[Array, "*shape"],
    k: int,
    *,
    initialisation: Initialisation,
    include: Bool[Array, "*shape"] | None = None,
    key: Array | None = None,
) -> Float[Array, " k"]:
    """Where Lloyd's algorithm starts.

    linear: evenly spaced from the smallest value to the largest. density: evenly spaced in the values'
    cumulative distribution, at (i + 1/2) / k. random: k of the values, drawn with replacement.

    Raises:
      ValueError: an unknown `initialisation`, or "random" without a key.
    """
    flat = values.ravel().astype(jnp.float32)
    inside = jnp.ones(flat.shape, bool) if include is None else include.ravel()
    count = jnp.maximum(jnp.sum(inside, dtype=jnp.int32), 1)
    if initialisation == "linear":
        low, high = jnp.min(jnp.where(inside, flat, jnp.inf)), jnp.max(jnp.where(inside, flat, -jnp.inf))
        start = low + (high - low) * jnp.linspace(0.0, 1.0, k, dtype=jnp.float32)
        return jnp.where(jnp.any(inside), start, 0.0)
    ordered = jnp.sort(jnp.where(inside, flat, jnp.inf))
    if initialisation == "density":
        quantiles = (jnp.arange(k, dtype=jnp.float32) + 0.5) / k
        start = ordered[jnp.minimum((quantiles * count).astype(jnp.int32), count - 1)]
    elif initialisation == "random":
        if key is None:
            raise ValueError("key must be given for random centroids, got None; call init(params, key=...).")
        start = jnp.sort(ordered[jax.random.randint(key, (k,), 0, count)])
    else:
        raise ValueError(
            f"initialisation must be 'linear', 'density' or 'random', got {initialisation!r}; choose one."
        )
    return jnp.where(jnp.any(inside), start, 0.0)


def nearest(values: Float[Array, "*shape"], centroids: Float[Array, " k"]) -> Int[Array, "*shape"]:
    """The index of the nearest of ascending `centroids`; a value half-way takes the lower."""
    middles = (centroids[1:] + centroids[:-1]) / 2
    return jnp.searchsorted(middles, values.astype(jnp.float32), side="left").astype(jnp.int32)


@functools.partial(jax.jit, static_argnames=("k", "initialisation", "iterations"))
def kmeans(
    values: Float[Array, "*shape"],
    k: int,
    *,
    initialisation: Initialisation = "linear",
    include: Bool[Array, "*shape"] | None = None,
    iterations: int = 100,
    key: Array | None = None,
) -> Clustering:
    """Lloyd's algorithm: minimises the sum of squared distances to the nearest of k centroids.

    A centroid that loses all its values stays where it is. Stops when no centroid moves.

    Args:
      values: any shape, finite.
      k: how many centroids, from 1.
      initialisation: see `initial_centroids`.
      include: which values count; the others get the index of their nearest all the same.
      iterations: at most this many Lloyd steps, from 0.
      key: for "random".
    """
    flat = values.ravel().astype(jnp.float32)
    weight = jnp.ones_like(flat) if include is None else include.ravel().astype(jnp.float32)

    def move(centroids: jax.Array) -> jax.Array:
        owner = nearest(flat, centroids)
        total = jax.ops.segment_sum(flat * weight, owner, k)
        count = jax.ops.segment_sum(weight, owner, k)
        return jnp.sort(jnp.where(count > 0, total / jnp.maximum(count, 1.0), centroids))

    def goes_on(carry: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        _, moved, step = carry
        return moved & (step < iterations)

    def lloyd(carry: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
        old, _, step = carry
        new = move(old)
        return new, jnp.any(new != old), step + 1

    start = initial_centroids(values, k, initialisation=initialisation, include=include, key=key)
    centroids, _, steps = jax.lax.while_loop(goes_on, lloyd, (start, jnp.bool_(True), jnp.int32(0)))
    return Clustering(centroids, nearest(values, centroids), steps)


def optimal_centroids(values: np.ndarray, k: int) -> tuple[np.ndarray, float]:
    """The exact optimum in one dimension, by dynamic programming: centroids and their sum of squared errors.

    cost[j][i] = min over m of cost[j-1][m] + SSE of the sorted values m..i-1. O(k n^2): the oracle of
    `kmeans`, for some thousands of values.

    Args:
      values: any shape, finite; sorted and computed in float64.
      k: from 1 to the number of values.

    Raises:
      ValueError: `k` out of that range.

    Source: Wang and Song, 2011, "Ckmeans.1d.dp", The R Journal 3(2).
    """
    x = np.sort(np.asarray(values, np.float64).ravel())
    n = x.size
    if not 1 <= k <= n:
        raise ValueError(f"k must be from 1 to the {n} values, got {k}; choose fewer clusters.")
    sums, squares = np.concatenate([[0], np.cumsum(x)]), np.concatenate([[0], np.cumsum(x * x)])

    def within(starts: np.ndarray, end: int) -> np.ndarray:
        total = sums[end] - sums[starts]
        return squares[end] - squares[starts] - total * total / np.maximum(end - starts, 1)

    cost = np.full((k + 1, n + 1), np.inf)
    first = np.zeros((k + 1, n + 1), int)
    cost[0, 0] = 0.0
    for j in range(1, k + 1):
        for end in range(j, n + 1):
            starts = np.arange(j - 1, end)
            totals = cost[j - 1, starts] + within(starts, end)
            first[j, end] = starts[np.argmin(totals)]
            cost[j, end] = totals.min()
    centroids, end = np.zeros(k), n
    for j in range(k, 0, -1):
        start = first[j, end]
        centroids[j - 1] = x[start:end].mean()
        end = start
    return centroids, float(cost[k, n])
