import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from efficient.core.freeze import freeze
from efficient.core.lift import lift
from efficient.core.scope import at
from efficient.core.transform import chain, identity
from efficient.train import create, make_epoch, make_step
from tests.train import tiny

BATCH = next(iter(tiny.Stream(length=1)))


def begin(transform, optimizer, *, loss=tiny.loss, params=None, **options):
    state = create(params or tiny.params(), transform, optimizer, key=jax.random.key(0), **options)
    return state, make_step(loss, optimizer, transform)


def gradient(w, b, batch):
    """d/dw mean(e^2) = 2/n x^T e and d/db = 2 mean(e), with e = x w + b - y; in float64."""
    x, y = np.float64(batch.x), np.float64(batch.y)
    error = x @ w + b - y
    return 2 / len(y) * x.T @ error, 2 * np.mean(error)


def test_a_step_by_hand():
    # One row x = (1, 0, 2), y = 1; w = (.5, -1, 2), b = .25: e = .5 + 4 + .25 - 1 = 3.75, loss = 14.0625.
    # dw = 2 e x = (7.5, 0, 15), db = 7.5; SGD at 0.1: w = (-.25, -1, .5), b = -.5. Exact, but for 0.1.
    batch = tiny.Batch(np.float32([[1, 0, 2]]), np.float32([1]))
    state, step = begin(identity(), optax.sgd(0.1))
    state, metrics = step(state, batch)
    np.testing.assert_allclose(state.params["w"], [-0.25, -1.0, 0.5], atol=2e-7)
    np.testing.assert_allclose(state.params["b"], -0.5, atol=2e-7)
    assert float(metrics["loss"]) == 14.0625
    assert float(metrics["error"]) == 3.75
    assert int(state.step) == 1


def test_steps_equal_sgd_with_momentum_written_by_hand():
    state, step = begin(identity(), optax.sgd(0.05, momentum=0.9))
    w, b, speed_w, speed_b = np.array([0.5, -1.0, 2.0]), 0.25, np.zeros(3), 0.0
    for batch in tiny.Stream(length=20):
        state, _ = step(state, batch)
        grad_w, grad_b = gradient(w, b, batch)
        speed_w, speed_b = 0.9 * speed_w + grad_w, 0.9 * speed_b + grad_b
        w, b = w - 0.05 * speed_w, b - 0.05 * speed_b
    np.testing.assert_allclose(state.params["w"], w, rtol=1e-5)
    np.testing.assert_allclose(state.params["b"], b, rtol=1e-4, atol=1e-6)


def test_zeros_of_a_mask_stay_exactly_zero_under_adam_with_weight_decay():
    transform = chain(tiny.mask(0, 2), tiny.mask(0, 1, 2))
    state, step = begin(transform, optax.adamw(0.1, weight_decay=0.5))
    many = jax.tree.map(lambda v: np.stack([np.asarray(v)] * 1000), BATCH)
    state, metrics = make_epoch(step)(state, many)
    assert float(transform.apply(state.params, state.compress)["w"][1]) == 0
    assert -0.5 < float(state.params["w"][1]) < 0  # it is there, hidden, and only decayed, from -1
    assert float(metrics["loss"][-1]) < float(metrics["loss"][0])


def test_update_gets_the_dense_gradient_the_new_params_and_the_number_of_steps():
    transform = chain(tiny.mask(0, 2), tiny.spy())
    state, step = begin(transform, optax.sgd(0.1))
    for _ in range(2):
        before = tiny.params() if int(state.step) == 0 else jax.device_get(state.params)
        state, _ = step(state, BATCH)
    seen = state.compress.fixed[1]
    grad_w, grad_b = gradient(np.array(before["w"]) * [1, 0, 1], float(before["b"]), BATCH)
    np.testing.assert_allclose(seen["grads"]["w"], grad_w, rtol=1e-5)
    np.testing.assert_allclose(seen["grads"]["b"], grad_b, rtol=1e-5)
    assert abs(float(seen["grads"]["w"][1])) > 0.1  # the zeroed weight has a gradient too
    np.testing.assert_array_equal(seen["params"]["w"], np.array(state.params["w"]) * [1, 0, 1])
    assert int(seen["step"]) == 2


def test_the_optimizer_moves_the_trained_part_of_the_transform():
    state, step = begin(tiny.shift(), optax.sgd(0.1))
    state, _ = step(state, BATCH)
    grad_w, _ = gradient(np.array([0.5, -1.0, 2.0]), 0.25, BATCH)
    np.testing.assert_allclose(state.compress.train["w"], -0.1 * grad_w, rtol=1e-5)
    np.testing.assert_allclose(state.params["w"], [0.5, -1.0, 2.0] - 0.1 * grad_w, rtol=1e-5)


def test_weights_may_be_leaves_with_parts_that_have_no_gradient():
    # The weight is codes * scale with codes = round(w) = (0, -1, 2): d loss / d scale = sum(dw * codes).
    state, step = begin(tiny.scaled(), optax.sgd(0.1))
    state, _ = step(state, BATCH)
    grad_w, _ = gradient(np.array([0.0, -1.0, 2.0]), 0.0, BATCH)
    np.testing.assert_allclose(state.compress.train["w"], 1 - 0.1 * grad_w @ [0, -1, 2], rtol=1e-5)
    np.testing.assert_array_equal(state.params["w"], tiny.params()["w"])
    np.testing.assert_array_equal(state.compress.fixed["w"], np.int8([0, -1, 2]))


def test_integers_and_keys_among_the_params_stay():
    params = {**tiny.params(), "count": jnp.array(3, jnp.int32), "key": jax.random.key(7)}
    state, step = begin(identity(), optax.adamw(0.1, weight_decay=0.5), params=params)
    state, _ = step(state, BATCH)
    assert int(state.params["count"]) == 3
    assert state.params["key"] == jax.random.key(7)
    assert float(state.params["w"][0]) != 0.5


def test_frozen_params_stay_and_have_no_memory():
    optimizer = freeze("params/**", optax.adamw(0.1, weight_decay=0.5))
    state, step = begin(tiny.shift(), optimizer)
    assert (
        sum(np.size(v) for v in jax.tree.leaves(state.opt_state)) == 2 * 4 + 1
    )  # Adam's moments of `train`; count
    state, _ = step(state, BATCH)
    chex.assert_trees_all_equal(state.params, tiny.params())
    assert np.all(np.array(state.compress.train["w"]) != 0)


def test_steps_compile_once():
    chex.clear_trace_counter()
    optimizer = optax.adam(optax.linear_schedule(0.1, 0.0, 10))
    loss = chex.assert_max_traces(tiny.noisy_loss, 1)
    state, step = begin(chain(tiny.mask(0, 2), tiny.shift(), tiny.spy()), optimizer, loss=loss)
    for batch in tiny.Stream(length=4):
        state, _ = step(state, batch)
    assert int(state.step) == 4


def test_params_and_an_older_copy_survive_the_donation():
    params = tiny.params()
    state, step = begin(chain(tiny.spy(), tiny.spy()), optax.adam(0.1), params=params)
    state, _ = step(state, BATCH)
    assert float(params["b"]) == 0.25  # not deleted


def test_an_epoch_in_one_call_is_its_steps():
    state, step = begin(tiny.mask(0, 2), optax.adam(0.1), loss=tiny.noisy_loss)
    batches = list(tiny.Stream(length=5))
    scanned, many = make_epoch(step)(
        jax.tree.map(jnp.copy, state), jax.tree.map(lambda *v: np.stack(v), *batches)
    )
    losses = []
    for batch in batches:
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"]))
    np.testing.assert_allclose(many["loss"], losses, rtol=1e-5)
    np.testing.assert_allclose(scanned.params["w"], state.params["w"], rtol=1e-5)
    assert int(scanned.step) == 5


def test_each_step_draws_its_own_numbers():
    state, step = begin(identity(), optax.sgd(0.0), loss=tiny.noisy_loss)
    again = jax.tree.map(jnp.copy, state)
    state, first = step(state, BATCH)
    _, second = step(state, BATCH)
    _, repeated = step(again, BATCH)
    assert float(first["loss"]) != float(second["loss"])
    assert float(first["loss"]) == float(repeated["loss"])


def test_batch_normalization_keeps_running_statistics_and_trains():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x, *, train):
            x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)
            return nn.Dense(1)(x)[:, 0]

    def loss(weights, model_state, batch, key):
        out, new = lift(Net().apply)(
            {"params": weights, **model_state}, batch.x, train=True, mutable=["batch_stats"]
        )
        return jnp.mean((out - batch.y) ** 2), (new, {})

    variables = Net().init(jax.random.key(0), BATCH.x, train=False)
    stats = {"batch_stats": variables["batch_stats"]}
    transform = at("**/kernel", tiny.mask(0, 1))
    state, step = begin(transform, optax.sgd(0.1), loss=loss, params=variables["params"], model_state=stats)
    state, _ = step(state, BATCH)
    running = state.model_state["batch_stats"]["BatchNorm_0"]
    np.testing.assert_allclose(running["mean"], 0.1 * BATCH.x.mean(0), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(running["var"], 0.9 + 0.1 * BATCH.x.var(0), rtol=1e-5)
    moved = jax.tree.map(
        lambda a, b: bool(np.any(np.asarray(a) != np.asarray(b))), state.params, variables["params"]
    )
    assert all(jax.tree.leaves(moved))


def test_an_nnx_model_trains_with_its_own_states():
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.norm = nnx.BatchNorm(3, momentum=0.9, rngs=rngs)
            self.drop = nnx.Dropout(0.5, rngs=rngs)
            self.dense = nnx.Linear(3, 1, rngs=rngs)

        def __call__(self, x):
            return self.dense(self.drop(self.norm(x)))[:, 0]

    graph, params, rest = nnx.split(Net(nnx.Rngs(0)), nnx.Param, ...)

    def forward(weights, model_state, x):
        model = nnx.merge(graph, weights, model_state)
        return model(x), nnx.split(model, nnx.Param, ...)[2]

    def loss(weights, model_state, batch, key):
        out, new = lift(forward)(weights, model_state, batch.x)
        return jnp.mean((out - batch.y) ** 2), (new, {})

    transform = chain(at("dense/kernel", tiny.mask(0, 1)), at("dense/kernel", tiny.shift()))
    state, step = begin(transform, optax.adamw(0.1), loss=loss, params=params, model_state=rest)
    for _ in range(3):
        state, _ = step(state, BATCH)
    assert jax.tree.structure(state.params) == jax.tree.structure(params)
    np.testing.assert_array_equal(state.model_state["drop"]["rngs"]["count"][...], 3)
    assert np.all(np.asarray(state.params["dense"]["bias"][...]) != np.asarray(params["dense"]["bias"][...]))
    assert np.all(np.asarray(state.compress.train[1]["dense/kernel"]) != 0)


def test_a_raw_key_is_refused():
    with pytest.raises(
        ValueError, match=r"key must be a typed PRNG key, got dtype\('uint32'\); use jax.random.key"
    ):
        create(tiny.params(), identity(), optax.sgd(0.1), key=jax.random.PRNGKey(0))


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (
            lambda w, s, b, k: (b.x @ w["w"], (s, {})),
            r"loss must return a scalar, got shape \(4,\); take its mean",
        ),
        (
            lambda w, s, b, k: (w["b"], ({"n": s["n"], "m": 0.0}, {})),
            r"model_state must keep its structure .* updated",
        ),
        (
            lambda w, s, b, k: (w["b"], ({"n": s["n"] * 1.5}, {})),
            r"model_state/n must stay int32\[\] over a step, got",
        ),
    ],
)
def test_a_loss_that_breaks_the_contract_is_refused(loss, message):
    state, step = begin(identity(), optax.sgd(0.1), loss=loss, model_state={"n": jnp.zeros((), jnp.int32)})
    with pytest.raises(ValueError, match=message):
        step(state, BATCH)
