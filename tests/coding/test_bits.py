"""Bits and bytes: laid down most significant first, read back the same, refused out of range."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from efficient.coding.bits import pack_bits, unpack_bits
from efficient.coding.byte_reader import ByteReader, varint

quick = settings(max_examples=60, deadline=None, database=None)


def test_golden_layout():
    # 3 bits each: 001 100 111 -> 0011 0011 | 1 and seven zero bits -> 33 80.
    assert pack_bits(np.array([1, 4, 7]), 3).hex() == "3380"
    # Widths 1, 4, 3: 1 0010 111 -> 1001 0111 -> 97.
    assert pack_bits(np.array([1, 2, 7]), np.array([1, 4, 3])).hex() == "97"


@quick
@given(st.lists(st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 32)), max_size=40))
def test_mixed_widths_are_the_string_of_their_digits(pairs):
    pairs = [(value & ((1 << width) - 1), width) for value, width in pairs]
    digits = "".join(f"{value:0{width}b}" if width else "" for value, width in pairs)
    digits += "0" * (-len(digits) % 8)
    expected = bytes(int(digits[i : i + 8], 2) for i in range(0, len(digits), 8))
    values, widths = (np.array([pair[i] for pair in pairs], np.int64) for i in (0, 1))
    assert pack_bits(values, widths) == expected


@quick
@given(st.integers(0, 32), st.lists(st.integers(0, 2**32 - 1), max_size=40))
def test_unpacking_inverts_packing(width, values):
    values = np.array(values, np.int64) & ((1 << width) - 1)
    data = pack_bits(values, width)
    assert len(data) == -(-width * values.size // 8)
    np.testing.assert_array_equal(unpack_bits(data, width, values.size), values)


@pytest.mark.parametrize(
    ("values", "width", "message"),
    [
        ([0], 33, "width must be in 0 to 32, got 33"),
        ([0], -1, "width must be in 0 to 32, got -1"),
        ([0, 8], 3, "got 8 for 3 bits at 1; widen"),
        ([-1], 3, "got -1 for 3 bits at 0; widen"),
        ([1], 0, "got 1 for 0 bits at 0; widen"),
    ],
)
def test_packing_refuses(values, width, message):
    with pytest.raises(ValueError, match=message):
        pack_bits(np.array(values), width)


@pytest.mark.parametrize(
    ("data", "width", "count", "message"),
    [
        (b"\0", 33, 1, "width must be in 0 to 32, got 33"),
        (b"", 3, -1, "count must be at least 0, got -1"),
        (b"\0", 3, 3, "data must be 2 bytes, got 1"),
        (b"\0\0", 3, 2, "data must be 1 bytes, got 2"),
        (b"\x01", 3, 2, "data must end in zero bits, got 0x01"),
    ],
)
def test_unpacking_refuses(data, width, count, message):
    with pytest.raises(ValueError, match=message):
        unpack_bits(data, width, count)


@pytest.mark.parametrize("value", [0, 1, 127, 128, 16383, 16384, 2**63 - 1])
def test_varint_round_trip_and_size(value):
    data = varint(value)
    reader = ByteReader(data)
    assert reader.varint() == value
    assert reader.left == 0
    assert len(data) == max(1, -(-value.bit_length() // 7))


@pytest.mark.parametrize("value", [-1, 2**63])
def test_varint_refuses(value):
    with pytest.raises(ValueError, match=r"value must be in 0 to 2\*\*63 - 1, got"):
        varint(value)


def test_reader_refuses():
    with pytest.raises(
        ValueError, match=r"data must hold at most 9 bytes for varint at byte 1, got more; it is corrupt\."
    ):
        ByteReader(b"x" + b"\xff" * 10, position=1).varint()
    with pytest.raises(
        ValueError, match="data must hold 1 more bytes for rank at byte 1, got 0; it is trunc"
    ):
        ByteReader(b"\x80").varint("rank")
    reader = ByteReader(b"ab", name="data.pkl")
    for size in (3, -1, 2**70):
        with pytest.raises(
            ValueError, match=rf"data\.pkl must hold {size} more bytes for code at byte 0, got 2;"
        ):
            reader.take(size, "code")
    assert reader.take(2) == b"ab"  # What was refused was not skipped.
    assert reader.position == 2


def test_reader_reads_numbers_texts_and_lines():
    reader = ByteReader("\1\2é\nrest".encode())
    assert reader.number(">H") == 258
    assert (reader.line(3), reader.position) == ("é", 5)
    assert reader.text(4) == "rest"
    with pytest.raises(
        ValueError, match="hold a newline within 4 bytes for name at byte 0, got 4 without one;"
    ):
        ByteReader(b"name\n").line(4, "name")
    with pytest.raises(
        ValueError, match="hold a newline within 9 bytes for line at byte 0, got 4 without one;"
    ):
        ByteReader(b"name").line(9)
    for read in (lambda r: r.text(1), lambda r: r.line(2, "text")):
        with pytest.raises(
            ValueError, match=r"data must hold UTF-8 for text before byte [12], got other bytes; "
        ):
            read(ByteReader(b"\xff\n"))


def test_a_view_costs_no_copy():
    data = bytes(range(9))
    view = ByteReader(data, position=2).view(3)
    assert view.obj is data
    assert view.tobytes() == data[2:5]


READS = [
    lambda r: r.byte(),
    lambda r: r.varint(),
    lambda r: r.number("<q"),
    lambda r: r.line(3),
    lambda r: r.text(2),
    lambda r: r.take(5),
]


@quick
@given(st.binary(max_size=20), st.lists(st.sampled_from(READS), max_size=12))
def test_any_reads_stay_inside(data, reads):
    """Every read moves forward, or is refused with a message that says where; none passes the end."""
    reader, refusal = ByteReader(data), "data must hold no more"
    for read in reads:
        before = reader.position
        try:
            read(reader)
        except ValueError as error:
            refusal = str(error)
            break
        assert before < reader.position == len(data) - reader.left <= len(data)
    assert refusal.startswith("data must hold ")
