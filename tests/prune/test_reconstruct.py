"""Weights corrected for those that go: against NumPy in float64, brute force, and the theory of OBS."""

import inspect
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from efficient import at, dense, stacked
from efficient.core.hessian import LEAST, TRIES, first_finite, inverse_factor
from efficient.core.observe import observe
from efficient.core.statistics import Statistics
from efficient.prune import magnitude, prune
from efficient.prune.mask import kept_of
from efficient.prune.patterns import n_m
from efficient.prune.reconstruct import (
    correct,
    corrected,
    lasso,
    optimal_brain_surgeon,
    sparsegpt,
    thinet,
)
from efficient.prune.reconstruct.channels import products_of
from efficient.prune.reconstruct.lasso import descended, survivors
from efficient.prune.reconstruct.sparsegpt import _budgets
from efficient.prune.reconstruct.thinet import least_sum
from efficient.prune.scores import absolute

INPUTS, OUTPUTS = 12, 5
EPS = 2.0**-24
METHODS = {
    "sparsegpt": sparsegpt(0.5, damping=0.0),
    "optimal_brain_surgeon": optimal_brain_surgeon(0.5, damping=0.0),
    "corrected": corrected(magnitude(0.5), damping=0.0),
    "thinet": thinet(0.5, damping=0.0),
    "lasso": lasso(0.5, damping=0.0),
}


def told(gram, path="w"):
    """Statistics of a weight [inputs, outputs]."""
    gram = jnp.asarray(gram, jnp.float32)
    one = jnp.float32(1)
    made = Statistics(path=path, features=(-2,), contracted=(-2,), count=one, gram=gram, gram_count=one)
    return {path: made}


def drawn(seed, *, samples=64, inputs=INPUTS, outputs=OUTPUTS):
    """A layer's weights, and the Gram matrix of correlated inputs: H of condition about 100."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(samples, inputs)) @ (np.eye(inputs) + 0.4 * rng.normal(size=(inputs, inputs)))
    w = rng.normal(size=(inputs, outputs)).astype(np.float32)
    return w, (x.T @ x).astype(np.float32)


def solved(t, w, gram):
    """The weights shown, float64, and their mask."""
    state = t.init({"w": jnp.asarray(w)}, stats=told(gram))
    shown = np.asarray(t.apply({"w": jnp.asarray(w)}, state)["w"], np.float64)
    assert not np.any(shown[~state.fixed["w"].mask])
    return shown, np.asarray(state.fixed["w"].mask)


def error(w, new, gram):
    d = np.asarray(new, np.float64) - np.asarray(w, np.float64)
    return float(np.einsum("io,ij,jo->", d, np.asarray(gram, np.float64), d))


def bound(w, gram):
    """Of float32 solves with this matrix: sixteen roundings, magnified by its condition number."""
    return 16 * EPS * np.linalg.cond(np.asarray(gram, np.float64)) * np.abs(w).max()


def least_squares(w, mask, gram):
    """The best weights for a mask, float64, output by output: H_SS w'_S = H_S: w."""
    w, gram = np.asarray(w, np.float64), np.asarray(gram, np.float64)
    new = np.zeros_like(w)
    for o in range(w.shape[1]):
        s = np.flatnonzero(mask[:, o])
        new[s, o] = np.linalg.solve(gram[np.ix_(s, s)], gram[s] @ w[:, o])
    return new


def magnitude_shown(w, sparsity=0.5):
    """The weights that magnitude pruning shows."""
    t, params = magnitude(sparsity), {"w": jnp.asarray(w)}
    return np.asarray(t.apply(params, t.init(params))["w"])


# By hand.


@pytest.mark.parametrize("name", METHODS)
def test_by_hand(name):
    # H = [[2, 1], [1, 2]], w = [1, 3]. H^-1 = [[2, -1], [-1, 2]] / 3: without the first weight the loss rises
    # by 1^2 / (2/3) = 1.5, without the second by 9 / (2/3) = 13.5. The first goes; the second gains
    # -1 * (-1/3) / (2/3) = 0.5. The change is d = [-1, 0.5]: d^T H d = 2 - 1 + 0.5 = 1.5, as said.
    # Channels: |Y_0|^2 = 1 * 2 * 1 = 2, |Y_1|^2 = 3 * 2 * 3 = 18: the first goes too.
    # Six such pairs do not know of each other, nor do five such outputs: 30 of 60 weights go, 30 times 1.5.
    w = np.tile([[1.0], [3.0]], (6, OUTPUTS)).astype(np.float32)
    gram = np.kron(np.eye(6), [[2.0, 1.0], [1.0, 2.0]])
    shown, _ = solved(METHODS[name], w, gram)
    np.testing.assert_allclose(shown, np.tile([[0.0], [3.5]], (6, OUTPUTS)), rtol=16 * EPS)
    np.testing.assert_allclose(error(w, shown, gram), 45, rtol=16 * EPS)


def test_inverse_factor_by_hand():
    # U^T U = H^-1 = [[2, -1], [-1, 2]] / 3: U = [[sqrt(2/3), -1 / sqrt(6)], [0, sqrt(1/2)]].
    u = inverse_factor(jnp.array([[2.0, 1.0], [1.0, 2.0]]))
    np.testing.assert_allclose(u, [[(2 / 3) ** 0.5, -(6**-0.5)], [0, 0.5**0.5]], rtol=4 * EPS)


# SparseGPT against Algorithm 1.


def algorithm_1(w, gram, *, sparsity, group, budgets, damping, n=None):
    """Input after input in float64, each with the inverse of the Hessian of those not yet done, as it is."""
    w, h = np.array(w, np.float64), np.array(gram, np.float64)
    h += damping * np.trace(h) / len(h) * np.eye(len(h))
    own = np.array([np.linalg.inv(h[j:, j:])[0, 0] for j in range(len(h))])
    mask = np.zeros(w.shape, bool)
    for j in range(len(h)):
        if j % group == 0:
            inside = slice(j, min(j + group, len(h)))
            saliency = w[inside] ** 2 / own[inside, None]
            if n is None:
                best = np.argsort(-saliency.ravel(), kind="stable")[: budgets[j // group]]
                mask[inside].reshape(-1)[best] = True
            else:
                rank = np.argsort(np.argsort(-saliency, axis=0, kind="stable"), axis=0)
                mask[inside] = rank < n
        inverse = np.linalg.inv(h[j:, j:])
        gone = np.where(mask[j], 0, w[j])
        w[j:] -= np.outer(inverse[:, 0], gone) / inverse[0, 0]
    return np.where(mask, w, 0), mask


CASES = {
    "one block": {"sparsity": 0.5},
    "blocks that do not divide": {"sparsity": 0.7, "block": 5},
    "each input by itself": {"sparsity": 0.4, "block": 1},
    "2:4, a block rounded up": {"n_m": (2, 4), "block": 6},
    "2:5, a last group of two": {"n_m": (2, 5), "block": 5},
}


@pytest.mark.parametrize("name", CASES)
def test_sparsegpt_is_algorithm_1(name):
    case = CASES[name]
    sparsity, (n, m) = case.get("sparsity", 0.0), case.get("n_m", (None, None))
    group = m or min(case.get("block", 128), INPUTS)
    for seed in range(8):
        w, gram = drawn(seed)
        budgets = _budgets(INPUTS, OUTPUTS, group, sparsity)
        expected, mask = algorithm_1(
            w, gram, sparsity=sparsity, group=group, budgets=budgets, damping=0.01, n=n
        )
        shown, stays = solved(sparsegpt(**case), w, gram)
        np.testing.assert_array_equal(stays, mask)
        np.testing.assert_allclose(shown, expected, rtol=0, atol=bound(w, gram))
        if n is None:
            assert stays.sum() == kept_of(w.size, sparsity)
        else:
            for first in range(0, INPUTS, m):
                assert set(stays[first : first + m].sum(0).tolist()) == {n}


@given(
    inputs=st.integers(1, 70),
    outputs=st.integers(1, 9),
    block=st.integers(1, 70),
    sparsity=st.floats(0, 0.9999),
)
def test_budgets_of_blocks_are_exact_in_sum(inputs, outputs, block, sparsity):
    kept = _budgets(inputs, outputs, block, sparsity)
    sizes = np.diff([0, *(outputs * min(end, inputs) for end in range(block, inputs + block, block))])
    assert kept.sum() == kept_of(inputs * outputs, sparsity)
    assert np.all(kept >= 0)
    assert np.all(kept <= sizes)
    assert np.all(np.abs(kept - (1 - sparsity) * sizes) <= 1 + 1e-6 + (kept.sum() == 1))


def test_sparsegpt_is_least_squares_where_those_that_go_come_first():
    """Later inputs alone make up for a loss: if all that go come first, that is all that could."""
    for seed in range(4):
        w, gram = drawn(seed)
        w[:6] /= 1e3  # these go
        shown, mask = solved(sparsegpt(0.5, damping=0.0), w, gram)
        np.testing.assert_array_equal(mask, np.arange(INPUTS)[:, None].repeat(OUTPUTS, 1) >= 6)
        np.testing.assert_allclose(shown, least_squares(w, mask, gram), rtol=0, atol=bound(w, gram))


def test_sparsegpt_loses_less_than_magnitude():
    """Of the same budget, in blocks that adapt to what came before (in one block, it may lose more)."""
    for seed in range(12):
        w, gram = drawn(seed, samples=400, inputs=64, outputs=32)
        kept = magnitude_shown(w)
        shown, mask = solved(sparsegpt(0.5, block=16), w, gram)
        assert mask.sum() == np.count_nonzero(kept)
        assert error(w, shown, gram) < 0.75 * error(w, kept, gram)


# Optimal Brain Surgeon and least squares.


def test_a_correction_never_loses_and_is_the_best_for_its_mask():
    """Theorem: tr(D^T H D) of the least squares is at most that of no change, and its gradient is zero."""
    surgeon = optimal_brain_surgeon(0.5, damping=0.0)
    for seed in range(20):
        w, gram = drawn(seed)
        plain, (shown, mask) = magnitude_shown(w), solved(METHODS["corrected"], w, gram)
        np.testing.assert_array_equal(mask, plain != 0)
        np.testing.assert_allclose(shown, least_squares(w, mask, gram), rtol=0, atol=bound(w, gram))
        assert error(w, shown, gram) < error(w, plain, gram)
        assert error(w, solved(surgeon, w, gram)[0], gram) < error(w, plain, gram)


def test_a_mask_of_2_4_corrected():
    w, gram = drawn(1)
    shown, mask = solved(corrected(prune(absolute(), pattern=n_m(2, 4))), w, gram)
    assert set(mask.reshape(3, 4, OUTPUTS).sum(1).ravel().tolist()) == {2}
    assert error(w, shown, gram) < error(w, np.where(mask, w, 0), gram)


def greedy(w, gram, gone):
    """OBS in float64 by definition: each step tries every weight left, and solves for the rest."""
    mask = np.ones(w.shape, bool)
    for _ in range(gone):
        tried = []
        for place in np.argwhere(mask):
            without = mask.copy()
            without[tuple(place)] = False
            tried.append((error(w, least_squares(w, without, gram), gram), tuple(place)))
        mask[min(tried)[1]] = False
    return mask


def test_optimal_brain_surgeon_is_greedy_and_brute_force_is_never_worse():
    """Three of six weights go, all 20 masks tried: greedy is the best of them more often than not."""
    optimal = 0
    for seed in range(12):
        w, gram = drawn(seed, inputs=6, outputs=1)
        best = min(
            error(w, least_squares(w, np.isin(np.arange(6), stay)[:, None], gram), gram)
            for stay in itertools.combinations(range(6), 3)
        )
        shown, mask = solved(METHODS["optimal_brain_surgeon"], w, gram)
        np.testing.assert_array_equal(mask, greedy(w, gram, 3))
        np.testing.assert_allclose(shown, least_squares(w, mask, gram), rtol=0, atol=bound(w, gram))
        found, tolerance = error(w, least_squares(w, mask, gram), gram), 1e-9 * error(w, 0 * w, gram)
        assert found >= best - tolerance
        optimal += found <= best + tolerance
    assert 6 < optimal < 12  # on the others the best mask is not on greedy's way


def test_optimal_brain_surgeon_shares_the_budget_among_outputs():
    w, gram = drawn(3)
    w *= np.array([1, 1, 1, 0.1, 3], np.float32)
    _, mask = solved(METHODS["optimal_brain_surgeon"], w, gram)
    assert mask.sum() == kept_of(w.size, 0.5)
    np.testing.assert_array_equal(mask, greedy(w, gram, w.size - mask.sum()))
    assert len(set(mask.sum(0).tolist())) > 1


# Hessians of every kind.


@pytest.mark.parametrize("name", ["sparsegpt", "optimal_brain_surgeon", "corrected"])
def test_inputs_that_do_not_correlate_need_no_correction(name):
    w, _ = drawn(0)
    shown, mask = solved(METHODS[name], w, 3 * np.eye(INPUTS))
    np.testing.assert_array_equal(mask, magnitude_shown(w) != 0)
    np.testing.assert_array_equal(shown, np.where(mask, w, 0))


@pytest.mark.parametrize("name", METHODS)
def test_more_inputs_than_samples(name):
    """Three samples of 12 inputs: X^T X has no inverse; with no damping, some is found that serves."""
    for seed in range(4):
        w, gram = drawn(seed, samples=3)
        shown, mask = solved(METHODS[name], w, gram)
        assert np.all(np.isfinite(shown))
        assert mask.sum() == 30
        assert error(w, shown, gram) < error(w, np.where(mask, w, 0), gram)


@pytest.mark.parametrize("name", ["sparsegpt", "optimal_brain_surgeon", "corrected"])
def test_dead_inputs_go_first_and_correct_nothing(name):
    w, gram = drawn(5)
    dead = [2, 7, 8]
    w[dead] *= 100
    gram[dead] = gram[:, dead] = 0
    shown, mask = solved(METHODS[name], w, gram)
    if name == "corrected":  # whose mask is that of magnitudes
        assert mask[dead].all()
        np.testing.assert_array_equal(shown[dead], w[dead])
    else:
        assert not mask[dead].any()
    assert mask.sum() == 30
    shown, mask = solved(METHODS[name], w, 0 * gram)
    np.testing.assert_array_equal(shown, np.where(mask, w, 0))


def test_damping_grows_tenfold_until_the_solution_is_finite():
    """On a diagonal of ones the solution comes once damping passes a half: 0.1 then 1; 0 then 1e-6 ... 1."""
    solve = lambda h: jnp.where(h[0, 0] > 1.5, h, jnp.nan)  # noqa: E731
    for damping, last in ((0.1, 1.0), (0.7, 0.7), (0.0, LEAST * 10**6)):
        np.testing.assert_allclose(
            first_finite(solve, jnp.eye(2), damping), (1 + last) * np.eye(2), rtol=16 * EPS
        )
    never = first_finite(lambda h: h * jnp.nan, jnp.eye(2), 0.1)  # and ends
    assert np.isnan(never).all()
    assert TRIES == 10


def test_nan_shows_and_the_budget_holds():
    w, gram = drawn(0)
    for broken_w, broken_gram in ((w, gram * np.nan), (np.where(w == w[3, 2], np.nan, w), gram)):
        state = METHODS["sparsegpt"].init({"w": jnp.asarray(broken_w)}, stats=told(broken_gram))
        assert state.fixed["w"].mask.sum() == 30
        shown = METHODS["sparsegpt"].apply({"w": jnp.asarray(broken_w)}, state)["w"]
        assert np.isnan(shown).any()


# Channels.


def channel_error(w, gram, stays):
    """Of the best weights for some channels, each a row."""
    return error(w, least_squares(w, np.repeat(stays[:, None], w.shape[1], 1), gram), gram)


@pytest.mark.parametrize("name", ["thinet", "lasso"])
def test_chosen_channels_beat_random_ones(name):
    rng = np.random.default_rng(0)
    ratios = []
    for seed in range(12):
        w, gram = drawn(seed)
        shown, mask = solved(METHODS[name], w, gram)
        assert mask.sum(0).tolist() == [6] * OUTPUTS
        assert np.all(mask == mask[:, :1])
        np.testing.assert_allclose(shown, least_squares(w, mask, gram), rtol=0, atol=bound(w, gram))
        chance = [channel_error(w, gram, rng.permutation(INPUTS) < 6) for _ in range(20)]
        ratios.append(error(w, shown, gram) / np.mean(chance))
    assert np.mean(ratios) < 0.75
    assert sum(ratio < 1 for ratio in ratios) >= 10


def test_thinet_is_greedy_and_brute_force_is_never_worse():
    """Three of six channels go: |sum of Y_c|^2 over those, against all 20 choices."""
    choose, optimal = jax.jit(lambda k: least_sum(k, jnp.ones(6), 3)), 0
    for seed in range(12):
        w, gram = drawn(seed, inputs=6)
        k = np.asarray(gram, np.float64) * (np.asarray(w, np.float64) @ w.T)
        np.testing.assert_allclose(
            products_of(jnp.asarray(w), jnp.asarray(gram), jnp.arange(6), 6),
            k,
            rtol=0,
            atol=64 * EPS * k.max(),
        )
        cost = lambda gone, k=k: k[np.ix_(gone, gone)].sum()  # noqa: E731
        expected = []
        for _ in range(3):
            left = [c for c in range(6) if c not in expected]
            expected.append(min(left, key=lambda c: cost([*expected, c])))
        found = np.flatnonzero(~np.asarray(choose(jnp.asarray(k, jnp.float32)))).tolist()
        assert found == sorted(expected)
        best = min(cost(list(gone)) for gone in itertools.combinations(range(6), 3))
        assert cost(found) >= best - 1e-9 * k.max()
        optimal += cost(found) <= best + 1e-9 * k.max()
        # Channels that do not correlate: greedy takes the three least, which is the best choice.
        apart = np.flatnonzero(~np.asarray(choose(jnp.diag(jnp.asarray(np.diag(k), jnp.float32)))))
        assert sorted(apart) == sorted(np.argsort(np.diag(k))[:3])
    assert optimal >= 4


def test_coordinate_descent_meets_the_conditions_of_the_optimum():
    """Optimal is b if and only if |k - K b|_c <= penalty where b_c = 0, else = penalty * sign(b_c)."""
    descend = jax.jit(descended)
    zeros = set()
    for seed in range(4):
        w, gram = drawn(seed)
        k = gram * (w @ w.T) / np.linalg.norm(w, axis=1) / np.linalg.norm(w, axis=1)[:, None]
        targets = k @ np.linalg.norm(w, axis=1)
        for share in (0.0, 0.1, 0.4, 1.0):
            penalty = np.float32(share * np.abs(targets).max())
            b = jnp.zeros(INPUTS)
            for _ in range(20):
                b = descend(jnp.asarray(k), jnp.asarray(targets), jnp.asarray(penalty), b)
            slack = targets.astype(np.float64) - k.astype(np.float64) @ np.asarray(b, np.float64)
            off = 1e-4 * np.abs(targets).max()
            assert np.all(np.abs(slack) <= penalty + off)
            used = np.asarray(b) != 0
            np.testing.assert_allclose(slack[used], penalty * np.sign(b[used]), rtol=0, atol=off)
            zeros.add(int((~used).sum()))
    assert {0, INPUTS} < zeros  # none at no penalty, all at the greatest, some between


def test_survivors_meet_the_budget_with_dead_and_equal_channels():
    """Channels alike fall at the same penalty, and more at once than the budget asks: the count holds."""
    choose = jax.jit(survivors, static_argnums=2)
    k = jnp.ones((6, 6)) + jnp.eye(6)
    dead = k.at[1].set(0).at[:, 1].set(0)
    for products, norms in ((k, jnp.ones(6)), (dead, jnp.ones(6).at[1].set(0))):
        stays = choose(products, norms, 4)
        assert stays.sum() == 4
    assert not stays[1]  # of five live channels four stay, and not the dead one
    assert choose(k * jnp.nan, jnp.ones(6), 4).sum() == 4  # and ends


# Weights of every shape.


def conv(p, x, groups=1):
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        x, p["w"], (1, 1), "SAME", dimension_numbers=numbers, feature_group_count=groups
    )


def test_a_grouped_convolution():
    """Kernel [3, 2, 2, 10], two groups of 12 inputs and 5 outputs: each a problem of its own."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4, 6, 5, 4)).astype(np.float32)
    x = x + x[..., ::-1]  # what enters a group correlates within
    p = {"w": jnp.asarray(rng.normal(size=(3, 2, 2, 10)), jnp.float32)}
    fn = lambda p, x: conv(p, x, groups=2)  # noqa: E731
    stats = observe(fn, p, [x], statistics="gram")
    t = sparsegpt(0.5)
    state = t.init(p, stats=stats)
    shown = t.apply(p, state)["w"]
    for group in range(2):
        own = np.s_[..., 5 * group : 5 * (group + 1)]
        one = np.asarray(p["w"])[own].reshape(12, 5)
        expected, mask = solved(t, one, stats["w"].gram[group])
        np.testing.assert_array_equal(state.fixed["w"].mask[own].reshape(12, 5), mask)
        np.testing.assert_allclose(np.asarray(shown)[own].reshape(12, 5), expected, rtol=0, atol=64 * EPS)
    # What the model puts out differs by exactly what the Gram matrices say.
    out = np.asarray(fn(p, x), np.float64) - np.asarray(fn({"w": shown}, x), np.float64)
    said = sum(
        error(p["w"][..., s].reshape(12, 5), shown[..., s].reshape(12, 5), stats["w"].gram[g])
        for g, s in enumerate((np.s_[:5], np.s_[5:]))
    )
    np.testing.assert_allclose((out**2).sum(), said, rtol=1e-4)
    # Whole channels: two inputs of each group, of which one stays, at all places of the window.
    chosen = thinet(0.5).init(p, stats=stats).fixed["w"].mask
    assert chosen[0, 0].sum(0).tolist() == [1] * 10
    assert np.all(chosen == chosen[:1, :1])


def test_layers_of_a_stack():
    """A scanned weight [2, 12, 5]: as it stands, under `stacked`, and layer by layer."""
    layers = [drawn(seed) for seed in range(2)]
    w = {"w": jnp.stack([jnp.asarray(w) for w, _ in layers])}
    gram = jnp.stack([jnp.asarray(g) for _, g in layers])
    stats = {
        "w": Statistics(
            path="w", features=(-2,), contracted=(-2,), count=jnp.ones(2), gram=gram, gram_count=jnp.ones(2)
        )
    }
    t = sparsegpt(0.5)
    each = np.stack([solved(t, *one)[0] for one in layers])
    for way in (t, stacked(t)):
        shown = way.apply(w, way.init(w, stats=stats))["w"]
        np.testing.assert_allclose(shown, each, rtol=0, atol=max(bound(*one) for one in layers))


def test_a_weight_that_is_used_transposed():
    """In x @ w^T the inputs are the last axis of w."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, INPUTS)) @ rng.normal(size=(INPUTS, INPUTS))
    w = rng.normal(size=(INPUTS, OUTPUTS)).astype(np.float32)
    stats = observe(lambda p, x: x @ p["w"].T, {"w": w.T}, [x.astype(np.float32)], statistics="gram")
    t = sparsegpt(0.5)
    shown = t.apply({"w": jnp.asarray(w.T)}, t.init({"w": jnp.asarray(w.T)}, stats=stats))["w"]
    np.testing.assert_array_equal(shown.T, solved(t, w, stats["w"].gram)[0].astype(np.float32))


# As transforms.


@pytest.mark.parametrize("name", ["sparsegpt", "thinet"])
def test_jit_is_eager(name):
    t, (w, gram) = METHODS[name], drawn(2)
    run = lambda p, stats: t.apply(p, t.init(p, stats=stats))["w"]  # noqa: E731
    p, stats = {"w": jnp.asarray(w)}, told(gram)
    eager, jitted = run(p, stats), jax.jit(run)(p, stats)
    np.testing.assert_array_equal(eager != 0, jitted != 0)
    np.testing.assert_allclose(eager, jitted, rtol=0, atol=bound(w, gram))


def test_weights_that_stay_are_trained_and_the_others_stay_zero():
    w, gram = drawn(0)
    t = at("layer/w", METHODS["sparsegpt"])
    p = {"layer": {"w": jnp.asarray(w, jnp.bfloat16)}, "n": jnp.int32(3)}
    state = t.init(p, stats=told(gram, "layer/w"))
    mask, change = state.fixed["layer/w"]
    assert change.dtype == jnp.float32
    assert not np.any(change[~mask])
    out = t.apply(p, state)
    assert out["layer"]["w"].dtype == jnp.bfloat16
    assert out["n"] is p["n"]
    grads = jax.grad(lambda w: jnp.sum(2 * t.apply({"layer": {"w": w}}, state)["layer"]["w"]))(
        p["layer"]["w"]
    )
    np.testing.assert_array_equal(grads, 2 * mask)
    moved = {"layer": {"w": p["layer"]["w"] + 1}, "n": p["n"]}
    np.testing.assert_array_equal(
        t.apply(moved, state)["layer"]["w"],
        jnp.where(mask, moved["layer"]["w"].astype(jnp.float32) + change, 0).astype(jnp.bfloat16),
    )
    assert t.update(state, moved, step=3) is state
    np.testing.assert_array_equal(dense(t.pack(p, state))["layer"]["w"], out["layer"]["w"])


def test_correct_of_a_matrix():
    w, gram = drawn(4)
    mask = np.random.default_rng(0).random(w.shape) < 0.5
    mask[:, 1] = False  # an output that loses all
    new = correct(jnp.asarray(w), jnp.asarray(mask), jnp.asarray(gram))
    np.testing.assert_allclose(new, least_squares(w, mask, gram), rtol=0, atol=bound(w, gram))


def test_they_print_as_their_calls():
    assert repr(sparsegpt(n_m=(2, 4))) == "sparsegpt(n_m=(2, 4))"
    assert repr(corrected(magnitude(0.9))) == "corrected(magnitude(0.9))"


W = {"w": jnp.ones((3, 2))}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: sparsegpt(),
            r"sparsity must be given, or else n_m, got sparsity=None and n_m=None; give one",
        ),
        (lambda: sparsegpt(0.5, n_m=(2, 4)), r"got sparsity=0.5 and n_m=\(2, 4\); give one"),
        (lambda: sparsegpt(1.0), r"sparsity must be in \[0, 1\), got 1.0; 0.5 zeros half of the weights"),
        (lambda: sparsegpt(n_m=(5, 4)), r"n must be from 1 to m with m 4, got 5"),
        (
            lambda: sparsegpt(0.5, block=0),
            r"block must be at least 1, got 0; it counts inputs, and 128 is usual",
        ),
        (
            lambda: sparsegpt(0.5, damping=-0.1),
            r"damping must be finite and at least 0, got -0.1; 0.01 is usual",
        ),
        (lambda: optimal_brain_surgeon(-0.5), r"sparsity must be in \[0, 1\), got -0.5"),
        (lambda: optimal_brain_surgeon(0.5, damping=float("nan")), r"damping must be finite .* got nan"),
        (lambda: corrected(magnitude(0.5), damping=float("inf")), r"damping must be finite .* got inf"),
        (
            lambda: inspect.unwrap(corrected)(absolute()),
            r"transform must be a Transform, got Score; call corrected\(transform\)",
        ),
        (lambda: thinet(1.5), r"sparsity must be in \[0, 1\), got 1.5"),
        (lambda: thinet(0.5, damping=-1.0), r"damping must be finite and at least 0, got -1.0"),
        (lambda: lasso(float("nan")), r"sparsity must be in \[0, 1\), got nan"),
        (lambda: lasso(0.5, damping=-1.0), r"damping must be finite and at least 0, got -1.0"),
        (
            lambda: sparsegpt(0.5).init({"n": jnp.int32(1)}),
            r"params must have a floating value to transform, got none of 1; check the pattern",
        ),
    ],
)
def test_out_of_range(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("name", METHODS)
def test_statistics_that_do_not_serve(name):
    t, one = METHODS[name], told(jnp.eye(3))["w"]
    with pytest.raises(
        ValueError,
        match=r"stats of 'w' must have 'gram', got None; pass stats=observe\(..., statistics='gram'\)",
    ):
        t.init(W)
    with pytest.raises(
        ValueError, match=r"gram of 'w' must be of the weight's 3 inputs, got 4; observe these params"
    ):
        t.init(W, stats=told(jnp.eye(4)))
    led = Statistics(path="w", features=(-2,), contracted=(-2,), count=jnp.ones(3), gram=one.gram[None])
    with pytest.raises(
        ValueError,
        match=r"stats of 'w' must lead with the first axes of \(3, 2\), got \(3,\); exclude the leaf",
    ):
        t.init(W, stats={"w": led})
