"""Evolution on problems whose optimum is known."""

import jax
import numpy as np
import pytest

from efficient.search import Evolution, evolve

KEY = jax.random.key(0)
GOAL = np.array([0.2, 0.9, 0.5, 0.7])


def near(vector):
    return -float(np.sum((vector - GOAL) ** 2))


def on_budget(vector):
    """Scaled down until its sum is at most 2."""
    return vector * min(1.0, 2.0 / vector.sum())


def test_it_finds_the_optimum_and_random_search_does_not():
    found = evolve(near, 4, evaluations=400, key=KEY)
    # The nearest of 400 even draws in four dimensions is some 400^(-1/4) / 2 = 0.11 away.
    random = evolve(near, 4, evaluations=400, key=KEY, config=Evolution(population=400))
    assert found.best.score > -(0.1**2)
    assert found.best.score > random.best.score
    assert found.best.score == max(one.score for one in found.history) == near(found.best.vector)
    assert len(found.history) == len(random.history) == 400


def test_what_is_scored_is_repaired_and_a_constrained_optimum_is_found():
    seen = []

    def score(vector):
        seen.append(vector)
        return float(vector @ np.array([1.0, 2.0, 3.0, 4.0]))

    found = evolve(score, 4, evaluations=300, key=KEY, repair=on_budget)
    assert all(vector.sum() <= 2 + 1e-9 for vector in seen)
    assert found.best.score > 0.9 * 7  # at most 3 * 1 + 4 * 1


def test_the_first_generation_is_what_is_given_and_drawn():
    found = evolve(near, 4, evaluations=3, key=KEY, first=[GOAL])
    assert found.best.score == 0
    np.testing.assert_array_equal(found.history[0].vector, GOAL)
    one = evolve(near, 4, evaluations=3, key=KEY, first=[GOAL])
    assert all(np.array_equal(a.vector, b.vector) for a, b in zip(one.history, found.history, strict=True))
    other = evolve(near, 4, evaluations=3, key=jax.random.key(1), first=[GOAL])
    assert not np.array_equal(other.history[1].vector, found.history[1].vector)


def test_the_best_of_a_generation_breed():
    """By hand: with one parent of (0, 0) and mutation of every number, no number of a child is its parent's;
    with crossover alone every child is the parent.
    """
    rows = [np.array([0.0, 0.0]), np.array([1.0, 1.0])]
    options = {"evaluations": 4, "key": KEY, "first": rows}
    copied = evolve(
        lambda v: -v.sum(), 2, config=Evolution(population=2, parents=0.5, crossover=1.0), **options
    )
    assert [one.vector.tolist() for one in copied.history[2:]] == [[0, 0], [0, 0]]
    config = Evolution(population=2, parents=0.5, crossover=0.0, mutation=1.0)
    mutated = evolve(lambda v: -v.sum(), 2, config=config, **options)
    assert all((one.vector > 0).all() for one in mutated.history[2:])


def test_nan_is_the_lowest_and_progress_sees_every_evaluation():
    counted = []

    def track(items, label):
        for item in items:
            counted.append(label)
            yield item

    found = evolve(
        lambda v: float("nan") if v[0] < 0.5 else float(v[0]), 1, evaluations=20, key=KEY, track=track
    )
    assert found.best.vector[0] >= 0.5
    assert counted == ["evaluations"] * 20


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"population": 1}, "population must be from 2, got 1"),
        ({"parents": 1.0}, r"parents must be in \(0, 1\).*got 1.0, 0.2 and 0.5"),
        ({"mutation": 0.0}, r"mutation in \(0, 1\].*got 0.25, 0.0 and 0.5"),
        ({"crossover": 1.5}, r"crossover in \[0, 1\], got 0.25, 0.2 and 1.5"),
    ],
)
def test_refusals_of_the_config(options, message):
    with pytest.raises(ValueError, match=message):
        Evolution(**options)


def test_refusals():
    with pytest.raises(ValueError, match="size and evaluations must be from 1, got 0 and 5"):
        evolve(near, 0, evaluations=5, key=KEY)
    with pytest.raises(ValueError, match=r"first must be 4 numbers in \[0, 1\], got \[0.5\]"):
        evolve(near, 4, evaluations=5, key=KEY, first=[np.array([0.5])])
    with pytest.raises(ValueError, match=r"what repair returns must be 1 numbers in \[0, 1\], got \[2.0\]"):
        evolve(near, 1, evaluations=5, key=KEY, repair=lambda v: np.array([2.0]))
