"""Evolution: a population of vectors in [0, 1]^n; the best breed, by mutation and by crossover.

Each generation keeps its best `parents`. The rest of the next are children of these: of a mutation, which
draws each number anew with probability `mutation`, or of a crossover, which takes each number of one of two
parents. `repair` brings every vector to one that may be: what is scored and bred is what it returns.

Source: Cai et al., 2020, arXiv:1908.09791 (Once-for-All), section 3.4, which takes it from Real et al., 2019,
arXiv:1802.01548. *Differs:* vectors of [0, 1] instead of choices; a repair instead of drawing until one fits;
parents are not scored again, so that `evaluations` counts calls.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import jax
import numpy as np

from efficient.core.transform import Key

Vector = np.ndarray
"""float64 [n], each in [0, 1]."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evolution:
    """How a population is bred."""

    population: int = 20  # vectors a generation, from 2
    parents: float = 0.25  # share of them that is kept and bred, in (0, 1)
    mutation: float = 0.2  # chance of each number to be drawn anew, in (0, 1]
    crossover: float = 0.5  # share of the children that has two parents, in [0, 1]

    def __post_init__(self) -> None:
        if self.population < 2:
            raise ValueError(f"population must be from 2, got {self.population!r}; leave it out for 20.")
        if not 0 < self.parents < 1 or not 0 < self.mutation <= 1 or not 0 <= self.crossover <= 1:
            raise ValueError(
                "parents must be in (0, 1), mutation in (0, 1] and crossover in [0, 1], got "
                f"{self.parents!r}, {self.mutation!r} and {self.crossover!r}; leave them out."
            )

    @property
    def kept(self) -> int:
        """How many of a generation breed."""
        return min(max(1, round(self.parents * self.population)), self.population - 1)


class Trial(NamedTuple):
    """A vector that was scored."""

    vector: Vector
    score: float


class Evolved(NamedTuple):
    """What a search found."""

    best: Trial  # of ties, the first
    history: tuple[Trial, ...]  # in the order of evaluation


def evolve(
    score: Callable[[Vector], float],
    size: int,
    *,
    evaluations: int,
    key: Key,
    repair: Callable[[Vector], Vector] = lambda vector: vector,
    config: Evolution = Evolution(),
    first: Iterable[Vector] = (),
    track: Callable[[Iterable[int], str], Iterable[int]] = lambda items, label: items,
) -> Evolved:
    """Looks for the vector of highest score; return the negative to minimise.

    Args:
      score: of a vector that `repair` returned; a NaN counts as the lowest.
      size: numbers of a vector, > 0.
      evaluations: calls of `score`, > 0; a first generation as large as that is random search.
      key: of all that is drawn.
      repair: vector -> one that may be, in [0, 1] too; it should leave such a one as it is.
      config: how the population is bred.
      first: vectors of the first generation, such as a known good one; the others are drawn evenly.
      track: wraps the evaluations for a progress bar: `(items, label) -> items`.

    Raises:
      ValueError: `size` or `evaluations` below 1, or a vector of another size or outside [0, 1].

    Example:
      >>> found = evolve(lambda v: -abs(v[0] - 0.25), 1, evaluations=200, key=jax.random.key(0))
      >>> bool(abs(found.best.vector[0] - 0.25) < 0.05)
      True
    """
    if size < 1 or evaluations < 1:
        raise ValueError(
            f"size and evaluations must be from 1, got {size} and {evaluations}; say how long a vector is "
            "and how many may be scored."
        )
    waiting = [_checked(one, size, "first") for one in first]
    waiting += list(_even(jax.random.fold_in(key, 0), max(config.population - len(waiting), 0), size))
    living: list[Trial] = []  # what may breed: the parents, and their children so far
    history: list[Trial] = []
    for _ in track(range(evaluations), "evaluations"):
        if not waiting:
            living = sorted(living, key=lambda one: -one.score)[: config.kept]
            waiting = _children(living, jax.random.fold_in(key, len(history)), config)
        vector = _checked(repair(waiting.pop(0)), size, "what repair returns")
        value = float(score(vector))
        history.append(Trial(vector, -math.inf if math.isnan(value) else value))
        living.append(history[-1])
    return Evolved(best=max(history, key=lambda one: one.score), history=tuple(history))


def _even(key: Key, count: int, size: int) -> Vector:
    """[count, size] drawn evenly from [0, 1]."""
    return np.asarray(jax.random.uniform(key, (count, size)), np.float64)


def _children(parents: list[Trial], key: Key, config: Evolution) -> list[Vector]:
    """The rest of a generation: by crossover the first of them, by mutation the others."""
    keys = jax.random.split(key, 4)
    vectors = np.stack([one.vector for one in parents])
    count, size = config.population - config.kept, vectors.shape[1]
    mothers, fathers = vectors[np.asarray(jax.random.randint(keys[0], (2, count), 0, len(vectors)))]
    crossed = np.where(_even(keys[1], count, size) < 0.5, mothers, fathers)
    drawn = _even(keys[2], count, size)
    anew = _even(keys[3], count, size + 1)
    chosen = anew[:, :size] < config.mutation
    chosen[np.arange(count), np.minimum((anew[:, size] * size).astype(int), size - 1)] = True  # one at least
    mutated = np.where(chosen, drawn, mothers)
    pairs = round(config.crossover * count)
    return [*crossed[:pairs], *mutated[pairs:]]


def _checked(value: Vector, size: int, name: str) -> Vector:
    """A vector of [0, 1]^size."""
    vector = np.asarray(value, np.float64)
    if vector.shape != (size,) or not ((vector >= 0) & (vector <= 1)).all():
        raise ValueError(
            f"{name} must be {size} numbers in [0, 1], got {vector.tolist()!r}; scale and clip them."
        )
    return vector
