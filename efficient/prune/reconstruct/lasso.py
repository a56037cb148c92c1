"""LASSO channel selection: a factor for each input channel, pushed to zero until few enough are left.

Source: He et al., 2017, arXiv:1707.06168, section 3.1 (equations 2 to 4).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from efficient.core.transform import Transform, recipe
from efficient.prune.mask import top_mask
from efficient.prune.reconstruct.channels import channel_selection

WEAKEST = 1e-4  # the first penalty, as a fraction of the one at which every factor is zero
RISE = 1.2  # from one penalty to the next
STAGES = 64  # RISE^STAGES * WEAKEST > 1
SWEEPS = 16


@recipe
def lasso(sparsity: float, *, damping: float = 0.01) -> Transform:
    """Prunes whole input channels of a layer by LASSO regression, and solves for the weights that stay.

    b minimises |Y - sum of b_c Y_c|^2 / 2 + penalty * |b|_1, Y_c = X_c W_c / |W_c| what channel c adds to the
    output Y, X the inputs that `observe(..., statistics="gram")` saw. The penalty rises until no more
    channels than asked for have b_c other than 0. Then W of these is that of least squares. `State.fixed` is
    a `Corrected` by path; the mask is the same for all outputs.

    Args:
      sparsity: in [0, 1), of input channels; one stays at least.
      damping: from 0, added to the diagonal of X^T X, as a fraction of its mean, in the least squares.

    Raises:
      ValueError: at once, `sparsity` or `damping` out of range; at `init`, no Gram matrix for a leaf, or one
        of other inputs.

    Source: module docstring. *Differs:* where several channels fall at the last penalty, those of largest b
    before it fill the budget; the penalty's steps are a fixed ratio, as the paper leaves them open.
    """
    return channel_selection(survivors, sparsity=sparsity, damping=damping)


def descended(
    products: Float[Array, "channels channels"],
    targets: Float[Array, " channels"],
    penalty: Float[Array, ""],
    start: Float[Array, " channels"],
) -> Float[Array, " channels"]:
    """The b after `SWEEPS` rounds of coordinate descent on b^T K b / 2 - k^T b + penalty * |b|_1.

    Args:
      products: K, [c, d] = <Y_c, Y_d>; a channel with zero on the diagonal gets b = 0.
      targets: k, [c] = <Y_c, Y>.
      penalty: from 0.
      start: the b to start from.
    """
    own = jnp.diagonal(products)

    def one(i: jax.Array, b: jax.Array) -> jax.Array:
        c = i % own.size
        rest = targets[c] - jnp.sum(products[c] * b) + own[c] * b[c]
        shrunk = jnp.sign(rest) * jnp.maximum(jnp.abs(rest) - penalty, 0.0)
        return b.at[c].set(jnp.where(own[c] > 0, shrunk / own[c], 0.0))

    return jax.lax.fori_loop(0, SWEEPS * own.size, one, start)


def survivors(
    products: Float[Array, "channels channels"], norms: Float[Array, " channels"], keep: int
) -> Bool[Array, " channels"]:
    """True at the `keep` channels whose factors last longest as the penalty rises; then by their size.

    Args:
      products: K of whole channels.
      norms: |W_c|.
      keep: how many stay.
    """
    unit = jnp.where(norms > 0, 1 / norms, 0.0)
    targets = jnp.sum(products, axis=1) * unit
    products = products * unit[:, None] * unit[None, :]

    def goes_on(carry: tuple[jax.Array, ...]) -> jax.Array:
        stage, b, _ = carry
        return (stage < STAGES) & ((stage == 0) | (jnp.sum(b != 0) > keep))

    def again(carry: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        stage, b, lasted = carry
        penalty = jnp.max(jnp.abs(targets)) * WEAKEST * RISE ** stage.astype(jnp.float32)
        b = descended(products, targets, penalty, b)
        size = jnp.abs(b) / (1 + jnp.abs(b))
        return stage + 1, b, jnp.where(b != 0, stage + size, lasted)

    # Without a penalty b = |W_c| reproduces Y: the descent starts there.
    begin: tuple[jax.Array, ...] = (jnp.int32(0), norms, jnp.full(norms.size, -1.0))
    return top_mask(jax.lax.while_loop(goes_on, again, begin)[2], keep)
