"""A cursor over bytes that never reads past their end, and the varints that it reads.

A varint holds seven bits a byte, the low ones first; the top bit of a byte says that another follows.
"""

import struct
from typing import Any

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
    """Reads forward through `data`; every read is checked against what is left.

    Args:
        data: the bytes; they are not copied.
        name: what they are, for errors: "data", or a part of a container.
        position: byte of `data` to start at.

    Raises:
        ValueError: by every method, where the bytes end before what it reads or do not hold it. The message
            has the name, the byte it stands at, what was wanted (the method's `what`) and what is left.

    Example:
        >>> reader = ByteReader(bytes([3, 0xAC, 2, 65, 66]))
        >>> reader.byte(), reader.varint(), reader.take(2), reader.left
        (3, 300, b'AB', 0)
    """

    def __init__(self, data: bytes | memoryview, *, name: str = "data", position: int = 0):
        self._data = memoryview(data)
        self.name = name
        self.position = position

    @property
    def left(self) -> int:
        """Bytes not yet read."""
        return len(self._data) - self.position

    def view(self, size: int, what: str = "values") -> memoryview:
        """The next `size` bytes, not copied."""
        if not 0 <= size <= self.left:
            raise ValueError(
                f"{self.name} must hold {size} more bytes for {what} at byte {self.position}, got "
                f"{self.left}; it is truncated or corrupt."
            )
        start, self.position = self.position, self.position + size
        return self._data[start : self.position]

    def take(self, size: int, what: str = "values") -> bytes:
        """The next `size` bytes."""
        return bytes(self.view(size, what))

    def byte(self, what: str = "byte") -> int:
        """The next byte."""
        return self.view(1, what)[0]

    def number(self, form: str, what: str = "number") -> Any:
        """The next number in a `struct` format such as "<I"."""
        return struct.unpack(form, self.view(struct.calcsize(form), what))[0]

    def varint(self, what: str = "varint") -> int:
        """The next varint, of at most nine bytes."""
        start, value = self.position, 0
        for place in range(MAX_VARINT_BYTES):
            byte = self.byte(what)
            value |= (byte & 0x7F) << (7 * place)
            if byte < 0x80:
                return value
        raise ValueError(
            f"{self.name} must hold at most {MAX_VARINT_BYTES} bytes for {what} at byte {start}, got more; "
            "it is corrupt."
        )

    def text(self, size: int, what: str = "text") -> str:
        """The next `size` bytes, which must be UTF-8."""
        return self._decoded(self.view(size, what), what)

    def line(self, max_bytes: int, what: str = "line") -> str:
        """The UTF-8 text before the next newline, which is skipped; at most `max_bytes` with it."""
        ahead = bytes(self._data[self.position : self.position + max_bytes])
        line, newline, _ = ahead.partition(b"\n")
        if not newline:
            raise ValueError(
                f"{self.name} must hold a newline within {max_bytes} bytes for {what} at byte "
                f"{self.position}, got {len(ahead)} without one; it is truncated or corrupt."
            )
        self.position += len(line) + 1
        return self._decoded(line, what)

    def _decoded(self, data: bytes | memoryview, what: str) -> str:
        """The text that was just read."""
        try:
            return str(data, "utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{self.name} must hold UTF-8 for {what} before byte {self.position}, got other bytes; "
                "it is corrupt."
            ) from error
