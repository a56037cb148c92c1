"""ThiNet: the input channels go whose sum, together, is least.

Source: Luo et al., 2017, arXiv:1707.06342, section 3.2 (equation 6 and Algorithm 1) and section 3.3.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from efficient.core.transform import Transform, recipe
from efficient.prune.reconstruct.channels import channel_selection


@recipe
def thinet(sparsity: float, *, damping: float = 0.01) -> Transform:
    """Prunes whole input channels of a layer, one at a time, and solves for the weights that stay.

    The channel goes that leaves |sum of Y_c over all that are gone|^2 least, Y_c = X_c W_c what channel c
    adds to the output, X the inputs that `observe(..., statistics="gram")` saw. Then W of the rest is that of
    least squares. `State.fixed` is a `Corrected` by path; the mask is the same for all outputs.

    Args:
      sparsity: in [0, 1), of input channels; one stays at least.
      damping: from 0, added to the diagonal of X^T X, as a fraction of its mean, in the least squares.

    Raises:
      ValueError: at once, `sparsity` or `damping` out of range; at `init`, no Gram matrix for a leaf, or one
        of other inputs.

    Source: module docstring. *Differs:* all positions of the output count, not a sample of them; least
    squares is over all weights of the channels that stay, where the paper scales each channel.
    """
    return channel_selection(least_sum, sparsity=sparsity, damping=damping)


def least_sum(
    products: Float[Array, "channels channels"], norms: Float[Array, " channels"], keep: int
) -> Bool[Array, " channels"]:
    """True at the channels that stay; a tie goes by the lower index.

    Args:
      products: K, the inner products of the Y_c.
      norms: not used.
      keep: how many stay.
    """
    del norms
    own = jnp.diagonal(products)

    def one(_: jax.Array, stays: jax.Array) -> jax.Array:
        among_gone = jnp.matmul(
            products, (~stays).astype(products.dtype), precision=jax.lax.Precision.HIGHEST
        )
        return stays.at[jnp.argmin(jnp.where(stays, own + 2 * among_gone, jnp.inf))].set(False)

    return jax.lax.fori_loop(0, own.size - keep, one, jnp.ones(own.size, bool))
