"""SparseGPT: prune input by input, and let the inputs not yet reached make up for each weight that goes.

Source: Frantar and Alistarh, 2023, arXiv:2301.00774, sections 3.2 to 3.4 and Algorithm 1.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from efficient.core.hessian import first_finite, inverse_factor, is_dead, require_damping
from efficient.core.layer import layer
from efficient.core.transform import Key, Transform, recipe
from efficient.prune.corrected import Corrected, correction, require_sparsity
from efficient.prune.mask import kept_of
from efficient.prune.patterns.n_m import n_m as n_m_pattern
from efficient.prune.patterns.unstructured import unstructured

EXACT = jax.lax.Precision.HIGHEST


@recipe
def sparsegpt(
    sparsity: float | None = None,
    *,
    n_m: tuple[int, int] | None = None,
    block: int = 128,
    damping: float = 0.01,
) -> Transform:
    """Prunes each layer in one pass over its inputs, and corrects the weights of the inputs that follow.

    With U the upper factor of H^-1 = U^T U, H = X^T X + damping: within each block of inputs the weights of
    lowest |w_j / U_jj| go, the budget shared by all outputs; then for each input j of the block, e =
    w_j / U_jj of the outputs that lose it, and w_k -= U_jk e for every later input k. X are the inputs that
    `observe(..., statistics="gram")` saw; `State.fixed` is a `Corrected` by path.

    Layers of a stack, experts and groups of a convolution have each their own budget. The budget of each is
    exact: block ends are rounded in sum. Inputs that were always zero go first, and correct nothing. A tie
    keeps the lower index. A weight or a Gram matrix with NaN makes its outputs NaN; the budget holds.

    Args:
      sparsity: in [0, 1).
      n_m: instead of `sparsity`, (n, m): of every m inputs, in the order of the weight's own axes, n stay for
        each output, chosen when the pass reaches them; a last group that is not full keeps at most n.
      block: inputs that choose their mask together, from 1; with `n_m`, those updated at once, a matter of
        speed alone, rounded up to a multiple of m.
      damping: from 0, added to the diagonal of X^T X, as a fraction of its mean; tenfold, up to ten times,
        while the factor is not finite.

    Raises:
      ValueError: at once, both or none of `sparsity` and `n_m`, or an argument out of range; at `init`, no
        Gram matrix for a leaf, or one of other inputs.

    Source: module docstring. *Differs:* lambda is a fraction of the mean diagonal of live inputs; the weights
    of dead inputs that the budget keeps stay as they are, where the authors' code zeroes them.
    """
    if (sparsity is None) == (n_m is None):
        raise ValueError(
            f"sparsity must be given, or else n_m, got sparsity={sparsity!r} and n_m={n_m!r}; give one."
        )
    if sparsity is not None:
        require_sparsity(sparsity)
    if block < 1:
        raise ValueError(f"block must be at least 1, got {block!r}; it counts inputs, and 128 is usual.")
    require_damping(damping)
    if n_m is not None:
        n_m_pattern(*n_m)  # raises

    def solve(value: jax.Array, *, path: str, stats: Any, key: Key | None) -> Corrected:
        del key
        return layer(value, path=path, stats=stats).solved(
            lambda w, gram: eliminated(w, gram, damping, sparsity=sparsity, n_m=n_m, block=block)
        )

    return correction(solve)


@functools.partial(jax.jit, static_argnames=("sparsity", "n_m", "block"))
def eliminated(
    weights: Float[Array, "inputs outputs"],
    gram: Float[Array, "inputs inputs"],
    damping: float | Float[Array, ""],
    *,
    sparsity: float | None,
    n_m: tuple[int, int] | None,
    block: int,
) -> Corrected:
    """One layer of `sparsegpt`.

    Blocks are padded to one size: a padded input has no weight, meets no other, and goes first. The update of
    later inputs waits until a block is done, and is then one product (lazy batches).
    """
    inputs, outputs = weights.shape
    block = max(1, min(block, inputs))
    group = block if n_m is None else n_m[1]
    block = -(-block // group) * group
    padding = -inputs % block
    start = jnp.pad(jnp.where(is_dead(gram)[:, None], 0.0, weights), ((0, padding), (0, 0)))
    factor = jnp.pad(first_finite(inverse_factor, gram, damping), ((0, padding), (0, padding)))
    factor += jnp.diag((jnp.arange(inputs + padding) >= inputs).astype(factor.dtype))
    choose = (unstructured() if n_m is None else n_m_pattern(*n_m)).choose
    # N:M says itself how many stay.
    budgets = _budgets(inputs, outputs, block, sparsity or 0.0) * (n_m is None)

    def one_block(w: jax.Array, at: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        first, budget = at
        rows = jax.lax.dynamic_slice_in_dim(factor, first, block)
        u = jax.lax.dynamic_slice_in_dim(rows, first, block, axis=1)
        is_real = first + jnp.arange(block) < inputs

        def one_group(index: jax.Array, carry: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
            own = lambda x: jax.lax.dynamic_slice_in_dim(x, index * group, group)  # noqa: E731
            scores = jnp.abs(own(carry[0])) / own(jnp.diagonal(u))[:, None]
            scores = jnp.where(jnp.isnan(scores), jnp.finfo(scores.dtype).min, scores)
            mask = choose(jnp.where(own(is_real)[:, None], scores, -jnp.inf), budget)
            chosen = jax.lax.dynamic_update_slice_in_dim(carry[1], mask, index * group, 0)
            return jax.lax.fori_loop(
                index * group, (index + 1) * group, one_input, (carry[0], chosen, carry[2])
            )

        def one_input(j: jax.Array, carry: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
            own, mask, errors = carry
            error = jnp.where(mask[j], 0.0, own[j] / u[j, j])
            return own - u[j][:, None] * error[None, :], mask, errors.at[j].set(error)  # u[j, :j] = 0

        own = jax.lax.dynamic_slice_in_dim(w, first, block)
        begin = (own, jnp.zeros(own.shape, bool), jnp.zeros_like(own))
        own, mask, errors = jax.lax.fori_loop(0, block // group, one_group, begin)
        later = w - jnp.matmul(rows.T, errors, precision=EXACT)  # zero for inputs before the block
        return jax.lax.dynamic_update_slice_in_dim(later, own, first, 0), mask

    firsts = jnp.arange(0, inputs + padding, block)
    solved, masks = jax.lax.scan(one_block, start, (firsts, jnp.asarray(budgets)))
    mask = masks.reshape(inputs + padding, outputs)[:inputs]
    return Corrected(mask, jnp.where(mask, (solved - start)[:inputs], 0.0))


def _budgets(inputs: int, outputs: int, block: int, sparsity: float) -> np.ndarray:
    """How many weights of each block stay; `kept_of` in sum, each within one of its share."""
    ends = [outputs * min(end, inputs) for end in range(block, inputs + block, block)]
    kept = [end - round(sparsity * end) for end in ends[:-1]] + [kept_of(ends[-1], sparsity)]
    return np.diff([0, *kept])
