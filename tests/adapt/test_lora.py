"""LoRA: nothing at first, only the factors train, and merged it is the same model."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from efficient import State, chain, dense, lift, stored_bytes
from efficient.adapt import LoRALeaf, lora
from efficient.quantize import QuantizedLeaf, linear

KEY = jax.random.key(0)
EPS = 2**-23
SHAPES = {"dense": ((6, 5), 1), "convolution": ((3, 3, 4, 5), 1), "heads": ((6, 2, 5), 2)}


def trained(state):
    """As if steps had been taken: no factor is zero."""
    return State(jax.tree.map(lambda v: v + 0.5, state.train), state.fixed)


def test_by_hand():
    # W = I, a = (1, 2), b = (3, 4), alpha / r = 2: W + 2 [[3, 4], [6, 8]].
    t = lora(1, alpha=2.0)
    params = {"w": jnp.eye(2)}
    state = State({"w": {"a": jnp.array([[1.0], [2.0]]), "b": jnp.array([[3.0, 4.0]])}}, {"w": ()})
    leaf = t.apply(params, state)["w"]
    np.testing.assert_array_equal(leaf.dense(), [[7, 8], [12, 17]])
    out = lift(lambda w, x: x @ w["w"], strict=True)({"w": leaf}, jnp.array([[1.0, -1.0]]))
    np.testing.assert_array_equal(out, [[-5, -9]])


@pytest.mark.parametrize(("shape", "out_ndim"), SHAPES.values(), ids=SHAPES)
def test_at_init_the_change_is_exactly_zero(shape, out_ndim):
    params = {"w": jax.random.normal(KEY, shape)}
    t = lora(2, alpha=7.0, out_ndim=out_ndim)
    state = t.init(params, key=KEY)
    split = len(shape) - out_ndim
    assert state.train["w"]["a"].shape == (*shape[:split], 2)
    assert state.train["w"]["b"].shape == (2, *shape[split:])
    assert np.all(np.asarray(state.train["w"]["a"]) != 0)
    for out in (t.apply(params, state), t.pack(params, state)):
        np.testing.assert_array_equal(out["w"].dense(), params["w"])


def test_the_models_output_is_untouched_at_init():
    params, x = {"w": jax.random.normal(KEY, (6, 5))}, jax.random.normal(KEY, (3, 6))
    fn = lambda p, x: jnp.tanh(x @ p["w"])  # noqa: E731
    t = lora(2)
    np.testing.assert_array_equal(lift(fn)(t.apply(params, t.init(params, key=KEY)), x), fn(params, x))


def test_a_is_drawn_with_variance_one_over_inputs():
    a = lora(50).init({"w": jnp.ones((400, 3))}, key=KEY).train["w"]["a"]
    # 20,000 draws: the variance is within 5 standard deviations, sqrt(2 / 20,000) each, of 1/400.
    assert float(jnp.var(a)) * 400 == pytest.approx(1, abs=5 * (2 / 20000) ** 0.5)
    assert abs(float(jnp.mean(a))) * 20 < 5 / 20000**0.5


@pytest.mark.parametrize(("shape", "out_ndim"), SHAPES.values(), ids=SHAPES)
def test_merged_is_unmerged(shape, out_ndim):
    params = {"w": jax.random.normal(KEY, shape)}
    options = {"alpha": 3.0, "out_ndim": out_ndim}
    kept, merged = lora(2, **options), lora(2, **options, merge=True)
    state = trained(kept.init(params, key=KEY))
    one, other = kept.pack(params, state)["w"], merged.pack(params, state)["w"]
    assert isinstance(one, LoRALeaf)
    assert isinstance(other, jax.Array)
    np.testing.assert_array_equal(one.dense(), other)
    split = len(shape) - out_ndim
    x = jax.random.normal(KEY, (3, *shape[:split]))
    fn = lambda w, x: jnp.tensordot(x, w, axes=split)  # noqa: E731
    want = np.asarray(fn(other, x))
    # Sums of at most 36 products, in two orders.
    np.testing.assert_allclose(lift(fn, strict=True)(one, x), want, atol=64 * EPS * (1 + np.abs(want).max()))


def test_only_the_factors_have_gradients():
    t = lora(2)
    params = {"w": jax.random.normal(KEY, (6, 5))}
    state = trained(t.init(params, key=KEY))
    x = jax.random.normal(KEY, (3, 6))
    loss = lambda p, train: jnp.sum(  # noqa: E731
        lift(lambda p, x: x @ p["w"])(t.apply(p, State(train, state.fixed)), x) ** 2
    )
    by_base, by_factors = jax.grad(loss, (0, 1))(params, state.train)
    np.testing.assert_array_equal(by_base["w"], jnp.zeros((6, 5)))
    merged = lambda train: jnp.sum((x @ (params["w"] + train["w"]["a"] @ train["w"]["b"])) ** 2)  # noqa: E731
    want = jax.grad(merged)(state.train)
    for name in ("a", "b"):
        np.testing.assert_allclose(by_factors["w"][name], want["w"][name], rtol=1e-4, atol=1e-4)
        assert np.all(np.asarray(want["w"][name]) != 0)


def test_at_init_only_b_has_a_gradient():
    """B is zero, so A's gradient is: the first step moves B alone."""
    t = lora(2)
    params = {"w": jax.random.normal(KEY, (6, 5))}
    state = t.init(params, key=KEY)
    loss = lambda train: jnp.sum(dense(t.apply(params, State(train, state.fixed)))["w"] ** 2)  # noqa: E731
    grads = jax.grad(loss)(state.train)["w"]
    np.testing.assert_array_equal(grads["a"], jnp.zeros((6, 2)))
    assert np.any(np.asarray(grads["b"]) != 0)


def test_scale_is_alpha_over_rank():
    params = {"w": jnp.zeros((6, 5))}
    scales = [t.apply(params, t.init(params, key=KEY))["w"].scale for t in (lora(4), lora(4, alpha=2.0))]
    assert scales == [1, 0.5]


def test_qlora():
    """Over int8 the packed base stays packed, the change is float, and merging gives one array."""
    params = {"w": jax.random.normal(KEY, (32, 16))}
    t = chain(linear(8), lora(2))
    state = t.init(params, key=KEY)
    state = State((state.train[0], trained(State(state.train[1])).train), state.fixed)
    leaf = t.pack(params, state)["w"]
    assert isinstance(leaf, LoRALeaf)
    assert isinstance(leaf.base, QuantizedLeaf)
    assert leaf.base.values.dtype == jnp.int8
    # 512 bytes of int8, 16 scales, (32 + 16) * 2 factors; float32 would take 2,048.
    assert stored_bytes(leaf) == 512 + 16 * 4 + 96 * 4
    np.testing.assert_array_equal(dense(t.apply(params, state))["w"], leaf.dense())
    x = jax.random.normal(KEY, (3, 32))
    fn = lambda w, x: x @ w  # noqa: E731
    want = np.asarray(fn(leaf.dense(), x))
    np.testing.assert_allclose(lift(fn, strict=True)(leaf, x), want, atol=128 * EPS * np.abs(want).max())
    merged = chain(linear(8), lora(2, merge=True)).pack(params, state)["w"]
    np.testing.assert_array_equal(merged, leaf.dense())
    # The base is frozen all the way: straight through the rounding, nothing arrives.
    loss = lambda p: jnp.sum(dense(t.apply(p, state))["w"] ** 2)  # noqa: E731
    np.testing.assert_array_equal(jax.grad(loss)(params)["w"], jnp.zeros((32, 16)))


def test_half_precision_base():
    params = {"w": jax.random.normal(KEY, (6, 5)).astype(jnp.bfloat16)}
    t = lora(2)
    leaf = t.apply(params, t.init(params, key=KEY))["w"]
    assert (leaf.dtype, leaf.dense().dtype, leaf.a.dtype) == (jnp.bfloat16, jnp.bfloat16, jnp.float32)
    np.testing.assert_array_equal(leaf.dense(), params["w"])


def test_stacks_only_with_factors_a_layer():
    params = {"w": jnp.ones((2, 6, 5))}
    whole = lora(2).apply(params, lora(2).init(params, key=KEY))["w"]
    assert whole.stack(2) is NotImplemented  # one pair of factors, whose rank is the number of layers
    each = jax.vmap(lambda p: lora(2).apply(p, lora(2).init(p, key=KEY)))(params)["w"]
    assert each.stack(2).shape == (2, 6, 5)
    assert each.stack(3) is NotImplemented


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: lora(0), r"rank must be at least 1, got 0; choose how many columns the factors have"),
        (
            lambda: lora(2).init({"w": jnp.ones((3, 4))}),
            r"key must be given to draw LoRA's factors, got None; call init\(params, key=\.\.\.\)",
        ),
        (
            lambda: lora(2).init({"a": {"bias": jnp.ones(3)}}, key=KEY),
            r"leaf 'a/bias' must have at least 2 axes, got shape \(3,\); scope the transform to matrices",
        ),
        (
            lambda: lora(2, out_ndim=2).init({"w": jnp.ones((3, 4))}, key=KEY),
            r"'w' must have at least 3 axes",
        ),
    ],
)
def test_refusals(make, message):
    with pytest.raises(ValueError, match=message):
        make()
