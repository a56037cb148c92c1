"""Sparse training: as many weights as before, in other places; those that grow start at exactly zero."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from efficient import Plan, Rule, State, at, chain, stacked
from efficient.prune import Pruned, magnitude
from efficient.prune.allocations import erdos_renyi, together
from efficient.prune.drop_and_grow import Sparse, drop_and_grow, regrown
from efficient.prune.rigl import rigl
from efficient.prune.sparse_evolutionary import sparse_evolutionary
from efficient.prune.static_sparse import static_sparse
from efficient.quantize import linear
from efficient.train import create, make_step

KEY = jax.random.key(3)


def tree():
    draw = np.random.default_rng(4).standard_normal
    return {"a": jnp.asarray(draw((6, 10)), jnp.float32), "b": jnp.asarray(draw(20), jnp.float32)}


def jitted(t):
    """`t.update` as one program."""
    return jax.jit(lambda state, params, grads, step: t.update(state, params, grads=grads, step=step))


def kept(masks):
    return {path: int(mask.sum()) for path, mask in masks.items()}


def sparse(mask, *, offset=0.0):
    """A state of sparse training of one vector."""
    mask = jnp.asarray(mask, bool)
    return State({}, Sparse({"w": mask}, {"w": jnp.full(mask.shape, offset, jnp.float32)}, KEY))


# ---- drop and grow


def by_sorting(mask, worth, promise, count):
    """Drop and grow, one weight at a time."""
    rank = lambda values, i: (-np.inf if np.isnan(values[i]) else values[i], not np.isnan(values[i]), -i)  # noqa: E731
    active = sorted(np.flatnonzero(mask), key=lambda i: rank(worth, i))
    kept = active[count:]
    others = [i for i in range(mask.size) if i not in set(kept)]
    grown = sorted(others, key=lambda i: rank(promise, i))[len(others) - count :]
    return set(kept), set(grown)


numbers = st.one_of(st.floats(0, 4, width=16), st.sampled_from([float("nan"), float("inf"), 0.0]))


@settings(deadline=None, max_examples=60)
@given(
    mask=hnp.arrays(bool, 24),
    worth=hnp.arrays(np.float32, 24, elements=numbers),
    promise=hnp.arrays(np.float32, 24, elements=numbers),
    share=st.floats(0, 1),
)
def test_counts_are_exact_and_the_choice_is_that_of_sorting(mask, worth, promise, share):
    count = int(share * mask.sum())
    stay, grown = drop_and_grow(jnp.array(mask), jnp.array(worth), jnp.array(promise), count)
    stay, grown = np.asarray(stay), np.asarray(grown)
    assert stay.sum() == mask.sum() - count
    assert grown.sum() == count
    assert not (stay & grown).any()
    assert (mask | ~stay).all()
    expected = by_sorting(mask, worth, promise, count)
    assert (set(np.flatnonzero(stay)), set(np.flatnonzero(grown))) == expected


# ---- RigL


def test_rigl_by_hand():
    # f(50) = 1/2 (1 + cos(pi 50/100)) = 1/2: of 4 active weights, |w| = 4 1 .5 3, go the 1 and the .5.
    # Inactive are then places 1 2 4 5 6 7 with |g| = 0 5 1 7 2 .1: 5 and 2 grow. 2 was dropped just now: it
    # keeps its .5.
    t = rigl(0.5, end=100, every=1, alpha=1.0)
    params = {"w": jnp.array([4.0, -1, 0.5, 3, 9, 9, 9, 9])}
    grads = {"w": jnp.array([0.0, 0, 5, 0, 1, -7, 2, 0.1])}
    old = sparse([1, 1, 1, 1, 0, 0, 0, 0])
    new = t.update(old, params, grads=grads, step=50)
    np.testing.assert_array_equal(new.fixed.masks["w"], [1, 0, 1, 1, 0, 1, 0, 0])
    np.testing.assert_array_equal(new.fixed.offsets["w"], [0, 0, 0, 0, 0, 9, 0, 0])
    np.testing.assert_array_equal(t.apply(params, new)["w"], [4, 0, 0.5, 3, 0, 0, 0, 0])
    np.testing.assert_array_equal(regrown(old, new)["w"], [0, 0, 0, 0, 0, 1, 0, 0])
    # What grew trains on from zero.
    moved = {"w": params["w"].at[5].add(-0.25)}
    np.testing.assert_array_equal(t.apply(moved, new)["w"], [4, 0, 0.5, 3, 0, -0.25, 0, 0])
    # The weight shown counts, 2 - 1.75, not the one trained: the first goes.
    later = t.update(
        sparse([1, 1, 0, 0], offset=1.75),
        {"w": jnp.array([2.0, 1, 1, 1])},
        grads={"w": jnp.arange(4.0)},
        step=50,
    )
    np.testing.assert_array_equal(later.fixed.masks["w"], [0, 1, 0, 1])


def test_a_weight_grown_and_dropped_grows_from_zero_again():
    t = rigl(0.5, end=4, every=1, alpha=1.0)  # f(2) = 1/2: one of two
    state = sparse([1, 1, 0, 0])
    params = {"w": jnp.array([5.0, 1.0, 3.0, 2.0])}
    shows = []
    update = jitted(t)
    for favourite in (2, 3, 2):
        state = update(state, params, {"w": jnp.zeros(4).at[favourite].set(1.0)}, 2)
        shows.append(t.apply(params, state)["w"][favourite])
        params = {"w": params["w"] + jnp.array([0, 0, 0.5, 0.5])}
    assert shows == [0, 0, 0]
    assert state.fixed.offsets["w"].tolist() == [0, 0, 4.0, 2.5]


def test_rigl_moves_what_the_cosine_says_when_it_is_due():
    t = rigl(0.5, end=9, every=2, alpha=0.5)
    params = {"w": jnp.ones(80)}
    state = t.init(params, key=KEY)
    update = jitted(t)
    moved = []
    for step in range(1, 13):
        # The gradient is large where nothing is, so that all that grows is new; the count is what moved.
        grads = {"w": jnp.where(state.fixed.masks["w"], 0.0, 1.0)}
        new = update(state, params, grads, step)
        moved.append(int(regrown(state, new)["w"].sum()))
        assert kept(new.fixed.masks) == {"w": 40}
        state = new
    expected = [
        round(40 * 0.25 * (1 + np.cos(np.pi * t / 9))) if t % 2 == 0 and t < 9 else 0 for t in range(1, 13)
    ]
    assert moved == expected == [0, 18, 0, 12, 0, 5, 0, 1, 0, 0, 0, 0]


def test_the_gradient_is_the_dense_one_of_the_weights_shown():
    """In a chain the gradient is pulled back to what rigl returned, and it is there where weights are not."""
    t = chain(rigl(0.5, end=4, every=1, alpha=1.0), linear(8))
    params = {"w": jnp.array([[3.0, 2.0], [1.0, 1.0]])}
    update = jitted(t)
    mask = {"w": jnp.array([[True, True], [False, False]])}
    state = State(({}, {}), (Sparse(mask, {"w": jnp.zeros((2, 2))}, KEY), {"w": ()}))
    new = update(state, params, {"w": jnp.array([[0.0, 0.0], [-8.0, 4.0]])}, 2)
    # One of two moves: the 2 goes, the place of gradient -8 comes.
    np.testing.assert_array_equal(new.fixed[0].masks["w"], [[True, False], [True, False]])
    np.testing.assert_allclose(t.apply(params, new)["w"], [[3, 0], [0, 0]], rtol=1e-6)


# ---- SET


def test_set_by_hand_and_evenly():
    # 6 active of 16; round(1/3 * 6) = 2 are dropped: .1 and .2. Of 12 then inactive, two grow: 1 in 6 each.
    t = sparse_evolutionary(0.5, every=5, fraction=1 / 3)
    params = {"w": jnp.array([1.0, 0.1, 2.0, 0.2, 3.0, 4.0] + [7.0] * 10)}
    old = sparse([1] * 6 + [0] * 10)
    draws = 600
    one = lambda key: t.update(State({}, old.fixed._replace(key=key)), params, step=jnp.int32(5))  # noqa: E731
    states = jax.jit(lambda: jax.vmap(one)(jax.random.split(KEY, draws)))()
    masks = np.asarray(states.fixed.masks["w"])
    assert (masks.sum(1) == 6).all()
    assert masks[:, [0, 2, 4, 5]].all()
    often = masks[:, [1, 3, *range(6, 16)]].sum(0)
    sigma = np.sqrt(draws * 1 / 6 * 5 / 6)
    assert np.all(np.abs(often - draws / 6) < 5 * sigma)
    shown = np.asarray(jax.vmap(lambda s: t.apply(params, s)["w"])(states))
    assert (shown[:, 6:] == 0).all()
    np.testing.assert_array_equal(shown[:, 1], np.where(masks[:, 1], np.float32(0.1), 0))


def test_set_moves_when_due_and_draws_anew_each_time():
    t = sparse_evolutionary(0.5, every=5)
    params = {"a": tree()["a"]}
    state = t.init(params, key=KEY)
    update = jitted(t)
    chex.assert_trees_all_equal(update(state, params, None, 4), state)
    five, ten = update(state, params, None, 5), update(state, params, None, 10)
    assert kept(five.fixed.masks) == kept(ten.fixed.masks) == {"a": 30}
    assert (np.asarray(five.fixed.masks["a"]) != np.asarray(ten.fixed.masks["a"])).any()
    chex.assert_trees_all_equal(five, update(state, params, None, 5))


# ---- the first mask


def test_static_masks_are_drawn_once():
    t = static_sparse(0.75)
    state = t.init(tree(), key=KEY)
    assert isinstance(state.fixed, Pruned)
    assert state.fixed.memory == {}
    assert kept(state.fixed.masks) == {"a": 15, "b": 5}
    assert t.update(state, tree(), step=7) is state
    shown = t.apply(tree(), state)["a"]
    np.testing.assert_array_equal(shown, np.where(state.fixed.masks["a"], tree()["a"], 0))
    other = t.init(tree(), key=jax.random.key(9)).fixed.masks["a"]
    assert (np.asarray(other) != np.asarray(state.fixed.masks["a"])).any()


@pytest.mark.parametrize("allocation", [together(), erdos_renyi()])
@pytest.mark.parametrize(
    "make",
    [
        static_sparse,
        lambda s, allocation: rigl(s, end=10, allocation=allocation),
        lambda s, allocation: sparse_evolutionary(s, every=10, allocation=allocation),
    ],
)
def test_any_allocation(make, allocation):
    t = make(0.75, allocation=allocation)
    masks = t.init(tree(), key=KEY).fixed.masks
    assert sum(kept(masks).values()) == 20
    if allocation.name == "erdos_renyi()":  # 16 eps + 20 eps = 20 of 60 + 20: 8.9 and 11.1
        assert kept(masks) == {"a": 9, "b": 11}
        assert kept(t.init(tree(), key=jax.random.key(9)).fixed.masks) == {"a": 9, "b": 11}


# ---- in training

X = jax.random.normal(jax.random.key(5), (32, 12))
Y = X @ jax.random.normal(jax.random.key(6), (12, 4))


def loss(weights, model_state, batch, key):
    return jnp.mean((X @ weights["kernel"] + weights["bias"][None] - Y) ** 2), (model_state, {})


@pytest.mark.parametrize(
    "make", [lambda: rigl(0.75, end=40, every=4, alpha=0.6), lambda: sparse_evolutionary(0.75, every=4)]
)
def test_fifty_steps_in_a_chain(make):
    """The budget and the zeros are exact at every step, what grows starts at zero and trains; one program."""
    chex.clear_trace_counter()
    t = at("kernel", chain(make(), linear(8)))
    params = {"kernel": jax.random.normal(KEY, (12, 4)), "bias": jnp.zeros(4)}
    optimizer = optax.adam(0.02)
    state = create(params, t, optimizer, key=KEY)
    step = make_step(chex.assert_max_traces(loss, 1), optimizer, t, restarted=regrown)
    show = jax.jit(t.apply)
    moved, trained, first = 0, 0, None
    grown = np.zeros((12, 4), bool)
    for _ in range(50):
        before = np.array(state.compress.fixed[0].masks["kernel"])
        state, metrics = step(state, ())
        first = metrics["loss"] if first is None else first
        mask = np.array(state.compress.fixed[0].masks["kernel"])
        shown = np.array(show(state.params, state.compress)["kernel"])
        assert mask.sum() == 12
        assert (shown[~mask] == 0).all()
        trained += (shown[grown & mask] != 0).sum()
        grown = mask & ~before
        assert (shown[grown] == 0).all()
        moved += grown.sum()
        for moments in (state.opt_state[0].mu, state.opt_state[0].nu):
            assert (np.array(moments.params["kernel"])[grown] == 0).all()
    assert moved > 10
    assert trained > moved // 2  # a small step from zero may still round to zero under 8 bits
    assert np.any(np.array(state.compress.fixed[0].offsets["kernel"]) != 0)
    assert float(metrics["loss"]) < float(first)


@pytest.mark.parametrize(
    "t", [rigl(0.5, end=40, every=2, alpha=0.5), sparse_evolutionary(0.5, every=2)], ids=["rigl", "set"]
)
def test_jit_is_eager_and_structure_is_stable(t):
    params, grads = {"a": tree()["a"]}, {"a": tree()["a"][::-1]}
    state = t.init(params, key=KEY)
    eager = t.update(state, params, grads=grads, step=2)
    chex.assert_trees_all_equal_shapes_and_dtypes(eager, state)
    chex.assert_trees_all_equal(eager, jitted(t)(state, params, grads, 2))
    assert (np.asarray(eager.fixed.masks["a"]) != np.asarray(state.fixed.masks["a"])).any()
    chex.assert_trees_all_equal(jax.jit(lambda k: t.init(params, key=k))(KEY), state)


def test_other_dtypes_and_values():
    t = rigl(0.5, end=40)
    mixed = {"w": jnp.ones((4, 4), jnp.bfloat16), "n": jnp.int32(3)}
    out = t.apply(mixed, t.init(mixed, key=KEY))
    assert out["w"].dtype == jnp.bfloat16
    assert out["n"] is mixed["n"]


def test_stacked_is_each_layer_by_itself():
    t = rigl(0.5, end=40, every=2, alpha=0.5)
    params, grads = {"w": tree()["a"].reshape(3, 4, 5)}, {"w": tree()["a"].reshape(3, 4, 5)[::-1]}
    over = stacked(t)

    def run(t, params, grads, key):
        old = t.init(params, key=key)
        new = t.update(old, params, grads=grads, step=jnp.int32(2))
        return new, regrown(old, new)["w"], t.apply(params, new)["w"]

    new, grown, shown = jax.jit(lambda: run(over, params, grads, KEY))()
    alone = jax.jit(lambda p, g, key: run(t, p, g, key)[0].fixed)
    assert grown.shape == (3, 4, 5)
    for i, key in enumerate(jax.random.split(KEY, 3)):
        own = {"w": params["w"][i]}
        one = alone(own, {"w": grads["w"][i]}, key)
        np.testing.assert_array_equal(new.fixed.masks["w"][i], one.masks["w"])
        np.testing.assert_array_equal(new.fixed.offsets["w"][i], one.offsets["w"])
    assert grown.any()
    assert (np.asarray(shown)[np.asarray(grown)] == 0).all()


def test_what_grew_is_found_in_a_plan():
    params = {"x": {"kernel": jnp.arange(1.0, 9.0)}, "y": {"kernel": jnp.arange(1.0, 5.0)}}
    rules = [Rule("x/kernel", rigl(0.5, end=40, every=1, alpha=1.0)), Rule("y/kernel", static_sparse(0.5))]
    t = Plan(rules).compile(params).transform
    old = t.init(params, key=KEY)
    new = jitted(t)(old, params, jax.tree.map(lambda v: jnp.arange(float(v.size)), params), 1)
    grown = regrown(old, new)
    assert list(grown) == ["x/kernel"]
    part = lambda s: np.asarray(s.fixed[0].masks["x/kernel"])  # noqa: E731
    np.testing.assert_array_equal(grown["x/kernel"], part(new) & ~part(old))


def test_names():
    assert repr(rigl(0.9, end=100)) == "rigl(0.9, end=100)"
    assert repr(sparse_evolutionary(0.9, every=5)) == "sparse_evolutionary(0.9, every=5)"
    assert repr(static_sparse(0.9)) == "static_sparse(0.9)"


def no_gradient():
    t = rigl(0.5, end=9)
    t.update(t.init(tree(), key=KEY), tree(), step=100)


def other_params():
    t = rigl(0.5, end=9)
    t.apply({"new": jnp.ones(4)}, t.init(tree(), key=KEY))


def nothing_to_grow():
    t = magnitude(0.5)
    state = t.init(tree())
    regrown(state, state)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: rigl(1.0, end=9), r"sparsity must be in \[0, 1\), got 1.0"),
        (lambda: static_sparse(-0.5), r"sparsity must be in \[0, 1\), got -0.5"),
        (lambda: rigl(0.5, end=0), r"end must be at least 1, got 0; count optimizer steps"),
        (lambda: rigl(0.5, end=9, every=0), r"every must be at least 1, got 0; count optimizer steps"),
        (lambda: rigl(0.5, end=9, alpha=0.0), r"alpha must be in \(0, 1\], got 0.0; 0.3 moves three"),
        (lambda: rigl(0.5, end=9, alpha=1.5), r"alpha must be in \(0, 1\], got 1.5"),
        (lambda: sparse_evolutionary(0.5, every=0), r"every must be at least 1, got 0; count optimizer"),
        (
            lambda: sparse_evolutionary(0.5, every=1, fraction=float("nan")),
            r"fraction must be in \(0, 1\], got nan; 0.3 moves three",
        ),
        (lambda: sparse_evolutionary(2.0, every=1), r"sparsity must be in \[0, 1\), got 2.0"),
        (lambda: rigl(0.5, end=9).init(tree()), r"key must be given to score 'a' at random, got None"),
        (
            lambda: static_sparse(0.5).init({"n": jnp.int32(1)}, key=KEY),
            r"params must have a floating leaf to prune, got none",
        ),
        (no_gradient, r"grads must be given to grow by, got None; pass update\(grads=...\)"),
        (other_params, r"params must be those of init, got a new path 'new'; make a new state"),
        (nothing_to_grow, r"state must be that of a transform with sparse training, got PyTreeDef"),
    ],
)
def test_out_of_range(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_schedule_is_refused():
    bare = static_sparse.__wrapped__
    bare = getattr(bare, "__wrapped__", bare)
    with pytest.raises(ValueError, match=r"sparsity must be a number in \[0, 1\), got <function"):
        bare(lambda step: 0.5)
