"""Price: what a model costs once its groups keep so many channels; search spends a budget of it.

A price is a function of counts. Those of `prices` are MACs, bytes and milliseconds; any other function will
do: `Price(lambda counts: joules(counts), unit="J", name="energy")`.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from fractions import Fraction

from efficient.core.dependencies import Dependencies

Counts = Mapping[str, int]
"""By name of a free group, how many of its indices stay; groups that it leaves out stay whole."""


@dataclasses.dataclass(frozen=True)
class Price:
    """What a shrunk model costs.

    of(counts): the price, in `unit`; lower is cheaper.
    """

    of: Callable[[Counts], float]
    unit: str = ""  # such as "MACs", "bytes" or "ms"
    name: str = "Price(...)"  # of what is counted or measured

    def __call__(self, counts: Counts) -> float:
        """The price of these counts."""
        return self.of(counts)

    def __repr__(self) -> str:
        return f"<Price: {self.name}" + (f", {self.unit}>" if self.unit else ">")


def of_terms(found: Dependencies, terms: Mapping[tuple[str, ...], Fraction]) -> Callable[[Counts], float]:
    """A polynomial in the counts of the free groups, in Python's own numbers: microseconds a call.

    Args:
      found: the groups.
      terms: by names of groups that are multiplied, the coefficient, as `Dependencies.elements` has them.

    Returns:
      The function; it refuses counts as `Dependencies.sizes_left` does.
    """
    sizes = found.counted({})
    products = [(_plain(coefficient), names) for names, coefficient in terms.items()]

    def price(counts: Counts) -> float:
        if not all(type(count) is int and 1 <= count <= sizes.get(name, 0) for name, count in counts.items()):
            counts = found.counted(counts)  # refuses them, or makes NumPy's integers Python's
        left = {**sizes, **counts}
        total: float = 0
        for product, names in products:
            for name in names:
                product *= left[name]
            total += product
        return total

    return price


def in_proportion(found: Dependencies, paid: Iterable[tuple[str, int]]) -> Callable[[Counts], float]:
    """A price in proportion to the elements left of each weight.

    Args:
      found: the groups.
      paid: path of a weight, and its price while it is whole; of other paths what is always paid.

    Returns:
      The function; it refuses counts as `Dependencies.sizes_left` does.
    """
    whole: dict[str, int] = {}
    for path, price in paid:
        whole[path] = whole.get(path, 0) + price
    terms: dict[tuple[str, ...], Fraction] = {}
    for path, price in whole.items():
        elements = found.elements(path) if path in found.shapes else {(): 1}
        size = math.prod(found.shapes.get(path, ()))
        for names, coefficient in elements.items():
            terms[names] = terms.get(names, Fraction(0)) + Fraction(price * coefficient, max(1, size))
    return of_terms(found, terms)


def remembered(found: Dependencies, price: Callable[[Counts], float]) -> Callable[[Counts], float]:
    """`price`, computed once for each counts; what is remembered lives as long as the function does."""
    known: dict[tuple[int, ...], float] = {}

    def again(counts: Counts) -> float:
        whole = found.counted(counts)
        at = tuple(whole.values())
        if at not in known:
            known[at] = price(whole)
        return known[at]

    return again


def _plain(value: Fraction) -> float:
    """An int where it is one."""
    return int(value) if value.denominator == 1 else float(value)
