"""Cluster means: weights share the means of their clusters, and are trained each by its own gradient.

Source: MIT 6.5940, Lab 2 (k-means quantization-aware training): after each step every shared value is set to
the mean of its cluster's weights.
"""

from typing import Any

import jax
import jax.numpy as jnp

from efficient.core.per_leaf import per_leaf
from efficient.core.transform import State, Transform, recipe
from efficient.quantize.codebook import CodebookLeaf, look_up
from efficient.quantize.kmeans import kmeans


@recipe
def cluster_means(bits: int, *, iterations: int = 100) -> Transform:
    """W'_ij is the mean of the weights of the cluster of W_ij; the gradient passes straight through to W_ij.

    Clusters are those of k-means at `init` (`State.fixed`) and stay. `codebook` trains the shared values by
    the sum of their members' gradients; here by the mean, so that the step does not grow with the cluster.

    Args:
      bits: 1 to 8; index bits a weight.
      iterations: of k-means, at most.

    Raises:
      ValueError: at once, `bits` out of range.

    Source: module docstring. *Differs:* weights keep their distance from the mean, where the lab overwrites
    them with it: the same for plain and momentum SGD, which are linear in the gradient.
    """
    if not 1 <= bits <= 8:
        raise ValueError(f"bits must be from 1 to 8, got {bits!r}; an index is stored in one byte.")

    def init(value: jax.Array, *, path: str, stats: Any, key: Any) -> State:
        del path, stats, key
        made = kmeans(value, 2**bits, iterations=iterations)
        return State(fixed=made.indices.astype(jnp.uint8))

    def means(value: jax.Array, state: State) -> jax.Array:
        flat, indices = value.astype(jnp.float32).reshape(-1), state.fixed.reshape(-1)
        total = jnp.zeros(2**bits).at[indices].add(flat)
        count = jnp.zeros(2**bits).at[indices].add(1.0)
        return total / jnp.maximum(count, 1.0)

    def apply(value: jax.Array, state: State) -> jax.Array:
        shown = look_up(jax.lax.stop_gradient(means(value, state)), state.fixed)
        return _straight(value.astype(jnp.float32), shown)

    def pack(value: jax.Array, state: State) -> CodebookLeaf:
        return CodebookLeaf(codebook=means(value, state), indices=state.fixed, out_dtype=value.dtype)

    return per_leaf(init=init, apply=apply, pack=pack)


@jax.custom_jvp
def _straight(value: jax.Array, shown: jax.Array) -> jax.Array:
    """`shown`, with the gradient of `value`."""
    del value
    return shown


@_straight.defjvp
def _straight_jvp(primals: Any, tangents: Any) -> Any:
    return _straight(*primals), tangents[0]
