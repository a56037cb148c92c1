"""Seeded orders and stratified draws, the same on every machine and under every NumPy."""

import dataclasses

import numpy as np
from jaxtyping import Int, Integer


def permutation(count: int, *, seed: int, epoch: int = 0) -> Int[np.ndarray, " count"]:
    """A uniformly random order of 0 .. count-1, a pure function of (count, seed, epoch).

    Each index draws one 64-bit word of PCG64, and the words are sorted. NumPy promises the same raw words in
    every version (NEP 19), and promises nothing for `Generator.permutation`. A tie (chance below
    count^2 / 2^65) keeps the lower index first.

    Args:
      count: how many, >= 0.
      seed: 0 <= seed < 2**64.
      epoch: >= 0; each epoch of a seed is an independent stream.

    Returns:
      int64 indices.

    Raises:
      ValueError: count, seed or epoch is out of its range.
    """
    _require_range("count", count, 2**40)
    _require_range("seed", seed, 2**64)
    _require_range("epoch", epoch, 2**32)
    words = np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(epoch,))).random_raw(count)
    return np.argsort(words, kind="stable")


def _require_range(name: str, value: int, end: int) -> None:
    """Refuses an integer outside [0, end)."""
    if not 0 <= value < end:
        raise ValueError(f"{name} must be in [0, 2**{end.bit_length() - 1}), got {value!r}; choose another.")


def stratified(
    labels: Integer[np.ndarray, " n"], *, count: int, seed: int
) -> tuple[Int[np.ndarray, " chosen"], Int[np.ndarray, " rest"]]:
    """Draws `count` of `n` examples so that each class keeps its share to within one example.

    Class k, with n_k of the n examples, gives floor(count * n_k / n), and the examples still missing come one
    each from the classes of largest remainder (a tie goes to the lower class). Which examples: the first of
    each class in `permutation(n, seed=seed)`.

    Args:
      labels: the class of each example, >= 0.
      count: how many to draw, in [0, n].
      seed: as in `permutation`.

    Returns:
      (chosen, rest): disjoint, together all of 0 .. n-1, each in random order.

    Raises:
      ValueError: `count` is not in [0, n], or `seed` is out of range.
    """
    n = len(labels)
    if not 0 <= count <= n:
        raise ValueError(f"count must be in [0, {n}], the number of examples, got {count!r}; draw fewer.")
    order = permutation(n, seed=seed)
    sizes = np.bincount(labels)
    quotas, remainders = np.divmod(count * sizes, max(n, 1))
    by_remainder = np.argsort(-remainders, kind="stable")
    quotas[by_remainder[: count - quotas.sum()]] += 1
    taken = np.zeros(n, dtype=bool)
    for label, quota in enumerate(quotas):
        taken[np.flatnonzero(labels[order] == label)[:quota]] = True
    return order[taken], order[~taken]


@dataclasses.dataclass(frozen=True, kw_only=True)
class HoldOut:
    """A stratified share to keep apart."""

    fraction: float  # share of the examples that is held out, in (0, 1); rounded to whole examples
    seed: int  # of the draw, in [0, 2**64)

    def __post_init__(self) -> None:
        if not 0 < self.fraction < 1:
            raise ValueError(
                f"fraction must be in (0, 1), got {self.fraction!r}; 0.2 holds out one example in five."
            )
        _require_range("seed", self.seed, 2**64)

    def cut(
        self, labels: Integer[np.ndarray, " n"]
    ) -> tuple[Int[np.ndarray, " kept"], Int[np.ndarray, " held"]]:
        """Indices (kept, held out); see `stratified`."""
        held, kept = stratified(labels, count=round(self.fraction * len(labels)), seed=self.seed)
        return kept, held


STATED = HoldOut(fraction=0.2, seed=0)
"""The split of every named data set that comes without one; each says so in its `source`."""
