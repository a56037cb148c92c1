"""Quantize and pack on a TPU and a GPU (Pallas): a row of a block is a run, read once.

Not run on either yet: it lowers for both, and its bits are the reference's in interpret mode.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from efficient.kernels.compile_for import compile_for
from efficient.kernels.quantize_pack.packed import Packed
from efficient.kernels.quantize_pack.reference import steps
from jax.experimental import pallas as pl

AT_ONCE = 16_384  # numbers of a block, about


def pallas(
    x: Any, *, bits: int, group: int, is_symmetric: bool, tier: str, interpret: bool = False
) -> Packed:
    """Of x [r, k, n], runs along n."""
    r, k, n = x.shape
    many, runs = 8 // bits, -(-n // group)
    wide = -(-group // many)
    if runs > 1 and group % many:
        raise NotImplementedError(
            f"group must be all or a multiple of {many} for {tier}, got {group}; leave implementation out."
        )
    filled = jnp.pad(x, [(0, 0), (0, 0), (0, runs * wide * many - n)]).reshape(-1, wide, many)
    planes = jnp.moveaxis(filled, -1, 0)  # [codes of a byte, all runs, bytes of a run]
    lanes = pl.next_power_of_2(wide) if tier == "pallas_gpu" else wide
    rows = max(8, AT_ONCE // pl.next_power_of_2(lanes))
    rows = min(rows, pl.next_power_of_2(max(8, planes.shape[1])))
    planes = jnp.pad(planes, [(0, 0), (0, -planes.shape[1] % rows), (0, lanes - wide)])
    total = planes.shape[1]
    out_shape = [jax.ShapeDtypeStruct((total, lanes), jnp.int8), *(_of_runs(total) for _ in range(2))]
    row = pl.BlockSpec((rows, 1), lambda i: (i, 0))
    codes, scale, shift = pl.pallas_call(
        functools.partial(_kernel, bits=bits, is_symmetric=is_symmetric),
        grid=(total // rows,),
        in_specs=[pl.BlockSpec((many, rows, lanes), lambda i: (0, i, 0))],
        out_specs=[pl.BlockSpec((rows, lanes), lambda i: (i, 0)), row, row],
        out_shape=out_shape,
        compiler_params=compile_for(tier, grid=("parallel",)),
        interpret=interpret,
    )(planes)
    used = r * k * runs
    codes = codes[:used, :wide].view(jnp.uint8).reshape(r, k, -1)[:, :, : -(-n * bits // 8)]
    codes = codes.at[:, :, -1].set(codes[:, :, -1] & np.uint8(2 ** ((n * bits - 1) % 8 + 1) - 1))
    scale, shift = (a[:used].reshape(r, k, runs) for a in (scale, shift))
    return Packed(codes, scale, None if is_symmetric else shift)


def _of_runs(total: int) -> jax.ShapeDtypeStruct:
    """A number of each."""
    return jax.ShapeDtypeStruct((total, 1), jnp.float32)


def nearest(values: Any) -> Any:
    """Whole numbers nearest, ties to the even. Triton has no rounding; sums would be fused with products."""
    below = jnp.floor(values)
    is_odd = below != 2 * jnp.floor(below * 0.5)
    half = below + 0.5
    return jnp.where((values > half) | ((values == half) & is_odd), below + 1, below)


def _kernel(
    x_ref: Any, codes_ref: Any, scale_ref: Any, shift_ref: Any, *, bits: int, is_symmetric: bool
) -> None:
    """Some runs."""
    planes = [x_ref[i].astype(jnp.float32) for i in range(x_ref.shape[0])]

    def over(reduce: Any, join: Any, values: list[Any]) -> Any:
        return functools.reduce(join, [reduce(value, axis=1, keepdims=True) for value in values])

    odd = over(jnp.max, jnp.maximum, [jnp.where(jnp.abs(v) < jnp.inf, 0.0, 1.0) for v in planes])
    most, low = 2**bits - 1, 0
    if is_symmetric:
        most, low = 2 ** (bits - 1) - 1, -(2 ** (bits - 1)) + 1
        top = over(jnp.max, jnp.maximum, [jnp.abs(v) for v in planes])
        bottom = jnp.zeros_like(top)
    else:
        bottom = jnp.minimum(over(jnp.min, jnp.minimum, planes), 0.0)
        top = jnp.maximum(over(jnp.max, jnp.maximum, planes), 0.0)
    scale, inverse, shift = steps(bottom, top, odd == 0, most, nearest)
    scale_ref[...], shift_ref[...] = scale, shift
    byte = jnp.zeros(planes[0].shape, jnp.int32)
    for place, values in enumerate(planes):
        whole = nearest(jnp.where(odd == 0, values, 0.0) * inverse)
        whole = whole if is_symmetric else whole + jnp.where(odd == 0, shift, 0.0)
        whole = jnp.clip(whole, low, most).astype(jnp.int32)
        byte = byte | jax.lax.shift_left(whole & jnp.int32(2**bits - 1), jnp.int32(bits * place))
    codes_ref[...] = ((byte ^ 128) - 128).astype(jnp.int8)
