"""Mixed precision: prices as published, choices within the budget, exact allocation, curvature, an agent."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from efficient import at, chain, dense, lift, observe
from efficient.core.layer_shapes import LayerShape, LayerUse, layer_uses
from efficient.models import zoo
from efficient.quantize import quantize, quantize_inputs, quantizers
from efficient.quantize.formats import Affine
from efficient.quantize.mixed import (
    Widths,
    allocate,
    bit_ops,
    haq,
    hessian_harms,
    hessian_traces,
    looked_up,
    mixed,
    priced,
    total,
    weight_bytes,
    widths_of,
    with_widths,
    within,
)
from efficient.search import DDPG
from experiments.haq import MOBILENET, RESNET50, TABLE

KEY = jax.random.key(0)
WEIGHTS_ONLY = [Widths(bits, 32) for bits in range(2, 9)]
ALL = [Widths(w, i) for w in range(2, 9) for i in range(2, 9)]


def uses_of(name):
    model, x = zoo.get(name)
    return list(layer_uses(model.apply, jax.eval_shape(model.init, KEY, x), x))


def layers(*sizes):
    """Dense layers of these sizes."""
    return [
        LayerUse(name, (size, 2), (0,), LayerShape(2, size, 1, 1, 1, 1), 2 * size)
        for name, size in zip("abcdef", sizes, strict=False)
    ]


def test_resnet50_policy_is_a_tenth_of_float32():
    uses = uses_of("resnet50")
    assert len(uses) == 54
    prices = weight_bytes(uses, WEIGHTS_ONLY)
    choice = {use.path: Widths(int(bits), 32) for use, bits in zip(uses, RESNET50, strict=True)}
    whole = 4 * sum(math.prod(use.shape) for use in uses)
    assert whole == 4 * 25_502_912
    assert round(total(prices, choice) / whole, 5) == 0.09958
    assert round(total(prices, choice) / 1e6, 3) == 10.158


def test_mobilenet_policy_on_the_table_of_bitfusion():
    paths = [use.path for use in uses_of("mobilenet_v2")]
    with np.load(TABLE) as file:
        prices = looked_up(file["cost"], paths, ALL)
    eight = total(prices, dict.fromkeys(paths, Widths(8, 8)))
    policy = {path: Widths(*map(int, pair)) for path, pair in zip(paths, MOBILENET.split(), strict=True)}
    assert eight == 39_624_933
    assert total(prices, policy) == 23_634_821
    assert round(total(prices, policy) / eight, 4) == 0.5965


def test_prices_by_hand():
    uses = layers(3, 5)
    assert weight_bytes(uses, [Widths(4, 8)]) == {"a": {(4, 8): 3.0}, "b": {(4, 8): 5.0}}
    assert bit_ops([*uses, uses[0]], [Widths(4, 8)])["a"] == {(4, 8): 12 * 32.0}  # met twice
    assert priced("ab", [Widths(2, 2)], lambda path, pair: 7)["b"] == {(2, 2): 7.0}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: priced([], [Widths(2, 2)], lambda p, w: 1), "layer and a pair"),
        (lambda: priced("a", [Widths(2, 2)], lambda p, w: math.nan), "finite and from 0"),
        (lambda: looked_up(np.zeros((2, 8)), "ab", ALL), "must be"),
        (lambda: looked_up(np.zeros((1, 4, 4)), "a", ALL), "from 1 to"),
        (lambda: total({"a": {Widths(2, 2): 1.0}}, {}), "priced pair"),
        (lambda: widths_of({"a": {Widths(2, 2): 1.0, Widths(3, 3): 1.0}}), "every weight width"),
    ],
)
def test_prices_refuse(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_allocation_equals_brute_force():
    rng = np.random.default_rng(0)
    widths = [Widths(bits, 8) for bits in (2, 4, 8)]
    for trial in range(20):
        harms = {p: {w: float(rng.normal()) / w.weights for w in widths} for p in "abcde"}
        prices = {p: {w: float(rng.integers(1, 9)) * w.weights for w in widths} for p in "abcde"}
        every = [dict(zip("abcde", pairs, strict=True)) for pairs in itertools.product(widths, repeat=5)]
        budget = sorted(total(prices, one) for one in every)[30 + 9 * trial]
        found = allocate(harms, prices, budget)
        best = min(total(harms, one) for one in every if total(prices, one) <= budget)
        assert total(prices, found) <= budget
        assert total(harms, found) == pytest.approx(best, abs=1e-9)


def test_allocation_refuses():
    rows = {"a": {Widths(2, 8): 1.0, Widths(4, 8): 2.0}}
    with pytest.raises(ValueError, match="at least 1"):
        allocate(rows, rows, 0.5)
    with pytest.raises(ValueError, match="cover every harm"):
        allocate(rows, {}, 5.0)
    with pytest.raises(ValueError, match="finite"):
        allocate({"a": {Widths(2, 8): math.inf}}, rows, 5.0)
    with pytest.raises(ValueError, match="got none"):
        allocate({}, {}, 5.0)


def test_traces_tend_to_those_of_the_exact_hessian():
    x = jax.random.normal(KEY, (8, 3))
    params = {"kernel": jax.random.normal(KEY, (3, 2)), "bias": jnp.ones(2)}

    def loss(p):
        return jnp.mean(jnp.square(jnp.tanh(x @ p["kernel"] + p["bias"][None])))

    exact = (
        jnp.trace(jax.hessian(lambda k: loss({**params, "kernel": k}))(params["kernel"]).reshape(6, 6)) / 6
    )
    found = hessian_traces(loss, params, key=KEY, samples=400)
    assert list(found) == ["kernel"]
    assert found["kernel"] == pytest.approx(float(exact), rel=0.15)  # 400 draws: 3 standard errors


def test_harms_are_curvature_times_squared_error():
    params = {"kernel": jax.random.normal(KEY, (4, 3))}
    found = hessian_harms({"kernel": 2.0}, params, [Widths(3, 8), Widths(5, 8)])["kernel"]
    shown = quantizers.integer(3).fake(params["kernel"])
    assert found[Widths(3, 8)] == pytest.approx(2 * float(jnp.sum((shown - params["kernel"]) ** 2)))
    assert found[Widths(5, 8)] < found[Widths(3, 8)]
    assert hessian_harms({"kernel": -1.0}, params, [Widths(3, 8)])["kernel"] == {(3, 8): 0.0}
    with pytest.raises(ValueError, match="of these params"):
        hessian_harms({"other": 1.0}, params, [Widths(3, 8)])


def test_within_takes_widths_from_the_last_layer_first():
    prices = bit_ops(layers(4, 4), ALL)
    eight = dict.fromkeys(prices, Widths(8, 8))
    once = within(prices, eight, total(prices, eight) - 1)
    assert once == {"a": Widths(8, 8), "b": Widths(8, 7)}
    assert within(prices, eight, total(prices, eight)) == eight
    least = dict.fromkeys(prices, Widths(2, 2))
    assert within(prices, eight, total(prices, least)) == least
    with pytest.raises(ValueError, match="budget must be at least"):
        within(prices, eight, total(prices, least) - 1)


def FN(p, x):
    return jax.nn.relu(x @ p["a"]["kernel"]) @ p["b"]["kernel"]


PARAMS = {
    "a": {"kernel": jax.random.normal(KEY, (6, 5))},
    "b": {"kernel": jax.random.normal(jax.random.key(1), (5, 4))},
}
X = jax.random.normal(jax.random.key(2), (16, 6))


def test_widths_are_data_and_equal_the_fixed_transforms():
    stats = observe(FN, PARAMS, [X], where="**/kernel", statistics=("min", "max"))
    t = at("**/kernel", mixed())
    state = t.init(PARAMS, stats=stats)
    traced = []

    @jax.jit
    def run(state, x):
        traced.append(1)
        return lift(FN)(t.apply(PARAMS, state), x)

    for pair in (Widths(2, 8), Widths(4, 3), Widths(8, 8)):
        fixed = at(
            "**/kernel",
            chain(quantize(quantizers.integer(pair.weights)), quantize_inputs(Affine(pair.inputs))),
        )
        expected = lift(FN)(fixed.apply(PARAMS, fixed.init(PARAMS, stats=stats)), X)
        now = with_widths(state, dict.fromkeys(stats, pair))
        np.testing.assert_allclose(run(now, X), expected, rtol=1e-5, atol=1e-5)
        packed = t.pack(PARAMS, now)
        np.testing.assert_allclose(lift(FN)(packed, X), expected, rtol=1e-5, atol=1e-5)
        assert packed["a"]["kernel"].weight.nbytes * 8 >= 30 * pair.weights
    assert len(traced) == 1


def test_mixed_without_inputs_needs_no_statistics():
    t = at("**/kernel", mixed(has_inputs=False))
    state = with_widths(t.init(PARAMS), {"a/kernel": Widths(2, 8)})
    shown = t.apply(PARAMS, state)
    np.testing.assert_array_equal(shown["a"]["kernel"], quantizers.integer(2).fake(PARAMS["a"]["kernel"]))
    np.testing.assert_allclose(shown["b"]["kernel"], quantizers.integer(8).fake(PARAMS["b"]["kernel"]))
    np.testing.assert_array_equal(dense(t.pack(PARAMS, state))["a"]["kernel"], shown["a"]["kernel"])
    with pytest.raises(ValueError, match="must name layers"):
        with_widths(state, {"c/kernel": Widths(2, 8)})
    with pytest.raises(ValueError, match="2 to 8"):
        with_widths(state, {"a/kernel": Widths(1, 8)})


def searched(**options):
    """A search where only the first layer's weights matter."""
    uses = layers(4, 4, 4)
    prices = bit_ops(uses, [Widths(w, 8) for w in range(2, 9)])
    budget = 0.6 * total(prices, dict.fromkeys(prices, Widths(8, 8)))
    walk = haq(
        prices,
        budget,
        layers=uses,
        evaluate=lambda choice: (choice["a"].weights - 2) / 6,
        key=KEY,
        **options,
    )
    return budget, list(walk)


def test_haq_stays_within_the_budget_and_learns():
    agent = DDPG(hidden=(32, 32), warmup=20, actor_rate=1e-3, critic_rate=1e-2, noise_decay=0.9)
    budget, walked = searched(episodes=80, agent=agent, updates=20)
    assert len(walked) == 80
    assert all(one.price <= budget for one in walked)
    assert all(one.losses is None for one in walked[:20])
    assert all(one.losses is not None for one in walked[20:])
    assert walked[0].reward == pytest.approx(0.1 * (walked[0].accuracy - 1))
    early = np.mean([one.accuracy for one in walked[:20]])
    late = np.mean([one.accuracy for one in walked[-20:]])
    assert late > early + 0.15


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"episodes": 0}, "episodes must be from 1"),
        ({"agent": DDPG(capacity=2)}, "agent.capacity"),
    ],
)
def test_haq_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        searched(**options)


def test_haq_refuses_wrong_prices():
    uses, fine = layers(4), {"a": {Widths(2, 8): 1.0, Widths(4, 8): 2.0}}
    evaluate = {"evaluate": lambda choice: 0.5, "key": KEY}
    with pytest.raises(ValueError, match="layers must have"):
        haq({**fine, "z": fine["a"]}, 9.0, layers=uses, **evaluate)
    with pytest.raises(ValueError, match="leave a choice"):
        haq({"a": {Widths(2, 8): 1.0}}, 9.0, layers=uses, **evaluate)
    with pytest.raises(ValueError, match="budget must be at least"):
        haq(fine, 0.5, layers=uses, **evaluate)
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        next(haq(fine, 9.0, layers=uses, evaluate=lambda choice: 50.0, key=KEY))
