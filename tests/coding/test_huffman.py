"""Huffman coding: optimal, prefix-free, within a bit of entropy, and closed to bad streams."""

import heapq
import itertools
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from efficient.coding import huffman
from efficient.coding.byte_reader import ByteReader
from efficient.coding.huffman import (
    canonical_codes,
    code_lengths,
    decode,
    encode,
    pack_lengths,
    unpack_lengths,
)

quick = settings(max_examples=60, deadline=None, database=None)
counts_of = st.lists(st.integers(0, 1000), min_size=1, max_size=40).map(lambda c: np.array(c, np.int64))


def heap_cost(counts):
    """Bits of Huffman's own tree: the sum of all its inner nodes (two or more symbols)."""
    heap, cost = [int(c) for c in counts if c], 0
    heapq.heapify(heap)
    while len(heap) > 1:
        node = heapq.heappop(heap) + heapq.heappop(heap)
        cost += node
        heapq.heappush(heap, node)
    return cost


def digits(lengths):
    """The codes as strings of 0 and 1."""
    return [f"{code:0{size}b}" for code, size in zip(canonical_codes(lengths), lengths, strict=True) if size]


def test_golden_code():
    # Counts 5 0 1 1 2: merge 1 + 1 = 2, 2 + 2 = 4, 4 + 5 = 9, so lengths 1 - 3 3 2. By (length, symbol):
    # symbol 0 -> 0, symbol 4 -> 10, symbols 2 and 3 -> 110 and 111.
    lengths = code_lengths(np.array([5, 0, 1, 1, 2]))
    np.testing.assert_array_equal(lengths, [1, 0, 3, 3, 2])
    assert digits(lengths) == ["0", "110", "111", "10"]
    # 0 4 2 0 3 -> 0 10 110 0 111 -> 0101 1001 | 11 and six zero bits -> 59 c0.
    assert encode(np.array([0, 4, 2, 0, 3]), lengths).hex() == "59c0"
    np.testing.assert_array_equal(decode(bytes.fromhex("59c0"), lengths, 5), [0, 4, 2, 0, 3])


@quick
@given(counts_of)
def test_lengths_cost_what_huffmans_tree_costs(counts):
    lengths = code_lengths(counts)
    if np.count_nonzero(counts) > 1:
        assert counts @ lengths.astype(np.int64) == heap_cost(counts)
    np.testing.assert_array_equal(lengths > 0, counts > 0)


@quick
@given(st.lists(st.integers(1, 60), min_size=2, max_size=5), st.integers(3, 4))
def test_bounded_lengths_are_optimal_against_brute_force(counts, bound):
    lengths = code_lengths(np.array(counts), max_length=bound)
    best = min(
        sum(count * size for count, size in zip(counts, sizes, strict=True))
        for sizes in itertools.product(range(1, bound + 1), repeat=len(counts))
        if sum(2.0**-size for size in sizes) <= 1
    )
    assert np.array(counts) @ lengths.astype(np.int64) == best
    assert lengths.max() <= bound


def test_the_bound_bites_where_the_tree_is_deep():
    fibonacci = np.array([1, 1, 2, 3, 5, 8, 13, 21])  # The deepest tree for its counts: 7 levels.
    assert code_lengths(fibonacci).max() == 7
    bounded = code_lengths(fibonacci, max_length=3)
    np.testing.assert_array_equal(bounded, np.full(8, 3))  # 8 symbols fill 3 bits exactly.


@quick
@given(counts_of)
def test_kraft_equality_and_prefix_freeness(counts):
    lengths = code_lengths(counts)
    codes = digits(lengths)
    if len(codes) > 1:
        assert sum(2.0 ** -len(code) for code in codes) == 1
    assert not any(b.startswith(a) for a, b in itertools.permutations(codes, 2))


@quick
@given(counts_of.filter(lambda c: c.sum() > 0))
def test_stream_is_within_a_bit_of_entropy_and_returns(counts):
    symbols = np.random.default_rng(counts.sum()).permutation(np.repeat(np.arange(counts.size), counts))
    lengths = code_lengths(counts)
    bits = int(counts @ lengths.astype(np.int64))
    share = counts[counts > 0] / counts.sum()
    entropy = -(share * np.log2(share)).sum()
    slack = 2.0**-40 * counts.sum()  # Rounding of the float sum.
    assert entropy * counts.sum() - slack <= bits <= (entropy + 1) * counts.sum() + slack
    data = encode(symbols, lengths)
    assert len(data) == -(-bits // 8)
    np.testing.assert_array_equal(decode(data, lengths, symbols.size), symbols)


@pytest.mark.parametrize("block_bytes", [1, 3])
def test_codes_may_cross_blocks(monkeypatch, block_bytes):
    monkeypatch.setattr(huffman, "_BLOCK_BYTES", block_bytes)
    counts = 2 ** np.arange(17)  # Lengths 1 to 16: codes longer than a block.
    lengths = code_lengths(counts)
    assert lengths.max() == 16
    symbols = np.random.default_rng(0).integers(0, 17, 300)
    np.testing.assert_array_equal(decode(encode(symbols, lengths), lengths, 300), symbols)


def test_no_symbol_and_one_symbol():
    none = code_lengths(np.zeros(4, np.int64))
    assert not none.any()
    assert encode(np.array([], np.int64), none) == b""
    assert decode(b"", none, 0).size == 0
    one = code_lengths(np.array([0, 9, 0]))
    np.testing.assert_array_equal(one, [0, 1, 0])
    assert encode(np.ones(9, np.int64), one) == bytes(2)
    np.testing.assert_array_equal(decode(bytes(2), one, 9), np.ones(9))


def test_half_a_million_symbols_decode_in_seconds():
    symbols = np.minimum(np.random.default_rng(0).geometric(0.08, 500_000) - 1, 127)
    lengths = code_lengths(np.bincount(symbols))
    data = encode(symbols, lengths)
    start = time.perf_counter()
    decoded = decode(data, lengths, symbols.size)
    assert time.perf_counter() - start < 10  # Measured well below 1 s; a bit-by-bit decoder takes longer.
    np.testing.assert_array_equal(decoded, symbols)


@pytest.mark.parametrize(
    ("counts", "bound", "message"),
    [
        ([1, 1], 0, "max_length must be in 1 to 16, got 0"),
        ([1, 1], 17, "max_length must be in 1 to 16, got 17"),
        ([1, 1, 1], 1, "max_length must hold 3 symbols, got 1"),
        ([1, -1], 16, "counts must be at least 0"),
        ([2**56, 2**56], 16, r"counts must be at least 0 and 2\*\*56 in all"),
    ],
)
def test_lengths_refuse(counts, bound, message):
    with pytest.raises(ValueError, match=message):
        code_lengths(np.array(counts), max_length=bound)


@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        ([1, 1, 1], "Kraft's equality, got 3 / 2; over-subscribed"),
        ([1, 2], "Kraft's equality, got 3 / 4; incomplete"),
        ([2], "Kraft's equality, got 1 / 4; incomplete"),
        ([17, 1], "lengths must be in 0 to 16, got 1 to 17"),
        ([-1, 1], "lengths must be in 0 to 16, got -1 to 1"),
    ],
)
def test_codes_refuse_lengths_of_no_code(lengths, message):
    for call in (canonical_codes, lambda table: decode(b"\0", table, 1), lambda table: encode(table, table)):
        with pytest.raises(ValueError, match=message):
            call(np.array(lengths))


@pytest.mark.parametrize(
    ("symbol", "message"),
    [(3, "symbols must be in 0 to 2, got 3"), (1, "must have a code, got 1 of length 0")],
)
def test_encoding_refuses(symbol, message):
    with pytest.raises(ValueError, match=message):
        encode(np.array([symbol]), np.array([1, 0, 1]))


@pytest.mark.parametrize(
    ("data", "lengths", "count", "message"),
    [
        (b"\0", [1, 1], -1, "count must be in 0 to 8, got -1"),
        (b"\0", [1, 1], 9, "count must be in 0 to 8, got 9; the data is truncated"),
        (b"\0", [2, 2, 2, 2], 5, "data must hold 5 codes, got 4; it is truncated"),
        (
            b"\xff",
            [1, 2, 3, 3],
            3,
            "data must hold 3 codes, got 3; it is truncated",
        ),  # The third needs 9 bits.
        (b"\x40", [1], 3, "got none at symbol 1; it is corrupt"),
        (b"\0\0", [1, 1], 3, "data must end after 3 bits, got 16"),
        (b"\x01", [1, 1], 3, "data must end after 3 bits, got 8"),
        (b"\0", [0, 0], 1, "got none at symbol 0; it is corrupt"),
    ],
)
def test_decoding_refuses(data, lengths, count, message):
    with pytest.raises(ValueError, match=message):
        decode(data, np.array(lengths), count)


@quick
@given(st.lists(st.integers(0, 16), max_size=60))
def test_any_table_returns(lengths):
    lengths = np.array(lengths, np.uint8)
    reader = ByteReader(pack_lengths(lengths))
    np.testing.assert_array_equal(unpack_lengths(reader, lengths.size), lengths)
    assert reader.left == 0


def test_golden_table():
    # Against 2 = the width for 4 symbols: 1 is -1 -> number 3, then 2 is +1 -> 2, 3 is +1 -> 2, 3 -> 0.
    # Unary: 0001 001 001 1 -> 0001 0010 | 011 and five zero bits -> 12 60, after the count of bytes.
    assert pack_lengths(np.array([1, 2, 3, 3])).hex() == "021260"


def test_table_is_smaller_than_four_bits_a_symbol():
    counts = np.round(20_000 * 0.08 * 0.92 ** np.arange(128)).astype(np.int64)  # Gaps at 8 % density.
    lengths = code_lengths(counts)
    assert len(pack_lengths(lengths)) < np.count_nonzero(lengths) / 2


@pytest.mark.parametrize(
    ("table", "symbols", "message"),
    [
        ("02ff", 4, "data must hold 2 more bytes for code table at byte 1, got 1; it is truncated"),
        ("01ff", 4, "table must list at most 4 symbols, got 8"),
        ("11" + "00" * 17, 4, "table must be at most 16 bytes, got 17"),
        ("0104", 4, "table must hold lengths in 1 to 16, got 0 to 0"),  # 2, and number 5 is -2.
    ],
)
def test_tables_refuse(table, symbols, message):
    with pytest.raises(ValueError, match=message):
        unpack_lengths(ByteReader(bytes.fromhex(table)), symbols)


def test_packing_refuses_a_length():
    with pytest.raises(ValueError, match="lengths must be in 0 to 16, got 17 to 17"):
        pack_lengths(np.array([17]))


@settings(max_examples=200, deadline=None, database=None)
@given(st.binary(max_size=24), st.binary(max_size=16), st.integers(0, 70), st.integers(0, 200))
def test_any_bytes_decode_or_raise_value_error(table, data, symbols, count):
    try:
        decoded = decode(data, unpack_lengths(ByteReader(table), symbols), count)
    except ValueError:
        return
    assert decoded.size == count
    assert decoded.max(initial=-1) < symbols
