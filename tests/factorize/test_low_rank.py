"""Low rank: the best approximation there is, in factors that are really small."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from efficient import State, chain, dense, lift, stacked, stored_bytes
from efficient.factorize import LowRankLeaf, low_rank
from efficient.prune import magnitude

EPS = 2**-23


def approximated(value, rank, **options):
    t = low_rank(rank, **options)
    params = {"w": value}
    return t.apply(params, t.init(params))["w"]


def best(value, rank, out_ndim=1):
    """NumPy's truncated SVD in float64, and the error that Eckart and Young give it."""
    n_in = int(np.prod(value.shape[: value.ndim - out_ndim]))
    u, s, vt = np.linalg.svd(np.asarray(value, np.float64).reshape(n_in, -1), full_matrices=False)
    return ((u[:, :rank] * s[:rank]) @ vt[:rank]).reshape(value.shape), np.sqrt(np.sum(s[rank:] ** 2))


def test_by_hand():
    # diag(4, 1) at rank 1 keeps the 4: factors (2, 0) and (2, 0).
    leaf = approximated(jnp.diag(jnp.array([4.0, 1.0])), 1)
    np.testing.assert_allclose(leaf.dense(), [[4, 0], [0, 0]], atol=8 * EPS)
    np.testing.assert_allclose(np.abs(leaf.u), [[2], [0]], atol=8 * EPS)
    np.testing.assert_allclose(np.abs(leaf.v), [[2, 0]], atol=8 * EPS)


@pytest.mark.parametrize("rank", [1, 3])
def test_eckart_and_young(rank):
    """No matrix of the rank is nearer, and the error is that of the singular values left out."""
    rng = np.random.default_rng(rank)
    values = rng.normal(size=(40, 5, 4)).astype(np.float32)
    values[:3] = [np.zeros((5, 4)), np.ones((5, 4)), np.eye(5, 4)]  # of no rank, of one, of equal values
    t = stacked(low_rank(rank))
    params = {"w": jnp.asarray(values)}
    approximations = np.asarray(dense(t.apply(params, jax.jit(t.init)(params)))["w"], np.float64)
    for value, got in zip(values.astype(np.float64), approximations, strict=True):
        slack = 64 * EPS * (1 + np.linalg.norm(value))
        assert abs(np.linalg.norm(got - value) - best(value, rank)[1]) <= slack
        assert np.linalg.matrix_rank(got, tol=slack) <= rank
        # Rivals: of random columns, each with the best rows for them.
        for columns in rng.normal(size=(20, 5, rank)):
            rival = columns @ np.linalg.lstsq(columns, value, rcond=None)[0]
            assert np.linalg.norm(got - value) <= np.linalg.norm(rival - value) + slack


@pytest.mark.parametrize(
    ("shape", "out_ndim"), [((3, 3, 4, 6), 1), ((8, 2, 5), 2), ((8, 2, 5), 1), ((6, 5), 1)]
)
def test_axes_are_rows_but_for_the_last(shape, out_ndim):
    """[3, 3, cin, cout] is [9 cin, cout]; heads, [d, heads, hd], are [d, heads hd] with out_ndim=2."""
    value = jax.random.normal(jax.random.key(0), shape)
    leaf = approximated(value, 2, out_ndim=out_ndim)
    split = len(shape) - out_ndim
    assert (leaf.u.shape, leaf.v.shape) == ((*shape[:split], 2), (2, *shape[split:]))
    assert (leaf.shape, leaf.dtype) == (shape, jnp.float32)
    want, _ = best(np.asarray(value), 2, out_ndim)
    np.testing.assert_allclose(leaf.dense(), want, atol=64 * EPS * float(jnp.linalg.norm(value)))
    # Balanced: both factors have the same singular values.
    left, right = np.asarray(leaf.u).reshape(-1, 2), np.asarray(leaf.v).reshape(2, -1)
    np.testing.assert_allclose(*(np.linalg.svd(f, compute_uv=False) for f in (left, right)), rtol=1e-4)


def test_full_rank_is_exact():
    value = jax.random.normal(jax.random.key(0), (5, 4))
    for rank in (4, 1.0):
        np.testing.assert_allclose(approximated(value, rank).dense(), value, atol=64 * EPS * 5)


def test_a_fraction_of_the_full_rank():
    value = jnp.ones((10, 40))
    # round(.25 * 10) = 2 (half to even), round(.5 * 10) = 5; at least one.
    ranks = [approximated(value, fraction).u.shape[-1] for fraction in (0.25, 0.5, 1.0, 0.01)]
    assert ranks == [2, 5, 10, 1]
    assert approximated(value, 1).u.shape[-1] == 1  # the count, not the fraction


def test_fewer_bytes():
    # [64, 32] float32 is 8,192 bytes; of rank 4, (64 + 32) * 4 * 4 = 1,536.
    assert stored_bytes(approximated(jnp.ones((64, 32)), 4)) == 1536


def test_the_factors_are_trained_and_the_weight_is_not():
    t = low_rank(2)
    params = {"w": jax.random.normal(jax.random.key(0), (5, 4))}
    state = t.init(params)
    assert state.fixed == {"w": ()}
    loss = lambda p, train: jnp.sum(dense(t.apply(p, State(train, state.fixed)))["w"] ** 2)  # noqa: E731
    by_weight, by_factors = jax.grad(loss, (0, 1))(params, state.train)
    np.testing.assert_array_equal(by_weight["w"], jnp.zeros((5, 4)))
    # d|uv|^2/du = 2 (uv) v^T
    u, v = state.train["w"]["u"], state.train["w"]["v"]
    np.testing.assert_allclose(by_factors["w"]["u"], 2 * (u @ v) @ v.T, rtol=1e-4, atol=1e-5)


def test_half_precision():
    value = jax.random.normal(jax.random.key(0), (5, 4)).astype(jnp.bfloat16)
    leaf = approximated(value, 4)
    assert (leaf.dtype, leaf.dense().dtype, leaf.u.dtype) == (jnp.bfloat16, jnp.bfloat16, jnp.float32)
    np.testing.assert_allclose(leaf.dense().astype(jnp.float32), value.astype(jnp.float32), atol=2**-8 * 4)


def test_of_what_was_pruned():
    params = {"w": jnp.diag(jnp.array([4.0, 1.0, 3.0]))}
    t = chain(magnitude(7 / 9), low_rank(2))
    out = t.apply(params, t.init(params))["w"]
    np.testing.assert_allclose(out.dense(), np.diag([4, 0, 3]), atol=16 * EPS)


def test_scanned_layers_of_one_pair_of_factors():
    """[layers, in, out] as one matrix whose rank is the number of layers: it was sliced along the rank."""
    value = jax.random.normal(jax.random.key(0), (3, 3, 3))
    leaf = approximated(value, 3)
    assert leaf.stack(3) is NotImplemented
    fn = lambda w, x: jax.lax.scan(lambda c, layer: (c @ layer, None), x, w)[0]  # noqa: E731
    x = jnp.ones((2, 3))
    want = fn(leaf.dense(), x)
    np.testing.assert_allclose(lift(fn)(leaf, x), want, atol=64 * EPS * float(jnp.max(jnp.abs(want))))
    each = jax.tree.map(lambda *a: jnp.stack(a), *[approximated(one, 2) for one in value])
    assert isinstance(each, LowRankLeaf)
    assert each.stack(3) is each


@pytest.mark.parametrize("rank", [0, -1, 0.0, 1.5, -0.5, True, float("nan")])
def test_rank_out_of_range(rank):
    with pytest.raises(
        ValueError, match=rf"rank must be a count from 1 or a fraction in \(0, 1\], got {rank}; choose one"
    ):
        low_rank(rank)


def test_refusals_at_init():
    with pytest.raises(
        ValueError, match=r"rank must be at most 4 for 'a/w', got 5; lower it or exclude the leaf"
    ):
        low_rank(5).init({"a": {"w": jnp.ones((6, 4))}})
    with pytest.raises(
        ValueError,
        match=r"leaf 'b' must have at least 2 axes, got shape \(3,\); scope the transform to matrices",
    ):
        low_rank(1).init({"b": jnp.ones(3)})
    with pytest.raises(ValueError, match=r"leaf 'b' must have at least 3 axes, got shape \(3, 4\)"):
        low_rank(1, out_ndim=2).init({"b": jnp.ones((3, 4))})
