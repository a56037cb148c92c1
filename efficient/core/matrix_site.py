"""Matrix site: a product or a convolution that met a leaf, seen as rows of x times a matrix.

The weight's leading axes are those that are summed over, flattened; what is left are columns. Where its last
axes are, it is W^T, if that is asked for. A convolution's rows are patches: windows of x under the kernel, in
the order of the kernel's own axes.
"""

import itertools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from efficient.core.contraction import contraction

FLOATS = tuple(jnp.dtype(name) for name in ("float16", "bfloat16", "float32"))


class MatrixSite(NamedTuple):
    """x [..., k] times W [k, n], and how the result goes back."""

    x: jax.Array
    summed: int  # how many leading axes of the weight are summed over, or last ones
    columns: tuple[int, ...]  # sizes of the axes that are left
    is_patches: bool  # a row holds several places of x, not one sum's channels
    order: tuple[int, ...]  # of the axes of [..., *columns] in the result
    dtype: Any
    is_transposed: bool = False  # the weight's last axes are summed over, and columns are its leading ones

    @property
    def rows(self) -> int:
        """Of x."""
        return math.prod(self.x.shape[:-1])

    def result(self, out: jax.Array) -> jax.Array:
        """[..., n], as the equation promised it."""
        whole = shaped(out, (*out.shape[:-1], *self.columns))
        in_order = self.order == tuple(range(whole.ndim))
        whole = whole if in_order else jnp.transpose(whole, self.order)
        return whole if whole.dtype == self.dtype else whole.astype(self.dtype)


def shaped(value: Any, shape: tuple[int, ...]) -> Any:
    """`value` in a shape, without an equation where it has it: tracing counts them."""
    return value if value.shape == shape else value.reshape(shape)


def matrix_site(
    site: Any, *, most_patches: int | None = None, may_transpose: bool = False
) -> MatrixSite | None:
    """The site as a product of two matrices; None where it is none, or where x is of another dtype.

    Args:
      site: of a `dot_general` or a `conv_general_dilated`.
      most_patches: a convolution with a window of more than one place is declined above so many rows, as
        patches are copies. None is any number.
      may_transpose: a weight whose last axes are summed over is a site too.
    """
    if jnp.dtype(site.other.dtype) not in FLOATS or jnp.dtype(site.out_dtype) not in FLOATS:
        return None
    if site.eqn.primitive.name == "dot_general":
        return _of_dot(site, may_transpose)
    return _of_convolution(site, most_patches)


def _of_dot(site: Any, may_transpose: bool) -> MatrixSite | None:
    c = contraction(site)
    shape = site.operands[site.index].shape
    count = len(c.contract)
    axes, ndim = sorted(c.contract), len(shape)
    is_transposed = may_transpose and axes == list(range(ndim - count, ndim))
    if c.batch or not c.free or not count or (axes != list(range(count)) and not is_transposed):
        return None
    others = [a for _, a in sorted(zip(c.contract, c.other_contract, strict=True))]
    lead = [a for a in range(site.other.ndim) if a not in others]
    order = (*lead, *others)
    x = site.other if order == tuple(range(len(order))) else jnp.transpose(site.other, order)
    x = shaped(x, (*x.shape[: len(lead)], math.prod(shape[a] for a in axes)))
    order = tuple(range(len(lead) + len(c.free)))
    if c.leaf_is_lhs:
        order = (*order[len(lead) :], *order[: len(lead)])
    columns = tuple(shape[a] for a in c.free)
    return MatrixSite(x, count, columns, False, order, site.out_dtype, is_transposed)


def _of_convolution(site: Any, most_patches: int | None) -> MatrixSite | None:
    p = site.params
    numbers, ndim = p["dimension_numbers"], site.other.ndim
    places = tuple(range(1, ndim - 1))
    has_channels_last = numbers.lhs_spec == (0, ndim - 1, *places) == numbers.out_spec
    has_channels_last &= numbers.rhs_spec == (ndim - 1, ndim - 2, *range(ndim - 2))
    is_plain = p["feature_group_count"] == p["batch_group_count"] == 1 and set(p["lhs_dilation"]) <= {1}
    if site.index != 1 or not has_channels_last or not is_plain or min(map(min, p["padding"]), default=0) < 0:
        return None
    shape = site.operands[1].shape
    window, out = shape[:-2], site.out_shape
    if math.prod(window) > 1 and most_patches is not None and math.prod(out[:-1]) > most_patches:
        return None
    x = jnp.pad(site.other, [(0, 0), *p["padding"], (0, 0)])
    pieces = []
    for offset in itertools.product(*map(range, window)):
        start = [o * d for o, d in zip(offset, p["rhs_dilation"], strict=True)]
        stop = [a + (n - 1) * s + 1 for a, n, s in zip(start, out[1:-1], p["window_strides"], strict=True)]
        pieces.append(
            jax.lax.slice(x, (0, *start, 0), (x.shape[0], *stop, x.shape[-1]), (1, *p["window_strides"], 1))
        )
    patches = pieces[0] if len(pieces) == 1 else jnp.concatenate(pieces, axis=-1)
    order = tuple(range(ndim))
    return MatrixSite(patches, ndim - 1, tuple(shape[-1:]), len(pieces) > 1, order, site.out_dtype)
