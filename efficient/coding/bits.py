"""Bit packing: integers of any widths laid end to end, the most significant bit first.

The first bit of the stream is the top bit of its first byte, and the last byte is filled up with zero bits.
"""

import numpy as np
from jaxtyping import Int64, Integer

MAX_WIDTH = 32  # Bits of the widest value; 32 leaves every shift inside a 64-bit integer.


def pack_bits(values: Integer[np.ndarray, " count"], width: int | Integer[np.ndarray, " count"]) -> bytes:
    """Lays the low `width` bits of each value end to end.

    Args:
        values: integers `v` with `0 <= v < 2**width`.
        width: bits of every value, or of each one, in 0 to 32. A value of width 0 takes no room.

    Returns:
        `ceil(sum(width) / 8)` bytes.

    Raises:
        ValueError: a width outside 0 to 32, or a value that its width cannot hold.

    Example:
        >>> pack_bits(np.array([0b101, 0b01, 0b1]), np.array([3, 2, 1])).hex()  # 101 01 1 and two zero bits
        'ac'
    """
    widths = np.broadcast_to(np.asarray(width, np.int64), values.shape)
    if widths.size and not 0 <= widths.min() <= widths.max() <= MAX_WIDTH:
        raise ValueError(f"width must be in 0 to {MAX_WIDTH}, got {width!r}; split wider values.")
    too_large = (values < 0) | (values.astype(np.uint64) >> widths.astype(np.uint64) != 0)
    if too_large.any():
        at = int(too_large.argmax())
        raise ValueError(
            f"values must be in 0 to 2**width - 1, got {values[at]} for {widths[at]} bits at {at}; widen."
        )
    ends = np.cumsum(widths)
    bits = np.zeros(ends[-1] if ends.size else 0, np.uint8)
    for place in range(widths.max(initial=0)):  # From the last bit of every value to the first.
        rows = np.flatnonzero(widths > place)
        bits[ends[rows] - 1 - place] = (values[rows] >> place) & 1
    return np.packbits(bits).tobytes()


def unpack_bits(data: bytes, width: int, count: int) -> Int64[np.ndarray, " count"]:
    """Reads back `count` values that `pack_bits` laid down with one width.

    Args:
        data: exactly the bytes of those values.
        width: bits of every value, in 0 to 32.
        count: how many values, at least 0.

    Raises:
        ValueError: a width or count out of range, data of another length, or a filling bit that is not zero.

    Example:
        >>> unpack_bits(bytes([0b10101100]), 3, 2)
        array([5, 3])
    """
    if not 0 <= width <= MAX_WIDTH:
        raise ValueError(f"width must be in 0 to {MAX_WIDTH}, got {width!r}; split wider values.")
    if count < 0:
        raise ValueError(f"count must be at least 0, got {count!r}; count the values.")
    used = width * count
    if len(data) != -(-used // 8):
        raise ValueError(
            f"data must be {-(-used // 8)} bytes, got {len(data)}; pass exactly the packed values."
        )
    bits = np.unpackbits(np.frombuffer(data, np.uint8))
    if bits[used:].any():
        raise ValueError(f"data must end in zero bits, got {data[-1]:#04x}; it is no packed stream.")
    rows = bits[:used].reshape(count, width)
    values = np.zeros(count, np.int64)
    for place in range(width):
        values <<= 1
        values |= rows[:, place]
    return values
