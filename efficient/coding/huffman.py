"""Canonical Huffman codes of bounded length: lengths, codes, streams, and the table that goes with a stream.

Only the *length* of each symbol's code is kept. The codes follow from the lengths: in order of (length,
symbol), each is the last plus one, shifted to its own length. So the table is short, and decoding a look-up.

Source: Huffman, 1952; Larmore and Hirschberg, 1990 (package-merge); Han, Mao, Dally, 2016, arXiv:1510.00149,
section 4.
Differs: a code has at most 16 bits (the paper sets no bound), so that the decoder's table has 2**16 entries.
"""

import numpy as np
from jaxtyping import Int64, Integer, UInt8

from efficient.coding.bits import pack_bits
from efficient.coding.byte_reader import ByteReader, varint

MAX_LENGTH = 16  # Bits of the longest code.
_BLOCK_BYTES = 1 << 16  # Bytes decoded at once; bounds the decoder's memory.

Lengths = UInt8[np.ndarray, " symbols"]


def code_lengths(counts: Integer[np.ndarray, " symbols"], *, max_length: int = MAX_LENGTH) -> Lengths:
    """Code lengths `l` that minimise `sum(counts * l)` among prefix codes with `l <= max_length`.

    Package-merge: `max_length` times, pair the cheapest items of the list into packages and merge these
    with the symbols; of the last list take the 2n - 2 cheapest items. A symbol's length is how often it is
    taken. Exact also where the bound does not bite (then it is Huffman's code).

    Args:
        counts: how often each symbol occurs, at least 0. A symbol of count 0 has no code (length 0).
        max_length: bits of the longest code allowed, in 1 to 16.

    Returns:
        A length a symbol. No symbol: all zero. One symbol: length 1 (it costs a bit each time).

    Raises:
        ValueError: a negative count, over 2**56 in all, a bound out of range, or too many symbols for it.

    Example:
        >>> code_lengths(np.array([5, 0, 1, 1, 2]))
        array([1, 0, 3, 3, 2], dtype=uint8)
    """
    if not 1 <= max_length <= MAX_LENGTH:
        raise ValueError(
            f"max_length must be in 1 to {MAX_LENGTH}, got {max_length!r}; the decoder's table ends there."
        )
    if counts.min(initial=0) < 0 or counts.sum(dtype=np.float64) > 2**56:
        raise ValueError(
            f"counts must be at least 0 and 2**56 in all, got {counts!r}; count with np.bincount."
        )
    used = np.flatnonzero(counts)
    if used.size > 1 << max_length:
        raise ValueError(f"max_length must hold {used.size} symbols, got {max_length!r}; allow longer codes.")
    lengths = np.zeros(counts.size, np.uint8)
    if used.size < 2:
        lengths[used] = 1
        return lengths
    order = used[np.argsort(counts[used], kind="stable")]
    lengths[order] = _merged_lengths(counts[order].astype(np.int64), max_length)
    return lengths


def _merged_lengths(leaves: np.ndarray, max_length: int) -> np.ndarray:
    """Package-merge: the code lengths of two or more symbols of rising counts."""
    lengths = np.zeros(leaves.size, np.uint8)
    items, levels = leaves, [np.ones(leaves.size, np.bool_)]
    for _ in range(max_length - 1):
        packages = items[: items.size // 2 * 2].reshape(-1, 2).sum(1)
        merged = np.concatenate([leaves, packages])
        rank = np.argsort(merged, kind="stable")  # A tie takes the symbol before the package.
        items = merged[rank]
        levels.append(rank < leaves.size)
    taken = 2 * leaves.size - 2
    for is_leaf in reversed(levels):
        symbols = int(np.count_nonzero(is_leaf[:taken]))
        lengths[:symbols] += 1
        taken = 2 * (taken - symbols)
    return lengths


def canonical_codes(lengths: Integer[np.ndarray, " symbols"]) -> Int64[np.ndarray, " symbols"]:
    """The code of each symbol: its low `lengths[s]` bits, first bit on top (0 where there is none).

    Raises:
        ValueError: lengths out of range, or that no complete prefix code has (Kraft's sum is not 1).

    Example:
        >>> [f"{code:b}" for code in canonical_codes(np.array([1, 3, 3, 2]))]
        ['0', '110', '111', '10']
    """
    order, width = _canonical_order(lengths)
    room = np.int64(1) << (width - lengths[order].astype(np.int64))  # Entries of the table that a code fills.
    codes = np.zeros(lengths.size, np.int64)
    codes[order] = (np.cumsum(room) - room) >> (width - lengths[order].astype(np.int64))
    return codes


def encode(symbols: Integer[np.ndarray, " count"], lengths: Integer[np.ndarray, " symbols"]) -> bytes:
    """The codes of `symbols` end to end, most significant bit first.

    Raises:
        ValueError: lengths of no prefix code, or a symbol that has no code.
    """
    codes = canonical_codes(lengths)
    if symbols.size and not 0 <= symbols.min() <= symbols.max() < lengths.size:
        raise ValueError(
            f"symbols must be in 0 to {lengths.size - 1}, got {symbols.min()} to {symbols.max()}; widen it."
        )
    widths = lengths[symbols]
    if not widths.all():
        raise ValueError(
            f"symbols must have a code, got {symbols[widths.argmin()]} of length 0; count all of them."
        )
    return pack_bits(codes[symbols], widths)


def decode(data: bytes, lengths: Integer[np.ndarray, " symbols"], count: int) -> Int64[np.ndarray, " count"]:
    """The `count` symbols that `encode` wrote.

    A table has the symbol and the length of the code for every next `width` bits. NumPy looks up *every* bit
    position of a block at once; what is left to do one by one is to step from code to code.

    Args:
        data: exactly the bytes of the codes.
        lengths: the lengths that the stream was written with.
        count: how many symbols, at least 0.

    Raises:
        ValueError: lengths of no prefix code, an invalid code, or data that ends before or after the count.
    """
    if not 0 <= count <= 8 * len(data):
        raise ValueError(f"count must be in 0 to {8 * len(data)}, got {count!r}; the data is truncated.")
    table_symbol, table_size, width = _decoding_table(lengths)
    raw = np.frombuffer(data + bytes(2), np.uint8)
    symbols = np.empty(count, np.int64)
    done = position = 0  # Symbols decoded; bit at which the next code begins.
    for start in range(0, len(data), _BLOCK_BYTES):
        block = raw[start : start + _BLOCK_BYTES + 2].astype(np.int64)
        ahead = block[:-2] << 16 | block[1:-1] << 8 | block[2:]  # [bytes] 24 bits from each byte on.
        windows = (ahead[:, None] >> (24 - width - np.arange(8)) & ((1 << width) - 1)).reshape(-1)
        steps = table_size[windows].tobytes()  # A byte each: Python indexes bytes fastest.
        begins: list[int] = []
        place = position - 8 * start
        for _ in range(count - done):
            if place >= len(steps):
                break
            begins.append(place)
            place += steps[place]
        symbols[done : done + len(begins)] = table_symbol[windows[np.array(begins, np.int64)]]
        done, position = done + len(begins), 8 * start + place
    return _checked(symbols, data, done=done, bits=position)


def _decoding_table(lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """For every next `width` bits the symbol whose code they begin with and that code's length; the width."""
    order, width = _canonical_order(lengths)
    sizes = lengths[order].astype(np.int64)
    room = 1 << (width - sizes)
    symbol = np.full(1 << width, -1, np.int64)  # -1: no code begins so (a table of one symbol).
    symbol[: room.sum()] = np.repeat(order, room)
    size = np.ones(1 << width, np.uint8)
    size[: room.sum()] = np.repeat(sizes, room)
    return symbol, size, width


def _checked(symbols: np.ndarray, data: bytes, *, done: int, bits: int) -> np.ndarray:
    """The decoded symbols, once the stream is known to be whole, valid and to end where the data ends."""
    if done < symbols.size or bits > 8 * len(data):
        raise ValueError(f"data must hold {symbols.size} codes, got {done}; it is truncated.")
    if symbols.min(initial=0) < 0:
        raise ValueError(
            f"data must hold codes of the table, got none at symbol {symbols.argmin()}; it is corrupt."
        )
    if len(data) != -(-bits // 8) or (bits % 8 and data[-1] & (0xFF >> bits % 8)):
        raise ValueError(f"data must end after {bits} bits, got {8 * len(data)}; pass exactly the stream.")
    return symbols


def _canonical_order(lengths: np.ndarray) -> tuple[np.ndarray, int]:
    """The symbols that have a code, by (length, symbol), and the longest length; refuses what is no code."""
    _check_range(lengths)
    used = np.flatnonzero(lengths)
    order = used[np.argsort(lengths[used], kind="stable")]
    width = int(lengths.max(initial=0))
    kraft = int((1 << (width - lengths[order].astype(np.int64))).sum())  # In units of 2**-width.
    if kraft > 1 << width:
        raise ValueError(
            f"lengths must satisfy Kraft's equality, got {kraft} / {1 << width}; over-subscribed."
        )
    if kraft < 1 << width and used.size and (used.size, width) != (1, 1):
        raise ValueError(f"lengths must satisfy Kraft's equality, got {kraft} / {1 << width}; incomplete.")
    return order, width


def pack_lengths(lengths: Integer[np.ndarray, " symbols"]) -> bytes:
    """The table of a stream in few bytes: neighbours tend to have codes of nearly the same length.

    Each symbol up to the last one with a code is a number n in unary (n zeros and a one): 0 for the length of
    the last symbol that had one, 1 for no code, then +1, -1, +2, -2... against that last length. The first is
    held against the length of a fixed-width code. A varint in front counts the bytes.

    Raises:
        ValueError: a length outside 0 to 16.
    """
    _check_range(lengths)
    used = np.flatnonzero(lengths)
    steps = np.diff(lengths[used].astype(np.int64), prepend=_first_length(lengths.size))
    numbers = np.ones(used[-1] + 1 if used.size else 0, np.int64)
    numbers[used] = np.where(steps == 0, 0, np.where(steps > 0, 2 * steps, 1 - 2 * steps))
    unary = pack_bits(np.ones_like(numbers), numbers + 1)
    return varint(len(unary)) + unary


def unpack_lengths(reader: ByteReader, symbols: int) -> Lengths:
    """Reads the table of `symbols` lengths that `pack_lengths` wrote.

    Raises:
        ValueError: a table that is truncated, lists more than `symbols`, or holds a length outside 1 to 16.
    """
    size = reader.varint("size of a code table")
    if size > 4 * symbols:  # 32 bits a symbol at most: what is read next is in proportion to the alphabet.
        raise ValueError(f"table must be at most {4 * symbols} bytes, got {size}; it is corrupt.")
    bits = np.unpackbits(np.frombuffer(reader.view(size, "code table"), np.uint8))
    numbers = np.diff(np.flatnonzero(bits), prepend=-1) - 1
    if numbers.size > symbols:
        raise ValueError(f"table must list at most {symbols} symbols, got {numbers.size}; it is corrupt.")
    used = np.flatnonzero(numbers != 1)
    halves = numbers[used] // 2
    sizes = _first_length(symbols) + np.cumsum(np.where(numbers[used] % 2 == 0, halves, -halves))
    if sizes.size and not 1 <= sizes.min() <= sizes.max() <= MAX_LENGTH:
        raise ValueError(
            f"table must hold lengths in 1 to {MAX_LENGTH}, got {sizes.min()} to {sizes.max()}; corrupt."
        )
    lengths = np.zeros(symbols, np.uint8)
    lengths[used] = sizes
    return lengths


def _check_range(lengths: np.ndarray) -> None:
    """Refuses lengths that no code of this module has."""
    if lengths.size and not 0 <= lengths.min() <= lengths.max() <= MAX_LENGTH:
        raise ValueError(
            f"lengths must be in 0 to {MAX_LENGTH}, got {lengths.min()} to {lengths.max()}; limit them."
        )


def _first_length(symbols: int) -> int:
    """The length that a fixed-width code of `symbols` symbols has, within 1 to 16."""
    return max(1, min((symbols - 1).bit_length(), MAX_LENGTH))
