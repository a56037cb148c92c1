"""GPTQ: quantize input by input, and let the inputs not yet reached make up for each error.

Source: Frantar et al., 2023, arXiv:2210.17323, section 3 and algorithm 1.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from efficient.core.hessian import first_finite, inverse_factor, require_damping
from efficient.core.transform import Transform, recipe
from efficient.quantize.format import Format
from efficient.quantize.quantizer import Quantizer
from efficient.quantize.solved import Places, solving

EXACT = jax.lax.Precision.HIGHEST


@recipe
def gptq(
    quantizer: Quantizer, *, block: int = 128, damping: float = 0.01, is_ordered: bool = False
) -> Transform:
    """Quantizes each layer in one pass over its inputs.

    With U the upper factor of H^-1 = U^T U, H = X^T X + damping: for each input j, every output's w_j is
    rounded to q_j, e = (w_j - q_j) / U_jj, and w_k -= U_jk e for every later input k. X are the inputs that
    `observe(..., statistics="gram")` saw. Without damping, where steps are s and none is clipped, an output's
    |X (W' - W)|^2 is at most sum_j s^2 / (4 U_jj^2): the algorithm is Babai's nearest plane.

    Args:
      quantizer: how; scales are those of the weights as they come.
      block: inputs updated at once, a matter of speed alone, from 1.
      damping: from 0, added to the diagonal of X^T X as a fraction of its mean; tenfold, up to ten times,
        while the factor is not finite.
      is_ordered: inputs of largest X^T X first ("act-order").

    Raises:
      ValueError: at once, an argument out of range; at `init`, as `solved.solving`.

    Source: module docstring; Chen et al., 2025, arXiv:2507.18553, for the bound. *Differs:*
    scales of groups are of the weights as they come ("static groups"), not as they are when reached.
    """
    if block < 1:
        raise ValueError(f"block must be at least 1, got {block!r}; it counts inputs, and 128 is usual.")
    require_damping(damping)

    def solve(
        weights: Float[Array, "inputs outputs"], gram: Float[Array, "inputs inputs"], places: Places
    ) -> Float[Array, "inputs outputs"]:
        if not is_ordered:
            return rounded(weights, gram, places, damping, grid=quantizer.format, block=block)
        order = jnp.argsort(-jnp.diagonal(gram))
        own = Places(places.scale[order], places.zero[order])
        found = rounded(
            weights[order], gram[order][:, order], own, damping, grid=quantizer.format, block=block
        )
        return found[jnp.argsort(order)]

    return solving(quantizer, solve)


@functools.partial(jax.jit, static_argnames=("grid", "block"))
def rounded(
    weights: Float[Array, "inputs outputs"],
    gram: Float[Array, "inputs inputs"],
    places: Places,
    damping: float | Float[Array, ""],
    *,
    grid: Format,
    block: int,
) -> Float[Array, "inputs outputs"]:
    """One layer of `gptq`: a scan over blocks of inputs, the last filled up by inputs that meet no other."""
    inputs, outputs = weights.shape
    block = max(1, min(block, inputs))
    padding = -inputs % block
    fill = lambda a, value: jnp.pad(a, ((0, padding), (0, 0)), constant_values=value)  # noqa: E731
    scale, zero = fill(places.scale, 1.0), fill(places.zero, 0.0)
    factor = jnp.pad(first_finite(inverse_factor, gram, damping), ((0, padding), (0, padding)))
    factor += jnp.diag((jnp.arange(inputs + padding) >= inputs).astype(factor.dtype))

    def one_block(w: jax.Array, first: jax.Array) -> tuple[jax.Array, None]:
        cut = lambda a: jax.lax.dynamic_slice_in_dim(a, first, block)  # noqa: E731
        rows, steps, zeros = cut(factor), cut(scale), cut(zero)
        u = jax.lax.dynamic_slice_in_dim(rows, first, block, axis=1)

        def one_input(j: jax.Array, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            own, errors = carry
            q = Places(steps[j], zeros[j]).nearest(own[j], grid)
            error = (own[j] - q) / u[j, j]
            return (own - u[j][:, None] * error[None, :]).at[j].set(q), errors.at[j].set(error)

        begin = cut(w), jnp.zeros((block, outputs), w.dtype)
        own, errors = jax.lax.fori_loop(0, block, one_input, begin)
        later = w - jnp.matmul(
            rows.T, errors, precision=EXACT
        )  # u[j, :j] = 0: nothing before the block moves
        return jax.lax.dynamic_update_slice_in_dim(later, own, first, 0), None

    solved, _ = jax.lax.scan(one_block, fill(weights, 0.0), jnp.arange(0, inputs + padding, block))
    return solved[:inputs]
