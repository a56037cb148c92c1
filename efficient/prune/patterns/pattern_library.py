"""Pattern library: each 3x3 kernel keeps the places of one of a few patterns.

Source: Niu et al., 2020, arXiv:2001.00138, section 4 (PatDNN: kernel patterns and connectivity pruning).
Differs: the library is that of each array, not of the whole network, unless `patterns` are given; a pattern
is chosen, and kernels are removed, by the sum of any scores, where the paper takes L2 norms within ADMM.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from efficient.core.transform import recipe
from efficient.prune.mask import top_mask
from efficient.prune.pattern import Pattern, whole

PLACES, CENTRE = 9, 4


@recipe
def pattern_library(patterns: Sequence[Any] | None = None, *, count: int = 8, entries: int = 4) -> Pattern:
    """Every 3x3 kernel of [3, 3, in, out] keeps the places of the pattern that keeps most of its score.

    The library is the `count` patterns that are best for most kernels; a tie takes the first. A budget
    below entries/9 then removes whole kernels, of the least kept score (the paper's connectivity pruning);
    one above (on the way, along a ramp) leaves those whole that would lose the most. Either is met to the
    nearest kernel, and one kernel stays. A pattern in use stays in the library.

    Args:
      patterns: what to choose from, [patterns, 3, 3] of zeros and ones, each with `entries` ones, the centre
        among them; None is all such patterns: 56 of four entries.
      count: how many patterns the library has, at least 1.
      entries: how many places each keeps, from 1 to 8.

    Raises:
      ValueError: at once, an argument out of its range, or a pattern that is none; at `init`, an array that
        is no 3x3 kernel.

    Source, *Differs:* module docstring.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count!r}; it is how many patterns the library has.")
    if not 1 <= entries < PLACES:
        raise ValueError(f"entries must be from 1 to 8, got {entries!r}; the paper keeps 4 places of 9.")
    places = _every(entries) if patterns is None else _given(patterns, entries)  # [patterns, 9]
    gap = PLACES - entries

    def check(shape: tuple[int, ...], path: str) -> None:
        if len(shape) != 4 or shape[:2] != (3, 3):
            raise ValueError(
                f"shape of {path!r} must be [3, 3, in, out] of a convolution, got {shape!r}; "
                "exclude the leaf."
            )

    def choose(pooled: Float[Array, "*units"], keep: int | Int[Array, ""]) -> Bool[Array, "*units"]:
        scores = _bounded(pooled).reshape(PLACES, -1)  # [9, kernels]
        kernels = scores.shape[1]
        kept = _kept(places, scores)  # [patterns, kernels]
        kept = jnp.where(_library(scores, kept, count)[:, None], kept, -jnp.inf)
        most = kept.max(0)
        stays = top_mask(most, jnp.clip((keep + entries // 2) // entries, 1, kernels))
        is_whole = top_mask(
            scores.sum(0) - most, jnp.clip((keep - entries * kernels + gap // 2) // gap, 0, kernels)
        )
        own = jnp.asarray(places)[kept.argmax(0)].T  # [9, kernels]
        return (stays[None] & (own | is_whole[None])).reshape(pooled.shape)

    return Pattern(check, whole, choose, lambda chosen, shape: chosen, sparsity=1 - entries / PLACES)


def _kept(
    places: Bool[np.ndarray, "patterns 9"], scores: Float[Array, "9 kernels"]
) -> Float[Array, "patterns kernels"]:
    """The score that each pattern keeps of each kernel; -inf where a place of it has gone."""
    has_gone = jnp.isneginf(scores)
    weight = jnp.asarray(places, jnp.float32)
    total = jnp.matmul(weight, jnp.where(has_gone, 0, scores), precision="highest")
    return jnp.where(jnp.matmul(weight, has_gone.astype(jnp.float32)) > 0, -jnp.inf, total)


def _library(
    scores: Float[Array, "9 kernels"], kept: Float[Array, "patterns kernels"], count: int
) -> Bool[Array, " patterns"]:
    """The patterns that most kernels vote for. Those in use come first; a kernel that is gone has no vote."""
    patterns, kernels = kept.shape
    favourite = kept.argmax(0)
    has_vote = kept.max(0) > -jnp.inf
    is_settled = jnp.isneginf(scores).any(0) & has_vote  # what has gone already left it one pattern
    none = jnp.zeros(patterns, jnp.int32)
    in_use = none.at[favourite].add(is_settled)
    votes = none.at[favourite].add(has_vote)
    ballot = jnp.where(in_use > 0, kernels + in_use, votes)
    return top_mask(ballot.astype(jnp.float32), min(count, patterns))


def _bounded(scores: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Scores whose sums over a kernel are finite: NaN is the lowest, -inf (gone) stays."""
    most = float(np.finfo(np.float32).max) / 16
    finite = jnp.nan_to_num(jnp.clip(scores, -most, most), nan=-most)
    return jnp.where(jnp.isneginf(scores), -jnp.inf, finite)


def _every(entries: int) -> Bool[np.ndarray, "patterns 9"]:
    """All patterns of so many places with the centre among them."""
    around = [place for place in range(PLACES) if place != CENTRE]
    chosen = itertools.combinations(around, entries - 1)
    return np.array([[p == CENTRE or p in own for p in range(PLACES)] for own in chosen])


def _given(patterns: Sequence[Any], entries: int) -> Bool[np.ndarray, "patterns 9"]:
    """Patterns as rows of places."""
    made = np.asarray(patterns)
    if made.ndim != 3 or made.shape[1:] != (3, 3) or not made.size:
        raise ValueError(f"patterns must be [patterns, 3, 3], got {made.shape!r}; give one 3x3 a pattern.")
    rows = made.reshape(-1, PLACES).astype(bool)
    for pattern, row in zip(made, rows, strict=True):
        if row.sum() != entries or not row[CENTRE]:
            raise ValueError(
                f"patterns must have {entries} ones, the centre among them, got {pattern.tolist()!r}; "
                "say how many by entries."
            )
    return rows
