"""AMC: every episode within the budget, its state, and what it learns on a problem whose optimum is known."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from efficient.core.dependencies import dependencies
from efficient.core.layer_shapes import LayerShape
from efficient.models import zoo
from efficient.prune import amc, ranking
from efficient.prune.amc import FEATURES, _Walk, constrained, guaranteed
from efficient.prune.budget import counted, least_counts, scaled, uniform
from efficient.prune.group_layers import group_layers
from efficient.prune.prices import macs
from efficient.prune.scores import absolute
from efficient.search import DDPG, Evolution, evolve

KEY = jax.random.key(0)
SIZES = {"a": 8, "b": 8, "c": 4}
LAYERS = {
    "a": LayerShape(8, 3, 16, 16, 1, 3),
    "b": LayerShape(4, 8, 8, 8, 2, 3),
    "c": LayerShape(10, 4, 1, 1, 1, 1),
}
SMALL = DDPG(hidden=(8, 8), warmup=2, batch=8, capacity=64)


def line(counts):
    """20 of the whole."""
    return counts["a"] + counts["b"] + counts["c"]


def search(price=line, budget=10, *, sizes=SIZES, **options):
    """A short search whose accuracy is that part of a which stays."""
    standard = {"layers": LAYERS, "key": KEY, "evaluate": lambda counts: counts["a"] / 8, "episodes": 4}
    return amc(price, sizes, budget, **{**standard, "agent": SMALL, **options})


def walk(price=line, budget=10, least=0.25, multiple=1):
    floor = least_counts(price, SIZES, budget, least=least, multiple=multiple)
    return _Walk(price, SIZES, budget, LAYERS, floor, least, multiple)


# ---- one walk, by hand


def test_the_first_groups_are_limited_so_that_the_last_can_be_paid():
    # A quarter of each is 2, 2 and 1. All ask for all: a may have 10 - 2 - 1 = 7, then nothing is left.
    walked = walk().run(lambda state, t: 1.0)
    assert walked.counts == {"a": 7, "b": 2, "c": 1}
    assert walked.price == 10
    # The action behind 7 of 8, where a quarter is 0: (7/8 - 1/4) / (3/4) = 5/6.
    assert walked.actions == pytest.approx([5 / 6, 0, 0])


def test_what_can_be_paid_is_given():
    # a asks for 1/4 + 3/4 * 1/3 = 1/2: 4, as b; then c asks for all of its 4 and may have 10 - 4 - 4 = 2.
    walked = walk().run(lambda state, t: [1 / 3, 1 / 3, 1.0][t])
    assert walked.counts == {"a": 4, "b": 4, "c": 2}
    assert walked.actions == pytest.approx([1 / 3, 1 / 3, (2 / 4 - 1 / 4) / (3 / 4)])


def test_the_state_by_hand():
    states = walk().run(lambda state, t: [1 / 3, 1 / 3, 1.0][t]).states
    assert all(state.shape == (FEATURES,) and state.dtype == np.float32 for state in states)
    # t of 0, 1, 2; n of 8, 4, 10; c of 3, 8, 4; h and w of 16, 8, 1; stride of 1, 2, 1; k of 3, 3, 1;
    # alone at their least the groups save 6, 6 and 3 of 20.
    assert states[0][:8] == pytest.approx([0, 4 / 6, 0, 1, 1, 0, 1, 1])
    assert states[1][:8] == pytest.approx([1 / 2, 0, 1, 7 / 15, 7 / 15, 1, 1, 1])
    assert states[2][:8] == pytest.approx([1, 1, 1 / 5, 0, 0, 0, 0, 0])
    # reduced: nothing, 4 of a, 4 of a and 4 of b. rest: b and c (6 + 3), c, nothing. Actions before: 1 first.
    assert [state[8] for state in states] == pytest.approx([0, 4 / 20, 8 / 20])
    assert [state[9] for state in states] == pytest.approx([9 / 20, 3 / 20, 0])
    assert [state[10] for state in states] == pytest.approx([1, 1 / 3, 1 / 3])


def test_the_rewards_by_hand():
    assert constrained(0.75, 100) == -0.25
    assert guaranteed(0.75, math.e**2) == pytest.approx(-0.5)
    with pytest.raises(ValueError, match="price must be above 1 for its logarithm, got 1; use a"):
        guaranteed(0.5, 1)


# ---- never above the budget


def polynomial(draw):
    """A price as of layers: each pair of neighbours is multiplied."""
    one, two = draw.random(3) * 10, draw.random(2)
    names = list(SIZES)
    pairs = [(two[i], names[i], names[i + 1]) for i in range(2)]
    return lambda c: (
        sum(w * c[a] * c[b] for w, a, b in pairs) + sum(w * c[n] for w, n in zip(one, names, strict=True))
    )


def jagged(draw):
    """A price that is anything at all, as noisy times may be."""
    table = draw.random([size + 1 for size in SIZES.values()])
    return lambda c: float(table[tuple(c.values())])


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    make=st.sampled_from([polynomial, jagged]),
    answers=st.lists(st.floats(0, 1), min_size=3, max_size=3),
    share=st.floats(0, 1),
    multiple=st.sampled_from([1, 3]),
)
def test_no_walk_and_no_vector_is_above_the_budget(seed, make, answers, share, multiple):
    price = make(np.random.default_rng(seed))
    floor = counted(SIZES, [0.25] * 3, multiple=multiple)
    budget = price(floor) + share * max(price(SIZES) - price(floor), 0)
    walked = walk(price, budget, multiple=multiple).run(lambda state, t: answers[t])
    assert walked.price == price(walked.counts) <= budget
    assert all(0 <= action <= 1 for action in walked.actions)
    assert all(((state >= 0) & (state <= 1)).all() for state in walked.states)
    assert all(n == SIZES[name] or n % multiple == 0 for name, n in walked.counts.items())
    repair = scaled(price, SIZES, budget, least=0.25, multiple=multiple)
    assert price(counted(SIZES, repair(np.array(answers)), multiple=multiple)) <= budget


@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 10**6), make=st.sampled_from([polynomial, jagged]))
def test_no_episode_and_no_trial_is_above_the_budget(seed, make):
    price = make(np.random.default_rng(seed))
    least = counted(SIZES, [0.2] * 3)
    budget = max(price(least), 0.5 * price(SIZES))
    for one in search(price, budget):
        assert one.price == price(one.counts) <= budget
        assert all(least[name] <= count <= SIZES[name] for name, count in one.counts.items())
    found = evolve(
        lambda vector: vector[0],
        3,
        evaluations=12,
        key=jax.random.key(seed),
        repair=scaled(price, SIZES, budget, least=0.2),
        config=Evolution(population=6),
    )
    assert all(price(counted(SIZES, trial.vector)) <= budget for trial in found.history)


def test_on_a_model_with_its_macs():
    p = {"a": jnp.ones((3, 3, 3, 8)), "b": jnp.ones((3, 3, 8, 6)), "c": jnp.ones((6, 2))}
    x = jnp.zeros((1, 8, 8, 3))

    def fn(p, x):
        for name in "ab":
            x = jax.lax.conv_general_dilated(
                x, p[name], (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
        return x.mean((1, 2)) @ p["c"]

    found = dependencies(fn, p, x)
    ranked = ranking(found, absolute(), p)
    price, layers = macs(found, fn, p, x), group_layers(found, fn, p, x)
    assert list(layers.values()) == [LayerShape(6, 8, 4, 4, 2, 3), LayerShape(2, 6, 1, 1, 1, 1)]
    for one in search(price, 0.5 * price({}), sizes=ranked.sizes, layers=layers, evaluate=lambda c: 0.5):
        assert 0 < one.price <= 0.5 * price({})
        assert found.shrink(p, ranked.keep(one.counts))["b"].shape[2:] == tuple(one.counts.values())


# ---- the layers of groups


def test_the_layers_of_a_convolutional_net_by_hand():
    model, _ = zoo.get("mobilenet_v1", width=0.25)
    x = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    weights = jax.eval_shape(model.init, KEY, x)
    layers = list(group_layers(dependencies(model.apply, weights, x), model.apply, weights, x).values())
    # The stem's 8 channels pass a depthwise layer and enter the first pointwise one, of 16, at 32 pixels.
    assert layers[0] == LayerShape(16, 8, 32, 32, 1, 1)
    assert layers[1] == LayerShape(32, 16, 16, 16, 1, 1)
    assert layers[-1] == LayerShape(1000, 256, 1, 1, 1, 1)


def test_a_group_without_a_layer_that_sums_over_it():
    p, x = {"a": jnp.ones((2, 5)), "b": jnp.ones(5)}, jnp.ones((1, 2))
    fn = lambda p, x: jnp.sum(x @ p["a"] * p["b"][None], -1)  # noqa: E731
    found = dependencies(fn, p, x)
    assert list(group_layers(found, fn, p, x).values()) == [LayerShape(5, 2, 1, 1, 1, 1)]
    alone = lambda p, x: jnp.sum(p["b"] * 2) * x  # noqa: E731
    found = dependencies(alone, {"b": p["b"]}, x)
    assert list(group_layers(found, alone, {"b": p["b"]}, x).values()) == [LayerShape(5, 5, 1, 1, 1, 1)]


# ---- learning


def test_finds_the_group_that_matters():
    """All of c and all of a is worth 1, and costs 8 + 2 + 4 of 14; one ratio is worth much less."""
    accuracy = lambda counts: 0.5 * counts["a"] / 8 + 0.5 * counts["c"] / 4  # noqa: E731
    every = itertools.product(*(range(counted(SIZES, [0.2] * 3)[n], size + 1) for n, size in SIZES.items()))
    affordable = [c for c in (dict(zip(SIZES, one, strict=True)) for one in every) if line(c) <= 14]
    assert max(map(accuracy, affordable)) == 1.0
    agent = DDPG(hidden=(64, 64), warmup=30, actor_rate=3e-4, critic_rate=3e-3, capacity=400)
    taught = {"agent": agent, "updates": 40, "key": jax.random.key(1)}
    found = list(search(line, 14, evaluate=accuracy, episodes=100, **taught))
    assert max(one.accuracy for one in found) == 1.0
    assert np.mean([one.accuracy for one in found[:30]]) < accuracy(uniform(line, SIZES, 14)) == 0.6875
    assert np.mean([one.accuracy for one in found[-10:]]) > 0.9


def test_is_a_function_of_its_key():
    first, again = list(search()), list(search())
    assert [(one.counts, one.actions) for one in first] == [(one.counts, one.actions) for one in again]
    other = list(search(key=jax.random.key(1)))
    assert [one.actions for one in other] != [one.actions for one in first]


def test_episodes_are_made_as_they_are_asked_for_and_learned_from_after_warming_up():
    asked = []
    steps = search(evaluate=lambda counts: asked.append(dict(counts)) or 0.5)
    assert asked == []
    first = next(steps)
    assert asked == [first.counts]
    assert (first.accuracy, first.reward, first.losses) == (0.5, -0.5, None)
    others = list(steps)
    assert [one.losses is None for one in others] == [True, False, False]
    assert len(asked) == 4


def test_nan_is_no_accuracy_and_a_reward_of_ones_own():
    assert next(search(evaluate=lambda counts: math.nan)).reward == -1
    found = next(search(budget=math.inf, reward=guaranteed))
    assert found.reward == pytest.approx(-(1 - found.accuracy) * math.log(found.price))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget": 2}, "budget must be at least 5, the price of the least counts, got 2; give more"),
        ({"budget": math.nan}, "budget must be at least 5, the price of the least counts, got nan"),
        ({"least": -0.1}, r"least must be in \[0, 1\], got -0.1"),
        ({"multiple": 0}, "multiple must be at least 1, got 0"),
        ({"sizes": {}}, "sizes must be those of one group at least, got {}"),
        ({"episodes": 0}, "episodes must be from 1 and updates from 0, got 0 and 0"),
        ({"updates": -1}, "episodes must be from 1 and updates from 0, got 4 and -1"),
        ({"layers": {"a": LAYERS["a"]}}, r"layers must name every group, got none of \['b', 'c'\]"),
        ({"agent": DDPG(capacity=2)}, "agent.capacity must be at least the 3 groups, got 2"),
    ],
)
def test_wrong_requests_are_refused_before_any_evaluation(options, message):
    with pytest.raises(ValueError, match=message):
        search(evaluate=lambda counts: pytest.fail("evaluated"), **options)


def test_what_comes_back_wrong_is_refused():
    with pytest.raises(ValueError, match=r"evaluate must return an accuracy in \[0, 1\], got 93.0; divide"):
        next(search(evaluate=lambda counts: 93.0))
    with pytest.raises(ValueError, match=r"reward must be finite, got -inf for accuracy 0\.5 and price"):
        next(search(evaluate=lambda counts: 0.5, reward=lambda accuracy, price: -math.inf))
