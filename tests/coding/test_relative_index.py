"""Relative indexing: the papers' worked examples, the inverse, and the number of fillers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from efficient.coding.relative_index import decode_gaps, encode_gaps

quick = settings(max_examples=100, deadline=None, database=None)
places = st.lists(st.integers(0, 400), unique=True, max_size=40).map(lambda p: np.array(sorted(p), np.int64))


def test_golden_deep_compression_figure_2():
    # 16 places, weights at 1, 4 and 15, 3 bits. Steps from -1: 2, 3 and 11. The last exceeds 8 = 2**3, so a
    # filler zero goes 8 places on, to 12, and the rest is 3. Zeros before each entry: step - 1.
    gaps, is_filler = encode_gaps(np.array([1, 4, 15]), span=8)
    np.testing.assert_array_equal(gaps, [1, 2, 7, 2])
    np.testing.assert_array_equal(is_filler, [False, False, True, False])
    np.testing.assert_array_equal(np.cumsum(gaps + 1) - 1, [1, 4, 12, 15])


def test_golden_eie_column():
    # EIE, section 3: two zeros, 1, 2, eighteen zeros, 3 at 4 bits. z counts zeros: 2, 0, then 15 before a
    # filler (which is the 16th) and 2 more.
    gaps, is_filler = encode_gaps(np.array([2, 3, 22]), span=16)
    np.testing.assert_array_equal(gaps, [2, 0, 15, 2])
    np.testing.assert_array_equal(is_filler, [False, False, True, False])


@pytest.mark.parametrize(("step", "fillers"), [(8, 0), (9, 1), (16, 1), (17, 2)])
def test_longest_step_without_a_filler_is_the_span(step, fillers):
    assert encode_gaps(np.array([step - 1]), span=8)[1].sum() == fillers


def test_span_one_is_the_mask():
    mask = np.array([True, False, False, True, True])
    gaps, is_filler = encode_gaps(np.flatnonzero(mask), span=1)
    np.testing.assert_array_equal(is_filler, ~mask)
    assert not gaps.any()


@quick
@given(places, st.integers(1, 70))
def test_decoding_inverts_and_fillers_are_least(positions, span):
    gaps, is_filler = encode_gaps(positions, span=span)
    np.testing.assert_array_equal(decode_gaps(gaps, is_filler, span=span), positions)
    assert gaps.min(initial=0) >= 0
    assert gaps.max(initial=0) < span
    # A step of s places needs ceil(s / span) entries and no less: the fillers are one fewer.
    steps = np.diff(positions, prepend=-1)
    assert is_filler.sum() == (-(-steps // span) - 1).sum()


@pytest.mark.parametrize("positions", [[-1], [3, 3], [4, 2]])
def test_encoding_refuses_positions(positions):
    with pytest.raises(ValueError, match="positions must rise from 0 on, got"):
        encode_gaps(np.array(positions), span=8)


@pytest.mark.parametrize(
    ("gaps", "is_filler", "span", "message"),
    [
        ([0], [False], 0, "span must be at least 1, got 0"),
        ([8], [False], 8, "gaps must be in 0 to 7, got 8 to 8"),
        ([-1], [False], 8, "gaps must be in 0 to 7, got -1 to -1"),
        ([6, 0], [True, False], 8, "gaps of fillers must be 7, got a shorter one"),
        ([7], [True], 8, "is_filler must end in False"),
    ],
)
def test_decoding_refuses(gaps, is_filler, span, message):
    with pytest.raises(ValueError, match=message):
        decode_gaps(np.array(gaps), np.array(is_filler), span=span)


def test_encoding_refuses_a_span():
    with pytest.raises(ValueError, match="span must be at least 1, got 0"):
        encode_gaps(np.array([1]), span=0)
