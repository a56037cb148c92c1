"""A claim of a paper, and what our metrics say of it: a number, its spread, and whether it holds."""

import dataclasses
import math
import operator
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

Metrics = Mapping[str, Mapping[int, Mapping[str, Any]]]
"""arm -> seed -> metric -> value. A number that is not finite is stored as null and read back as None."""

ARM = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")
"""What an arm may be called."""

Known = Literal["repository", "recomputed", "paper", "memory", "bar"]
"""How a published value is known: read in the authors' repository, recomputed from first principles, read in
the paper, remembered (an ordering, not a tolerance), or a bar that this project set itself."""


def column(metrics: Metrics, arm: str, metric: str) -> dict[int, float]:
    """One metric of one arm by seed; a null is NaN, so that no comparison with it holds.

    Raises:
        LookupError: the arm, or a seed's metric, was not measured as a number: the claim is then not run.
    """
    if arm not in metrics:
        raise LookupError(f"no arm {arm!r}")
    found: dict[int, float] = {}
    for seed, values in metrics[arm].items():
        if not isinstance(values.get(metric), int | float | None) or metric not in values:
            raise LookupError(f"no number {metric!r} in arm {arm!r}, seed {seed}")
        found[seed] = math.nan if values[metric] is None else values[metric]
    return found


def paired(
    function: Callable[..., float], first: Mapping[int, float], *others: Mapping[int, float]
) -> dict[int, float]:
    """`function` of two or more columns, seed by seed, as in `paired(operator.sub, ours, baseline)`.

    Raises:
        LookupError: the columns do not have the same seeds.
    """
    for other in others:
        if other.keys() != first.keys():
            raise LookupError(f"seeds {sorted(first)} in one arm and {sorted(other)} in another")
    return {seed: function(first[seed], *(other[seed] for other in others)) for seed in first}


def mean(values: Iterable[float]) -> float:
    """The mean; NaN where a value, or the sum, is not finite."""
    numbers = list(values)
    try:
        return math.fsum(numbers) / len(numbers) if all(map(math.isfinite, numbers)) else math.nan
    except OverflowError:
        return math.nan


def average(metrics: Metrics, arm: str, metric: str) -> float:
    """The mean of a metric over seeds; raises as `column` does."""
    return mean(column(metrics, arm, metric).values())


def deviation(values: Sequence[float]) -> float | None:
    """The sample standard deviation (n - 1); None below two values or where it is not finite."""
    middle = mean(values)
    if len(values) < 2 or not math.isfinite(middle):
        return None
    try:
        return math.sqrt(math.fsum((value - middle) ** 2 for value in values) / (len(values) - 1))
    except OverflowError:
        return None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """What was measured for a claim.

    Raises:
        ValueError: it holds without a finite number or without a seed, or it is judged without a number.
    """

    ours: float | str | None  # in the claim's unit; a text for an ordering; None: not run
    spread: float | None = None  # sample standard deviation over seeds
    seeds: tuple[int, ...] = ()
    holds: bool | None  # None: not run
    detail: str = ""  # what the rule saw, in words

    def __post_init__(self) -> None:
        if (self.ours is None) != (self.holds is None):
            raise ValueError(
                f"holds must be None exactly where ours is, got {self.holds!r}; measure, or do neither."
            )
        if self.holds and (not self.seeds or (isinstance(self.ours, float) and not math.isfinite(self.ours))):
            raise ValueError(
                f"holds must be False without a seed and a finite number, got ours={self.ours!r} of seeds "
                f"{self.seeds!r}; a claim never holds from nothing."
            )

    @classmethod
    def of(cls, values: Mapping[int, float], holds: bool, detail: str = "") -> "Outcome":
        """Mean and spread of a value by seed; it never holds where a seed's value is not finite."""
        if not values:
            raise LookupError("no seeds")
        numbers = [float(value) for value in values.values()]
        middle = mean(numbers)
        return cls(
            ours=middle,
            spread=deviation(numbers),
            seeds=tuple(values),
            holds=bool(holds) and math.isfinite(middle),
            detail=detail,
        )

    @classmethod
    def at_most(cls, values: Mapping[int, float], most: float) -> "Outcome":
        """Mean and spread of a value by seed; it holds where the mean is at most `most`."""
        return cls.of(values, mean(values.values()) <= most)

    @classmethod
    def above(cls, gaps: Mapping[int, float], least: float = 0.0) -> "Outcome":
        """Mean and spread of a gap by seed; it holds where the mean is above `least` by 2 standard errors.

        One seed has no standard error: it never holds.
        """
        found = cls.of(gaps, False)
        if found.spread is None or not isinstance(found.ours, float):
            return found
        error = found.spread / math.sqrt(len(found.seeds))
        holds = found.ours - 2 * error > least
        return dataclasses.replace(found, holds=holds, detail=f"standard error {error:.2g}")

    @property
    def verdict(self) -> str:
        """`holds`, `does not hold` or `not run`."""
        return {True: "holds", False: "does not hold", None: "not run"}[self.holds]


def better(first: str, second: str, metric: str = "accuracy") -> Callable[[Metrics], Outcome]:
    """A check: one arm's metric is above another's, seed by seed, by more than 2 standard errors."""

    def check(metrics: Metrics) -> Outcome:
        both = (column(metrics, arm, metric) for arm in (first, second))
        return Outcome.above(paired(operator.sub, *both))

    return check


def not_below(first: str, second: str, metric: str = "accuracy") -> Callable[[Metrics], Outcome]:
    """A check: one arm's metric is not below another's by 2 standard errors; one seed cannot tell."""

    def check(metrics: Metrics) -> Outcome:
        gaps = paired(operator.sub, *(column(metrics, arm, metric) for arm in (first, second)))
        worse = Outcome.above({seed: -value for seed, value in gaps.items()})
        return Outcome.of(gaps, worse.spread is not None and not worse.holds, worse.detail)

    return check


@dataclasses.dataclass(frozen=True, kw_only=True)
class Claim:
    """A statement of a paper and the rule that says whether ours has its shape.

    Raises:
        ValueError: an `id` that is no slug, an empty text, or an `arxiv` that is not an arXiv number.
    """

    id: str  # unique over all experiments: lower case, digits, - and _
    paper: str  # citation, such as "Han et al., Deep Compression, 2016"
    arxiv: str = ""  # such as 1510.00149; empty: not on arXiv
    where: str = ""  # table or figure
    metric: str  # what the number is
    unit: str = ""  # of published and ours, such as % or x
    published: float | str
    known: Known = "paper"  # how the published value is known
    rule: str  # the sentence that `check` decides
    check: Callable[[Metrics], Outcome]

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", self.id):
            raise ValueError(
                f"id must be lower case letters, digits, - and _, got {self.id!r}; rename the claim."
            )
        if self.arxiv and not re.fullmatch(r"\d{4}\.\d{4,5}|[a-z-]+(\.[A-Z]{2})?/\d{7}", self.arxiv):
            raise ValueError(
                f"arxiv must be a number such as 1510.00149, got {self.arxiv!r}; leave out 'arXiv:'."
            )
        for name in ("paper", "metric", "rule"):
            if not getattr(self, name).strip():
                raise ValueError(
                    f"{name} must be a text, got {getattr(self, name)!r}; state it for the reader."
                )

    @property
    def source(self) -> str:
        """The citation with its arXiv number and table."""
        return ", ".join(filter(None, [self.paper, self.arxiv and f"arXiv:{self.arxiv}", self.where]))

    def evaluate(self, metrics: Metrics | None) -> Outcome:
        """What `check` says; a claim without a run, or whose inputs were not measured, is not run."""
        if metrics is None:
            return Outcome(ours=None, holds=None, detail="no record")
        try:
            return self.check(metrics)
        except LookupError as error:
            return Outcome(ours=None, holds=None, detail=f"not measured: {error}")


def show(value: float | str | None, *, spread: float | None = None, unit: str = "") -> str:
    """A measured value for a reader: `92.41 ± 0.12 %`, two digits of spread; a dash where there is none.

    A spread that is but the rounding of a mean of equal values is left out.
    """
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    if not math.isfinite(value):
        text = "not finite"
    elif spread and spread > 16 * sys.float_info.epsilon * abs(value):
        digits = max(0, 1 - math.floor(math.log10(spread)))
        plain = digits < 8 and abs(value) < 1e9
        text = f"{value:,.{digits}f} ± {spread:,.{digits}f}" if plain else f"{value:.4g} ± {spread:.1e}"
    else:
        text = f"{value:,.0f}" if 1e4 <= abs(value) < 1e12 else f"{value:.4g}"
    return f"{text} {unit}".strip()
