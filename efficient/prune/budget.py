"""Budget: fractions of channels kept, brought within what a model may cost.

    counts = uniform(price, ranked.sizes, 0.5 * price({}))           # one ratio for all groups
    repair = scaled(price, ranked.sizes, 0.5 * price({}))            # for `efficient.search.evolve`
    found = evolve(lambda v: accuracy(counted(ranked.sizes, v)), len(ranked.sizes), repair=repair, ...)

A group of n channels keeps, of the counts that it may have (multiples of `multiple`, and n), the one nearest
to fraction * n; a tie keeps more. Every result here was priced itself, whatever the price is like.

Source: He et al., 2018, arXiv:1802.03494, section 4.1, for the uniform policy that search is compared with.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from efficient.prune.price import Counts
from efficient.search.evolution import Vector

HALVINGS = 40  # ratios at which counts of groups below 2^19 change are further apart than 2^-40


def counted(
    sizes: Mapping[str, int], fractions: Sequence[float] | Vector, *, multiple: int = 1
) -> dict[str, int]:
    """By name of a group, the count nearest to its fraction; never none.

    Args:
      sizes: by name of a group, how many indices it has.
      fractions: kept of each, in [0, 1], in the order of `sizes`.
      multiple: counts are multiples of it, or the whole group.

    Example:
      >>> counted({"a": 8, "b": 3}, [0.45, 0.0])
      {'a': 4, 'b': 1}
    """
    return {
        name: nearest_count(size, fraction, multiple=multiple)
        for (name, size), fraction in zip(sizes.items(), fractions, strict=True)
    }


def nearest_count(size: int, fraction: float, *, multiple: int = 1) -> int:
    """The count that a group may have which is nearest to fraction * size; a tie is the larger."""
    wanted = float(fraction) * size
    below = max(int(wanted // multiple) * multiple, min(size, multiple))
    above = min(below + multiple, size)
    return above if wanted - below >= above - wanted else below


def least_counts(
    price: Callable[[Counts], float],
    sizes: Mapping[str, int],
    budget: float,
    *,
    least: float = 0.0,
    multiple: int = 1,
) -> dict[str, int]:
    """What every search may fall back on: the least count of each group.

    Raises:
      ValueError: no groups, an option out of range, or a budget below the price of the least counts.
    """
    if not sizes or min(sizes.values()) < 1:
        raise ValueError(
            f"sizes must be those of one group at least, got {dict(sizes)!r}; see Ranking.sizes."
        )
    if not 0 <= least <= 1:
        raise ValueError(f"least must be in [0, 1], got {least!r}; 0 lets a group keep a single channel.")
    if multiple < 1:
        raise ValueError(f"multiple must be at least 1, got {multiple!r}; 8 suits most devices.")
    counts = counted(sizes, [least] * len(sizes), multiple=multiple)
    cheapest = price(counts)
    if not cheapest <= budget:
        raise ValueError(
            f"budget must be at least {cheapest!r}, the price of the least counts, got {budget!r}; give "
            "more, or lower least or multiple."
        )
    return counts


def scaled(
    price: Callable[[Counts], float],
    sizes: Mapping[str, int],
    budget: float,
    *,
    least: float = 0.0,
    multiple: int = 1,
    fill: bool = False,
) -> Callable[[Vector], Vector]:
    """A repair: the fractions times the largest factor up to 1 that meets the budget.

    Under `fill`, fractions that leave some of it go on towards the whole model as far as it lasts.

    Args:
      price: of counts, such as one of `prices`; measured times may be given too. Where it does not rise with
        the counts, the factor may not be the largest.
      sizes: by name of a group, how many indices it has: `Ranking.sizes`.
      budget: what the model may cost, in the unit of the price.
      least: fraction of each group that always stays, in [0, 1].
      multiple: counts are multiples of it, or the whole group.
      fill: spend all of the budget.

    Returns:
      Fractions [groups] in [0, 1] -> those of the counts found, as float64 [groups], in the order of `sizes`:
      `counted` makes them counts again. What meets the budget is only rounded, unless under `fill`.

    Raises:
      ValueError: as `least_counts`.

    Example:
      >>> repair = scaled(lambda c: c["a"] + c["b"], {"a": 10, "b": 10}, 6)
      >>> repair(np.array([0.8, 0.4])).tolist()
      [0.4, 0.2]
    """
    fallback = least_counts(price, sizes, budget, least=least, multiple=multiple)
    whole = np.array(list(sizes.values()), float)

    def repair(fractions: Vector) -> Vector:
        def at(place: float) -> dict[str, int]:  # from nothing (0) by the fractions (1) to the whole (2)
            moved = place * fractions if place <= 1 else fractions + (place - 1) * (1 - fractions)
            return counted(sizes, np.maximum(moved, least), multiple=multiple)

        counts = _largest(at, 2.0 if fill else 1.0, lambda counts: bool(price(counts) <= budget), fallback)
        return np.array(list(counts.values()), float) / whole

    return repair


def uniform(
    price: Callable[[Counts], float],
    sizes: Mapping[str, int],
    budget: float,
    *,
    least: float = 0.0,
    multiple: int = 1,
) -> dict[str, int]:
    """The counts of the largest single ratio that meets the budget: what a search must beat.

    Args and Raises: as `scaled`.

    Example:
      >>> uniform(lambda c: c["a"] * c["b"], {"a": 10, "b": 20}, 50)  # half of both; 0.525 gives b one more
      {'a': 5, 'b': 10}
    """
    repair = scaled(price, sizes, budget, least=least, multiple=multiple)
    return counted(sizes, repair(np.ones(len(sizes))), multiple=multiple)


def _largest(
    at: Callable[[float], dict[str, int]],
    end: float,
    fits: Callable[[dict[str, int]], bool],
    fallback: dict[str, int],
) -> dict[str, int]:
    """The counts at the largest place in [0, end] that fits, by bisection; the same counts are asked once."""
    known: dict[tuple[int, ...], bool] = {}

    def good(counts: dict[str, int]) -> bool:
        key = tuple(counts.values())
        if key not in known:
            known[key] = fits(counts)
        return known[key]

    best, low, high = fallback, 0.0, end
    if good(whole := at(high)):
        return whole
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if good(counts := at(middle)):
            best, low = counts, middle
        else:
            high = middle
    return best
