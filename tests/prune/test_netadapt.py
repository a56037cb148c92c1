"""NetAdapt: one group at a time, never above the budget."""

import itertools
import math
import re

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from efficient.core.dependencies import dependencies
from efficient.core.measure import DeviceProfile
from efficient.prune import netadapt, ranking
from efficient.prune.prices import macs, measured_ms, predicted_ms, stored_bytes
from efficient.prune.scores import absolute

SIZES = {"a": 4, "b": 4}


def linear(counts):
    """12 of the whole: b costs twice as much as a."""
    return counts["a"] + 2 * counts["b"]


def search(price, budget, *, sizes=SIZES, evaluate=lambda counts: sum(counts.values()), **options):
    """A search whose candidates are counts."""
    return netadapt(
        price, sizes, budget, start=sizes, tune=lambda before, counts: counts, evaluate=evaluate, **options
    )


def test_by_hand():
    # 12, to meet 12 - 0.2 * 12 = 9.6: a keeps 1 (9) or b keeps 2 (8); of 5 and 6 channels left 6 is more.
    # 8, to meet max(8 - 0.96 * 2.4, 6) = 6: a keeps 2 or b keeps 1 (both 6); of 4 and 5 channels 5 is more.
    start, first, last = search(linear, 6, step=0.2)
    assert (start.cut, start.price, start.accuracy, start.tried) == ("", 12, 8, {})
    assert (first.cut, first.counts, first.price, first.accuracy) == ("b", {"a": 4, "b": 2}, 8, 6)
    assert {name: tuple(one) for name, one in first.tried.items()} == {"a": (1, 9, 5), "b": (2, 8, 6)}
    assert (last.cut, last.counts, last.price) == ("b", {"a": 4, "b": 1}, 6)
    assert last.candidate == last.counts


def test_each_candidate_goes_on_from_the_winner_before():
    seen = []

    def tune(before, counts):
        seen.append((before, dict(counts)))
        return (*before, len(seen))

    steps = list(netadapt(linear, SIZES, 6, start=(), tune=tune, evaluate=lambda c: c[-1] if c else 0.0))
    assert {before for before, _ in seen[:2]} == {()}
    assert steps[1].candidate in {before for before, _ in seen[2:]}
    assert [one.price for one in steps] == sorted((one.price for one in steps), reverse=True)


def test_a_model_that_is_cheap_enough_is_left_alone():
    (only,) = search(linear, 12)
    assert only.counts == SIZES


def test_a_step_that_no_group_alone_can_make_is_halved():
    # Half of 12 at once: neither group alone can do that (9 and 6 at least are left of a, of b).
    steps = list(search(linear, 3, step=1.0, decay=1.0))
    assert steps[-1].price == 3
    assert steps[1].price > 3


def test_counts_are_multiples_and_small_groups_stay_whole():
    sizes = {"a": 24, "b": 5, "c": 20}
    steps = list(search(lambda c: sum(c.values()), 30, sizes=sizes, multiple=8))
    for one in steps[1:]:
        assert one.counts[one.cut] % 8 == 0
        assert one.counts["b"] == 5
    with pytest.raises(ValueError, match="budget must be at least 21, the price of the least counts, got 20"):
        search(lambda c: sum(c.values()), 20, sizes=sizes, multiple=8)


def test_nan_is_the_worst_accuracy():
    steps = list(search(linear, 10, evaluate=lambda c: math.nan if c["b"] < 4 else 1.0))
    assert {one.cut for one in steps[1:]} == {"a"}


def prices(sizes, draw, *, is_monotone):
    """A price for each counts, drawn."""
    names = list(sizes)
    table = np.cumsum(draw.random([*sizes.values()]), axis=0)
    for axis in range(1, table.ndim):
        table = np.cumsum(table, axis=axis)
    if not is_monotone:
        table = table + 0.5 * draw.random(table.shape) * table.mean()
    return lambda counts: float(table[tuple(counts[name] - 1 for name in names)])


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    share=st.floats(0.02, 1.0),
    step=st.floats(0.01, 1.0),
    decay=st.floats(0.5, 1.0),
    is_monotone=st.booleans(),
    scan=st.booleans(),
    multiple=st.sampled_from([1, 2]),
)
def test_the_result_never_exceeds_the_budget(seed, share, step, decay, is_monotone, scan, multiple):
    draw, sizes = np.random.default_rng(seed), {"a": 4, "b": 6, "c": 3}
    price = prices(sizes, draw, is_monotone=is_monotone)
    budget = share * price(sizes)
    least = price({name: min(size, multiple) for name, size in sizes.items()})
    options = {"step": step, "decay": decay, "scan": scan, "multiple": multiple}
    run = lambda: list(search(price, budget, sizes=sizes, evaluate=lambda c: float(draw.random()), **options))  # noqa: E731
    if is_monotone and least > budget:
        with pytest.raises(ValueError, match=re.escape(f"got {budget!r}")):
            run()
        return
    try:
        steps = run()
    except ValueError as error:
        if is_monotone or f"got {budget!r}" not in str(error):  # else no cut of one group lowers the price
            raise
        return
    assert steps[-1].price == price(steps[-1].counts) <= budget
    assert all(one.price > budget for one in steps[:-1])
    for before, after in itertools.pairwise(steps):
        assert after.price < before.price
        changed = {name for name in sizes if after.counts[name] != before.counts[name]}
        assert changed == {after.cut}
        assert after.counts[after.cut] < before.counts[after.cut]
        assert max(one.accuracy for one in after.tried.values()) == after.accuracy
        for name, one in after.tried.items():
            assert one.price == price({**before.counts, name: one.kept}) < before.price


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), is_monotone=st.booleans())
def test_a_scan_finds_the_largest_count_that_meets_the_step(seed, is_monotone):
    draw, sizes = np.random.default_rng(seed), {"a": 5, "b": 5}
    price = prices(sizes, draw, is_monotone=is_monotone)
    whole, least = price(sizes), price({"a": 1, "b": 1})
    budget = max(least, 0.1 * whole)
    if whole <= budget:
        return
    first = next(itertools.islice(search(price, budget, sizes=sizes, step=0.2, scan=True), 1, 2), None)
    for name, one in first.tried.items():
        between = range(one.kept + 1, sizes[name])
        asked = max(one.price for one in first.tried.values())
        assert all(price({**sizes, name: count}) > asked or asked > 0.8 * whole for count in between)


def test_with_every_price_of_a_model():
    p = {"a": jnp.ones((3, 8)), "b": jnp.ones((8, 6)), "c": jnp.ones((6, 2))}
    fn = lambda p, x: x @ p["a"] @ p["b"] @ p["c"]  # noqa: E731
    x = jnp.ones((4, 3))
    found = dependencies(fn, p, x)
    ranked = ranking(found, absolute(), p)
    profile = DeviceProfile(name="device", peak_flops=1e9, bandwidth=1e9)
    for price in (
        macs(found, fn, p, x),
        stored_bytes(found, p),
        predicted_ms(found, fn, p, x, profile=profile),
    ):
        *_, last = search(price, 0.5 * price({}), sizes=ranked.sizes, step=0.1)
        assert price(last.counts) <= 0.5 * price({})
        assert found.shrink(p, ranked.keep(last.counts))["b"].shape == tuple(last.counts.values())
    measured = measured_ms(found, fn, p, x, repeats=1)
    *_, last = search(measured, measured({}), sizes=ranked.sizes)
    assert last.counts == ranked.sizes


def test_a_price_that_no_cut_lowers_is_refused_on_the_way():
    # Only both cuts together are cheaper: no group alone can do anything.
    steps = search(lambda c: 1 if max(c.values()) < 4 else 2, 1)
    assert next(steps).price == 2
    message = "budget must be reachable by cuts of one group, got 1 where none lowers the price 2 and"
    with pytest.raises(ValueError, match=message):
        next(steps)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget": 2}, "budget must be at least 3, the price of the least counts, got 2; give more"),
        ({"budget": math.nan}, "budget must be at least 3, the price of the least counts, got nan"),
        ({"step": 0.0}, r"step must be in \(0, 1\], got 0.0"),
        ({"decay": 1.5}, r"decay must be in \(0, 1\], got 1.5"),
        ({"multiple": 0}, "multiple must be at least 1, got 0"),
        ({"sizes": {}}, "sizes must be those of one group at least, got {}"),
        ({"sizes": {"a": 0}}, "sizes must be those of one group at least, got {'a': 0}"),
    ],
)
def test_wrong_requests_are_refused_before_any_training(options, message):
    tune = lambda before, counts: pytest.fail("trained")  # noqa: E731
    with pytest.raises(ValueError, match=message):
        netadapt(
            linear,
            options.pop("sizes", SIZES),
            options.pop("budget", 6),
            start=(),
            tune=tune,
            evaluate=lambda one: pytest.fail("evaluated"),
            **options,
        )
