"""Every method, alone and in all ordered pairs, on every kind of tree, obeys every law."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from efficient import State, at, chain, dense, lift, load, save
from efficient.core.leaf import is_leaf
from tests.laws import METHODS, PAIRS
from tests.trees import FEATURES, TREES

CHAINS = [(name,) for name in METHODS] + PAIRS
KEY = jax.random.key(11)
EPS = float(jnp.finfo(jnp.float32).eps)


def made(names):
    """One method, or a chain of them."""
    return METHODS[names[0]].make if len(names) == 1 else chain(*(METHODS[name].make for name in names))


def ids(names):
    return "-".join(names)


def bound(weights):
    """Three roundings (a product, a sum, a cast) of the largest weight."""
    return 3 * EPS * max(float(jnp.max(jnp.abs(w))) for w in jax.tree.leaves(weights))


def bits(value):
    """An array's bytes; a typed key's data."""
    is_key = jnp.issubdtype(value.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(value) if is_key else value).tobytes()


@pytest.fixture(scope="module", params=list(TREES))
def tree(request):
    return TREES[request.param]()


@pytest.mark.parametrize("names", CHAINS, ids=ids)
def test_laws(tree, names):
    """Structure, jit, stability of the state, pack against apply, and the model's own output."""
    t = tree.scope(made(names))
    state = t.init(tree.params, key=KEY)
    weights = t.apply(tree.params, state)
    packed = t.pack(tree.params, state)

    # The same tree, shapes and dtypes in and out; leaves stand where arrays stood.
    whole = jax.tree.structure(weights, is_leaf=is_leaf)
    assert whole == jax.tree.structure(tree.params) == jax.tree.structure(packed, is_leaf=is_leaf)
    for out in (weights, packed):
        chex.assert_trees_all_equal_shapes_and_dtypes(jax.eval_shape(dense, out), tree.params)

    # jit == eager, and a stable state.
    chex.assert_trees_all_equal_shapes_and_dtypes(
        state, jax.eval_shape(lambda p: t.init(p, key=KEY), tree.params)
    )
    under_jit = jax.jit(lambda p, s: dense(t.apply(p, s)))(tree.params, state)
    chex.assert_trees_all_close(dense(weights), under_jit, rtol=0, atol=bound(under_jit))
    grads = jax.tree.map(jnp.ones_like, weights)
    updated = jax.eval_shape(lambda s, g: t.update(s, tree.params, grads=g, step=jnp.int32(3)), state, grads)
    chex.assert_trees_all_equal_shapes_and_dtypes(state, updated)

    # What is packed is what was trained: bit for bit, weight by weight.
    chex.assert_trees_all_close(dense(weights), dense(packed), rtol=0, atol=bound(under_jit))

    # The model, lifted, sees those weights: float32 sums of at most 8 terms, in two or three layers.
    plain = tree.fn(dense(packed), tree.x)
    for out in (weights, packed):
        chex.assert_trees_all_close(
            lift(tree.fn)(out, tree.x), plain, rtol=0, atol=64 * EPS * float(jnp.max(jnp.abs(plain)) + 1)
        )


KINDS = [(kind, names) for kind in TREES for names in CHAINS if kind == "linen" or len(names) == 1]


@pytest.mark.parametrize(("kind", "names"), KINDS, ids=lambda v: v if isinstance(v, str) else ids(v))
def test_stored_and_loaded_bit_for_bit(kind, names, tmp_path):
    """The state goes on training, and the packed weights go on serving, from where they were saved."""
    tree = TREES[kind]()
    t = tree.scope(made(names))
    state = t.init(tree.params, key=KEY)
    for name, value in (("state", state), ("packed", t.pack(tree.params, state))):
        save(tmp_path / name, value)
        again = load(tmp_path / name, like=jax.eval_shape(lambda v=value: v))
        chex.assert_trees_all_equal_structs(value, again)
        chex.assert_trees_all_equal_shapes_and_dtypes(value, again)
        for old, new in zip(jax.tree.leaves(value), jax.tree.leaves(again), strict=True):
            assert bits(old) == bits(new)


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.is_idempotent])
def test_idempotent(tree, name):
    t = tree.scope(METHODS[name].make)
    state = t.init(tree.params, key=KEY)
    once = dense(t.apply(tree.params, state))
    twice = dense(t.apply(once, state))
    chex.assert_trees_all_close(once, twice, rtol=0, atol=bound(once))


def _trained(t, params, state, loss, steps):
    """`steps` steps of AdamW on the params and on what the transform trains, in one compiled loop."""
    optimizer = optax.adamw(1e-2, weight_decay=0.1)

    def step(carry, i):
        params, state, opt_state = carry
        grads = jax.grad(lambda p, train: loss(t.apply(p, State(train, state.fixed))), (0, 1))(
            params, state.train
        )
        updates, opt_state = optimizer.update(grads, opt_state, (params, state.train))
        params, train = optax.apply_updates((params, state.train), updates)
        shown = jax.grad(loss)(t.apply(params, State(train, state.fixed)))
        return (params, t.update(State(train, state.fixed), params, grads=shown, step=i), opt_state), None

    start = (params, state, optimizer.init((params, state.train)))
    (params, state, _), _ = jax.jit(lambda c: jax.lax.scan(step, c, jnp.arange(steps)))(start)
    return params, state


PRUNING = [names for names in CHAINS if any(METHODS[name].prunes for name in names)]


@pytest.mark.parametrize("names", PRUNING, ids=ids)
def test_zeros_stay_zero_through_1000_steps(names):
    """In every chain with a mask: the pruned weights are exactly zero after 1,000 steps of AdamW."""
    params = {"kernel": jax.random.normal(KEY, (FEATURES, 5))}
    x = jax.random.normal(jax.random.key(1), (32, FEATURES))
    y = x @ jax.random.normal(jax.random.key(2), (FEATURES, 5))
    t = made(names)
    state = t.init(params, key=KEY)
    loss = lambda w: jnp.mean((lift(lambda w, x: x @ w["kernel"])(w, x) - y) ** 2)  # noqa: E731
    before = float(loss(t.apply(params, state)))
    new_params, new_state = _trained(t, params, state, loss, 1000)
    assert float(loss(t.apply(new_params, new_state))) < before  # it trained

    stages = [METHODS[name] for name in names]
    states = [State(*s) for s in zip(state.train, state.fixed, strict=True)] if len(names) > 1 else [state]
    later = (
        [State(*s) for s in zip(new_state.train, new_state.fixed, strict=True)]
        if len(names) > 1
        else [new_state]
    )
    for i, method in enumerate(stages):
        if not method.prunes:
            continue
        mask = np.asarray(states[i].fixed.masks["kernel"])
        assert mask.sum() == 15  # half of 30, exactly
        w = new_params
        for j in range(i + 1):
            w = stages[j].make.apply(w, later[j])
        assert np.all(np.asarray(w["kernel"])[~mask] == 0)
        for j in range(i + 1, len(stages)):
            if not stages[j].keeps_zeros:
                break
            w = dense(stages[j].make.apply(w, later[j]))
            assert np.all(np.asarray(w["kernel"])[~mask] == 0)


def test_lora_over_a_pruned_base_keeps_the_bases_zeros():
    params = {"kernel": jax.random.normal(KEY, (FEATURES, 5))}
    t = chain(METHODS["magnitude"].make, METHODS["lora"].make)
    state = t.init(params, key=KEY)
    mask = np.asarray(state.fixed[0].masks["kernel"])
    for out in (t.apply(params, state), t.pack(params, state)):
        assert np.all(np.asarray(out["kernel"].base)[~mask] == 0)


@pytest.mark.parametrize("name", list(METHODS))
def test_at_leaves_the_rest_alone(name):
    params = {"a": {"kernel": jnp.ones((4, 3)), "bias": jnp.ones(3)}, "count": jnp.int32(3)}
    t = at("**/kernel", METHODS[name].make)
    out = t.apply(params, t.init(params, key=KEY))
    assert out["a"]["bias"] is params["a"]["bias"]
    assert out["count"] is params["count"]


def test_the_step_is_traced_once():
    tree = TREES["linen"]()
    t = tree.scope(chain(METHODS["magnitude"].make, METHODS["linear"].make, METHODS["lora"].make))
    state = t.init(tree.params, key=KEY)
    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(n=1)
    def step(params, state, x):
        loss = lambda train: jnp.sum(lift(tree.fn)(t.apply(params, State(train, state.fixed)), x))  # noqa: E731
        return State(jax.tree.map(lambda a, g: a - g, state.train, jax.grad(loss)(state.train)), state.fixed)

    for _ in range(3):
        state = step(tree.params, state, tree.x)
