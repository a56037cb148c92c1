"""Budget: counts that cost at most so much, and the largest single ratio that does."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from efficient.prune.budget import counted, least_counts, nearest_count, scaled, uniform

SIZES = {"a": 10, "b": 20}


def area(counts):
    return counts["a"] * counts["b"]


def test_the_nearest_count_by_hand():
    assert [nearest_count(10, f) for f in (0.0, 0.14, 0.15, 0.96, 1.0)] == [1, 1, 2, 10, 10]
    # Of 20 in eights: 8, 16 and 20; 12 and 18 lie half way and go up.
    found = [nearest_count(20, f, multiple=8) for f in (0.0, 0.59, 0.6, 0.89, 0.9, 1.0)]
    assert found == [8, 8, 16, 16, 20, 20]
    assert nearest_count(5, 0.0, multiple=8) == 5


@given(size=st.integers(1, 70), fraction=st.floats(0, 1), multiple=st.integers(1, 9))
def test_no_count_that_may_be_had_is_nearer(size, fraction, multiple):
    allowed = {*range(multiple, size, multiple), size}
    count = nearest_count(size, fraction, multiple=multiple)
    assert count in allowed
    assert abs(count - fraction * size) == min(abs(one - fraction * size) for one in allowed)


def test_uniform_by_hand():
    # At a ratio r: 10r and 20r to the nearest. 0.525 makes b 11, 0.55 makes a 6: 5 * 10, 5 * 11, 6 * 11.
    assert uniform(area, SIZES, 54) == {"a": 5, "b": 10}
    assert uniform(area, SIZES, 55) == {"a": 5, "b": 11}
    assert uniform(area, SIZES, 66) == {"a": 6, "b": 11}
    assert uniform(area, SIZES, 200) == SIZES


@settings(max_examples=60, deadline=None)
@given(budget=st.floats(1, 250), multiple=st.sampled_from([1, 3]))
def test_no_larger_ratio_meets_the_budget(budget, multiple):
    least = counted(SIZES, [0, 0], multiple=multiple)
    if area(least) > budget:
        return
    counts = uniform(area, SIZES, budget, multiple=multiple)
    ratios = [counted(SIZES, [r / 80] * 2, multiple=multiple) for r in range(81)]  # all that change a count
    assert area(counts) == max(area(one) for one in ratios if area(one) <= budget)


def test_what_is_repaired_keeps_its_proportions_and_is_repaired_once():
    repair = scaled(lambda c: c["a"] + c["b"], {"a": 100, "b": 100}, 60)
    once = repair(np.array([0.8, 0.4]))
    assert once.tolist() == [0.4, 0.2]
    assert repair(once).tolist() == once.tolist()
    assert repair(np.array([0.104, 0.2])).tolist() == [0.1, 0.2]  # cheap enough: only rounded


def test_what_is_left_of_the_budget_is_filled():
    repair = scaled(lambda c: c["a"] + c["b"], {"a": 100, "b": 100}, 60, fill=True)
    # 0.1 and 0.2 go the same part of the way to 1, until 30 are added: 90 u + 80 u = 30.
    assert repair(np.array([0.1, 0.2])).tolist() == [0.26, 0.34]
    assert repair(np.array([0.8, 0.4])).tolist() == [0.4, 0.2]
    assert scaled(area, SIZES, 200, fill=True)(np.zeros(2)).tolist() == [1.0, 1.0]


def test_the_least_stays_whatever_the_fraction():
    repair = scaled(area, SIZES, 30, least=0.3)
    assert repair(np.array([0.0, 1.0])).tolist() == [0.3, 0.5]  # 3 * 10
    assert uniform(area, SIZES, 18, least=0.3) == {"a": 3, "b": 6}


def test_counts_are_priced_once():
    asked = []

    def price(counts):
        asked.append(tuple(counts.values()))
        return area(counts)

    uniform(price, SIZES, 50, least=0.2)
    assert len(asked) <= 2 + len(set(asked))  # the least once more, beside its check
    assert len(asked) < 20


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), fractions=st.lists(st.floats(0, 1), min_size=2, max_size=2))
def test_no_price_whatever_leads_beyond_the_budget(seed, fractions):
    table = np.random.default_rng(seed).random((11, 21))
    price = lambda counts: float(table[counts["a"], counts["b"]])  # noqa: E731
    budget = price({"a": 1, "b": 1})
    for fill in (False, True):
        repaired = counted(SIZES, scaled(price, SIZES, budget, fill=fill)(np.array(fractions)))
        assert price(repaired) <= budget
    assert price(uniform(price, SIZES, budget)) <= budget


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget": 0.5}, "budget must be at least 1, the price of the least counts, got 0.5; give more"),
        ({"budget": math.nan}, "budget must be at least 1, the price of the least counts, got nan"),
        ({"budget": 10, "least": 0.5}, "budget must be at least 50, the price of the least counts, got 10"),
        ({"least": 1.5}, r"least must be in \[0, 1\], got 1.5"),
        ({"multiple": 0}, "multiple must be at least 1, got 0"),
        ({"sizes": {}}, "sizes must be those of one group at least, got {}"),
        ({"sizes": {"a": 0}}, "sizes must be those of one group at least, got {'a': 0}"),
    ],
)
@pytest.mark.parametrize("make", [least_counts, scaled, uniform])
def test_wrong_requests_are_refused(make, options, message):
    asked = dict(options)
    with pytest.raises(ValueError, match=message):
        make(area, asked.pop("sizes", SIZES), asked.pop("budget", 50), **asked)
