"""Restart: the moments of regrown weights are zero, and nothing else changes, under any optimizer."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from efficient.core.freeze import Trainable, freeze
from efficient.core.transform import State
from efficient.train import create, make_epoch, make_step, restart
from tests.train import tiny

PARAMS = Trainable({"w": jnp.array([0.5, -1.0, 2.0]), "params": {"w": jnp.ones(3)}, "b": jnp.array(0.25)}, ())
GROWN = {"params/w": jnp.array([False, True, False])}
BATCH = next(iter(tiny.Stream(length=1)))


def labels(tree):
    return Trainable({"w": "fast", "params": {"w": "slow"}, "b": "slow"}, ())


OPTIMIZERS = {  # with how many moments w has
    "sgd": (optax.sgd(0.1), 0),
    "momentum": (optax.sgd(0.1, momentum=0.9), 1),
    "adam": (optax.adam(0.1), 2),
    "adamw": (optax.adamw(0.1, mu_dtype=jnp.bfloat16), 2),
    "chain": (optax.chain(optax.clip_by_global_norm(1.0), optax.adam(0.1)), 2),
    "partition": (optax.partition({"fast": optax.adam(0.1), "slow": optax.sgd(0.1)}, labels), 2),
    "freeze": (freeze("params/b", optax.adam(0.1)), 2),
    "frozen": (freeze("params/w", optax.adam(0.1)), 0),
    "injected": (optax.inject_hyperparams(optax.adam)(learning_rate=0.1), 2),
    "every_other": (optax.MultiSteps(optax.adam(0.1), 2), 3),
    "adafactor": (optax.adafactor(0.1, min_dim_size_to_factor=2), 1),
}


def before_and_after(optimizer, params=PARAMS, grown=GROWN):
    """An optimizer's state after three steps, and restarted."""
    state = optimizer.init(params)
    grads = jax.tree.map(lambda p: jnp.full(p.shape, 0.5, p.dtype), params)
    for _ in range(3):
        _, state = optimizer.update(grads, state, params)
    return state, restart(state, params, grown)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_zero_where_regrown_and_nowhere_else(name):
    optimizer, moments = OPTIMIZERS[name]
    old, new = before_and_after(optimizer)
    chex.assert_trees_all_equal_shapes_and_dtypes(new, old)
    changed = 0
    for (keys, was), now in zip(jax.tree_util.tree_leaves_with_path(old), jax.tree.leaves(new), strict=True):
        was, now = np.asarray(was), np.asarray(now)
        if (was != now).any():
            changed += 1
            assert jax.tree_util.keystr(keys).endswith(".params['w']")  # and not .params['params']['w']
            np.testing.assert_array_equal(now, was * np.array([1, 0, 1], was.dtype))
            assert was[1] != 0
    assert changed == moments


def test_statistics_of_another_shape_stay():
    params = Trainable({"w": jnp.ones((4, 4))}, ())
    old, new = before_and_after(
        optax.adafactor(0.1, min_dim_size_to_factor=2), params, {"params/w": jnp.ones((4, 4), bool)}
    )
    chex.assert_trees_all_equal(old, new)


def test_paths_of_nnx():
    params = Trainable(nnx.State({"w": nnx.Param(jnp.ones(3))}), ())
    _, new = before_and_after(optax.adam(0.1), params)
    assert [np.asarray(leaf).tolist().count(0) for leaf in jax.tree.leaves(new) if leaf.shape] == [1, 1]


# ---- in a step


def late_mask():
    """Shows places 0 and 2; from step 2 on also place 1."""
    t = tiny.mask(0, 2)

    def update(state, params, *, grads=None, step):
        at = jnp.arange(3) == 1
        return State(state.train, {**state.fixed, "w": state.fixed["w"] | (at & (step >= 2))})

    return t._replace(update=update)


def grown(old, new):
    return {path: new.fixed[path] & ~old.fixed[path] for path in new.fixed}


def run(restarted, *, steps, transform=None):
    chex.clear_trace_counter()
    transform = transform or late_mask()
    optimizer = optax.adam(0.1)
    loss = chex.assert_max_traces(tiny.loss, 1)
    state = create(tiny.params(), transform, optimizer, key=jax.random.key(0))
    # All have a momentum, the second weight too: it was shown before.
    adam, *rest = state.opt_state
    adam = adam._replace(mu=jax.tree.map(lambda v: v + 0.5, adam.mu))
    state = dataclasses.replace(state, opt_state=(adam, *rest))
    step = make_step(loss, optimizer, transform, restarted=restarted)
    for _ in range(steps):
        state, _ = step(state, BATCH)
    return state


def test_a_step_forgets_what_was_regrown():
    plain, forgot = run(None, steps=2), run(grown, steps=2)
    for name in ("mu", "nu"):
        a, b = (getattr(s.opt_state[0], name).params for s in (plain, forgot))
        np.testing.assert_array_equal(b["w"], np.asarray(a["w"]) * [1, 0, 1])
        np.testing.assert_array_equal(b["b"], a["b"])
    assert float(plain.opt_state[0].mu.params["w"][1]) > 0.1
    chex.assert_trees_all_equal(plain.params, forgot.params)
    # The step after, its first gradient alone moves it.
    later = run(grown, steps=3)
    assert float(later.opt_state[0].mu.params["w"][1]) != 0


def test_nothing_changes_where_nothing_is_regrown():
    plain = run(None, steps=3)
    chex.assert_trees_all_equal(
        jax.tree.leaves(plain.opt_state), jax.tree.leaves(run(lambda old, new: None, steps=3).opt_state)
    )
    still = run(grown, steps=3, transform=tiny.mask(0, 2))
    other = run(None, steps=3, transform=tiny.mask(0, 2))
    chex.assert_trees_all_equal(still.opt_state, other.opt_state)


def test_in_an_epoch():
    optimizer = optax.adam(0.1)
    state = create(tiny.params(), late_mask(), optimizer, key=jax.random.key(0))
    step = make_step(tiny.loss, optimizer, late_mask(), restarted=grown)
    many = jax.tree.map(lambda v: np.stack([np.asarray(v)] * 2), BATCH)
    state, _ = make_epoch(step)(state, many)
    assert float(state.opt_state[0].mu.params["w"][1]) == 0
    assert float(state.opt_state[0].mu.params["w"][0]) != 0


@pytest.mark.parametrize(
    ("regrown", "message"),
    [
        (
            {"params/v": jnp.ones(3, bool)},
            r"regrown must have paths and shapes of params, got 'params/v' of \(3,\) where they have no such",
        ),
        (
            {"params/w": jnp.ones(2, bool)},
            r"got 'params/w' of \(2,\) where they have \(3,\); name weights that the optimizer moves",
        ),
    ],
)
def test_other_weights_than_the_params(regrown, message):
    with pytest.raises(ValueError, match=message):
        restart(optax.adam(0.1).init(PARAMS), PARAMS, regrown)


def test_a_step_says_so_too():
    optimizer = optax.sgd(0.1)
    state = create(tiny.params(), tiny.mask(0), optimizer, key=jax.random.key(0))
    step = make_step(tiny.loss, optimizer, tiny.mask(0), restarted=lambda old, new: {"v": jnp.ones(3, bool)})
    with pytest.raises(ValueError, match=r"regrown must have paths and shapes of params, got 'params/v'"):
        step(state, BATCH)
