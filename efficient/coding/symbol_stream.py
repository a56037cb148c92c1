"""A run of symbols in the fewest bytes: Huffman codes with their table, or fixed-width codes without one.

Bytes: a byte that says which (0 fixed, 1 Huffman); for Huffman the table of lengths and a varint that counts
the bytes; the codes. How many symbols there are, and of how large an alphabet, the reader must know.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64, Integer

from efficient.coding import huffman
from efficient.coding.bits import pack_bits, unpack_bits
from efficient.coding.byte_reader import ByteReader, varint

_FIXED, _HUFFMAN = 0, 1
_MAX_ALPHABET = 1 << huffman.MAX_LENGTH  # Symbols that a Huffman stream can tell apart.


def fixed_width(alphabet: int) -> int:
    """Bits of a fixed-width code for `alphabet` symbols: ceil(log2(alphabet)), 0 up to one symbol."""
    return max(alphabet - 1, 0).bit_length()


@dataclass(frozen=True, kw_only=True)
class StreamPlan:
    """How a run of symbols will be coded and what it costs; made from the counts alone."""

    lengths: np.ndarray | None  # Huffman code lengths [alphabet]; None: fixed-width codes.
    code_bits: int  # Bits of all codes together, table excluded.
    size_bytes: int  # Bytes of the whole stream.
    entropy_bits: float  # Shannon's bound for symbols drawn alone: -sum(count * log2(count / total)).


def plan_stream(counts: Integer[np.ndarray, " alphabet"], *, huffman_coded: bool = True) -> StreamPlan:
    """The cheaper coding of symbols that occur `counts` times; a tie takes fixed-width codes.

    Args:
        counts: how often each symbol of the alphabet occurs, at least 0.
        huffman_coded: False allows fixed-width codes only. Alphabets above 2**16 have these in any case.

    Raises:
        ValueError: a negative count, or more than 2**56 symbols.
    """
    total = int(counts.sum())
    share = counts[counts > 0]
    entropy = float((share * np.log2(total / share)).sum())
    bits = total * fixed_width(counts.size)
    fixed = StreamPlan(lengths=None, code_bits=bits, size_bytes=1 + -(-bits // 8), entropy_bits=entropy)
    if not huffman_coded or counts.size > _MAX_ALPHABET:
        return fixed
    lengths = huffman.code_lengths(counts)
    bits = int(counts @ lengths.astype(np.int64))
    codes = -(-bits // 8)
    size = 1 + len(huffman.pack_lengths(lengths)) + len(varint(codes)) + codes
    coded = StreamPlan(lengths=lengths, code_bits=bits, size_bytes=size, entropy_bits=entropy)
    return coded if size < fixed.size_bytes else fixed


def write_stream(symbols: Integer[np.ndarray, " count"], alphabet: int, plan: StreamPlan) -> bytes:
    """The bytes of `symbols`, in 0 to `alphabet` - 1, as planned from their own counts.

    Raises:
        ValueError: a symbol out of range, or one that the plan does not count.
    """
    if plan.lengths is None:
        return bytes([_FIXED]) + pack_bits(symbols, fixed_width(alphabet))
    codes = huffman.encode(symbols, plan.lengths)
    return bytes([_HUFFMAN]) + huffman.pack_lengths(plan.lengths) + varint(len(codes)) + codes


def read_stream(reader: ByteReader, alphabet: int, count: int) -> Int64[np.ndarray, " count"]:
    """Reads back `count` symbols of the alphabet. Allocates in proportion to `count` and to the data at most.

    Raises:
        ValueError: an unknown coding, truncated or invalid data, or a symbol out of range.
    """
    coding = reader.byte("coding of a stream")
    if coding == _HUFFMAN and alphabet <= _MAX_ALPHABET:
        lengths = huffman.unpack_lengths(reader, alphabet)
        return huffman.decode(reader.take(reader.varint("size of codes"), "codes"), lengths, count)
    if coding != _FIXED:
        raise ValueError(
            f"coding must be {_FIXED}, or {_HUFFMAN} up to {_MAX_ALPHABET} symbols, got {coding}; corrupt."
        )
    width = fixed_width(alphabet)
    symbols = unpack_bits(reader.take(-(-count * width // 8), "codes"), width, count)
    if symbols.max(initial=-1) >= alphabet:
        raise ValueError(f"symbols must be below {alphabet}, got {symbols.max()}; the data is corrupt.")
    return symbols
