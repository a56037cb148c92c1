"""Seeded orders and stratified draws."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from efficient.data import HoldOut, permutation, stratified


def test_permutation_is_the_order_of_the_generators_raw_words():
    words = np.random.PCG64(np.random.SeedSequence(7, spawn_key=(3,))).random_raw(50)
    by_hand = sorted(range(50), key=lambda index: words[index])
    assert permutation(50, seed=7, epoch=3).tolist() == by_hand


def test_permutation_never_changes():
    assert permutation(8, seed=0).tolist() == [6, 3, 1, 4, 5, 2, 7, 0]


def test_permutation_is_uniform_over_the_orders_of_three():
    # 6,000 draws over 6 orders: a count is binomial with mean 1000, sigma sqrt(6000 / 6 * 5 / 6) = 28.9.
    ranks = [int(permutation(3, seed=seed) @ np.array([9, 3, 1])) for seed in range(6000)]
    counts = np.unique(ranks, return_counts=True)[1]
    assert len(counts) == 6
    assert np.abs(counts - 1000).max() < 5 * 28.9


@given(count=st.integers(0, 40), seed=st.integers(0, 2**64 - 1), epoch=st.integers(0, 2**32 - 2))
def test_permutation_has_each_index_once_and_each_epoch_its_own_stream(count, seed, epoch):
    order = permutation(count, seed=seed, epoch=epoch)
    assert sorted(order.tolist()) == list(range(count))
    np.testing.assert_array_equal(order, permutation(count, seed=seed, epoch=epoch))
    assert not np.array_equal(
        permutation(200, seed=seed, epoch=epoch), permutation(200, seed=seed, epoch=epoch + 1)
    )


def test_seed_and_epoch_do_not_run_into_each_other():
    assert not np.array_equal(permutation(50, seed=2**32), permutation(50, seed=0, epoch=1))
    assert not np.array_equal(permutation(50, seed=1), permutation(50, seed=0, epoch=1))


def test_stratified_quotas_by_hand():
    # 5, 3 and 2 of ten, four drawn: 4 * (5, 3, 2) / 10 = (2.0, 1.2, 0.8); floors (2, 1, 0), one missing,
    # the largest remainder is that of class 2: (2, 1, 1).
    labels = np.array([0, 1, 2, 0, 1, 0, 2, 0, 1, 0])
    chosen, rest = stratified(labels, count=4, seed=5)
    assert np.bincount(labels[chosen]).tolist() == [2, 1, 1]
    assert np.bincount(labels[rest]).tolist() == [3, 2, 1]


def test_stratified_tie_goes_to_the_lower_class():
    # one of two classes of two: remainders 1/2 and 1/2.
    labels = np.array([1, 0, 1, 0])
    assert all(labels[stratified(labels, count=1, seed=seed)[0]].tolist() == [0] for seed in range(8))


@given(
    labels=st.lists(st.integers(0, 5), min_size=1, max_size=60).map(np.array),
    share=st.floats(0, 1),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=200)
def test_stratified_cuts_in_two_and_keeps_shares_to_within_one(labels, share, seed):
    count = round(share * len(labels))
    chosen, rest = stratified(labels, count=count, seed=seed)
    assert len(chosen) == count
    assert sorted([*chosen.tolist(), *rest.tolist()]) == list(range(len(labels)))
    sizes = np.bincount(labels, minlength=6)
    drawn = np.bincount(labels[chosen], minlength=6)
    assert (np.abs(drawn * len(labels) - count * sizes) < len(labels)).all()


def test_stratified_result_is_in_random_order():
    labels = np.repeat(np.arange(4), 50)
    chosen, rest = stratified(labels, count=100, seed=0)
    assert (np.diff(labels[chosen]) < 0).any()
    assert (np.diff(labels[rest]) < 0).any()


def test_hold_out_keeps_the_rest():
    labels = np.repeat(np.arange(3), 10)
    kept, held = HoldOut(fraction=0.3, seed=1).cut(labels)
    assert np.bincount(labels[held]).tolist() == [3, 3, 3]
    assert np.bincount(labels[kept]).tolist() == [7, 7, 7]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": -1, "seed": 0}, r"count must be in \[0, 2\*\*40\), got -1; choose another\."),
        ({"count": 1, "seed": -1}, r"seed must be in \[0, 2\*\*64\), got -1; choose another\."),
        ({"count": 1, "seed": 2**64}, r"seed must be in \[0, 2\*\*64\), got 18446744073709551616;"),
        ({"count": 1, "seed": 0, "epoch": -1}, r"epoch must be in \[0, 2\*\*32\), got -1;"),
    ],
)
def test_permutation_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        permutation(options.pop("count"), **options)


@pytest.mark.parametrize("count", [-1, 4])
def test_stratified_refuses_a_count_that_there_is_not(count):
    with pytest.raises(ValueError, match=rf"count must be in \[0, 3\], the number of examples, got {count};"):
        stratified(np.array([0, 1, 1]), count=count, seed=0)


def test_hold_out_refuses():
    for fraction in (0.0, 1.0, float("nan")):
        with pytest.raises(ValueError, match=rf"fraction must be in \(0, 1\), got {fraction};"):
            HoldOut(fraction=fraction, seed=0)
    with pytest.raises(ValueError, match=r"seed must be in \[0, 2\*\*64\), got -1;"):
        HoldOut(fraction=0.5, seed=-1)
