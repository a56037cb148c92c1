"""Channels: which input channels of a layer stay, judged by what each adds to the layer's output.

Y = sum over channels c of Y_c, with Y_c = X_c W_c. All that a choice needs is K_ab = <Y_a, Y_b>, and that is
in the Gram matrix and the weights: the sum over inputs i of a and j of b of (X^T X)_ij (W W^T)_ij.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from efficient.core.hessian import require_damping
from efficient.core.layer import layer
from efficient.core.transform import Key, Transform
from efficient.prune.corrected import Corrected, correction, require_sparsity
from efficient.prune.mask import kept_of
from efficient.prune.reconstruct.least_squares import EXACT, change_of_rows

# (K [channels, channels], the norm of each channel's weights, keep) -> Bool [channels], `keep` of them True.
Select = Callable[[Any, Any, int], Any]


def channel_selection(select: Select, *, sparsity: float, damping: float) -> Transform:
    """A transform that keeps the input channels that `select` says, and solves for their weights.

    Args:
      select: a function of a module, traceable.
      sparsity: in [0, 1), of channels; one stays at least. Layers of a stack, experts and groups of a
        convolution choose each for itself.
      damping: see `least_squares.correct`.

    Raises:
      ValueError: at once, `sparsity` or `damping` out of range; at `init`, no Gram matrix for a leaf, or one
        of other inputs.
    """
    require_sparsity(sparsity)
    require_damping(damping)

    def solve(value: jax.Array, *, path: str, stats: Any, key: Key | None) -> Corrected:
        del key
        problem = layer(value, path=path, stats=stats)
        count = len(set(problem.channel.tolist()))
        keep, channel = kept_of(count, sparsity), jnp.asarray(problem.channel)
        return problem.solved(
            lambda w, gram: _chosen(w, gram, channel, damping, select=select, count=count, keep=keep)
        )

    return correction(solve)


def products_of(
    weights: Float[Array, "inputs outputs"],
    gram: Float[Array, "inputs inputs"],
    channel: Int[Array, " inputs"],
    count: int,
) -> Float[Array, "channels channels"]:
    """K: the inner products of what each channel adds to the output."""
    each = gram * jnp.matmul(weights, weights.T, precision=EXACT)
    rows = jax.ops.segment_sum(each, channel, count)
    return jax.ops.segment_sum(rows.T, channel, count)


@functools.partial(jax.jit, static_argnames=("select", "count", "keep"))
def _chosen(
    weights: Float[Array, "inputs outputs"],
    gram: Float[Array, "inputs inputs"],
    channel: Int[Array, " inputs"],
    damping: float | Float[Array, ""],
    *,
    select: Select,
    count: int,
    keep: int,
) -> Corrected:
    """One layer."""
    norms = jnp.sqrt(jax.ops.segment_sum(jnp.sum(jnp.square(weights), axis=1), channel, count))
    stays = select(products_of(weights, gram, channel, count), norms, keep)[channel]
    change = change_of_rows(weights, stays, gram, damping)
    return Corrected(jnp.broadcast_to(stays[:, None], weights.shape), change)
