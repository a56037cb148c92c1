"""Linear quantization: a symmetric grid, exact zeros, and a gradient that passes straight through."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from efficient import State
from efficient.quantize import absmax_scale, fake_quantize, integers, linear, round_through

EMPTY = State({"w": ()}, {"w": ()})
SHAPES = st.sampled_from([(7,), (2, 3, 4)])
NUMBERS = st.floats(-100, 100, width=32)


@functools.partial(jax.jit, static_argnames=("bits", "axis"))
def applied(value, *, bits, axis=-1):
    return linear(bits, axis=axis).apply({"w": value}, EMPTY)["w"]


@functools.partial(jax.jit, static_argnames=("bits", "axis"))
def packed(value, *, bits, axis=-1):
    return linear(bits, axis=axis).pack({"w": value}, EMPTY)["w"]


class TestByHand:
    # 3 bits: integers -3..3. Columns' largest: 6, .75, 0: scales 2, .25, and 1 where all is zero.
    VALUE = jnp.array([[6.0, -0.75, 0.0], [-3.0, 0.375, 0.0], [1.0, 0.1, 0.0]])

    def test_per_channel(self):
        # 6/2 = 3, -3/2 = -1.5 -> -2 (half to even), 1/2 = .5 -> 0; -3, .375/.25 = 1.5 -> 2, .4 -> 0.
        leaf = packed(self.VALUE, bits=3)
        np.testing.assert_array_equal(leaf.scale, [[2, 0.25, 1]])
        np.testing.assert_array_equal(leaf.values, [[3, -3, 0], [-2, 2, 0], [0, 0, 0]])
        np.testing.assert_array_equal(leaf.dense(), [[6, -0.75, 0], [-4, 0.5, 0], [0, 0, 0]])
        assert leaf.values.dtype == jnp.int8
        assert leaf.nbytes == 9 + 3 * 4
        np.testing.assert_array_equal(applied(self.VALUE, bits=3), leaf.dense())

    def test_per_row(self):
        leaf = packed(self.VALUE, bits=3, axis=0)
        np.testing.assert_allclose(leaf.scale, [[2], [1], [1 / 3]], rtol=1e-6)
        # 1/(1/3) = 3 and .1/(1/3) = .3 -> 0; -.75/2 = -.375 -> 0; .375 -> 0.
        np.testing.assert_array_equal(leaf.values, [[3, 0, 0], [-3, 0, 0], [3, 0, 0]])

    def test_one_scale(self):
        leaf = packed(self.VALUE, bits=3, axis=None)
        np.testing.assert_array_equal(leaf.scale, [[2]])
        np.testing.assert_array_equal(leaf.values, [[3, 0, 0], [-2, 0, 0], [0, 0, 0]])

    def test_half_to_even(self):
        got = integers(jnp.array([0.5, 1.5, 2.5, -0.5, -1.5, 3.5]), jnp.ones(1), bits=8)
        np.testing.assert_array_equal(got, [0, 2, 2, 0, -2, 4])

    def test_the_range_is_symmetric(self):
        for bits in range(2, 9):
            q = 2 ** (bits - 1) - 1
            got = integers(jnp.array([-1e9, -q - 0.4, 1e9, q + 0.6]), jnp.ones(1), bits=bits)
            np.testing.assert_array_equal(got, [-q, -q, q, q])


def test_as_torch_quantizes():
    """PyTorch's per-channel fake quantization with the same scales: the same values and gradients."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: no cross-check against it")
    value = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    scale = np.asarray(absmax_scale(jnp.asarray(value), bits=8, axis=-1)) * np.float32(
        0.75
    )  # some are clipped
    x = torch.tensor(value, requires_grad=True)
    zeros = torch.zeros(4, dtype=torch.int32)
    want = torch.fake_quantize_per_channel_affine(x, torch.tensor(scale[0]), zeros, 1, -127, 127)
    want.sum().backward()
    ours = lambda v: fake_quantize(v, jnp.asarray(scale), bits=8)  # noqa: E731
    # torch multiplies by 1 / scale: a value within 2 ulp of a half may round otherwise; none of these is.
    np.testing.assert_allclose(ours(jnp.asarray(value)), want.detach().numpy(), rtol=2**-22)
    gradient = jax.grad(lambda v: jnp.sum(ours(v)))(jnp.asarray(value))
    np.testing.assert_allclose(gradient, x.grad.numpy(), rtol=2**-22)
    assert 0 < np.sum(x.grad.numpy() == 0) < 24


@settings(deadline=None, max_examples=80)
@given(data=st.data(), bits=st.sampled_from([2, 8]))
def test_the_error_is_at_most_half_a_step(data, bits):
    value = data.draw(hnp.arrays(np.float32, data.draw(SHAPES), elements=NUMBERS))
    scale = np.asarray(absmax_scale(jnp.asarray(value), bits=bits, axis=-1))
    error = np.abs(np.asarray(applied(jnp.asarray(value), bits=bits)) - value)
    # Two roundings of numbers of at most |value|.
    assert np.all(error <= scale / 2 + 2**-22 * np.abs(value))


@settings(deadline=None, max_examples=80)
@given(data=st.data(), axis=st.sampled_from([-1, None]))
def test_zeros_are_exact_and_twice_is_once(data, axis):
    value = data.draw(hnp.arrays(np.float32, data.draw(SHAPES), elements=NUMBERS | st.just(0.0)))
    once = applied(jnp.asarray(value), bits=4, axis=axis)
    assert np.all(np.asarray(once)[value == 0] == 0)
    np.testing.assert_allclose(applied(once, bits=4, axis=axis), once, rtol=2**-22)
    np.testing.assert_array_equal(packed(jnp.asarray(value), bits=4, axis=axis).dense(), once)


def test_weights_too_small_to_scale_are_zero_and_not_nan():
    """The scale of a channel below 127 * 2^-126 is no normal number: 0 / 0 was NaN."""
    value = jnp.array([[0.0, 1.0], [2e-38, 0.5]])
    out = applied(value, bits=8)
    assert np.all(np.isfinite(out))
    np.testing.assert_array_equal(out[:, 0], [0, 0])
    np.testing.assert_allclose(out[:, 1], [1, 0.5], atol=0.5 / 127)
    half = absmax_scale(jnp.array([6e-8, 0], jnp.float16), bits=8, axis=None)
    assert float(half[0]) == 1


class TestGradient:
    def test_one_inside_and_zero_outside(self):
        # Scale 1, 3 bits: -3..3. What rounds into the range is inside: up to 3.5 (half to even: 4, outside).
        value = jnp.array([-9.0, -3.6, -3.4, -3.0, 0.0, 0.4, 3.0, 3.4, 3.5, 9.0])
        grad = jax.grad(lambda v: jnp.sum(fake_quantize(v, jnp.ones(1), bits=3)))(value)
        np.testing.assert_array_equal(grad, [0, 0, 1, 1, 1, 1, 1, 1, 0, 0])

    def test_the_largest_weight_trains_too(self):
        """Nothing is clipped at its own scale: the channel's largest weight had a gradient of 0, 1/2 or 1."""
        value = jax.random.normal(jax.random.key(0), (6, 5))
        for bits in (2, 4, 8):
            grad = jax.grad(lambda v, bits=bits: jnp.sum(applied(v, bits=bits)))(value)
            np.testing.assert_allclose(grad, np.ones((6, 5)), rtol=2**-22)

    def test_of_the_scale(self):
        """As learned step sizes have it: round(v / s) - v / s inside, +-q outside."""
        value, g = jnp.array([1.25, -2.5, 40.0, -40.0]), jnp.array([1.0, 10, 100, 1000])
        grad = jax.grad(lambda s: jnp.sum(g * fake_quantize(value, s, bits=4)))(jnp.array([0.5]))
        # v / s = 2.5 -> 2: -.5; -5 -> -5: 0; outside: 7 and -7.
        np.testing.assert_allclose(grad, [-0.5 + 0 + 700 - 7000])

    def test_of_the_scale_that_follows_the_weights_there_is_none(self):
        # One scale: were it differentiated, the first weight would get the other's rounding error.
        grad = jax.grad(lambda v: applied(v, bits=3, axis=None)[1])(jnp.array([3.0, 1.25]))
        np.testing.assert_array_equal(grad, [0, 1])

    def test_rounding_under_jvp_and_vjp(self):
        x, tangent = jnp.array([0.4, 2.5]), jnp.array([3.0, -1.0])
        out, moved = jax.jvp(round_through, (x,), (tangent,))
        np.testing.assert_array_equal(out, [0, 2])
        np.testing.assert_array_equal(moved, tangent)
        np.testing.assert_array_equal(jax.grad(lambda v: jnp.sum(round_through(v) ** 2))(x), [0, 4])


def test_a_half_precision_weight_is_scaled_in_float32():
    value = jax.random.normal(jax.random.key(0), (6, 5)).astype(jnp.bfloat16)
    leaf = packed(value, bits=8)
    assert (leaf.scale.dtype, leaf.dtype, leaf.dense().dtype) == (jnp.float32, jnp.bfloat16, jnp.bfloat16)
    np.testing.assert_array_equal(applied(value, bits=8), leaf.dense())


def test_a_scalar_takes_one_scale():
    np.testing.assert_array_equal(linear(8, axis=None).init({"w": jnp.float32(3)}), EMPTY)
    assert applied(jnp.float32(3), bits=8, axis=None) == 3


@pytest.mark.parametrize("bits", [1, 9])
def test_bits_out_of_range(bits):
    with pytest.raises(ValueError, match=rf"bits must be from 2 to 8, got {bits}; one sign and at least one"):
        linear(bits)


@pytest.mark.parametrize(("shape", "axis"), [((3, 4), 2), ((3, 4), -3), ((), -1)])
def test_an_axis_that_is_not_there(shape, axis):
    message = rf"axis must be one of the {len(shape)} axes of 'a/w', got {axis}; axis=None is one scale\."
    with pytest.raises(ValueError, match=message):
        linear(8, axis=axis).init({"a": {"w": jnp.ones(shape)}})


def test_a_nan_makes_its_channel_nan_and_no_other():
    params = {"w": jnp.array([[jnp.nan, 1.0], [2.0, -3.0]])}
    t = linear(8)
    for out in (t.apply(params, t.init(params))["w"], t.pack(params, t.init(params))["w"].dense()):
        assert np.isnan(np.asarray(out)[:, 0]).all()
        np.testing.assert_allclose(np.asarray(out)[:, 1], [1.0, -3.0], atol=3 / 127)
