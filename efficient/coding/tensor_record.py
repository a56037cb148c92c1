"""One tensor as bytes: what a compressed file holds of it, its name aside.

Bytes: 16 * kind + the place of the dtype in `_DTYPES` (a byte); the number of dimensions and each
of them (varints); then

- kind 0, dense: the values, little-endian, in C order;
- kind 1, shared: the size of the codebook (varint), its values, the stream of indices;
- kind 2, shared and sparse: the codebook as in kind 1; the gap width b (a byte), the number of entries
  (varint) and the stream of gaps, of 2**b symbols, 2**b - 1 being the filler; the stream of indices.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from efficient.coding.byte_reader import ByteReader, varint
from efficient.coding.relative_index import decode_gaps, encode_gaps
from efficient.coding.symbol_stream import StreamPlan, plan_stream, read_stream, write_stream
from efficient.coding.tensors import FLOATS, Dense, Shared

MAX_INDEX_BITS = 16
_DENSE, _SHARED, _SPARSE = 0, 1, 2
_DTYPES = (  # A dtype's code is its place here: only ever append.
    *("float16", "float32", "float64", "int8", "int16", "int32", "int64"),
    *("uint8", "uint16", "uint32", "uint64", "bfloat16"),
)
_MAX_RANK = 64  # NumPy's.

IndexBits = int | Literal["best"]


@dataclass(frozen=True, kw_only=True)
class TensorRecord:
    """The bytes of one tensor, and how they came about."""

    data: bytes
    weights: StreamPlan | None = None  # None: dense.
    gaps: StreamPlan | None = None  # None: nothing is pruned.
    index_bits: int = 0  # Gap width.
    fillers: int = 0


def check_index_bits(index_bits: IndexBits) -> None:
    """Refuses a gap width that the format does not have."""
    if index_bits != "best" and not (isinstance(index_bits, int) and 1 <= index_bits <= MAX_INDEX_BITS):
        raise ValueError(
            f"index_bits must be in 1 to {MAX_INDEX_BITS} or 'best', got {index_bits!r}; 'best' tries all."
        )


def pack_tensor(tensor: Shared | Dense, *, index_bits: IndexBits, huffman_coded: bool) -> TensorRecord:
    """The record of a tensor.

    Args:
        tensor: what to write. A mask that is True everywhere is written as none.
        index_bits: gap width in 1 to 16, or the one with which the gaps take the fewest bytes.
        huffman_coded: False allows fixed-width codes only.

    Raises:
        ValueError: an empty tensor whose other sizes multiply to 2**60 or more.
    """
    if isinstance(tensor, Dense):
        return TensorRecord(data=_head(_DENSE, tensor.values, tensor.values.shape) + _raw(tensor.values))
    book, kept = tensor.codebook, tensor.kept_indices().astype(np.int64)
    plan = plan_stream(np.bincount(kept, minlength=book.size), huffman_coded=huffman_coded)
    shared = varint(book.size) + _raw(book)
    stream = write_stream(kept, book.size, plan)
    if tensor.mask is None or tensor.mask.all():
        return TensorRecord(data=_head(_SHARED, book, tensor.indices.shape) + shared + stream, weights=plan)
    positions = np.flatnonzero(tensor.mask)
    width, gap_plan = _plan_gaps(positions, index_bits=index_bits, huffman_coded=huffman_coded)
    span = (1 << width) - 1
    gaps, is_filler = encode_gaps(positions, span=span)
    index = bytes([width]) + varint(gaps.size)
    index += write_stream(np.where(is_filler, span, gaps), span + 1, gap_plan)
    return TensorRecord(
        data=_head(_SPARSE, book, tensor.indices.shape) + shared + index + stream,
        weights=plan,
        gaps=gap_plan,
        index_bits=width,
        fillers=int(is_filler.sum()),
    )


def _plan_gaps(
    positions: np.ndarray, *, index_bits: IndexBits, huffman_coded: bool
) -> tuple[int, StreamPlan]:
    """The gap width and the plan of its stream; of equal sizes the narrower."""
    zeros = np.diff(positions, prepend=-1) - 1
    plans = []
    for width in range(1, MAX_INDEX_BITS + 1) if index_bits == "best" else [index_bits]:
        span = (1 << width) - 1
        counts = np.bincount(zeros % span, minlength=span + 1)
        counts[span] = fillers = (zeros // span).sum()
        plans.append((width, plan_stream(counts, huffman_coded=huffman_coded)))
        if not fillers:  # Wider codes for the same gaps save nothing more.
            break
    return min(plans, key=lambda plan: plan[1].size_bytes)


def _head(kind: int, values: np.ndarray, shape: tuple[int, ...]) -> bytes:
    """Kind, dtype and shape."""
    _check_shape(shape)
    head = bytes([kind << 4 | _DTYPES.index(values.dtype.name)]) + varint(len(shape))
    return head + b"".join(varint(size) for size in shape)


def _check_shape(shape: tuple[int, ...]) -> None:
    """Refuses an empty array whose other sizes NumPy would refuse in a dtype of up to 8 bytes."""
    if math.prod(max(size, 1) for size in shape) >= 1 << 60:
        raise ValueError(
            f"shape must have a product below 2**60 without its zeros, got {shape}; "
            "no array of 8-byte values can have it."
        )


def _raw(values: np.ndarray) -> bytes:
    """The values bit for bit, little-endian, in C order."""
    if values.dtype.name == "bfloat16":  # NumPy cannot turn the bytes of a dtype that is not its own.
        values = values.view(np.uint16)
    return values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes()


def _from_raw(data: bytes, dtype: str) -> np.ndarray:
    """The flat array that `_raw` wrote, in this machine's byte order."""
    stored = np.dtype("uint16" if dtype == "bfloat16" else dtype)
    return np.frombuffer(data, stored.newbyteorder("<")).astype(stored).view(dtype)


def unpack_tensor(reader: ByteReader, *, max_bytes: int) -> Shared | Dense:
    """Reads back a record. Indices come as int32, 0 where the mask is False; a full mask comes as None.

    Args:
        reader: stands at the record.
        max_bytes: bytes that the arrays of the result may take; checked before they are made.

    Raises:
        ValueError: anything that `pack_tensor` does not write, or a tensor over `max_bytes`.
    """
    kind, dtype, shape = _read_head(reader)
    size, itemsize = math.prod(shape), np.dtype(dtype).itemsize
    a_weight = {_DENSE: itemsize, _SHARED: 4, _SPARSE: 5}[kind]  # Bytes: int32 indices, and a bool mask.
    if a_weight * size > max_bytes:
        raise ValueError(
            f"tensor must take at most {max_bytes} bytes, got {a_weight * size}; raise max_bytes if trusted."
        )
    if kind == _DENSE:
        return Dense(_from_raw(reader.take(size * itemsize, "dense values"), dtype).reshape(shape))
    codebook = _from_raw(reader.take(reader.varint("size of a codebook") * itemsize, "codebook"), dtype)
    if kind == _SHARED:
        return Shared(codebook, read_stream(reader, codebook.size, size).astype(np.int32).reshape(shape))
    positions = _read_positions(reader, size)
    indices, mask = np.zeros(size, np.int32), np.zeros(size, np.bool_)
    indices[positions] = read_stream(reader, codebook.size, positions.size)
    mask[positions] = True
    return Shared(codebook, indices.reshape(shape), mask.reshape(shape))


def _read_head(reader: ByteReader) -> tuple[int, str, tuple[int, ...]]:
    """The kind, dtype and shape that `_head` wrote, of an array that NumPy can have."""
    tag, rank = reader.byte("kind and dtype"), reader.varint("rank")
    kind, code = tag >> 4, tag & 15
    is_known = kind <= _SPARSE and code < len(_DTYPES) and (kind == _DENSE or _DTYPES[code] in FLOATS)
    if not is_known or rank > _MAX_RANK:
        raise ValueError(
            f"record must begin with a kind, a dtype and a rank, got {tag:#04x} and {rank}; corrupt."
        )
    shape = tuple(reader.varint("shape") for _ in range(rank))
    _check_shape(shape)
    return kind, _DTYPES[code], shape


def _read_positions(reader: ByteReader, size: int) -> np.ndarray:
    """The places of the kept weights, all below `size`."""
    width, entries = reader.byte("gap width"), reader.varint("number of gaps")
    if not 1 <= width <= MAX_INDEX_BITS:
        raise ValueError(f"gap width must be in 1 to {MAX_INDEX_BITS}, got {width}; the data is corrupt.")
    if entries > size:
        raise ValueError(f"entries must be at most the {size} weights, got {entries}; the data is corrupt.")
    span = (1 << width) - 1
    symbols = read_stream(reader, span + 1, entries)
    is_filler = symbols == span
    positions = decode_gaps(np.where(is_filler, span - 1, symbols), is_filler, span=span)
    if positions.size and positions[-1] >= size:
        raise ValueError(f"positions must be below {size}, got {positions[-1]}; the data is corrupt.")
    return positions
