"""Factored: the algebra of a weight `u @ v` that is never multiplied out.

`u` is [*inputs, rank] and `v` is [rank, *outputs]; the weight that they stand for is [*inputs, *outputs].
A matmul with it is two thin ones. Shared by every leaf that holds factors.
"""

from typing import Any

import jax
import jax.numpy as jnp

from efficient.core.contraction import contraction, settings
from efficient.core.rows import rows


def split_at(shape: tuple[int, ...], out_ndim: int, what: str) -> tuple[int, int]:
    """Rows and columns of the matrix that a weight of `shape` is, its last `out_ndim` axes being columns.

    Raises:
      ValueError: the weight is no matrix: fewer than `out_ndim + 1` axes.
    """
    if len(shape) <= out_ndim:
        raise ValueError(
            f"{what} must have at least {out_ndim + 1} axes, got shape {shape}; "
            f'scope the transform to matrices, as in at("**/kernel", ...).'
        )
    n_in = 1
    for size in shape[: len(shape) - out_ndim]:
        n_in *= size
    n_out = 1
    for size in shape[len(shape) - out_ndim :]:
        n_out *= size
    return n_in, n_out


def multiply_out(u: jax.Array, v: jax.Array, out_ndim: int) -> jax.Array:
    """The dense weight; leading axes of `v` beyond the rank, if any, are mapped over."""
    if v.ndim > 1 + out_ndim:
        return jax.vmap(lambda one_u, one_v: multiply_out(one_u, one_v, out_ndim))(u, v)
    return jnp.tensordot(u, v, axes=1)


def dot(site: Any, u: jax.Array, v: jax.Array, out_ndim: int) -> Any:
    """`dot_general` with the factored weight, where it sums over all inputs or over all outputs."""
    c = contraction(site)
    n_in = u.ndim - 1
    if c.batch or v.ndim != 1 + out_ndim:
        return NotImplemented
    if set(c.contract) == set(range(n_in)):
        first, second, near, far = u, v, c.contract, 0
    elif set(c.contract) == set(range(n_in, n_in + out_ndim)):
        first, second, near, far = v, u, tuple(a - n_in + 1 for a in c.contract), n_in
    else:
        return NotImplemented
    options = settings(site)
    thin = jax.lax.dot_general(site.other, first, ((c.other_contract, near), ((), ())), **options)
    thin = thin.astype(site.other.dtype)
    out = jax.lax.dot_general(thin, second, (((thin.ndim - 1,), (far,)), ((), ())), **options)
    if c.leaf_is_lhs:
        out = jnp.moveaxis(out, range(c.other_free), range(-c.other_free, 0)) if c.other_free else out
    return out.astype(site.out_dtype)


def conv(site: Any, u: jax.Array, v: jax.Array, out_ndim: int) -> Any:
    """Convolution with the factored kernel: one with `u`, then a 1x1 with `v`."""
    numbers = site.params["dimension_numbers"]
    grouped = site.params["feature_group_count"] != 1 or site.params["batch_group_count"] != 1
    last_is_out = numbers.rhs_spec[0] == u.ndim - 1
    if site.index != 1 or grouped or out_ndim != 1 or v.ndim != 2 or not last_is_out:
        return NotImplemented
    thin = site.bind(u)
    feature = numbers.out_spec[1]
    return jnp.moveaxis(jnp.tensordot(thin, v, axes=((feature,), (0,))), -1, feature).astype(site.out_dtype)


def take_rows(site: Any, u: jax.Array, v: jax.Array, out_ndim: int) -> Any:
    """Rows of a factored table."""
    found = rows(site)
    ndim = len(site.out_shape)
    trailing = found is not None and found.offset_dims == tuple(range(ndim - out_ndim, ndim))
    if found is None or u.ndim != 2 or v.ndim != 1 + out_ndim or not trailing:
        return NotImplemented
    thin_dims = found.dimension_numbers._replace(offset_dims=(ndim - out_ndim,))
    thin = found._replace(dimension_numbers=thin_dims).take(u)
    return jnp.tensordot(thin, v, axes=1).astype(site.out_dtype)


def transpose(site: Any, u: jax.Array, v: jax.Array, out_ndim: int) -> Any:
    """`(u, v, out_ndim)` of the transposed weight, if inputs and outputs swap whole."""
    n_in = u.ndim - 1
    perm = tuple(site.params["permutation"])
    outputs, inputs = perm[:out_ndim], perm[out_ndim:]
    if v.ndim != 1 + out_ndim or sorted(inputs) != list(range(n_in)):
        return NotImplemented
    new_u = jnp.transpose(v, (*(a - n_in + 1 for a in outputs), 0))
    new_v = jnp.transpose(u, (n_in, *inputs))
    return new_u, new_v, n_in
