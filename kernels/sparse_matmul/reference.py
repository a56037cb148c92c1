"""Reference: W made dense in plain jnp, then a float32 product. The oracle of every tier."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Shaped, UInt8


def times(x: Float[Array, "m k"], weights: Float[Array, "k n"]) -> Float[Array, "m n"]:
    """X W in float32, at the highest precision."""
    return jnp.matmul(x.astype(jnp.float32), weights.astype(jnp.float32), precision=jax.lax.Precision.HIGHEST)


def running(counts: Int[Array, " count"]) -> Int[Array, " count"]:
    """Sums up to and with each; XLA's own cumulative sum is slower on a CPU."""
    return jax.lax.associative_scan(jnp.add, counts)


def lines_of(pointers: Shaped[Array, " lines1"], entries: int) -> Int[Array, " entries"]:
    """The line of each entry; of padding, one past the last line."""
    begun = jnp.zeros(entries, jnp.int32).at[pointers[1:].astype(jnp.int32)].add(1, mode="drop")
    return running(begun)


def unpacked(stream: UInt8[Array, " bytes"], width: int, count: int) -> Int[Array, " count"]:
    """The values that `coding.pack_bits` laid down with one width, inside a program."""
    bits = jnp.unpackbits(stream)[: count * width].reshape(count, width).astype(jnp.int32)
    return bits @ (2 ** np.arange(width - 1, -1, -1, dtype=np.int32))


def dense_of_lines(values: Any, indices: Any, pointers: Any, *, shape: tuple[int, int], by_row: bool) -> Any:
    """W of compressed rows, or of columns."""
    lines, places = lines_of(jnp.asarray(pointers), values.shape[0]), jnp.asarray(indices, jnp.int32)
    where = (lines, places) if by_row else (places, lines)
    return jnp.zeros(shape, values.dtype).at[where].set(values, mode="drop")


def dense_of_blocks(values: Any, columns: Any, pointers: Any, *, shape: tuple[int, int]) -> Any:
    """W of the blocks that are present."""
    _, height, width = values.shape
    down, across = -(-shape[0] // height), -(-shape[1] // width)
    where = (lines_of(jnp.asarray(pointers), values.shape[0]), jnp.asarray(columns, jnp.int32))
    blocks = jnp.zeros((down, across, height, width), values.dtype).at[where].set(values, mode="drop")
    return blocks.swapaxes(1, 2).reshape(down * height, across * width)[: shape[0], : shape[1]]


def dense_of_groups(values: Any, positions: UInt8[Array, " bytes"], *, rows: int, m: int) -> Any:
    """W of n values of every m neighbours along its rows."""
    groups, _, columns = values.shape
    places = unpacked(positions, (m - 1).bit_length(), values.size).reshape(values.shape)
    of_group = jax.lax.broadcasted_iota(jnp.int32, (groups, 1, m, columns), 2)
    kept = jnp.where(places[:, :, None] == of_group, values[:, :, None], 0)
    return jnp.sum(kept, 1).reshape(groups * m, columns)[:rows]
