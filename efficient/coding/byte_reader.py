"""A cursor over bytes that never reads past their end, and the varints that it reads.

A varint holds seven bits a byte, the low ones first; the top bit of a byte says that another follows.
"""

MAX_VARINT_BYTES = 9  # 63 bits: every varint fits in a signed 64-bit integer.


def varint(value: int) -> bytes:
    """The varint of `value`, in 0 to 2**63 - 1: a byte up to 127, two up to 16,383.

    Raises:
        ValueError: a value out of range.

    Example:
        >>> varint(300).hex()  # 300 = 2 * 128 + 44
        'ac02'
    """
    if not 0 <= value < 1 << (7 * MAX_VARINT_BYTES):
        raise ValueError(f"value must be in 0 to 2**63 - 1, got {value!r}; a varint holds no other.")
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(out + bytes([value]))


class ByteReader:
    """Reads forward through `data`; every read is checked against what is left."""

    def __init__(self, data: bytes):
        self._data = data
        self._position = 0

    @property
    def left(self) -> int:
        """Bytes not yet read."""
        return len(self._data) - self._position

    def take(self, size: int) -> bytes:
        """The next `size` bytes.

        Raises:
            ValueError: fewer are left.
        """
        if size > self.left:
            raise ValueError(f"data must hold {size} more bytes, got {self.left}; it is truncated.")
        start, self._position = self._position, self._position + size
        return self._data[start : self._position]

    def byte(self) -> int:
        """The next byte, or a ValueError where there is none."""
        return self.take(1)[0]

    def varint(self) -> int:
        """The next varint.

        Raises:
            ValueError: the data ends inside it, or it has more than nine bytes.
        """
        value = 0
        for place in range(MAX_VARINT_BYTES):
            byte = self.byte()
            value |= (byte & 0x7F) << (7 * place)
            if byte < 0x80:
                return value
        raise ValueError(f"varint must have at most {MAX_VARINT_BYTES} bytes, got more; the data is corrupt.")
