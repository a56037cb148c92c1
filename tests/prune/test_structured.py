"""Structured pruning: whole channels with all that belongs to them, and models that really shrink."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from efficient import State, chain
from efficient.core.dependencies import dependencies
from efficient.core.resize import resized
from efficient.core.schedules import cubic_ramp
from efficient.prune import structured
from efficient.prune.allocations import together
from efficient.prune.scores import absolute
from efficient.quantize import linear

KEY = jax.random.key(0)
X = jax.random.normal(KEY, (16, 6))


def params():
    keys = jax.random.split(KEY, 3)
    return {
        "a": {"kernel": jax.random.normal(keys[0], (6, 8)), "bias": jnp.ones(8)},
        "b": {"kernel": jax.random.normal(keys[1], (8, 10)), "bias": jnp.ones(10)},
        "c": {"kernel": jax.random.normal(keys[2], (10, 2))},
    }


def fn(p, x):
    x = jax.nn.relu(x @ p["a"]["kernel"] + p["a"]["bias"][None])
    return jnp.tanh(x @ p["b"]["kernel"] + p["b"]["bias"][None]) @ p["c"]["kernel"]


FOUND = dependencies(fn, params(), X)


def kept(state):
    return {name: int(mask.sum()) for name, mask in state.fixed.keep.items()}


def test_by_hand():
    # Mean |w| of the 3 weights of each channel of a:1, two that make it one that takes it: 7/3, 4/3, 8/3.
    p = {"a": jnp.array([[1.0, 2.0, 3.0], [4.0, 1.0, 0.0]]), "b": jnp.array([[2.0], [1.0], [5.0]])}
    found = dependencies(lambda p, x: x @ p["a"] @ p["b"], p, jnp.ones((1, 2)))
    t = structured(found, absolute(), 1 / 3)
    state = t.init(p)
    np.testing.assert_array_equal(state.fixed.keep["a:1"], [True, False, True])
    out = t.apply(p, state)
    np.testing.assert_array_equal(out["a"], [[1, 0, 3], [4, 0, 0]])
    np.testing.assert_array_equal(out["b"], [[2], [0], [5]])


def test_each_group_has_its_budget_and_together_all_have_one():
    assert kept(structured(FOUND, absolute(), 0.5).init(params())) == {"a/kernel:1": 4, "b/kernel:1": 5}
    state = structured(FOUND, absolute(), 0.5, allocation=together()).init(params())
    assert sum(kept(state).values()) == 9
    assert kept(structured(FOUND, absolute(), 0.5, where="b/**").init(params())) == {"b/kernel:1": 5}


def test_a_ramp_inside_jit_only_adds_zeros_and_ends_at_its_sparsity():
    t = structured(FOUND, absolute(), cubic_ramp(final=0.75, end=4))
    state, update = t.init(params()), jax.jit(lambda s, p, i: t.update(s, p, step=i))
    assert kept(state) == {"a/kernel:1": 8, "b/kernel:1": 10}
    for step in range(1, 6):
        moved = jax.tree.map(lambda w, k=step: w + jax.random.normal(jax.random.key(k), w.shape), params())
        new = update(state, moved, step)
        for name, mask in new.fixed.keep.items():
            assert not np.any(mask & ~state.fixed.keep[name])
        state = new
    assert kept(state) == {"a/kernel:1": 2, "b/kernel:1": 2}  # 8 - 6, and 10 - round(7.5)


def test_in_a_chain_what_is_gone_stays_gone_and_the_shrunk_model_is_the_masked_one():
    t = chain(structured(FOUND, absolute(), 0.5), linear(8))
    p, optimizer = params(), optax.adam(1e-2)
    state = t.init(p)
    moments = optimizer.init(p)
    for _ in range(3):
        grads = jax.grad(lambda p: jnp.mean(fn(t.apply(p, state), X) ** 2))(p)
        updates, moments = optimizer.update(grads, moments)
        p = optax.apply_updates(p, updates)
    seen, keep = t.apply(p, state), state.fixed[0].keep
    small = FOUND.shrink(seen, keep)
    assert small["a"]["kernel"].shape == (6, 4)
    assert small["c"]["kernel"].shape == (5, 2)
    run = resized(fn, FOUND, keep)
    np.testing.assert_allclose(run(small, X), fn(seen, X), atol=1e-6)
    assert FOUND.shrink(moments, keep)[0].mu["a"]["kernel"].shape == (6, 4)
    _, again = optimizer.update(jax.grad(lambda p: jnp.sum(run(p, X)))(small), FOUND.shrink(moments, keep))
    assert jax.tree.structure(again) == jax.tree.structure(moments)


def test_nan_goes_first_and_one_channel_stays():
    p = params()
    p["a"]["kernel"] = p["a"]["kernel"].at[0, 3].set(jnp.nan)
    state = structured(FOUND, absolute(), 0.2).init(p)
    assert not state.fixed.keep["a/kernel:1"][3]
    assert kept(structured(FOUND, absolute(), 0.99).init(params())) == {"a/kernel:1": 1, "b/kernel:1": 1}


def test_update_without_a_schedule_keeps_what_stays():
    t = structured(FOUND, absolute(), 0.5)
    state = t.init(params())
    later = t.update(state, jax.tree.map(lambda w: -w[::-1], params()), step=1)
    assert isinstance(later, State)
    assert kept(later) == kept(state)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: structured(FOUND, absolute(), 1.0), r"sparsity must be in \[0, 1\), got 1.0"),
        (lambda: structured(FOUND, absolute(), 0.5, every=0), "every must be at least 1, got 0"),
        (
            lambda: structured(FOUND, absolute(), 0.5, where="z"),
            "where must choose a free group, got 'z' among",
        ),
        (
            lambda: structured(FOUND, absolute(), 0.5).init({"z": X}),
            "params must hold the weights of the groups",
        ),
    ],
)
def test_wrong_requests_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_only_the_weights_that_are_scored_count():
    params = {"up": jnp.array([[1.0, 3.0, 2.0]]), "down": jnp.array([[9.0], [1.0], [1.0]])}
    found = dependencies(lambda p, x: jax.nn.relu(x @ p["up"]) @ p["down"], params, jnp.ones((1, 1)))
    keep = structured(found, absolute(), 0.5, scored="up").init(params).fixed.keep["up:1"]
    # By `up` alone 1, 3, 2; with `down` the means are 5, 2, 1.5. Half of three, rounded to even: two go.
    np.testing.assert_array_equal(keep, [False, True, False])
    both = structured(found, absolute(), 0.5).init(params).fixed.keep["up:1"]
    np.testing.assert_array_equal(both, [True, False, False])
    with pytest.raises(
        ValueError, match=r"scored must choose a weight of every group, got 'out' and none of"
    ):
        structured(found, absolute(), 0.5, scored="out").init(params)
