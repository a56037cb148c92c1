"""Magnitude: the sparsity asked for is the sparsity obtained, once and along a schedule."""

import inspect

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from efficient import State, chain
from efficient.core.schedules import cubic_ramp, staircase
from efficient.prune import magnitude
from efficient.quantize import linear

KEY = jax.random.key(0)


def tree():
    return {"a": jnp.array([[3.0, -1.0], [0.5, -4.0]]), "b": jnp.array([-0.125, 0.25, 2.0, 0.0])}


def kept(state):
    return {path: int(mask.sum()) for path, mask in state.fixed.masks.items()}


def test_by_hand_each_leaf():
    # Half of each: of |a| = 3, 1, .5, 4 stay 3 and 4; of |b| = .125, .25, 2, 0 stay .25 and 2.
    t = magnitude(0.5)
    out = t.apply(tree(), t.init(tree()))
    np.testing.assert_array_equal(out["a"], [[3, 0], [0, -4]])
    np.testing.assert_array_equal(out["b"], [0, 0.25, 2, 0])


def test_by_hand_all_together():
    # Of 8 weights 4 stay: 4, 3, 2, 1; that is three of a and one of b.
    t = magnitude(0.5, scope="global")
    out = t.apply(tree(), t.init(tree()))
    np.testing.assert_array_equal(out["a"], [[3, -1], [0, -4]])
    np.testing.assert_array_equal(out["b"], [0, 0, 2, 0])


@settings(deadline=None, max_examples=60)
@given(
    values=hnp.arrays(np.float32, (4, 6), elements=st.floats(-4, 4, width=16)),
    sparsity=st.floats(0, 0.999),
    scope=st.sampled_from(["leaf", "global"]),
)
def test_the_sparsity_obtained_is_the_one_asked(values, sparsity, scope):
    params = {"x": jnp.asarray(values), "y": jnp.asarray(values[:3])}
    state = magnitude(sparsity, scope=scope).init(params)
    budget = lambda n: max(1, n - round(sparsity * n))  # noqa: E731
    if scope == "leaf":
        assert kept(state) == {"x": budget(24), "y": budget(18)}
    else:
        assert sum(kept(state).values()) == budget(42)
    # None that went is larger than one that stayed: the nearest tree of this sparsity.
    for names in [["x"], ["y"]] if scope == "leaf" else [["x", "y"]]:
        stay = np.concatenate([np.abs(np.asarray(params[p]))[state.fixed.masks[p]] for p in names])
        gone = np.concatenate([np.abs(np.asarray(params[p]))[~state.fixed.masks[p]] for p in names])
        assert gone.size == 0 or stay.min() >= gone.max()


def test_no_leaf_goes_whole():
    assert kept(magnitude(0.999).init(tree())) == {"a": 1, "b": 1}


def test_along_a_cubic_ramp_inside_jit():
    """The budget of every step is the schedule's, what is gone stays gone, and one program does it all."""
    ramp = cubic_ramp(initial=0.25, final=0.9, begin=2, end=10)
    t = magnitude(ramp)
    params = {"w": jax.random.normal(KEY, (10, 10))}
    state = t.init(params)
    assert kept(state) == {"w": 75}
    chex.clear_trace_counter()
    update = jax.jit(chex.assert_max_traces(n=1)(lambda s, p, i: t.update(s, p, step=i)))
    for step in range(1, 13):
        # Weights change in between; those that are gone become large again.
        params = {
            "w": jax.random.normal(jax.random.key(step), (10, 10))
            + jnp.where(state.fixed.masks["w"], 0, 100.0)
        }
        new = update(state, params, jnp.int32(step))
        assert not np.any(new.fixed.masks["w"] & ~state.fixed.masks["w"])
        # 1 - share is a number of eighths; the sparsity, no half of a weight, is the same in float32.
        share = min(max((step - 2) / 8, 0), 1)
        assert kept(new) == {"w": 100 - round(100 * (0.9 + (0.25 - 0.9) * (1 - share) ** 3))}
        state = new
    assert kept(state) == {"w": 10}


@pytest.mark.parametrize("scope", ["leaf", "global"])
def test_along_a_staircase(scope):
    t = magnitude(staircase((0.0, 0.5, 0.75), (2, 4)), scope=scope)
    params, state = tree(), t.init(tree())
    update = jax.jit(lambda s, i: t.update(s, params, step=i))
    counts = [sum(kept(state).values())]
    for step in range(1, 6):
        state = update(state, jnp.int32(step))
        counts.append(sum(kept(state).values()))
    assert counts == [8, 8, 4, 4, 2, 2]
    # |w| = 4 and 3 are a's; on its own, b keeps its 2.
    assert kept(state) == ({"a": 1, "b": 1} if scope == "leaf" else {"a": 2, "b": 0})


def test_only_at_steps_that_every_divides():
    t = magnitude(lambda step: 0.1 * step, every=3)
    params = {"w": jnp.arange(1.0, 11.0)}
    state, counts = t.init(params), []
    for step in range(1, 8):
        state = t.update(state, params, step=step)
        counts.append(kept(state)["w"])
    assert counts == [10, 10, 7, 7, 7, 4, 4]


def test_a_schedule_that_falls_changes_nothing():
    t = magnitude(lambda step: 0.5 - 0.1 * step)
    state = t.init({"w": jnp.arange(1.0, 11.0)})
    later = t.update(state, {"w": jnp.arange(10.0, 0.0, -1)}, step=3)
    np.testing.assert_array_equal(later.fixed.masks["w"], state.fixed.masks["w"])


def test_without_a_schedule_masks_stay():
    t = magnitude(0.5)
    state = t.init(tree())
    assert t.update(state, jax.tree.map(lambda w: -w[::-1], tree()), step=1) is state


def test_nan_goes_first_and_the_budget_holds():
    """A weight that became NaN under a schedule was counted twice: it and one that was gone already."""
    t = magnitude(lambda step: 0.5)
    params = {"w": jnp.arange(1.0, 7.0)}
    state = t.init(params)
    nan = {"w": params["w"].at[4].set(jnp.nan)}
    np.testing.assert_array_equal(t.update(state, nan, step=1).fixed.masks["w"], [0, 0, 0, 1, 1, 1])
    tighter = magnitude(lambda step: 4 / 6)
    np.testing.assert_array_equal(tighter.update(state, nan, step=1).fixed.masks["w"], [0, 0, 0, 1, 0, 1])
    np.testing.assert_array_equal(
        tighter.init({"w": params["w"].at[5].set(jnp.nan)}).fixed.masks["w"], [0, 0, 0, 1, 1, 0]
    )


def test_a_pruned_weight_has_no_gradient():
    t = magnitude(0.5)
    state = t.init(tree())
    grads = jax.grad(lambda p: sum(jnp.sum(3 * w) for w in jax.tree.leaves(t.apply(p, state))))(tree())
    for path in ("a", "b"):
        np.testing.assert_array_equal(grads[path], 3.0 * state.fixed.masks[path])


def test_dtype_integers_and_leaves():
    params = {"w": jnp.ones((4, 2), jnp.bfloat16), "n": jnp.int32(3)}
    t = magnitude(0.5)
    out = t.apply(params, t.init(params))
    assert out["w"].dtype == jnp.bfloat16
    assert out["n"] is params["n"]
    packed = linear(8).pack({"w": tree()["a"]}, State({"w": ()}, {"w": ()}))
    np.testing.assert_array_equal(t.apply(packed, t.init(packed))["w"] != 0, [[True, False], [False, True]])
    assert kept(t.init({"w": jnp.ones((4, 2)), "empty": jnp.zeros((0, 3))})) == {"w": 4, "empty": 0}


def test_two_rounds_by_chain():
    """The second half of a chain ranks what the first left: 1/2 then 3/4 of all."""
    params = {"w": jnp.arange(1.0, 9.0)}
    t = chain(magnitude(0.5), magnitude(0.75))
    np.testing.assert_array_equal(t.apply(params, t.init(params))["w"], [0, 0, 0, 0, 0, 0, 7, 8])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: magnitude(1.0), r"sparsity must be in \[0, 1\), got 1.0; 0.9 zeros nine weights in ten"),
        (lambda: magnitude(-0.1), r"sparsity must be in \[0, 1\), got -0.1"),
        (lambda: magnitude(float("nan")), r"sparsity must be in \[0, 1\), got nan"),
        (
            lambda: inspect.unwrap(magnitude)(0.5, scope="layer"),
            r"scope must be 'leaf' or 'global', got 'layer'; choose one",
        ),
        (lambda: magnitude(0.5, every=0), r"every must be at least 1, got 0; it counts steps between masks"),
        (
            lambda: magnitude(0.5).init({"n": jnp.int32(1)}),
            r"params must have a floating leaf to prune, got none; check the pattern that scopes it",
        ),
    ],
)
def test_out_of_range(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_other_params_than_those_of_init():
    """A tree of other paths came back unpruned, silently."""
    t = magnitude(0.5)
    state = t.init({"old": jnp.ones(4)})
    for run in (t.apply, t.pack):
        with pytest.raises(
            ValueError, match=r"params must be those of init, got a new path 'new'; make a new"
        ):
            run({"new": jnp.ones(4)}, state)
