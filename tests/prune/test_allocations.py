"""Allocations: budgets that are met exactly, whatever they are shared out among."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from efficient.core.schedules import cubic_ramp
from efficient.prune import kept_of, prune
from efficient.prune.allocations import at_most, erdos_renyi, from_sensitivity, per_leaf, together
from efficient.prune.allocations.erdos_renyi import _rounded, weights_of
from efficient.prune.patterns import block, channel, layer
from efficient.prune.scores import absolute

NETS = [
    [(2, 8), (3, 3, 2, 4), (10, 10)],
    [(3, 3, 1, 16), (3, 3, 16, 32), (512, 10), (10,)],
    [(1, 1), (300, 100), (7,)],
    [(4, 4)],
]


def share(allocation, scores, sparsity):
    """Kept units by path, of arrays whose units are single weights."""
    scores = {path: jnp.asarray(s, jnp.float32) for path, s in scores.items()}
    kept = allocation.share(scores, {path: s.shape for path, s in scores.items()}, sparsity)
    return {path: int(k) for path, k in kept.items()}


def ones(*shapes):
    return {f"a{i}": np.ones(shape) for i, shape in enumerate(shapes)}


# ---- per leaf


def test_per_leaf_by_hand():
    # 16 - 8, 10 - 5, and 3 - round(1.5) = 1.
    assert share(per_leaf(), ones((4, 4), (10,), (3,)), 0.5) == {"a0": 8, "a1": 5, "a2": 1}
    assert share(per_leaf(), ones((4, 4), (10,)), 0.99) == {"a0": 1, "a1": 1}


# ---- together


def test_together_by_hand():
    # Half of 8: 9, 8, 7, 6; a tie would take the first array's.
    scores = {"a": [9, 1, 7, 0], "b": [8, 6, 2, 3]}
    assert share(together(), scores, 0.5) == {"a": 2, "b": 2}
    assert share(together(), {"a": [5, 5], "b": [5, 5]}, 0.25) == {"a": 2, "b": 1}
    assert share(together(), {"a": [math.nan, 1], "b": [2, 3]}, 0.25) == {"a": 1, "b": 2}
    assert share(together(), {"a": [1, 2], "b": [8, 9]}, 0.99) == {"a": 0, "b": 1}


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 99), sparsity=st.floats(0, 0.999))
def test_together_is_exact_for_single_weights(seed, sparsity):
    draw = np.random.default_rng(seed)
    scores = {"a": draw.integers(0, 5, (3, 4)), "b": draw.integers(0, 5, (1, 1)), "c": draw.integers(0, 5, 7)}
    kept = share(together(), scores, sparsity)
    total = sum(s.size for s in scores.values())
    assert sum(kept.values()) == kept_of(total, sparsity)
    # NumPy's stable sort of all says where they stand.
    flat = np.concatenate([s.ravel() for s in scores.values()])
    owner = np.repeat(list(scores), [s.size for s in scores.values()])
    first = owner[np.argsort(-flat, kind="stable")][: sum(kept.values())]
    assert kept == {path: int((first == path).sum()) for path in scores}


def test_together_with_units_of_different_size():
    """Filters of 6 weights and of 2; 16 weights in all, of which 16 - round(16 s) are the budget."""
    params = {"a": jnp.array([[3.0, 1.0]] * 6), "b": jnp.array([[4.0, 2.0]] * 2)}
    pooled = {path: channel().pool(w) for path, w in params.items()}
    shapes = {path: w.shape for path, w in params.items()}
    # The best are b's of 2 (2 weights in all), a's of 6 (8), b's of 2 (10), a's of 6 (16).
    counts = {
        0.999: (0, 1),  # 1 at least
        0.75: (0, 1),  # 4 weights: 2 is nearer than 8
        0.625: (1, 1),  # 6: 8 is nearer than 2
        0.5: (1, 1),  # 8
        0.375: (1, 2),  # 10
        0.1875: (1, 2),  # 13 is half way from 10 to 16: the next must bring it nearer
        0.125: (2, 2),  # 14
    }
    for sparsity, (a, b) in counts.items():
        kept = together().share(pooled, shapes, sparsity)
        assert (int(kept["a"]), int(kept["b"])) == (a, b), sparsity


def test_together_agrees_with_per_leaf_on_one_array():
    pooled = {"w": jnp.arange(10.0)[:, None]}
    kept = jax.jit(lambda sparsity: together().share(pooled, {"w": (40, 8)}, sparsity)["w"])
    for sparsity in (0.0, 0.31, 0.54, 0.58, 0.96):
        assert int(kept(jnp.float32(sparsity))) == kept_of(10, sparsity)


def test_together_past_what_float32_counts():
    """2^24 + 3 weights in units of 2^20: summed in float32 the last would be lost."""
    pooled, shapes = {"w": jnp.ones(16), "v": jnp.zeros(3)}, {"w": (2**24,), "v": (3,)}
    kept = together().share(pooled, shapes, 0.0)
    assert {path: int(k) for path, k in kept.items()} == {"w": 16, "v": 3}
    kept = together().share(pooled, shapes, 2 / (2**24 + 3))
    assert {path: int(k) for path, k in kept.items()} == {"w": 16, "v": 1}


def test_empty_arrays():
    for allocation in (together(), erdos_renyi()):
        assert share(allocation, ones((4, 2), (0, 3)), 0.5) == {"a0": 4, "a1": 0}


# ---- Erdos-Renyi


def test_erk_by_hand():
    # 16, 72 and 100 weights with sums of sizes 10, 12 and 20; half is 94.
    # eps = 94 / 42 = 2.24 would give the first 22.4 of 16: it is dense. eps = 78 / 32 = 2.4375 gives the
    # others 29.25 and 48.75, which round to 29 and 49.
    assert weights_of(NETS[0], 0.5) == [16, 29, 49]
    # At 0.75, eps = 47 / 42: 11.19, 13.43, 22.38 are 46 by their whole parts; the largest fraction is .43.
    assert weights_of(NETS[0], 0.75) == [11, 14, 22]


def test_er_by_hand():
    # Inputs and outputs alone: 10/16, 6/8, 20/100 times eps, of 16, 72 and 100 weights: 10, 54 and 20 eps.
    # 47 = 84 eps: 5.60, 30.21, 11.19.
    assert weights_of(NETS[0], 0.75, kernel=False) == [6, 30, 11]
    # Half, 94 = 84 eps, would give 11.19, 60.43, 22.38: none is capped.
    assert weights_of(NETS[0], 0.5, kernel=False) == [11, 61, 22]


def test_erk_cascade_of_caps():
    """Capping one array raises eps and caps the next."""
    # 62 of 120 weights stay; sums of sizes are 4, 8 and 20. eps = 62/32 = 1.94 gives 7.8 of 4 and 15.5 of 16.
    # With the first dense, eps = 58/28 = 2.07 gives 16.6 of 16 too; 42 are left for the last.
    assert weights_of([(2, 2), (4, 4), (10, 10)], 58 / 120) == [4, 16, 42]


def densities_of_the_paper(shapes, budget):
    """Fractions by the paper's words: scale, make dense what is above 1, and scale the others again."""
    dense = set()
    while True:
        free = [i for i in range(len(shapes)) if i not in dense]
        left = budget - sum(math.prod(shapes[i]) for i in dense)
        eps = left / sum(sum(shapes[i]) for i in free) if free else 0
        density = [1.0 if i in dense else eps * sum(s) / math.prod(s) for i, s in enumerate(shapes)]
        above = [i for i in free if density[i] > 1]
        if not above:
            return density
        dense |= set(above)


@settings(deadline=None, max_examples=60)
@given(net=st.sampled_from(NETS), sparsity=st.floats(0, 0.95))
def test_erk_is_the_papers_and_sums_to_the_budget(net, sparsity):
    kept = weights_of(net, sparsity)
    sizes = [math.prod(shape) for shape in net]
    budget = kept_of(sum(sizes), sparsity)
    assert sum(kept) == budget
    assert all(1 <= k <= n for k, n in zip(kept, sizes, strict=True))
    quotas = [d * n for d, n in zip(densities_of_the_paper(net, budget), sizes, strict=True)]
    if min(quotas) >= 1:  # below, each keeps one
        assert all(abs(k - q) < 1 for k, q in zip(kept, quotas, strict=True))


@pytest.mark.parametrize("net", NETS[:3])
def test_erk_under_a_schedule(net):
    """A traced sparsity is shared out to the last weight, in one program."""
    sizes = [math.prod(shape) for shape in net]
    traced = jax.jit(lambda s: jnp.stack(weights_of(net, s)))
    for sparsity in (0.0, 0.125, 0.5, 0.75, 0.9375, 0.9990234375):
        kept = np.asarray(traced(jnp.float32(sparsity)))
        assert kept.sum() == max(kept_of(sum(sizes), sparsity), len(net))
        assert (kept >= 1).all()
        assert (kept <= sizes).all()
        assert np.abs(kept - weights_of(net, sparsity)).max() <= 1


def test_erk_of_millions_in_float32():
    """Where a quota is more than float32 can count, what it is off by is handed out too."""
    net = [(30000, 1001), (7, 3, 64, 64), (2003, 5001), (10,)]
    total = sum(math.prod(shape) for shape in net)
    for sparsity in (0.1, 0.5, 0.9):
        traced = jax.jit(lambda s: jnp.stack(weights_of(net, s)))(jnp.float32(sparsity))
        assert int(traced.sum()) == int(kept_of(total, jnp.float32(sparsity)))
        exact = np.array(weights_of(net, sparsity))
        assert exact.sum() == kept_of(total, sparsity)
        np.testing.assert_allclose(np.asarray(traced), exact, rtol=2**-20, atol=2)


@pytest.mark.parametrize("budget", [2, 7, 10, 11, 16, 40])
def test_what_quotas_are_off_by_is_handed_out_or_taken_back(budget):
    """Quotas sum to 10.9; largest remainders make up for one each, and room for the rest."""
    quotas, least, most = np.array([5.2, 5.7]), np.array([1, 1]), np.array([20, 20])
    for xp in (np, jnp):
        counts = np.asarray(_rounded(xp.asarray(quotas), budget, least, most, xp))
        assert counts.sum() == budget
        assert (counts >= least).all()
        assert (counts <= most).all()
    if budget == 11:
        assert counts.tolist() == [5, 6]


def test_erk_keeps_one_of_each():
    assert weights_of([(100, 100), (2, 2), (1,)], 0.9999) == [1, 1, 1]  # of a budget of one
    assert weights_of([(100, 100), (2, 2), (1,)], 0.9995) == [3, 1, 1]


def test_erk_of_blocks():
    """[8, 8] and [16, 16] keep 80 of 320 weights; 80/48 * 16 = 26.7 and 53.3, in blocks of 16: 2 and 3."""
    pooled = {"a": jnp.ones((2, 2)), "b": jnp.ones((4, 4))}
    shapes = {"a": (8, 8), "b": (16, 16)}
    assert erdos_renyi().share(pooled, shapes, 0.75) == {"a": 2, "b": 3}
    traced = jax.jit(lambda s: erdos_renyi().share(pooled, shapes, s))(jnp.float32(0.75))
    assert {path: int(k) for path, k in traced.items()} == {"a": 2, "b": 3}
    assert erdos_renyi().share(pooled, shapes, 0.99) == {"a": 1, "b": 1}


def test_erk_along_a_ramp_in_prune():
    """What has gone stays gone, and every step has the schedule's budget."""
    params = {
        "a": jax.random.normal(jax.random.key(0), (2, 8)),
        "b": jax.random.normal(jax.random.key(1), (8, 10)),
    }
    t = prune(absolute(), cubic_ramp(final=0.75, end=4), allocation=erdos_renyi())
    state = jax.jit(t.init)(params)
    update = jax.jit(lambda s, i: t.update(s, params, step=i))
    for step in range(1, 6):
        before, state = state.fixed.masks, update(state, jnp.int32(step))
        assert not any(np.any(state.fixed.masks[p] & ~before[p]) for p in params)
        sparsity = 0.75 * (1 - (1 - min(step / 4, 1)) ** 3)  # a number of 256ths
        assert sum(int(m.sum()) for m in state.fixed.masks.values()) == kept_of(96, sparsity)
    assert {p: int(m.sum()) for p, m in state.fixed.masks.items()} == dict(
        zip(params, weights_of([(2, 8), (8, 10)], 0.75), strict=True)
    )


# ---- at most


def test_at_most_by_hand():
    scores = {"conv1/kernel": np.ones(10), "conv2/kernel": np.ones(10), "out/kernel": np.ones(10)}
    allocation = at_most({"conv1/*": 0.0, re.compile("conv.*"): 0.5, "**/kernel": 0.8})
    assert share(allocation, scores, 0.9) == {"conv1/kernel": 10, "conv2/kernel": 5, "out/kernel": 2}
    assert share(allocation, scores, 0.6) == {"conv1/kernel": 10, "conv2/kernel": 5, "out/kernel": 4}
    # Without a limit: the sparsity asked for.
    assert share(at_most({"conv1/*": 0.3}), scores, 0.9) == {
        "conv1/kernel": 7,
        "conv2/kernel": 1,
        "out/kernel": 1,
    }


def test_at_most_along_a_ramp():
    """All rise together; each stops at its own limit."""
    params = {"a": jnp.arange(1.0, 17.0), "b": jnp.arange(1.0, 17.0)}
    t = prune(absolute(), cubic_ramp(final=0.75, end=4), allocation=at_most({"a": 0.25}))
    state = jax.jit(t.init)(params)
    update = jax.jit(lambda s, i: t.update(s, params, step=i))
    counts = []
    for step in range(1, 5):
        state = update(state, jnp.int32(step))
        counts.append([int(state.fixed.masks[p].sum()) for p in "ab"])
    # 0.75 (1 - (1 - t/4)^3) of 16 go: 6.94, 10.5 (to even: 10), 11.8, 12; of a 4 at most.
    assert counts == [[12, 9], [12, 6], [12, 4], [12, 4]]


def test_from_sensitivity_by_hand():
    curves = {
        "first": {0.9: 3.0, 0.3: 0.2, 0.6: 0.5},  # in any order; 0.5 is still borne
        "middle": {0.3: 0.1, 0.6: 0.9, 0.9: 0.2},  # what is above comes before: a luckier one does not count
        "last": {0.3: 0.0, 0.6: 0.0, 0.9: math.nan},
        "fragile": {0.3: 1.0},
        "unknown": {},
    }
    limits = from_sensitivity(curves, most_loss=0.5)
    assert limits == {"first": 0.6, "middle": 0.3, "last": 0.6, "fragile": 0.0, "unknown": 0.0}
    scores = {path: np.ones(10) for path in curves}
    assert list(share(at_most(limits), scores, 0.95).values()) == [4, 7, 4, 10, 10]


@settings(deadline=None, max_examples=60)
@given(
    curve=st.dictionaries(st.sampled_from([0.1, 0.3, 0.5, 0.7, 0.9]), st.floats(0, 1)),
    bounds=st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted),
)
def test_a_higher_loss_bears_a_higher_sparsity(curve, bounds):
    low, high = (from_sensitivity({"w": curve}, most_loss=bound)["w"] for bound in bounds)
    assert low <= high
    assert all(loss <= bounds[0] for sparsity, loss in curve.items() if sparsity <= low)


# ---- refusals


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: at_most({"a": 1.0}), r"limit of 'a' must be in \[0, 1\), got 1.0; 0.9 zeros nine weights"),
        (lambda: at_most({"a": math.nan}), r"limit of 'a' must be in \[0, 1\), got nan"),
        (
            lambda: share(at_most({"conv/kernal": 0.5}), {"conv/kernel": np.ones(4)}, 0.9),
            r"pattern must match at least one path, got 'conv/kernal' that matches none; did you mean "
            r"'conv/kernel'\?",
        ),
        (lambda: from_sensitivity({}, most_loss=math.nan), r"most_loss must be a number, got nan; it is the"),
        (
            lambda: from_sensitivity({"w": {1.5: 0.0}}, most_loss=1.0),
            r"sparsity of 'w' must be in \[0, 1\), got 1.5; 0.9 zeros",
        ),
    ],
)
def test_refusals(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_they_print_as_their_calls():
    assert repr(erdos_renyi(kernel=False)) == "erdos_renyi(kernel=False)"
    assert repr(at_most({"a": 0.5})) == "at_most({'a': 0.5})"


@pytest.mark.parametrize("pattern", [block((2, 2)), layer()])
def test_prune_takes_any_pattern_with_any_allocation(pattern):
    """The grid: units shared out by each rule. None is cut, and one of all stays."""
    whole = jax.jit(pattern.pool)
    params = {"a": jax.random.normal(jax.random.key(0), (4, 6)), "b": jnp.ones((2, 4))}
    grid = [
        prune(absolute(), 0.75, pattern=pattern, allocation=allocation)
        for allocation in (per_leaf(), together(), erdos_renyi(), at_most({"a": 0.5}))
    ]
    for state in jax.jit(lambda p: [t.init(p) for t in grid])(params):
        masks = state.fixed.masks
        assert any(mask.any() for mask in masks.values())
        for path, mask in masks.items():
            units = np.asarray(whole(mask.astype(jnp.float32)))
            assert set(units.ravel().tolist()) <= {0.0, 1.0}, path
