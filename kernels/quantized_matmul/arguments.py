"""How a matrix is kept in codes, as both products take it, and what is refused before any compute."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int8, UInt8


class Packing(NamedTuple):
    """What cannot be told from the arrays. A value: it hashes."""

    bits: int  # of a code: 2, 4 or 8
    columns: int  # of W
    group: int  # rows of a run, the last of which may be shorter
    is_signed: bool  # whole numbers are two's complement


def checked_packing(
    x: Any, codes: Any, scale: Any, shift: Any, *, bits: int, columns: int, group: int, is_signed: bool
) -> Packing:
    """The packing of a product's arguments; a group of 0 is replaced by all rows.

    Raises:
      ValueError: shapes or sizes that do not go together.
    """
    if bits not in (2, 4, 8):
        raise ValueError(f"bits must be 2, 4 or 8, got {bits}; codes of other widths are kept in the next.")
    rows = codes.shape[0] if codes.ndim == 2 else -1
    group = group or max(rows, 1)
    runs = -(-rows // group) if group > 0 else -1
    want = -(-columns * bits // 8) if columns > 0 else -1
    if x.ndim < 1 or group < 1 or codes.shape != (x.shape[-1], want):
        raise ValueError(
            f"codes must be a row for each of {x.shape[-1:]} of x, bytes of {columns} columns, and group "
            f"from 0, got {codes.shape} and {group}; pack along the columns."
        )
    for name, values in (("scale", scale), ("shift", shift)):
        if values is not None and values.shape not in ((runs, columns), (runs, 1)):
            raise ValueError(
                f"{name} must be [{runs} runs of {group} rows, {columns} columns or 1], got {values.shape}."
            )
    return Packing(bits, columns, group, is_signed or codes.dtype == jnp.int8)


def decoded(
    codes: UInt8[Array, "k p"] | Int8[Array, "k p"],
    scale: Float[Array, "..."],
    shift: Float[Array, "..."] | None,
    table: Float[Array, " codes"] | None,
    packing: Packing,
) -> Float[Array, "k n"]:
    """W[k, n] = (number of code[k, n] - shift[g, n]) scale[g, n], g = k // group; see `quantized_matmul`."""
    numbers = numbers_of(codes, table, packing)
    if shift is not None:
        numbers = numbers - _rows(shift, numbers.shape, packing.group)
    return numbers * _rows(scale, numbers.shape, packing.group)


def decoded_along(
    codes: UInt8[Array, "n p"] | Int8[Array, "n p"],
    scale: Float[Array, "..."],
    shift: Float[Array, "..."] | None,
    table: Float[Array, " codes"] | None,
    packing: Packing,
) -> Float[Array, "n k"]:
    """W[n, k] of codes along k; see `transposed_matmul`."""
    numbers = numbers_of(codes, table, packing)

    def along(values: Any) -> Any:
        return _rows(values.T, numbers.shape[::-1], packing.group).T

    if shift is not None:
        numbers = numbers - along(shift)
    return numbers * along(scale)


def numbers_of(
    codes: UInt8[Array, "k p"] | Int8[Array, "k p"], table: Float[Array, " codes"] | None, packing: Packing
) -> Float[Array, "k n"]:
    """What packed codes stand for."""
    bits = packing.bits
    is_plain = bits == 8 and table is None
    codes = codes.view(jnp.int8 if is_plain and packing.is_signed else jnp.uint8)
    if bits < 8:
        apart = jnp.stack([(codes >> place) & (2**bits - 1) for place in range(0, 8, bits)], -1)
        codes = apart.reshape(codes.shape[0], -1)[:, : packing.columns]
    if table is not None:
        numbers = table[codes]
    elif is_plain:
        numbers = codes.astype(jnp.float32)
    else:
        whole = codes.astype(jnp.int32)
        numbers = (whole - 2**bits * (whole >= 2 ** (bits - 1)) * packing.is_signed).astype(jnp.float32)
    return numbers


def filled_table(table: Any, bits: int) -> Any:
    """A table in float32 filled up to 16 or 256 numbers.

    Raises:
      ValueError: it has no axis of 1 to 2^bits numbers.
    """
    if table.ndim != 1 or not 1 <= table.shape[0] <= 2**bits:
        raise ValueError(
            f"table must have a number for each code, at most {2**bits}, got {table.shape}; fill it up."
        )
    size = 16 if table.shape[0] <= 16 else 256
    return jnp.pad(table.astype(jnp.float32), (0, size - table.shape[0]))


def single_precision(values: Any) -> Any:
    """In float32; None stays."""
    return values if values is None or values.dtype == jnp.float32 else values.astype(jnp.float32)


def _rows(values: Float[Array, "..."], shape: tuple[int, ...], group: int) -> Float[Array, "k n"]:
    """A number of each run of rows, at every row and column."""
    if values.shape[0] > 1:
        values = jnp.repeat(values, group, axis=0)[: shape[0]]
    return jnp.broadcast_to(values, shape)
