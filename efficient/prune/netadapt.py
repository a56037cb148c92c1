"""NetAdapt: cuts a little from one group at a time, the one that costs least accuracy, until a budget is met.

    price = macs(found, model.apply, variables, x)
    steps = netadapt(price, ranked.sizes, 0.5 * price({}), start=weights, tune=tune, evaluate=accuracy)
    for one in steps:                                   # the first is the model as it is
        print(one.price, one.accuracy, one.cut)
    keep = ranked.keep(one.counts)                      # then train on: the long-term fine-tuning

Iteration i (from 1) of a model of price R demands R - d_i at most, with

    d_i = step * decay^(i - 1) * (the price at the start).

Each group alone is cut as little as meets it, each candidate is tuned shortly, the most accurate stays.

Source: Yang et al., 2018, arXiv:1804.03230, algorithm 1; step and decay are the defaults of the authors'
code. Differs: no step demands less than the budget, so that the last one does not overshoot; where no group
alone can meet a step, it is halved until one can.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from efficient.prune.price import Counts

HALVINGS = 12


class Tried(NamedTuple):
    """A candidate of an iteration: one group, cut."""

    kept: int  # how many of the group
    price: float
    accuracy: float  # once tuned


class Iteration(NamedTuple):
    """The model after an iteration of the search."""

    counts: Mapping[str, int]  # by name of every group
    price: float
    accuracy: float  # as `evaluate` says, after short tuning
    cut: str  # the group that was cut; empty of the start
    tried: Mapping[str, Tried]  # by group, what the cut was chosen from
    candidate: Any  # what `tune` made


def netadapt(
    price: Callable[[Counts], float],
    sizes: Mapping[str, int],
    budget: float,
    *,
    start: Any,
    tune: Callable[[Any, Counts], Any],
    evaluate: Callable[[Any], float],
    step: float = 0.025,
    decay: float = 0.96,
    multiple: int = 1,
    scan: bool = False,
) -> Iterator[Iteration]:
    """Searches how many channels each group keeps: an iterator of models, each cheaper than the last.

    The last one costs at most the budget, whatever the price is like: each candidate was priced itself.

    Args:
      price: of counts, such as one of `prices`; measured times may be given too.
      sizes: by name of a group, how many indices it has: `Ranking.sizes`.
      budget: what the model may cost, in the unit of the price.
      start: the model before any cut; whatever `tune` and `evaluate` understand.
      tune: (candidate of the iteration before, counts) -> candidate: cuts it to the counts and trains it
        shortly. A model that stays whole and is masked (`found.masks(ranked.keep(counts))` is data) needs no
        compilation for each candidate.
      evaluate: candidate -> accuracy, of which more is better; NaN is worst. A tie keeps the group met first.
      step: of the first iteration, as a fraction of the price at the start, in (0, 1].
      decay: of the step from one iteration to the next, in (0, 1].
      multiple: counts that a cut leaves are multiples of it.
      scan: price all counts of a group from the largest down instead of bisecting. A price that does not rise
        with the counts needs this to find the largest; either way what is found meets the demand.

    Returns:
      The iterations, the start among them. Nothing is trained before it is asked for.

    Raises:
      ValueError: at once, an option out of range, or a budget below the price of the least counts; on the
        way, when no group alone can make the model cheaper.

    Example:
      >>> cost, free = (lambda c: c.get("a", 4) + 2 * c.get("b", 4)), lambda kept: kept["a"] + kept["b"]
      >>> found = netadapt(cost, {"a": 4, "b": 4}, 6, start={"a": 4, "b": 4}, tune=lambda _, counts: counts,
      ...                  evaluate=free, step=0.2)
      >>> [(one.cut, one.price) for one in found]
      [('', 12), ('b', 8), ('b', 6)]

    Source: module docstring.
    """
    if not sizes or min(sizes.values()) < 1:
        raise ValueError(
            f"sizes must be those of one group at least, got {dict(sizes)!r}; see Ranking.sizes."
        )
    for name, value in (("step", step), ("decay", decay)):
        if not 0 < value <= 1:
            raise ValueError(f"{name} must be in (0, 1], got {value!r}; leave it out for the authors' own.")
    if multiple < 1:
        raise ValueError(f"multiple must be at least 1, got {multiple!r}; 8 suits most devices.")
    whole, least = price(sizes), price({name: min(size, multiple) for name, size in sizes.items()})
    if not (whole <= budget or least <= budget):
        raise ValueError(
            f"budget must be at least {least!r}, the price of the least counts, got {budget!r}; give more, "
            "or lower multiple."
        )
    search = _Search(price, budget, multiple=multiple, scan=scan)
    return _iterations(search, sizes, start, tune, evaluate, step * whole, decay)


class _Search:
    """What a cut can be."""

    def __init__(self, price: Callable[[Counts], float], budget: float, *, multiple: int, scan: bool) -> None:
        self.price, self.budget, self.multiple, self.scan = price, budget, multiple, scan

    def cuts(self, counts: Counts, now: float, demand: float) -> dict[str, tuple[int, float]]:
        """By group that alone can meet the demand, the count it keeps and the price; halved until one can."""
        for halving in range(HALVINGS + 1):
            asked = now - demand / 2**halving if halving < HALVINGS else math.nextafter(now, -math.inf)
            most = max(min(asked, math.nextafter(now, -math.inf)), self.budget)
            found = {name: self._count(counts, name, most) for name in counts}
            if any(found.values()):
                return {name: one for name, one in found.items() if one}
        least = {name: min([*self._allowed(count)[-1:], count]) for name, count in counts.items()}
        raise ValueError(
            f"budget must be reachable by cuts of one group, got {self.budget!r} where none lowers the price "
            f"{now!r} and the least counts cost {self.price(least)!r}; give more, or lower multiple."
        )

    def _allowed(self, count: int) -> range:
        """Counts below this one, the largest first."""
        return range((count - 1) // self.multiple * self.multiple, 0, -self.multiple)

    def _count(self, counts: Counts, name: str, most: float) -> tuple[int, float] | None:
        """The largest count of a group whose price is at most `most`, and that price; None: there is none."""
        allowed = self._allowed(counts[name])
        if self.scan:
            priced = ((one, self.price({**counts, name: one})) for one in allowed)
            return next(((one, cost) for one, cost in priced if cost <= most), None)
        best, low, high = None, 0, len(allowed) - 1
        while low <= high:
            middle = (low + high) // 2
            cost = self.price({**counts, name: allowed[middle]})
            if cost <= most:
                best, high = (allowed[middle], cost), middle - 1
            else:
                low = middle + 1
        return best


def _iterations(
    search: _Search,
    sizes: Mapping[str, int],
    start: Any,
    tune: Callable[[Any, Counts], Any],
    evaluate: Callable[[Any], float],
    demand: float,
    decay: float,
) -> Iterator[Iteration]:
    """The search itself."""
    now = Iteration(dict(sizes), search.price(sizes), evaluate(start), "", {}, start)
    yield now
    while not now.price <= search.budget:
        tried: dict[str, Tried] = {}
        best = now
        for name, (count, price) in search.cuts(now.counts, now.price, demand).items():
            counts = {**now.counts, name: count}
            candidate = tune(now.candidate, counts)
            tried[name] = Tried(count, price, evaluate(candidate))
            if best is now or _worth(tried[name].accuracy) > _worth(best.accuracy):
                best = Iteration(counts, price, tried[name].accuracy, name, tried, candidate)
        now, demand = best, demand * decay
        yield now


def _worth(accuracy: float) -> float:
    """NaN as the lowest."""
    return -math.inf if math.isnan(accuracy) else accuracy
