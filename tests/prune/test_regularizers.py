"""Regularizers: by hand, against sums written out, and safe at zero."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from efficient import State
from efficient.prune.patterns import block, channel, unstructured
from efficient.prune.regularizers import group_lasso, l1, l2, slimming_penalty
from efficient.quantize import linear

EPS = 2.0**-23


def tree():
    return {
        "conv": {"kernel": jnp.array([[3.0, 0.0, -1.0], [-4.0, 0.0, 1.0]]), "bias": jnp.array([10.0])},
        "norm": {"scale": jnp.array([0.5, -2.0, 0.0]), "bias": jnp.array([20.0])},
    }


def test_by_hand():
    # |w|: 3 + 4 + 1 + 1. Squares: 9 + 16 + 1 + 1. Columns: sqrt(2) (5 + 0 + sqrt(2)) = 5 sqrt(2) + 2.
    # Rows: sqrt(3) (sqrt(10) + sqrt(17)). Scales: .5 + 2.
    exact, rounded = jax.jit(
        lambda w: (
            [l1(w), l2(w), slimming_penalty(w), l1(w, where=("**/kernel", "**/scale")), l1(w, where="**")],
            [group_lasso(w, pattern) for pattern in (channel(), channel(axis=-2), unstructured())],
        )
    )(tree())
    assert [float(v) for v in exact] == [9, 13.5, 2.5, 11.5, 41.5]
    groups = [5 * 2**0.5 + 2, 30**0.5 + 51**0.5, 9]  # the last are groups of one
    np.testing.assert_allclose(jnp.stack(rounded), groups, rtol=8 * EPS)


def test_blocks_cut_at_the_edge_count_the_weights_they_have():
    weight = np.random.default_rng(0).standard_normal((5, 7)).astype(np.float32)
    expected = sum(
        np.sqrt(part.size) * np.linalg.norm(part)
        for i in (0, 2, 4)
        for j in (0, 3, 6)
        if (part := np.float64(weight)[i : i + 2, j : j + 3]).size
    )
    got = jax.jit(lambda w: group_lasso({"w": w}, block((2, 3)), where="w"))(weight)
    np.testing.assert_allclose(got, expected, rtol=32 * EPS)


def test_gradients_by_hand_and_at_zero():
    both = lambda f, w: jax.jit(jax.value_and_grad(f))(w)  # noqa: E731
    gradient = lambda f: both(f, tree())[1]  # noqa: E731
    kernel = tree()["conv"]["kernel"]
    np.testing.assert_array_equal(gradient(l1)["conv"]["kernel"], np.sign(kernel))
    np.testing.assert_array_equal(gradient(l2)["conv"]["kernel"], kernel)
    np.testing.assert_array_equal(gradient(slimming_penalty)["norm"]["scale"], [1, -1, 0])
    # sqrt(n) w / ||w||: column 0 is (3, -4) / 5, column 1 zero, column 2 (-1, 1) / sqrt(2).
    got = gradient(lambda w: group_lasso(w, channel()))["conv"]["kernel"]
    expected = 2**0.5 * np.array([[0.6, 0, -(0.5**0.5)], [-0.8, 0, 0.5**0.5]])
    np.testing.assert_allclose(got, expected, rtol=8 * EPS)
    np.testing.assert_array_equal(got[:, 1], [0, 0])
    for f in (l1, l2, slimming_penalty):
        assert not gradient(f)["conv"]["bias"].any()
    zeros = jax.tree.map(jnp.zeros_like, tree())
    for f in (l1, l2, slimming_penalty, lambda w: group_lasso(w, channel())):
        value, grads = both(f, zeros)
        assert float(value) == 0
        assert not any(leaf.any() for leaf in jax.tree.leaves(grads))


def test_group_lasso_takes_whole_groups_to_zero():
    """Its proximal step is block soft thresholding: a group of norm below lambda sqrt(n) is best at zero."""
    target = jnp.array([[3.0, 0.3], [4.0, -0.4]])  # norms 5 and .5; lambda sqrt(n) = sqrt(2) at lambda = 1
    loss = lambda w: l2({"w": w - target}, where="w") + group_lasso({"w": w}, channel(), where="w")  # noqa: E731
    best = np.float32([[3.0, 0.0], [4.0, 0.0]]) * np.float32(1 - 2**0.5 / 5)
    near = best + 0.05 * np.random.default_rng(1).standard_normal((200, 2, 2)).astype(np.float32)
    lowest, *around = jax.jit(jax.vmap(loss))(np.concatenate([best[None], near]))
    assert min(around) > lowest
    np.testing.assert_allclose(jax.jit(jax.grad(loss))(best)[:, 0], 0, atol=16 * EPS)


def test_leaves_dtypes_and_jit():
    packed = linear(8, axis=None).pack({"kernel": jnp.array([127.0, -64.0])}, State({"kernel": ()}, {}))
    assert float(l1(packed, where="kernel")) == 191.0
    mixed = {"w": jnp.full(1000, 0.0625, jnp.bfloat16), "n": jnp.int32(3)}
    total = jax.jit(lambda w: l1(w, where="*"))(mixed)
    assert (float(total), total.dtype) == (62.5, jnp.float32)


@pytest.mark.parametrize(
    "f", [l1, l2, slimming_penalty, lambda w, where: group_lasso(w, channel(), where=where)]
)
def test_where_must_choose(f):
    with pytest.raises(ValueError, match=r"pattern must match at least one path, got 'gone/\*'"):
        f(tree(), where="gone/*")
    with pytest.raises(ValueError, match=r"where must choose a floating value, got 'n' that chooses none"):
        f({"n": jnp.int32(1)}, where="n")


def test_a_value_that_cannot_have_the_pattern():
    with pytest.raises(ValueError, match=r"axis must be one of the 1 axes of 'norm/bias', got -2"):
        group_lasso(tree(), channel(axis=-2), where="norm/bias")
