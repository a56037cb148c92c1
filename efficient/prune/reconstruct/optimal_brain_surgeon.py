"""Optimal Brain Surgeon: the weight whose loss costs least goes, and all others of its output make up for it.

Source: Hassibi and Stork, 1993, "Second order derivatives for network pruning: Optimal Brain Surgeon",
equation 5, with the Hessian of one layer; row by row as in Frantar and Alistarh, 2022, arXiv:2208.11580,
sections 4.1 and 4.2.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from efficient.core.hessian import first_finite, is_dead, require_damping
from efficient.core.layer import layer
from efficient.core.transform import Key, Transform, recipe
from efficient.prune.corrected import Corrected, correction, require_sparsity
from efficient.prune.mask import kept_of
from efficient.prune.reconstruct.least_squares import OUTPUTS_AT_ONCE, change_of


@recipe
def optimal_brain_surgeon(sparsity: float, *, damping: float = 0.01) -> Transform:
    """Prunes one weight at a time, the one of least w_p^2 / [H^-1]_pp, and corrects its output for it.

    H = X^T X + damping, X the inputs that `observe(..., statistics="gram")` saw; after each weight, w gains
    -w_p [H^-1]_:p / [H^-1]_pp, and H^-1 becomes that of the inputs left. Outputs do not know of each other,
    and share the budget of their layer. `State.fixed` is a `Corrected` by path.

    For small layers: time outputs * inputs^3. Layers of a stack, experts and groups have each their own
    budget. A tie goes by the lower output, then the lower input. Inputs that were always zero go first.

    Args:
      sparsity: in [0, 1); one weight of a layer stays at least.
      damping: from 0, added to the diagonal of X^T X, as a fraction of its mean; tenfold, up to ten times,
        while the inverse is not finite.

    Raises:
      ValueError: at once, `sparsity` or `damping` out of range; at `init`, no Gram matrix for a leaf, or one
        of other inputs.

    Source: module docstring. *Differs:* the weights that stay are solved for anew once the mask is known,
    which is what the updates sum to, without their rounding.
    """
    require_sparsity(sparsity)
    require_damping(damping)

    def solve(value: jax.Array, *, path: str, stats: Any, key: Key | None) -> Corrected:
        del key
        problem = layer(value, path=path, stats=stats)
        _, inputs, outputs = problem.weights.shape
        gone = inputs * outputs - kept_of(inputs * outputs, sparsity)
        return problem.solved(lambda w, gram: removed(w, gram, damping, gone=gone))

    return correction(solve)


@functools.partial(jax.jit, static_argnames="gone")
def removed(
    weights: Float[Array, "inputs outputs"],
    gram: Float[Array, "inputs inputs"],
    damping: float | Float[Array, ""],
    *,
    gone: int,
) -> Corrected:
    """One layer of `optimal_brain_surgeon`: the path of every output, then the `gone` cheapest next steps."""
    inverse = first_finite(jnp.linalg.inv, gram, damping)
    start = jnp.where(is_dead(gram)[:, None], 0.0, weights)
    place, cost = jax.lax.map(lambda w: _path(w, inverse), start.T, batch_size=OUTPUTS_AT_ONCE)
    outputs = jnp.arange(cost.shape[0])
    ahead = jnp.pad(cost, ((0, 0), (0, 1)), constant_values=jnp.inf)  # of an output that has nothing left

    def one(_: jax.Array, counts: jax.Array) -> jax.Array:
        return counts.at[jnp.argmin(ahead[outputs, counts])].add(1)

    counts = jax.lax.fori_loop(0, gone, one, jnp.zeros(outputs.size, jnp.int32))
    mask = counts[None, :] <= place.T
    return Corrected(mask, change_of(weights, mask, gram, damping))


def _path(
    weights: Float[Array, " inputs"], inverse: Float[Array, "inputs inputs"]
) -> tuple[Int[Array, " inputs"], Float[Array, " inputs"]]:
    """When each weight of one output goes, and what each step costs, until none is left."""

    def one(k: jax.Array, carry: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        w, inverse, place, cost = carry
        is_left = place < 0
        own = jnp.diagonal(inverse)
        each = jnp.where(is_left, jnp.square(w) / own, jnp.inf)
        p = jnp.argmin(each)
        left = is_left.at[p].set(False)
        row = inverse[p] / own[p]
        both = left[:, None] & left[None, :]
        w = jnp.where(left, w - w[p] * row, 0.0)
        inverse = jnp.where(both, inverse - inverse[p][:, None] * row[None, :], 0.0)
        return w, inverse, place.at[p].set(k), cost.at[k].set(each[p])

    size = weights.shape[0]
    begin = (weights, inverse, jnp.full(size, -1), jnp.zeros(size, jnp.float32))
    *_, place, cost = jax.lax.fori_loop(0, size, one, begin)
    return place, cost
