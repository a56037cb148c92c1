"""Patterns: units that stay or go whole, exact budgets, and the choice that keeps the most score."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from efficient import State, stacked
from efficient.core.schedules import cubic_ramp
from efficient.prune import Pruned, kept_of, prune
from efficient.prune.allocations import together
from efficient.prune.patterns import (
    block,
    channel,
    head,
    kernel,
    layer,
    n_m,
    pattern_library,
    per_output,
    unstructured,
    vector,
)
from efficient.prune.scores import absolute

NAN, INF = float("nan"), float("inf")
UPPER = [[1, 1, 0], [1, 1, 0], [0, 0, 0]]
LOWER = [[0, 0, 0], [0, 1, 1], [0, 1, 1]]
ROW = [[0, 0, 0], [1, 1, 1], [0, 1, 0]]

# Every pattern on a small array: (pattern, shape, units, weights of a unit where all are equal).
CASES = {
    "unstructured": (unstructured(), (4, 6), 24, 1),
    "block": (block((2, 3)), (4, 6), 4, 6),
    "ragged block": (block((4, 4)), (5, 6), 4, None),
    "block of heads": (block((2, 2), axes=(0, 2)), (4, 3, 2), 6, 4),
    "vector": (vector(3), (4, 6), 8, 3),
    "ragged vector": (vector(4, axis=0), (6, 3), 6, None),
    "kernel": (kernel(), (3, 3, 2, 4), 8, 9),
    "filter": (channel(), (3, 3, 2, 6), 6, 18),
    "input channel": (channel(axis=-2), (6, 4), 6, 4),
    "fused heads": (head(4), (3, 8), 4, 6),
    "own axis of heads": (head(4, axis=-2), (3, 4, 2), 4, 6),
    "scanned layers": (layer(axis=0), (4, 2, 3), 4, 6),
}
# Whose units are single weights with a rule of their own: (pattern, shape, the sparsity it ends in).
RULED = {
    "2:4": (n_m(), (8, 3), 0.5),
    "1:3, ragged": (n_m(1, 3, axis=-1), (2, 7), 2 / 3),
    "per output": (per_output(), (8, 3), 0.75),
    "patterns": (pattern_library(count=2), (3, 3, 2, 3), 5 / 9),
    "patterns and connectivity": (pattern_library(count=2), (3, 3, 2, 3), 1 - 12 / 54),
}


def made(pattern, scores, keep):
    """The mask of [*shape] for a budget of units."""
    pattern.check(scores.shape, "w")
    return pattern.spread(pattern.choose(pattern.pool(scores), keep), scores.shape)


in_one_program = jax.jit(made, static_argnums=0)
pooled = jax.jit(lambda pattern, scores: pattern.pool(scores), static_argnums=0)


def mask_of(pattern, scores, keep):
    return np.asarray(in_one_program(pattern, np.asarray(scores, np.float32), np.int32(keep)))


def means_of(pattern, scores):
    return np.asarray(pooled(pattern, np.asarray(scores, np.float32)))


def normal(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


# ---- worked by hand


def test_block_by_hand_ragged():
    # 3x3 in blocks of 2x2: means 2.5 of 1 2 3 4, (9 + 1)/2 = 5, (2 + 4)/2 = 3, and 8 by itself.
    scores = [[1.0, 2.0, 9.0], [3.0, 4.0, 1.0], [2.0, 4.0, 8.0]]
    pattern = block((2, 2))
    np.testing.assert_array_equal(means_of(pattern, scores), [[2.5, 5.0], [3.0, 8.0]])
    np.testing.assert_array_equal(mask_of(pattern, scores, 2), [[0, 0, 1], [0, 0, 1], [0, 0, 1]])
    np.testing.assert_array_equal(mask_of(pattern, scores, 3), [[0, 0, 1], [0, 0, 1], [1, 1, 1]])


def test_vector_by_hand():
    # Runs of two along rows: sums 3, 7 | 9, 2; the last run of three columns is one weight: 5 | 4.
    scores = [[1.0, 2.0, 5.0], [9.0, 0.0, 4.0]]
    np.testing.assert_array_equal(means_of(vector(2), scores), [[1.5, 5.0], [4.5, 4.0]])
    np.testing.assert_array_equal(mask_of(vector(2), scores, 2), [[0, 0, 1], [1, 1, 0]])
    np.testing.assert_array_equal(mask_of(vector(2, axis=0), scores, 2), [[1, 0, 1], [1, 0, 1]])


def test_kernel_by_hand():
    # [h=1, w=2, in=2, out=2]: kernel (in, out) holds scores[0, :, in, out]; means 3, 4 | 5, 2.
    scores = np.array([[[[1.0, 4.0], [9.0, 2.0]], [[5.0, 4.0], [1.0, 2.0]]]])
    np.testing.assert_array_equal(means_of(kernel(), scores)[0, 0], [[3, 4], [5, 2]])
    mask = mask_of(kernel(), scores, 2)
    np.testing.assert_array_equal(mask[0, 0], [[0, 1], [1, 0]])
    np.testing.assert_array_equal(mask[0, 1], mask[0, 0])


def test_channel_by_hand():
    # Columns sum to 5, 9, 4; rows to 6 and 12.
    scores = [[1.0, 3.0, 2.0], [4.0, 6.0, 2.0]]
    np.testing.assert_array_equal(mask_of(channel(), scores, 1), [[0, 1, 0], [0, 1, 0]])
    np.testing.assert_array_equal(mask_of(channel(axis=-2), scores, 1), [[0, 0, 0], [1, 1, 1]])


def test_head_by_hand():
    # Two heads of two along the columns: 1 + 2 + 0 + 0 and 1 + 1 + 2 + 3.
    scores = [[1.0, 2.0, 1.0, 1.0], [0.0, 0.0, 2.0, 3.0]]
    np.testing.assert_array_equal(mask_of(head(2), scores, 1), [[0, 0, 1, 1], [0, 0, 1, 1]])
    # Four heads of one: columns sum to 1, 2, 3, 4.
    np.testing.assert_array_equal(mask_of(head(4), scores, 2), [[0, 0, 1, 1], [0, 0, 1, 1]])


def test_layer_by_hand():
    """An array goes whole where all compete; scanned layers go one by one."""
    params = {"a": jnp.full((2, 2), 1.0), "b": jnp.full((2, 2), 3.0), "c": jnp.full((2, 2), 2.0)}
    t = prune(absolute(), 1 / 3, pattern=layer(), allocation=together())
    out = t.apply(params, jax.jit(t.init)(params))
    assert [float(out[p].sum()) for p in "abc"] == [0, 12, 8]
    scanned = jnp.stack(list(params.values()))
    t = prune(absolute(), 2 / 3, pattern=layer(axis=0))
    np.testing.assert_array_equal(t.apply(scanned, jax.jit(t.init)(scanned)).sum((1, 2)), [0, 12, 0])


def test_per_output_by_hand():
    # Each column keeps its two best of four; unstructured would take three of the first.
    scores = [[9.0, 1.0], [8.0, 2.0], [7.0, 3.0], [1.0, 3.0]]
    np.testing.assert_array_equal(mask_of(per_output(), scores, 4), [[1, 0], [1, 0], [0, 1], [0, 1]])
    # 3 weights over 2 outputs is half way between 1 and 2 each: 2. Nothing is one each.
    assert mask_of(per_output(), scores, 3).sum(0).tolist() == [2, 2]
    assert mask_of(per_output(), scores, 0).sum(0).tolist() == [1, 1]
    assert mask_of(per_output(axis=0), scores, 4).sum(1).tolist() == [1, 1, 1, 1]


def test_per_output_of_several_axes():
    scores = normal((4, 2, 3))  # [in, heads, dim]
    assert mask_of(per_output(axis=(-2, -1)), scores, 6).sum(0).tolist() == [[1, 1, 1], [1, 1, 1]]
    assert mask_of(per_output(axis=-2), scores, 6).sum((0, 2)).tolist() == [3, 3]


def test_n_m_by_hand():
    scores = jnp.array([1.0, 4.0, 3.0, 2.0, 5.0, 5.0, 5.0, 5.0, 1.0, 7.0])[:, None]
    # 10 rows are two groups of four and one of two. 2 of each: 4 3 | 5 5 (the lower index) | 1 7.
    np.testing.assert_array_equal(mask_of(n_m(), scores, 6)[:, 0], [0, 1, 1, 0, 1, 1, 0, 0, 1, 1])
    # 3 of each group would keep 3 + 3 + 2 = 8, 2 keep 6: a budget of 7 takes the higher, 6 the lower.
    assert [mask_of(n_m(), scores, keep).sum() for keep in (10, 9, 8, 7, 6, 5, 0)] == [10, 10, 8, 8, 6, 6, 6]
    np.testing.assert_array_equal(mask_of(n_m(1, 4), scores, 3)[:, 0], [0, 1, 0, 0, 1, 0, 0, 0, 0, 1])


def test_n_m_of_fewer_than_a_group_keeps_n():
    """kept_of(2, 0.75) is one of two weights; as a share of four that was two."""
    t = prune(absolute(), pattern=n_m(1, 4))
    assert t.init({"w": jnp.array([[1.0], [2.0]])}).fixed.masks["w"].ravel().tolist() == [False, True]


def test_pattern_library_by_hand():
    """Three kernels of one input channel, two patterns to choose from, then of three the two most wanted."""
    up, low = (np.array(p, np.float32) for p in (UPPER, LOWER))
    scores = np.stack([3 * up + low, up + 2 * low, 4 * up], -1)[:, :, None]  # [3, 3, 1, 3]
    given = pattern_library([UPPER, LOWER])
    mask = mask_of(given, scores, 12)[:, :, 0]
    np.testing.assert_array_equal(mask, np.stack([up, low, up], -1))
    # 8 weights are two kernels: of what they keep, 12 + 1, 8 + 1 and 16, the least goes.
    np.testing.assert_array_equal(mask_of(given, scores, 8)[:, :, 0], np.stack([up, 0 * low, up], -1))
    # 17 weights are a whole kernel and two patterns. A pattern loses 3, 3, 0: the first stays whole.
    np.testing.assert_array_equal(mask_of(given, scores, 17)[:, :, 0], np.stack([up * 0 + 1, low, up], -1))
    # UPPER is best for two, LOWER for one, ROW for none: a library of two is theirs.
    np.testing.assert_array_equal(
        mask_of(pattern_library([ROW, LOWER, UPPER], count=2), scores, 12), mask_of(given, scores, 12)
    )
    # Of one: UPPER for all.
    np.testing.assert_array_equal(
        mask_of(pattern_library([ROW, LOWER, UPPER], count=1), scores, 12)[:, :, 0], np.stack([up] * 3, -1)
    )
    assert given.sparsity == 1 - 4 / 9


def test_pattern_library_has_all_that_hold_the_centre():
    """With room for all 56, each kernel keeps its centre and its three best others."""
    scores = np.abs(normal((3, 3, 4, 5)))
    mask = mask_of(pattern_library(count=56), scores, 4 * 20)
    boosted = scores.copy()
    boosted[1, 1] = INF
    rows = boosted.reshape(9, -1)
    np.testing.assert_array_equal(mask.reshape(9, -1), rows >= np.sort(rows, 0)[5])
    few = mask_of(pattern_library(count=3), scores, 4 * 20).reshape(9, -1)
    assert len(np.unique(few, axis=1).T) <= 3
    assert few[4].all()
    assert (few.sum(0) == 4).all()


# ---- the laws of every pattern

VALUES = st.floats(-4, 4, width=16)


@pytest.mark.parametrize("pattern", [block((2, 3)), n_m(), per_output()])
def test_a_budget_need_not_be_traced(pattern):
    scores = normal((4, 6))
    for keep in (0, 2):
        np.testing.assert_array_equal(
            made(pattern, jnp.asarray(scores), keep), mask_of(pattern, scores, keep)
        )


def check_budget(name, scores, keep):
    pattern, _, units, size = CASES[name]
    mask = mask_of(pattern, scores, keep)
    shares = means_of(pattern, mask)
    assert shares.size == units
    assert set(shares.ravel().tolist()) <= {0.0, 1.0}  # no unit is cut
    assert int(shares.sum()) == keep
    if size is not None:
        assert mask.sum() == keep * size
    return mask


@settings(deadline=None, max_examples=25)
@given(st.data())
@pytest.mark.parametrize("name", ["ragged block", "vector", "kernel", "own axis of heads"])
def test_the_budget_is_exact_and_units_are_whole(name, data):
    _, shape, units, size = CASES[name]
    scores = data.draw(hnp.arrays(np.float32, shape, elements=VALUES))
    mask = check_budget(name, scores, data.draw(st.integers(0, units)))
    if size is not None and 0 < mask.sum() < mask.size:
        means = means_of(CASES[name][0], scores)
        stays = means_of(CASES[name][0], mask) > 0
        assert means[stays].min() >= means[~stays].max()


@pytest.mark.parametrize("name", CASES)
def test_what_is_chosen_keeps_the_most_score(name):
    """Against every choice of as many units; with units of one size that is the most score of weights too."""
    pattern, shape, units, size = CASES[name]
    scores = normal(shape)
    keep = units // 2
    mask = check_budget(name, scores, keep)
    if units > 12:
        best = np.sort(scores.ravel())[-keep:].sum()
    elif size is None:
        means = means_of(pattern, scores).ravel()
        best = max(sum(means[list(own)]) for own in itertools.combinations(range(units), keep))
        assert means_of(pattern, np.where(mask, scores, 0)).sum() == pytest.approx(best, rel=1e-5)
        return
    else:
        one_each = np.eye(units, dtype=bool).reshape(units, *means_of(pattern, scores).shape)
        spread = np.asarray(jax.jit(jax.vmap(lambda chosen: pattern.spread(chosen, shape)))(one_each))
        best = max(
            scores[spread[list(own)].any(0)].sum() for own in itertools.combinations(range(units), keep)
        )
    assert scores[mask].sum() == pytest.approx(best, rel=1e-5)


N_OF_M = {(n, m, axis): n_m(n, m, axis=axis) for n, m, axis in ((2, 4, 0), (1, 3, -1))}
EACH_OUTPUT, LIBRARY = per_output(), pattern_library()  # made once, so that they compile once


@settings(deadline=None, max_examples=40)
@given(st.data())
@pytest.mark.parametrize(("n", "m", "axis"), N_OF_M)
def test_n_of_every_m(n, m, axis, data):
    scores = data.draw(hnp.arrays(np.float32, (8, 7), elements=VALUES | st.just(NAN)))
    keep = data.draw(st.integers(0, scores.size))
    mask = mask_of(N_OF_M[n, m, axis], scores, keep)
    rows = np.moveaxis(mask, axis, -1).reshape(-1, scores.shape[axis])
    values = np.moveaxis(scores, axis, -1).reshape(rows.shape)
    counts = set()
    for start in range(0, rows.shape[1], m):
        group, value = rows[:, start : start + m], values[:, start : start + m]
        counts |= {min(int(c), m) if group.shape[1] == m else None for c in group.sum(1)} - {None}
        for stays, v in zip(group, value, strict=True):
            lowest = np.where(np.isnan(v), -INF, v)
            assert stays.all() or not stays.any() or lowest[stays].min() >= lowest[~stays].max()
    (each,) = counts  # all whole groups alike
    tail = rows.shape[1] % m
    if tail:
        assert (rows[:, -tail:].sum(1) == min(each, tail)).all()
    totals = {e: len(rows) * (rows.shape[1] // m * e + min(e, tail)) for e in range(n, m + 1)}
    assert abs(totals[each] - keep) == min(abs(t - keep) for t in totals.values())


@settings(deadline=None, max_examples=25)
@given(scores=hnp.arrays(np.float32, (6, 5), elements=VALUES), keep=st.integers(1, 30))
def test_every_output_keeps_as_many(scores, keep):
    mask = mask_of(EACH_OUTPUT, scores, keep)
    (each,) = set(mask.sum(0).tolist())
    assert each >= 1
    assert each == 1 or abs(each * 5 - keep) <= 2.5
    for column, stays in zip(scores.T, mask.T, strict=True):
        assert stays.all() or column[stays].min() >= column[~stays].max()


def brute_force(pattern_masks, scores, keep):
    """The most score of any mask: each kernel goes, has a pattern or is whole, `keep` weights in all."""
    options = [np.zeros((3, 3)), np.ones((3, 3)), *pattern_masks]
    kernels = scores.reshape(3, 3, -1)
    best = -INF
    for own in itertools.product(options, repeat=kernels.shape[2]):
        sizes = [int(o.sum()) for o in own]
        if sum(sizes) == keep and not (9 in sizes and 0 in sizes):  # the two stages do not mix
            best = max(best, sum((o * kernels[..., i]).sum() for i, o in enumerate(own)))
    return best


def test_pattern_library_keeps_the_most_score():
    scores = np.abs(normal((3, 3, 2, 2), 3))
    masks = [np.array(p) for p in (UPPER, LOWER, ROW)]
    pattern = pattern_library(masks)
    for keep in (4, 8, 12, 16, 21, 26, 36):
        mask = mask_of(pattern, scores, keep)
        assert mask.sum() == keep
        assert scores[mask].sum() == pytest.approx(brute_force(masks, scores, keep), rel=1e-6)
    np.testing.assert_array_equal(mask_of(pattern, scores, 21), made(pattern, jnp.asarray(scores), 21))


@pytest.mark.parametrize("keep", range(0, 55, 3))
def test_pattern_library_is_within_half_a_kernel(keep):
    mask = mask_of(LIBRARY, np.abs(normal((3, 3, 2, 3))), keep)
    assert abs(mask.sum() - keep) <= (4 if keep == 0 else 2 if keep < 24 else 2.5)


def counts_of(pattern, mask):
    return float(means_of(pattern, mask).sum())


@pytest.mark.parametrize("name", [*CASES, *RULED])
def test_along_a_cubic_ramp(name):
    """Weights change in between; what has gone stays gone, and the ramp ends in what one shot has."""
    pattern, shape, final = RULED[name] if name in RULED else (*CASES[name][:2], 0.75)
    ramp = prune(absolute(), cubic_ramp(final=final, end=4), pattern=pattern)
    once = prune(absolute(), final, pattern=pattern)
    state = State({}, Pruned({"w": np.ones(shape, bool)}, {"w": ()}))
    update = jax.jit(lambda s, p, i: ramp.update(s, p, step=i))
    counts = [counts_of(pattern, state.fixed.masks["w"])]
    for step in range(1, 6):
        before = state.fixed.masks["w"]
        params = {"w": normal(shape, step) + np.where(before, 0, 100).astype(np.float32)}
        state = update(state, params, jnp.int32(step))
        assert not np.any(state.fixed.masks["w"] & ~before)
        counts.append(counts_of(pattern, state.fixed.masks["w"]))
    assert counts[-1] == counts[-2] == counts_of(pattern, jax.jit(once.init)(params).fixed.masks["w"])
    assert counts[0] > counts[1] >= counts[2] >= counts[-2]


def test_a_pattern_in_use_stays_in_the_library():
    """Kernels that have their pattern are few at first: those that are still whole must not vote it out."""
    pattern = pattern_library([UPPER, LOWER, ROW], count=1)
    up, low = np.array(UPPER, np.float32), np.array(LOWER, np.float32)
    gone = np.where(up > 0, up, -INF)
    scores = np.stack([gone, low, low, low], -1)[:, :, None]
    mask = mask_of(pattern, scores, 16)
    np.testing.assert_array_equal(mask[:, :, 0], np.stack([up] * 4, -1))
    # And kernels that are gone have no vote: three of them would choose the first pattern.
    dead = np.full((3, 3), -INF)
    mask = mask_of(pattern, np.stack([low, dead, dead, dead], -1)[:, :, None], 4)
    np.testing.assert_array_equal(mask[:, :, 0], np.stack([low, 0 * up, 0 * up, 0 * up], -1))


# ---- ties, NaN, one at least, and odd arrays


@pytest.mark.parametrize("name", CASES)
def test_ties_keep_the_lower_index_and_nan_goes_first(name):
    pattern, shape, units, _ = CASES[name]
    scores = np.ones(shape, np.float32)
    equal = means_of(pattern, mask_of(pattern, scores, units // 2)).ravel()
    assert equal.tolist() == [True] * (units // 2) + [False] * (units - units // 2)
    scores.flat[0] = NAN  # is in the first unit
    without = means_of(pattern, mask_of(pattern, scores, units - 1)).ravel()
    assert without.tolist() == [False] + [True] * (units - 1)


def test_nan_goes_first_where_single_weights_are_ruled():
    column = jnp.array([NAN, -INF, 3.0, NAN])[:, None]
    np.testing.assert_array_equal(mask_of(n_m(), column, 2)[:, 0], [0, 1, 1, 0])
    np.testing.assert_array_equal(mask_of(n_m(3, 4), column, 3)[:, 0], [1, 1, 1, 0])
    np.testing.assert_array_equal(mask_of(per_output(), column, 2)[:, 0], [0, 1, 1, 0])
    scores = np.abs(normal((3, 3, 1, 3)))
    scores[0, 0, 0, 1] = NAN
    mask = mask_of(pattern_library(count=56), scores, 12)
    assert mask.sum() == 12
    assert not mask[0, 0, 0, 1]
    scores[1, 1, 0, 1] = NAN  # the centre, which every pattern has
    np.testing.assert_array_equal(mask_of(pattern_library(), scores, 8)[1, 1, 0], [1, 0, 1])


def test_a_unit_of_several_nan_is_not_taken_for_one_that_is_gone():
    """Under a schedule NaN counts as the lowest number: the sum of several overflowed to -inf."""
    t = prune(absolute(), lambda step: 0.5, pattern=vector(2))
    state = t.init({"w": jnp.array([1.0, 1.0, 2.0, 2.0, 0.0, 0.0, 3.0, 3.0])})
    np.testing.assert_array_equal(state.fixed.masks["w"], [0, 0, 1, 1, 0, 0, 1, 1])
    nan = {"w": jnp.array([1.0, 1.0, NAN, NAN, 0.0, 0.0, NAN, NAN])}
    np.testing.assert_array_equal(t.update(state, nan, step=1).fixed.masks["w"], [0, 0, 1, 1, 0, 0, 1, 1])


@pytest.mark.parametrize("name", [*CASES, *RULED])
def test_one_unit_stays(name):
    pattern, shape, *_ = CASES.get(name) or RULED[name]
    units = means_of(pattern, np.zeros(shape)).size
    count = counts_of(pattern, mask_of(pattern, normal(shape), kept_of(units, 0.9999)))
    floors = {"2:4": 12, "1:3, ragged": 6, "per output": 3, "patterns": 4, "patterns and connectivity": 4}
    assert count == floors.get(name, 1)


@pytest.mark.parametrize(
    "pattern", [unstructured(), block(), vector(3), channel(), n_m(), per_output(), layer()]
)
def test_empty_arrays(pattern):
    for shape in ((0, 3), (3, 0)):
        assert mask_of(pattern, np.zeros(shape), 1).shape == shape


def test_a_single_number_is_a_layer():
    assert mask_of(layer(), np.float32(2), 1).shape == ()


@pytest.mark.parametrize("pattern", [block((2, 2)), channel(), n_m(), per_output()])
def test_stacked_is_layer_by_layer(pattern):
    weights = normal((3, 4, 6))
    t = prune(absolute(), 0.5, pattern=pattern)
    init = jax.jit(t.init)
    whole = jax.jit(stacked(t).init)({"w": weights}).fixed.masks["w"]
    for one, mask in zip(weights, whole, strict=True):
        np.testing.assert_array_equal(mask, init({"w": one}).fixed.masks["w"])


def test_they_print_as_their_calls():
    assert repr(vector(4)) == "vector(4)"
    assert repr(block((2, 2), axes=(0, 1))) == "block((2, 2), axes=(0, 1))"
    assert repr(pattern_library(count=4)) == "pattern_library(count=4)"


def test_as_pytorch_prunes_channels():
    """Against `ln_structured` with n = 1: the same filters and input channels, by L1 norm."""
    torch = pytest.importorskip("torch", reason="torch is absent: nothing to compare with")
    from torch.nn.utils import prune as torch_prune

    for shape, order in (((5, 8), (1, 0)), ((3, 3, 4, 8), (3, 2, 0, 1))):
        weights = normal(shape)
        is_dense = len(shape) == 2
        module = torch.nn.Linear(*shape) if is_dense else torch.nn.Conv2d(shape[2], shape[3], shape[0])
        for axis, dim in ((-1, 0), (-2, 1)):
            module.weight = torch.nn.Parameter(torch.from_numpy(weights.transpose(order).copy()))
            torch_prune.ln_structured(module, "weight", amount=2, n=1, dim=dim)
            theirs = module.weight_mask.numpy().transpose(np.argsort(order))
            torch_prune.remove(module, "weight")
            np.testing.assert_array_equal(
                mask_of(channel(axis=axis), np.abs(weights), shape[axis] - 2), theirs
            )


# ---- refusals


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: block((4, 0)), r"shape must be sizes of at least 1, got \(4, 0\); \(4, 4\) is blocks of 16"),
        (lambda: block(()), r"shape must be sizes of at least 1, got \(\)"),
        (
            lambda: block((4, 4), axes=(-1,)),
            r"axes must be one for each of the sizes \(4, 4\), got \(-1,\); name an axis a size",
        ),
        (
            lambda: block((2, 2), axes=(-1, 1)).check((3, 3), "w"),
            r"axes must be different axes of 'w', got \(-1, 1\); name each once",
        ),
        (
            lambda: block().check((3,), "bias"),
            r"axis must be one of the 1 axes of 'bias', got -2; exclude the leaf",
        ),
        (lambda: vector(0), r"length must be at least 1, got 0; it counts the weights of a run"),
        (lambda: vector(2).check((), "w"), r"axis must be one of the 0 axes of 'w', got -1"),
        (
            lambda: kernel().check((8, 4), "w"),
            r"shape of 'w' must be \[\*spatial, in, out\] of a convolution, got \(8, 4\); exclude the leaf",
        ),
        (lambda: channel(axis=2).check((8, 4), "w"), r"axis must be one of the 2 axes of 'w', got 2"),
        (lambda: head(0), r"heads must be at least 1, got 0; it counts the heads along the axis"),
        (
            lambda: head(3).check((2, 8), "w"),
            r"heads must divide axis -1 of 'w' with 8 indices, got 3; name the axis of the heads",
        ),
        (lambda: head(3, axis=2).check((2, 9), "w"), r"axis must be one of the 2 axes of 'w', got 2"),
        (lambda: layer(axis=0).check((), "w"), r"axis must be one of the 0 axes of 'w', got 0"),
        (lambda: per_output(axis=(0, 2)).check((2, 9), "w"), r"axis must be one of the 2 axes of 'w', got 2"),
        (lambda: n_m(0, 4), r"n must be from 1 to m with m 4, got 0; 2:4 is n_m\(2, 4\)"),
        (lambda: n_m(5, 4), r"n must be from 1 to m with m 4, got 5"),
        (lambda: n_m().check((4,), "bias"), r"axis must be one of the 1 axes of 'bias', got -2"),
        (lambda: pattern_library(count=0), r"count must be at least 1, got 0; it is how many patterns"),
        (lambda: pattern_library(entries=0), r"entries must be from 1 to 8, got 0; the paper keeps 4 places"),
        (lambda: pattern_library(entries=9), r"entries must be from 1 to 8, got 9"),
        (
            lambda: pattern_library([[1, 0, 1]]),
            r"patterns must be \[patterns, 3, 3\], got \(1, 3\); give one 3x3 a pattern",
        ),
        (lambda: pattern_library([]), r"patterns must be \[patterns, 3, 3\], got \(0,\)"),
        (
            lambda: pattern_library([UPPER], entries=5),
            r"patterns must have 5 ones, the centre among them, got \[\[1, 1, 0\].*; say how many by entries",
        ),
        (
            lambda: pattern_library([[[1, 1, 1], [1, 0, 0], [0, 0, 0]]]),
            r"patterns must have 4 ones, the centre among them, got \[\[1, 1, 1\], \[1, 0, 0\]",
        ),
        (
            lambda: pattern_library().check((5, 5, 2, 2), "w"),
            r"shape of 'w' must be \[3, 3, in, out\] of a convolution, got \(5, 5, 2, 2\); exclude the leaf",
        ),
    ],
)
def test_refusals(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_refusal_comes_from_init_with_the_path():
    t = prune(absolute(), 0.5, pattern=kernel())
    with pytest.raises(ValueError, match=r"shape of 'dense/kernel' must be \[\*spatial, in, out\]"):
        t.init({"dense": {"kernel": jnp.ones((4, 2))}})
