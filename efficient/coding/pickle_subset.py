"""Reads data from a pickle stream without unpickling: a bounded interpreter of 31 opcodes, and no imports.

Python's `pickle` calls whatever a stream names. Here a name means what the caller's table says it means,
an unknown name or opcode is an error, and memory stays proportional to the bytes read. These opcodes are
those that PyTorch's protocol 2 writer emits for mappings of tensors.

Source: the opcode descriptions of Python's `pickletools`.
"""

from collections.abc import Callable, Mapping
from typing import Any

from efficient.coding.byte_reader import ByteReader

_LONGEST_NAME = 256  # bytes of a line that names a module or an attribute, its newline included


def read_pickle(
    reader: ByteReader,
    *,
    names: Mapping[str, Any] | None = None,
    persistent: Callable[[Any], Any] | None = None,
) -> Any:
    """One value from the stream that the reader stands at, and is left after.

    Args:
        reader: stands where the stream starts; protocol 2.
        names: what "module attribute" stands for: a value, or a function that a stream may call. A function
            gets arguments that the stream chose, so it must check them all.
        persistent: gives the value of a persistent id, again a value that the stream chose.

    Returns:
        None, a bool, int, float, str, tuple, list, dict with str keys, or what the two tables gave.

    Raises:
        ValueError: the stream is cut, malformed, or uses an opcode, name or id outside of the subset.
    """
    return _Machine(reader, names or {}, persistent).run()


class _Machine:
    """The stack, the marks and the memo of one stream."""

    def __init__(self, reader: ByteReader, names: Mapping[str, Any], persistent: Callable[[Any], Any] | None):
        self.reader, self.names, self.persistent = reader, names, persistent
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        """Executes opcodes up to STOP and gives the one value that is left."""
        while (opcode := self.reader.take(1, "opcode")) != b".":
            operation = _OPCODES.get(opcode)
            if operation is None:
                raise self.error(f"opcode must be one that PyTorch writes, got 0x{opcode.hex()}")
            operation(self)
        if len(self.stack) != 1 or self.marks:
            raise self.error(f"the stream must leave one value, got {len(self.stack)}")
        return self.stack[0]

    def error(self, problem: str) -> ValueError:
        """The error to raise; values of the stream are never printed, since their text can be endless."""
        return ValueError(
            f"{problem} (before byte {self.reader.position} of {self.reader.name}); the file is damaged "
            "or not a plain checkpoint."
        )

    def push(self, value: Any) -> None:
        """Puts a value on the stack."""
        self.stack.append(value)

    def pop(self, count: int = 1) -> list[Any]:
        """Takes the top `count` values above the last mark."""
        floor = len(self.stack) - count
        if floor < (self.marks[-1] if self.marks else 0):
            raise self.error(f"the stack must hold {count} values, got fewer")
        values = self.stack[floor:]
        del self.stack[floor:]
        return values

    def pop_mark(self) -> list[Any]:
        """Takes all values above the last mark, and the mark."""
        if not self.marks:
            raise self.error("a mark must come before what closes it, got none")
        values = self.pop(len(self.stack) - self.marks[-1])
        self.marks.pop()
        return values

    def mark(self) -> None:
        """Remembers where the stack stands."""
        self.marks.append(len(self.stack))

    def put(self, index: int) -> None:
        """Stores the top value, which stays, in the memo."""
        (value,) = self.pop()
        self.memo[index] = value
        self.push(value)

    def get(self, index: int) -> None:
        """Pushes a value of the memo."""
        if index not in self.memo:
            raise self.error(f"memo index must have been stored before, got {index}")
        self.push(self.memo[index])

    def name(self) -> None:
        """Pushes what a global name stands for."""
        name = " ".join(self.reader.line(_LONGEST_NAME, "name") for _ in range(2))
        if name not in self.names:
            raise self.error(f"name must be one of {sorted(self.names)}, got {name!r}")
        self.push(self.names[name])

    def persistent_id(self) -> None:
        """Replaces an id by its value."""
        (value,) = self.pop()
        if self.persistent is None:
            raise self.error("the stream must be without persistent ids, got one")
        self.push(self.persistent(value))

    def call(self) -> None:
        """Calls a function of the table of names."""
        function, arguments = self.pop(2)
        if not callable(function) or type(arguments) is not tuple:
            raise self.error("a call must be of a known function with a tuple, got something else")
        self.push(function(*arguments))

    def set_items(self, items: list[Any]) -> None:
        """Adds keys and values, in turn, to the mapping on top."""
        (target,) = self.pop()
        if type(target) is not dict or len(items) % 2 or any(type(key) is not str for key in items[::2]):
            raise self.error("items must be pairs with text keys for a mapping, got something else")
        target.update(zip(items[::2], items[1::2], strict=True))
        self.push(target)

    def append(self, values: list[Any]) -> None:
        """Adds values to the list on top."""
        (target,) = self.pop()
        if type(target) is not list:
            raise self.error("values must be added to a list, got something else")
        target.extend(values)
        self.push(target)

    def build(self) -> None:
        """Drops the attributes that a stream sets on a mapping (PyTorch's `_metadata`)."""
        target, _ = self.pop(2)
        if type(target) is not dict:
            raise self.error("attributes must be those of a mapping, got something else")
        self.push(target)

    def protocol(self) -> None:
        """Checks the protocol number."""
        if (protocol := self.reader.byte("protocol")) != 2:
            raise self.error(f"protocol must be 2, got {protocol}")

    def text(self) -> None:
        """Pushes a text that its length precedes."""
        self.push(self.reader.text(self.reader.number("<I", "size of text")))

    def long(self) -> None:
        """Pushes an integer of up to 255 bytes."""
        data = self.reader.take(self.reader.byte("size of integer"), "integer")
        self.push(int.from_bytes(data, "little", signed=True))


_OPCODES: dict[bytes, Callable[[_Machine], None]] = {
    b"\x80": _Machine.protocol,
    b"(": _Machine.mark,
    b"}": lambda m: m.push({}),
    b"]": lambda m: m.push([]),
    b")": lambda m: m.push(()),
    b"t": lambda m: m.push(tuple(m.pop_mark())),
    b"\x85": lambda m: m.push(tuple(m.pop(1))),
    b"\x86": lambda m: m.push(tuple(m.pop(2))),
    b"\x87": lambda m: m.push(tuple(m.pop(3))),
    b"q": lambda m: m.put(m.reader.byte()),
    b"r": lambda m: m.put(m.reader.number("<I")),
    b"h": lambda m: m.get(m.reader.byte()),
    b"j": lambda m: m.get(m.reader.number("<I")),
    b"N": lambda m: m.push(None),
    b"\x88": lambda m: m.push(True),
    b"\x89": lambda m: m.push(False),
    b"J": lambda m: m.push(m.reader.number("<i")),
    b"K": lambda m: m.push(m.reader.byte()),
    b"M": lambda m: m.push(m.reader.number("<H")),
    b"G": lambda m: m.push(m.reader.number(">d")),
    b"\x8a": _Machine.long,
    b"X": _Machine.text,
    b"c": _Machine.name,
    b"Q": _Machine.persistent_id,
    b"R": _Machine.call,
    b"b": _Machine.build,
    b"s": lambda m: m.set_items(m.pop(2)),
    b"u": lambda m: m.set_items(m.pop_mark()),
    b"a": lambda m: m.append(m.pop(1)),
    b"e": lambda m: m.append(m.pop_mark()),
}
