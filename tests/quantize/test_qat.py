"""Methods that train: gradients as the papers have them, and what is shown is what is stored."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from efficient import State, at, chain, lift, observe
from efficient.quantize import (
    binary,
    binary_inputs,
    bound_penalty,
    cluster_means,
    dorefa,
    dorefa_inputs,
    linear,
    lsq,
    lsq_inputs,
    moving,
    noisy_gradients,
    pact,
    quantize_inputs,
    quantizers,
    ranges,
    sign_bits,
    sign_dot,
    stochastic,
    stochastic_round,
    ttq,
    twn,
)
from efficient.quantize.binary import Signs
from efficient.quantize.formats import NF4, Affine, Integer
from efficient.quantize.lsq import stepped
from efficient.quantize.pact import clipped
from tests.trees import TREES

KEY = jax.random.key(2)
PARAMS = {"kernel": jax.random.normal(KEY, (6, 5))}
X = jax.random.normal(jax.random.key(3), (16, 6))
STATS = observe(lambda p, x: x @ p["kernel"], PARAMS, [X], statistics=("min", "max", "absmean", "histogram"))
WEIGHTS = {
    "lsq": lsq(3),
    "dorefa": dorefa(3),
    "binary": binary(),
    "twn": twn(),
    "ttq": ttq(),
    "stochastic": stochastic(quantizers.integer(4)),
    "stochastic affine": stochastic(quantizers.affine(4)),
}
INPUTS = {
    "known": quantize_inputs(Affine(8)),
    "percentile": quantize_inputs(Integer(8), range=ranges.percentile(99)),
    "mse": quantize_inputs(Affine(8), range=ranges.mse(8)),
    "own": quantize_inputs(Integer(8), is_dynamic=True),
    "token": quantize_inputs(Integer(8), is_dynamic=True, per_token=True),
    "lsq": lsq_inputs(8, is_signed=True),
    "pact": pact(8),
    "dorefa": dorefa_inputs(8),
    "signs": binary_inputs(),
    "centred_signs": binary_inputs(is_centred=True),
    "noisy": noisy_gradients(8),
}


@pytest.mark.parametrize("t", WEIGHTS.values(), ids=WEIGHTS)
@pytest.mark.parametrize("kind", ["linen", "scanned"])
def test_what_is_shown_is_what_is_stored_and_trains(t, kind):
    tree = TREES[kind]()
    t = tree.scope(t)
    state = t.init(tree.params, key=KEY)
    state = t.update(state, tree.params, step=1)
    shown, packed = t.apply(tree.params, state), t.pack(tree.params, state)
    got = lift(tree.fn)(packed, tree.x)
    want = tree.fn(shown, tree.x)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * float(jnp.max(jnp.abs(want)) + 1))
    loss = lambda p, train: jnp.sum(tree.fn(t.apply(p, State(train, state.fixed)), tree.x) ** 2)  # noqa: E731
    for grad in jax.tree.leaves(jax.grad(loss, (0, 1))(tree.params, state.train)):
        assert np.isfinite(np.asarray(grad)).all()


@pytest.mark.parametrize("t", INPUTS.values(), ids=INPUTS)
def test_inputs_go_through_the_rule_under_jit_and_grad(t):
    both = at("kernel", chain(linear(8), t))
    state = both.init(PARAMS, stats=STATS, key=KEY)
    fn = lift(lambda p, x: x @ p["kernel"], strict=True)
    eager = fn(both.apply(PARAMS, state), X)
    packed = jax.jit(fn)(both.pack(PARAMS, state), X)
    np.testing.assert_allclose(eager, packed, rtol=1e-5, atol=1e-4)
    loss = lambda p, train, x: jnp.sum(fn(both.apply(p, State(train, state.fixed)), x) ** 2)  # noqa: E731
    grads = jax.grad(loss, (0, 1, 2))(PARAMS, state.train, X)
    assert all(np.isfinite(np.asarray(g)).all() for g in jax.tree.leaves(grads))


@pytest.mark.parametrize("name", ["known", "percentile", "mse", "own", "token", "lsq"])
def test_eight_bits_of_input_lose_little(name):
    t = at("kernel", INPUTS[name])
    got = lift(lambda p, x: x @ p["kernel"])(t.apply(PARAMS, t.init(PARAMS, stats=STATS, key=KEY)), X)
    want = X @ PARAMS["kernel"]
    clipped = 1e-2 if name == "lsq" else 1e-3  # before it is trained LSQ clips a few
    assert float(jnp.mean((got - want) ** 2) / jnp.mean(want**2)) < clipped


def test_lsq_gradients_are_equations_3_and_5():
    # s = 1/2, 3 bits, Qp = 3: v/s = .6, -2.2, 9, -9. Inside round(v/s) - v/s = .4, .2; beyond 3, -3.
    v, s = jnp.array([0.3, -1.1, 4.5, -4.5]), jnp.float32(0.5)
    shown = lambda v, s: stepped(v, s, grid=Integer(3), count=4)  # noqa: E731
    np.testing.assert_allclose(shown(v, s), [0.5, -1, 1.5, -1.5])
    scale = 1 / np.sqrt(4 * 3)
    np.testing.assert_allclose(jax.jacobian(shown, 1)(v, s), np.array([0.4, 0.2, 3, -3]) * scale, atol=1e-6)
    np.testing.assert_array_equal(jnp.diagonal(jax.jacobian(shown, 0)(v, s)), [1, 1, 0, 0])


def test_lsq_finds_the_step_of_weights_on_a_grid():
    """Weights already on a grid of 7 numbers: trained from a tenth beside it, the step comes to it."""
    step = 0.3
    target = step * jnp.asarray(np.random.default_rng(0).integers(-3, 4, 200), jnp.float32)
    t = lsq(3)
    state = State({"w": jnp.float32(1.1 * step)}, t.init({"w": target}).fixed)
    optimizer = optax.adam(1e-2)
    loss = lambda train: jnp.sum((t.apply({"w": target}, State(train, state.fixed))["w"] - target) ** 2)  # noqa: E731

    def one(carry, _):
        train, moments = carry
        updates, moments = optimizer.update(jax.grad(loss)(train), moments)
        return (optax.apply_updates(train, updates), moments), None

    (train, _), _ = jax.lax.scan(one, (state.train, optimizer.init(state.train)), length=600)
    np.testing.assert_allclose(abs(train["w"]), step, rtol=0.02)


def test_pact_is_its_equations():
    # a = 2, 2 bits: steps of 2/3. Gradient in a: 1 where x >= a, else 0; in x: 1 inside.
    x, a = jnp.array([-1.0, 0.5, 1.9, 2.0, 7.0]), jnp.float32(2.0)
    shown = lambda x, a: clipped(x, a, bits=2)  # noqa: E731
    np.testing.assert_allclose(shown(x, a), [0, 2 / 3, 2, 2, 2], atol=1e-6)
    np.testing.assert_array_equal(jax.jacobian(shown, 1)(x, a), [0, 0, 0, 1, 1])
    np.testing.assert_array_equal(jnp.diagonal(jax.jacobian(shown, 0)(x, a)), [0, 1, 1, 0, 0])
    assert float(bound_penalty(pact(4, bound=3.0).init({"a": X, "b": X}))) == 18


def test_dorefa_by_hand():
    # tanh(w) / (2 * 1/2) + 1/2 = 1, 1/4, 5/8; in thirds: 1, 1/3, 2/3; doubled, less one: 1, -1/3, 1/3.
    w = jnp.arctanh(jnp.array([0.5, -0.25, 0.125]))
    t = dorefa(2)
    np.testing.assert_allclose(t.apply({"w": w}, t.init({"w": w}))["w"], [1, -1 / 3, 1 / 3], atol=1e-6)


def test_binary_is_the_nearest_matrix_of_signs_times_a_scale():
    w = {"kernel": jax.random.normal(KEY, (50, 2))}
    t = binary()
    shown = t.apply(w, t.init(w))["kernel"]
    best = min(
        float(jnp.sum((w["kernel"][:, 0] - b * jnp.sign(w["kernel"][:, 0])) ** 2))
        for b in np.linspace(0.5, 1.1, 601)
    )
    assert float(jnp.sum((w["kernel"] - shown)[:, 0] ** 2)) <= best * (1 + 1e-5)
    assert t.pack(w, t.init(w))["kernel"].nbytes == 50 * 1 + 2 * 4  # rows of two signs take a byte


@pytest.mark.parametrize("n", [1, 31, 32, 77])
def test_popcount_is_the_dot_product_of_signs_exactly(n):
    draw = np.random.default_rng(n)
    a, b = (draw.choice([-1.0, 1.0], (4, n)).astype(np.float32) for _ in range(2))
    got = sign_dot(sign_bits(jnp.asarray(a)), sign_bits(jnp.asarray(b)), n)
    np.testing.assert_array_equal(got, np.sum(a * b, -1))


def test_twn_by_hand():
    # mean |w| = 1, D = 0.7: beyond are 2 and -1.4, alpha = 1.7.
    w = {"w": jnp.array([2.0, 0.1, -1.4, 0.5])}
    np.testing.assert_allclose(twn().apply(w, twn().init(w))["w"], [1.7, 0, -1.7, 0], rtol=1e-6)


def test_ttq_gradients_are_equations_7_and_8():
    # D = 0.05 * 4 = 0.2; Wp = 3 of (4, 2), Wn = 1 of (-1): shown 3, 3, 0, -1.
    w = {"w": jnp.array([4.0, 2.0, 0.1, -1.0])}
    t = ttq()
    state = t.init(w)
    np.testing.assert_allclose(t.apply(w, state)["w"], [3, 3, 0, -1])
    g = jnp.array([1.0, 10.0, 100.0, 1000.0])
    loss = lambda w, train: jnp.sum(g * t.apply(w, State(train, state.fixed))["w"])  # noqa: E731
    of_w, of_scales = jax.grad(loss, (0, 1))(w, state.train)
    np.testing.assert_allclose(of_w["w"], [3, 30, 100, 1000])
    np.testing.assert_allclose([*of_scales["w"]], [11, -1000])


def test_stochastic_rounding_is_unbiased():
    """A mean of n numbers of variance p (1 - p) <= 1/4: within five standard deviations."""
    n = 20_000
    for x in (0.1, -2.7, 3.0):
        drawn = stochastic_round(jnp.full(n, x), KEY)
        assert set(np.unique(drawn)) <= {np.floor(x), np.floor(x) + 1}
        assert abs(float(jnp.mean(drawn)) - x) <= 5 * 0.5 / np.sqrt(n)


def test_a_noisy_gradient_is_right_on_average():
    t = at("kernel", noisy_gradients(4))
    state = t.init(PARAMS, key=KEY)
    fn = lift(lambda p, x: x @ p["kernel"])

    @jax.jit
    def grad(step):
        now = t.update(state, PARAMS, step=step)
        return jax.grad(lambda p: jnp.sum(fn(t.apply(p, now), X) ** 2))(PARAMS)["kernel"]

    many = jax.lax.map(grad, jnp.arange(400))
    want = jax.grad(lambda p: jnp.sum((X @ p["kernel"]) ** 2))(PARAMS)["kernel"]
    error = np.abs(np.asarray(jnp.mean(many, 0) - want))
    assert np.all(error <= 5 * np.asarray(jnp.std(many, 0)) / np.sqrt(400))
    assert float(jnp.max(jnp.std(many, 0))) > 0


def test_stochastic_draws_anew_at_each_update_only():
    t = stochastic(quantizers.integer(4))
    state = t.init(PARAMS, key=KEY)
    later = t.update(state, PARAMS, step=7)
    first, again, other = (
        t.apply(PARAMS, s)["kernel"] for s in (later, later, t.update(state, PARAMS, step=8))
    )
    np.testing.assert_array_equal(first, again)
    assert np.any(np.asarray(first) != np.asarray(other))


def test_ranges_move_towards_what_is_seen():
    t = at("kernel", quantize_inputs(Affine(8)))
    state = t.init(PARAMS, stats=STATS)
    seen = observe(lambda p, x: x @ p["kernel"], PARAMS, [10 * X], statistics=("min", "max"))
    old, new = state.fixed["kernel"], moving(state, seen, decay=0.9).fixed["kernel"]
    np.testing.assert_allclose(new.high, 0.9 * old.high + 0.1 * 10 * old.high, rtol=1e-5)
    with pytest.raises(ValueError, match=r"decay must be in \[0, 1\), got 1.0"):
        moving(state, seen, decay=1.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: lsq(1), "bits must be from 2 to 8"),
        (lambda: pact(4, bound=0.0), "bound must be above 0"),
        (lambda: dorefa(1), "bits must be from 2 to 8"),
        (lambda: twn(0.0), "share must be above 0"),
        (lambda: noisy_gradients(1), "bits must be from 2 to 8"),
        (lambda: noisy_gradients().init(PARAMS), "key must be given for 'kernel'"),
        (lambda: stochastic(quantizers.nf4()), "evenly spaced for stochastic rounding"),
        (lambda: stochastic(quantizers.integer(4)).init(PARAMS), "key must be given for 'kernel'"),
        (lambda: quantize_inputs(NF4, per_token=True), "per_token with dynamic ones"),
        (lambda: quantize_inputs(NF4).init(PARAMS), "stats of 'kernel' must have 'min'"),
        (lambda: lsq_inputs().init(PARAMS), "stats of 'kernel' must have 'abstotal'"),
    ],
)
def test_what_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_centred_signs_tell_positive_inputs_apart():
    x = jnp.array([[1.0, 3.0, 0.0, 4.0]])
    np.testing.assert_allclose(Signs().before(x, (), (1,)), [[2.0, 2.0, 2.0, 2.0]])
    np.testing.assert_allclose(Signs(is_centred=True).before(x, (), (1,)), [[0.5, 3.5, 0.5, 3.5]])  # 2 +- 1.5


def test_cluster_means_follow_the_weights_and_train_each_by_its_own_gradient():
    w = {"k": jnp.array([0.0, 0.2, 1.0, 1.4])}
    t = cluster_means(1)
    state = t.init(w)
    np.testing.assert_allclose(t.apply(w, state)["k"], [0.1, 0.1, 1.2, 1.2], rtol=1e-6)
    moved = {"k": w["k"] + jnp.array([0.2, 0.0, -0.2, 0.0])}
    np.testing.assert_allclose(t.apply(moved, state)["k"], [0.2, 0.2, 1.1, 1.1], rtol=1e-6)
    slope = jax.grad(lambda p: jnp.sum(t.apply(p, state)["k"] * jnp.arange(4.0)))(w)
    np.testing.assert_array_equal(slope["k"], jnp.arange(4.0))
    np.testing.assert_array_equal(t.pack(moved, state)["k"].dense(), t.apply(moved, state)["k"])
    with pytest.raises(ValueError, match="1 to 8"):
        cluster_means(9)
