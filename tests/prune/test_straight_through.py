"""Straight-through pruning: exactly the largest weights show, all are trained, what was hidden comes back."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from efficient import State, at, chain, stacked
from efficient.core.schedules import cubic_ramp
from efficient.prune import Pruned, magnitude, straight_through
from efficient.prune.allocations import erdos_renyi, together
from efficient.prune.patterns import n_m
from efficient.quantize import linear
from efficient.train import create, make_step

KEY = jax.random.key(3)


def tree():
    draw = np.random.default_rng(4).standard_normal
    return {"a": jnp.asarray(draw((6, 10)), jnp.float32), "b": jnp.asarray(draw(20), jnp.float32)}


def jitted(t):
    """`t.update` as one program."""
    return jax.jit(lambda state, params, step: t.update(state, params, step=step))


def kept(state):
    return {path: int(mask.sum()) for path, mask in state.fixed.masks.items()}


def test_by_hand():
    # Half of 4 stay: |w| = 4 1 .5 3 shows the first and the last. The loss is <shown, (1, 2, 3, 4)>: its
    # gradient is (1, 2, 3, 4) for all. With decay 1/2 the hidden -1 and .5 add -.5 and .25.
    params, slope = {"w": jnp.array([4.0, -1, 0.5, 3])}, jnp.arange(1.0, 5)
    for decay, expected in ((0.0, [1, 2, 3, 4]), (0.5, [1, 1.5, 3.25, 4])):
        t = straight_through(0.5, decay=decay)
        state = t.init(params)
        assert isinstance(state.fixed, Pruned)
        np.testing.assert_array_equal(t.apply(params, state)["w"], [4, 0, 0, 3])
        np.testing.assert_array_equal(t.pack(params, state)["w"], [4, 0, 0, 3])
        grads = jax.grad(lambda p, t=t, s=state: jnp.sum(slope * t.apply(p, s)["w"]))(params)["w"]
        np.testing.assert_array_equal(grads, expected)
        # The hidden -1 has grown to -3.5: it shows, and the 3 hides.
        moved = {"w": params["w"].at[1].set(-3.5)}
        new = t.update(state, moved, step=1)
        np.testing.assert_array_equal(t.apply(moved, new)["w"], [4, -3.5, 0, 0])
        np.testing.assert_array_equal(t.apply(moved, state)["w"], [4, 0, 0, 3])


def test_the_gradient_passes_forwards_too():
    t, params = straight_through(0.75), tree()
    state = t.init(params)
    tangents = jax.tree.map(jnp.ones_like, params)
    shown, passed = jax.jvp(lambda p: t.apply(p, state), (params,), (tangents,))
    chex.assert_trees_all_equal(passed, tangents)
    chex.assert_trees_all_equal(shown, magnitude(0.75).apply(params, magnitude(0.75).init(params)))


def test_masks_are_those_of_magnitude_on_the_moved_weights():
    """At every step that is due they are what pruning anew would choose; between, they stay."""
    t, params = straight_through(0.75, every=3, allocation=together()), tree()
    state, update = t.init(params), jitted(t)
    anew = magnitude(0.75, scope="global")
    changed = 0
    for step in range(1, 10):
        params = jax.tree.map(lambda v, s=step: jnp.roll(v, s, axis=0), params)
        new = update(state, params, step)
        if step % 3:
            chex.assert_trees_all_equal(new, state)
        else:
            chex.assert_trees_all_equal(new.fixed.masks, anew.init(params).fixed.masks)
            changed += int(jnp.sum(new.fixed.masks["b"] != state.fixed.masks["b"]))
        state = new
    assert changed > 0


def test_a_schedule_counts_exactly_and_may_fall():
    params = tree()
    t = straight_through(cubic_ramp(initial=0.8, final=0.0, end=4), allocation=erdos_renyi())
    state, update = t.init(params), jitted(t)
    assert sum(kept(state).values()) == 16
    # s(t) = 0.8 (1 - t/4)^3 of 80: 27, 8, 1 and 0 are hidden.
    for step, hidden in ((1, 27), (2, 8), (3, 1), (4, 0), (9, 0)):
        state = update(state, params, step)
        assert sum(kept(state).values()) == 80 - hidden
    chex.assert_trees_all_equal(t.apply(params, state), params)


def test_two_of_four():
    t = straight_through(pattern=n_m(2, 4, axis=0), decay=2e-4)
    params = {"w": jnp.array([[3.0], [-1.0], [2.0], [0.5], [0.1], [-0.3], [0.2], [0.0]])}
    state = t.init(params)
    np.testing.assert_array_equal(
        t.apply(params, state)["w"][:, 0], np.float32([3, 0, 2, 0, 0, -0.3, 0.2, 0])
    )
    grads = jax.grad(lambda p: jnp.sum(t.apply(p, state)["w"]))(params)["w"][:, 0]
    # 1 + 2e-4 of the hidden -1, .5, .1 and 0.
    expected = 1 + 2e-4 * np.float32([0, -1, 0, 0.5, 0.1, 0, 0, 0])
    np.testing.assert_allclose(grads, expected, rtol=2**-23)


def test_nan_hides_first_and_what_hides_shows_as_zero():
    t = straight_through(0.5)
    params = {"w": jnp.array([jnp.nan, 1.0, jnp.inf, 0.5])}
    state = t.init(params)
    np.testing.assert_array_equal(t.apply(params, state)["w"], [0, 1, np.inf, 0])
    np.testing.assert_array_equal(jitted(t)(state, params, 1).fixed.masks["w"], [0, 1, 1, 0])


def test_other_dtypes_and_values():
    t = straight_through(0.5, decay=0.25)
    mixed = {"w": jnp.arange(4, dtype=jnp.bfloat16), "n": jnp.int32(3)}
    state = t.init(mixed)
    out = t.apply(mixed, state)
    assert out["w"].dtype == jnp.bfloat16
    assert out["n"] is mixed["n"]
    grads = jax.grad(lambda w: t.apply({"w": w}, state)["w"].sum())(mixed["w"])
    assert grads.dtype == jnp.bfloat16
    np.testing.assert_array_equal(grads.astype(jnp.float32), [1, 1.25, 1, 1])
    assert kept(t.update(state, mixed, step=1)) == {"w": 2}


def test_stacked_is_each_layer_by_itself():
    t = straight_through(0.5)
    params = {"w": tree()["a"].reshape(3, 4, 5)}
    over = stacked(t)
    new = jax.jit(lambda p: over.update(over.init(p), p, step=jnp.int32(1)))(params)
    for i in range(3):
        np.testing.assert_array_equal(new.fixed.masks["w"][i], t.init({"w": params["w"][i]}).fixed.masks["w"])


def test_training_brings_weights_back_in_one_program():
    """The budget is exact at every step, hidden weights are moved, and some show again; it fits better."""
    x = jax.random.normal(jax.random.key(5), (32, 12))
    y = x @ jnp.where(jnp.arange(48).reshape(12, 4) % 4 == 1, 1.0, 0.0)  # a quarter of the weights is enough

    def loss(weights, model_state, batch, key):
        return jnp.mean((x @ weights["kernel"] + weights["bias"][None] - y) ** 2), (model_state, {})

    params = {"kernel": 0.1 * jax.random.normal(KEY, (12, 4)), "bias": jnp.zeros(4)}
    optimizer = optax.adam(0.02)
    last = {}
    for name, make in (("straight", straight_through), ("fixed", magnitude)):
        chex.clear_trace_counter()
        t = at("kernel", chain(make(0.75), linear(8)))
        state = create(params, t, optimizer, key=KEY)
        step = make_step(chex.assert_max_traces(loss, 1), optimizer, t)
        back, ever = 0, np.array(state.compress.fixed[0].masks["kernel"])
        for _ in range(60):
            before = np.array(state.params["kernel"])
            old = np.array(state.compress.fixed[0].masks["kernel"])
            state, metrics = step(state, ())
            mask = np.array(state.compress.fixed[0].masks["kernel"])
            moved = np.array(state.params["kernel"]) != before
            assert mask.sum() == 12
            assert moved[~old].any() == (name == "straight")
            back += (mask & ~old & ever).sum()
            ever |= mask
        last[name] = float(metrics["loss"])
        assert (ever.sum() > 12) == (name == "straight")
        assert name == "straight" or back == 0
    assert last["straight"] < last["fixed"] / 2


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: straight_through(1.0), r"sparsity must be in \[0, 1\), got 1.0; 0.9 zeros nine weights"),
        (lambda: straight_through(), r"sparsity must be given where the pattern has none of its own, got N"),
        (lambda: straight_through(0.5, every=0), r"every must be at least 1, got 0; it counts steps"),
        (lambda: straight_through(0.5, decay=-1.0), r"decay must be at least 0, got -1.0; 2e-4 suits SGD"),
        (lambda: straight_through(0.5, decay=float("nan")), r"decay must be at least 0, got nan"),
        (
            lambda: straight_through(0.5).init({"n": jnp.int32(1)}),
            r"params must have a floating leaf to prune, got none",
        ),
        (
            lambda: straight_through(pattern=n_m(2, 4)).init({"b": jnp.ones(4)}),
            r"axis must be one of the 1 axes of 'b', got -2; exclude the leaf",
        ),
        (
            lambda: straight_through(0.5).apply(
                {"new": jnp.ones(4)}, straight_through(0.5).init({"w": jnp.ones(4)})
            ),
            r"params must be those of init, got a new path 'new'; make a new state",
        ),
        (lambda: straight_through(0.5).apply(tree(), State()), r"state must be"),
    ],
)
def test_out_of_range(make, message):
    with pytest.raises(ValueError, match=message):
        make()
