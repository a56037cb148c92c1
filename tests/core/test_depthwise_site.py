"""Depthwise site: leaves of a depthwise convolution meet the kernel for it, and no others do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from efficient import lift
from efficient.core.lift import explained
from efficient.prune import magnitude
from efficient.quantize import channel, codebook, linear, quantize, quantizers

X = jax.random.normal(jax.random.key(0), (2, 9, 8, 24))
W = jax.random.normal(jax.random.key(1), (3, 3, 1, 24))
TRANSFORMS = {
    "linear": linear(8),
    "codebook": codebook(4),
    "int4": quantize(quantizers.integer(4, channel())),
    "pruned": magnitude(0.9),
}


def convolved(params, x, **change):
    """As MobileNet has it."""
    options = {
        "window_strides": (2, 1), "padding": ((1, 1), (0, 2)), "feature_group_count": 24,
        "dimension_numbers": ("NHWC", "HWIO", "NHWC"), **change,
    }  # fmt: skip
    return jax.lax.conv_general_dilated(x, params["w"], **options)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_leaves_meet_the_kernel_and_agree_with_apply(name):
    transform = TRANSFORMS[name]
    state = transform.init({"w": W})
    packed, applied = transform.pack({"w": W}, state), transform.apply({"w": W}, state)
    kernels = explained(convolved, packed, X).kernels
    assert name == "pruned" or kernels["w"].startswith("depthwise_conv")
    for x in (X, X.astype(jnp.bfloat16).astype(jnp.float32)):
        np.testing.assert_allclose(lift(convolved)(packed, x), convolved(applied, x), atol=1e-4)
    ours, theirs = (
        jax.grad(lambda x, p=p: jnp.sum(lift(convolved)(p, x) ** 2))(X) for p in (packed, applied)
    )
    np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-3)


def test_a_flax_layer():
    model = nn.Conv(24, (3, 3), feature_group_count=24)
    params = model.init(jax.random.key(2), X)
    transform = linear(8)
    scoped = {"kernel": params["params"]["kernel"]}
    packed = transform.pack(scoped, transform.init(scoped))
    whole = {"params": {**params["params"], **packed}}
    assert explained(model.apply, whole, X).kernels["params/kernel"].startswith("depthwise_conv")
    applied = {"params": {**params["params"], **transform.apply(scoped, transform.init(scoped))}}
    np.testing.assert_allclose(lift(model.apply)(whole, X), model.apply(applied, X), atol=1e-5)


@pytest.mark.parametrize(
    ("change", "w", "x"),
    [
        ({"dimension_numbers": ("NCHW", "HWIO", "NCHW")}, W, jnp.moveaxis(X, -1, 1)),
        ({}, jax.random.normal(jax.random.key(3), (3, 3, 1, 48)), X),  # two outputs a channel
        ({"feature_group_count": 12}, jax.random.normal(jax.random.key(3), (3, 3, 2, 24)), X),
        ({"lhs_dilation": (2, 1)}, W, X),
        ({"padding": ((-1, 1), (0, 0))}, W, X),
    ],
    ids=["channels first", "two outputs", "groups of two", "transposed", "cropped"],
)
def test_what_it_does_not_know_it_leaves(change, w, x):
    transform = linear(8)
    state = transform.init({"w": w})
    packed, applied = transform.pack({"w": w}, state), transform.apply({"w": w}, state)
    run = lambda params, x: convolved(params, x, **change)  # noqa: E731
    assert "w" not in explained(run, packed, x).kernels
    np.testing.assert_allclose(lift(run)(packed, x), run(applied, x), atol=1e-4)
