"""Relative indexing: the places of a sparse vector as the short gaps between them.

An entry says how many zeros stand before it since the last entry: `gap = place - last - 1`, and before the
first entry `last = -1`. With codes for `span` gaps (0 to span - 1) one entry moves at most `span` places.
A longer step first inserts *fillers*: entries of the largest gap whose weight is a zero.

Why zeros before, and not the difference itself: both take steps of 1 to `span`, but a difference of 0 never
happens, so counting from 0 lets b bits reach 2**b places, which is what the paper's figure shows (3 bits, 8).

Source: Han, Mao, Dally, 2016, arXiv:1510.00149, section 2 and Figure 2 (3 bits: span=8); Han et al., 2016,
arXiv:1602.01528, section 3 (EIE, 4 bits: span=16).
Differs: `span` may be any number, so that a coder can keep one code of 2**b for the filler (span 2**b - 1);
the papers instead spend a weight code on it.
"""

import numpy as np
from jaxtyping import Bool, Int64, Integer

Gaps = Int64[np.ndarray, " entries"]
Fillers = Bool[np.ndarray, " entries"]
Positions = Integer[np.ndarray, " kept"]


def encode_gaps(positions: Positions, *, span: int) -> tuple[Gaps, Fillers]:
    """The gap of every entry, and which entries are fillers.

    Args:
        positions: flat places of the kept weights, rising, from 0 (`np.flatnonzero(mask)`).
        span: places that one entry can move, at least 1; the paper's b bits are `span=2**b`. At span 1 the
            entries are the mask itself: a filler for each zero.

    Returns:
        Gaps in 0 to span - 1, and True at the fillers, both [kept + fillers].

    Raises:
        ValueError: positions that do not rise from 0 on, or a span below 1.

    Example:
        >>> encode_gaps(np.array([1, 4, 15]), span=8)  # Figure 2: a filler at place 12
        (array([1, 2, 7, 2]), array([False, False,  True, False]))
    """
    if span < 1:
        raise ValueError(f"span must be at least 1, got {span!r}; an entry must be able to move.")
    zeros: np.ndarray = np.diff(positions.astype(np.int64), prepend=-1) - 1  # [kept] zeros before each.
    if zeros.min(initial=0) < 0:
        raise ValueError(
            f"positions must rise from 0 on, got {positions[zeros.argmin()]} out of order; sort them."
        )
    fillers = zeros // span  # [kept] fillers before each.
    last = np.cumsum(fillers + 1) - 1  # [kept] entry of each kept weight.
    is_filler = np.ones(positions.size + int(fillers.sum()), np.bool_)
    is_filler[last] = False
    gaps = np.full(is_filler.size, span - 1, np.int64)
    gaps[last] = zeros % span
    return gaps, is_filler


def decode_gaps(gaps: Gaps, is_filler: Fillers, *, span: int) -> Int64[np.ndarray, " kept"]:
    """The positions that `encode_gaps` was given.

    Raises:
        ValueError: a span below 1, a gap outside 0 to span - 1, a filler of another gap, or one at the end.
    """
    if span < 1:
        raise ValueError(f"span must be at least 1, got {span!r}; an entry must be able to move.")
    if gaps.size and not 0 <= gaps.min() <= gaps.max() < span:
        raise ValueError(
            f"gaps must be in 0 to {span - 1}, got {gaps.min()} to {gaps.max()}; check the span."
        )
    if (gaps[is_filler] != span - 1).any():
        raise ValueError(f"gaps of fillers must be {span - 1}, got a shorter one; a filler ends a full span.")
    if is_filler.size and is_filler[-1]:
        raise ValueError(
            "is_filler must end in False, got a filler at the end; one only leads to a kept weight."
        )
    return (np.cumsum(gaps + 1) - 1)[~is_filler]
