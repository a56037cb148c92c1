"""Codebook: what is shared, how it is trained, and what stays zero."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from efficient import State, chain
from efficient.prune import magnitude
from efficient.quantize import CodebookLeaf, codebook, optimal_centroids

KEY = jax.random.key(0)
HAND = {"w": jnp.array([[0.0, 1.0, 2.0], [-4.0, 0.0, -6.0]])}


def test_by_hand():
    # 2 bits: 0 and three centroids, from -6, -2, 2: {-6, -4}, {}, {1, 2} -> -5, -2 (it has none), 1.5.
    t = codebook(2)
    state = t.init(HAND)
    np.testing.assert_array_equal(state.train["w"], [-5, -2, 1.5])
    np.testing.assert_array_equal(t.apply(HAND, state)["w"], [[0, 1.5, 1.5], [-5, 0, -5]])
    packed = t.pack(HAND, state)["w"]
    np.testing.assert_array_equal(packed.codebook, [0, -5, -2, 1.5])
    np.testing.assert_array_equal(packed.indices, [[0, 3, 3], [1, 0, 1]])
    assert packed.indices.dtype == jnp.uint8
    assert packed.nbytes == 6 + 4 * 4


def test_all_entries_are_trained_where_zero_is_no_entry():
    # 1 bit, zero=False: from -6, 2: {-6, -4}, {0, 0, 1, 2} -> -5, 3/4: zeros are weights like others.
    t = codebook(1, zero=False)
    state = t.init(HAND)
    np.testing.assert_array_equal(state.train["w"], [-5, 0.75])
    np.testing.assert_array_equal(t.apply(HAND, state)["w"], [[0.75] * 3, [-5, 0.75, -5]])


def test_one_bit_with_a_zero_is_one_value():
    # The mean of 1, 2, -4, -6.
    t = codebook(1)
    np.testing.assert_array_equal(t.apply(HAND, t.init(HAND))["w"], [[0, -1.75, -1.75], [-1.75, 0, -1.75]])


@pytest.mark.parametrize("zero", [True, False])
def test_the_gradient_of_an_entry_is_the_sum_over_its_members(zero):
    """Equation 3: dL/dC_k = sum over ij of dL/dW_ij 1(I_ij = k), by hand."""
    g = jnp.array([[1.0, 10.0, 100.0], [2.0, 20.0, 200.0]])
    t = codebook(2, zero=zero)
    state = t.init(HAND)
    loss = lambda p, train: jnp.sum(g * t.apply(p, State(train, state.fixed))["w"])  # noqa: E731
    by_weights, by_entries = jax.grad(loss, (0, 1))(HAND, state.train)
    # With a zero entry: {-4, -6}: 2 + 200; none; {1, 2}: 10 + 100; the two zeros, 1 and 20, train nothing.
    # Without: from -6, -10/3, -2/3, 2: {-6}: 200; {-4}: 2; {0, 0}: 1 + 20; {1, 2}: 10 + 100.
    np.testing.assert_array_equal(by_entries["w"], [202, 0, 110] if zero else [200, 2, 21, 110])
    np.testing.assert_array_equal(by_weights["w"], jnp.zeros((2, 3)))
    # The leaf itself, packed, is differentiable alike.
    packed = t.pack(HAND, state)["w"]
    of_leaf = jax.grad(lambda leaf: jnp.sum(g * leaf.dense()), allow_int=True)(packed).codebook
    np.testing.assert_array_equal(of_leaf, [21, 202, 0, 110] if zero else [200, 2, 21, 110])


@settings(deadline=None, max_examples=40)
@given(g=hnp.arrays(np.float32, (2, 3), elements=st.integers(-9, 9).map(float)))
def test_the_gradient_is_the_sum_whatever_the_weights_gradients(g):
    t = codebook(2)
    state = State({"w": jnp.array([-5.0, -2.0, 1.5])}, {"w": jnp.array([[3, 3, 3], [1, 2, 1]], jnp.uint8)})
    grad = jax.grad(lambda train: jnp.sum(g * t.apply(HAND, State(train, state.fixed))["w"]))(state.train)
    # Members that are zeros (flat places 0 and 4) belong to the zero entry, whatever their index.
    np.testing.assert_array_equal(grad["w"], [g[1, 0] + g[1, 2], 0, g[0, 1] + g[0, 2]])


@pytest.mark.parametrize(("bits", "zero"), [*((bits, True) for bits in range(1, 9)), (5, False), (8, False)])
def test_every_width(bits, zero):
    params = {"w": jnp.linspace(-1.0, 2.0, 600).reshape(20, 30)}  # dense enough that no entry is empty
    t = codebook(bits, zero=zero, iterations=3)
    packed = t.pack(params, t.init(params))["w"]
    entries = np.asarray(packed.codebook)
    assert entries.shape == (2**bits,)
    np.testing.assert_array_equal(np.unique(packed.indices), np.arange(int(zero), 2**bits))  # all, up to 255
    if zero:
        assert entries[0] == 0
    # Each weight has its nearest entry.
    w = np.asarray(params["w"])
    error = np.abs(w[..., None] - entries[int(zero) :]).min(-1)
    np.testing.assert_array_equal(np.abs(entries[packed.indices] - w), error)


def test_more_entries_than_weights_is_exact():
    params = {"w": jnp.array([0.5, -1.0, 0.0, 3.0])}
    t = codebook(8)
    np.testing.assert_allclose(t.apply(params, t.init(params))["w"], params["w"], rtol=2**-23)


def test_zeros_stay_zero_whatever_is_trained():
    t = chain(magnitude(0.5), codebook(3))
    params = {"w": jax.random.normal(KEY, (6, 5))}
    state = t.init(params)
    gone = ~np.asarray(state.fixed[0].masks["w"])
    trained = State(jax.tree.map(lambda v: v + 7.0, state.train), state.fixed)
    for out in (t.apply(params, trained)["w"], t.pack(params, trained)["w"].dense()):
        assert np.all(np.asarray(out)[gone] == 0)
        assert np.all(np.asarray(out)[~gone] != 0)


def test_a_leaf_that_was_pruned_whole():
    params = {"w": jnp.zeros((2, 3))}
    t = codebook(2)
    state = t.init(params)
    np.testing.assert_array_equal(state.train["w"], [0, 0, 0])
    np.testing.assert_array_equal(t.pack(params, state)["w"].dense(), params["w"])


def test_it_is_k_means_optimum_where_lloyd_finds_it():
    # Three clear groups and a zero: 1-D dynamic programming on the others.
    values = np.array([0, -3.0, -2.9, -3.2, 1.0, 1.1, 4.0, 4.5, 0, 4.1], np.float32)
    t = codebook(2)
    state = t.init({"w": jnp.asarray(values)})
    centroids, error = optimal_centroids(values[values != 0], 3)
    np.testing.assert_allclose(state.train["w"], centroids, rtol=1e-6)
    out = np.asarray(t.apply({"w": jnp.asarray(values)}, state)["w"])
    assert np.sum((out - values) ** 2) == pytest.approx(error, rel=1e-5)


def test_random_draws_by_path():
    params = {"a": jax.random.normal(KEY, (30,)), "b": jax.random.normal(KEY, (30,))}
    state = codebook(2, initialisation="random", iterations=0).init(params, key=KEY)
    assert not np.array_equal(state.train["a"], state.train["b"])
    with pytest.raises(
        ValueError, match=r"key must be given for random centroids, got None; call init\(params"
    ):
        codebook(2, initialisation="random").init(params)


@pytest.mark.parametrize("bits", [0, 9, -1])
def test_bits_out_of_range(bits):
    with pytest.raises(ValueError, match=rf"bits must be from 1 to 8, got {bits}; an index is stored in one"):
        codebook(bits)


def test_half_precision():
    params = {"w": jax.random.normal(KEY, (4, 3)).astype(jnp.bfloat16)}
    t = codebook(2)
    state = t.init(params)
    assert state.train["w"].dtype == jnp.float32
    packed = t.pack(params, state)["w"]
    assert packed.dense().dtype == jnp.bfloat16
    np.testing.assert_array_equal(t.apply(params, state)["w"], packed.dense())


class TestLeaf:
    def leaf(self, k=4):
        return CodebookLeaf(
            codebook=jnp.arange(float(k)),
            indices=jnp.array([[0, 1, 2], [3, 2, 1]], jnp.uint8),
            out_dtype=jnp.dtype("float32"),
        )

    def test_stacks_by_repeating_a_shared_codebook(self):
        one = jax.tree.map(lambda a: jnp.stack([a, a]), self.leaf())
        assert one.shape == (2, 2, 3)
        np.testing.assert_array_equal(one.dense(), jnp.stack([self.leaf().dense()] * 2))
        assert one.stack(2) is one
        assert one.stack(3) is NotImplemented
        shared = self.leaf().stack(2)
        assert shared.codebook.shape == (2, 4)
        np.testing.assert_array_equal(jax.tree.map(lambda a: a[1], shared).dense(), self.leaf().dense()[1])
