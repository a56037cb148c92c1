"""A convolution of each channel by itself: every tier gives float64's numbers and XLA's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from efficient.kernels.depthwise_conv import depthwise_conv
from efficient.kernels.depthwise_conv.depthwise_conv import NATIVE

from tests.kernels.laws import KernelLaws
from tests.kernels.packed_cases import needs_compiler


class TestLaws(KernelLaws):
    moving = ("x", "weights")
    cases = {  # images, window: MobileNetV2's, and what divides by nothing
        "mobilenet": ((2, 14, 14, 96), (3, 3), {"padding": ((1, 1), (1, 1))}),
        "strided": ((1, 15, 12, 33), (5, 3), {"strides": (2, 3), "padding": ((1, 2), (0, 1))}),
        "dilated": ((1, 9, 11, 130), (3, 2), {"dilation": (2, 3), "padding": ((0, 3), (4, 0))}),
        "one": ((3, 1, 1, 1), (1, 1), {}),
        "far": ((1, 2, 3, 17), (2, 2), {"padding": ((4, 4), (5, 3)), "strides": (2, 1)}),
    }

    def arguments(self, case, draw):
        shape, window, options = case
        return {"x": draw(*shape), "weights": draw(*window, shape[3])}, options

    def run(self, arrays, options, implementation):
        return depthwise_conv(**arrays, **options, implementation=implementation)

    def exact(self, arrays, options):
        x, weights = (np.asarray(a, np.float64) for a in arrays.values())
        up, left = options.get("strides", (1, 1))
        dy, dx = options.get("dilation", (1, 1))
        padded = np.pad(x, [(0, 0), *options.get("padding", ((0, 0), (0, 0))), (0, 0)])
        tall, wide, _ = weights.shape
        down = (padded.shape[1] - (tall - 1) * dy - 1) // up + 1
        across = (padded.shape[2] - (wide - 1) * dx - 1) // left + 1
        out, size = np.zeros((2, len(x), down, across, x.shape[3]))
        for h in range(down):
            for w in range(across):
                part = padded[:, h * up : h * up + (tall - 1) * dy + 1 : dy]
                part = part[:, :, w * left : w * left + (wide - 1) * dx + 1 : dx]
                out[:, h, w] = (part * weights).sum((1, 2))
                size[:, h, w] = np.abs(part * weights).sum((1, 2))
        return out, (tall * wide + 2) * 2.0**-24 * size + 1e-37


def test_it_is_xlas():
    x = jax.random.normal(jax.random.key(0), (2, 13, 10, 24)).astype(jnp.bfloat16)
    weights = jax.random.normal(jax.random.key(1), (3, 3, 24)).astype(jnp.bfloat16)
    theirs = jax.lax.conv_general_dilated(
        x.astype(jnp.float32), weights[:, :, None].astype(jnp.float32), (2, 1), ((1, 0), (2, 2)),
        rhs_dilation=(1, 2), dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=24,
    )  # fmt: skip
    ours = depthwise_conv(x, weights, strides=(2, 1), padding=((1, 0), (2, 2)), dilation=(1, 2))
    assert ours.dtype == jnp.bfloat16
    np.testing.assert_allclose(ours.astype(jnp.float32), theirs, rtol=2**-8, atol=1e-5)


def test_what_is_no_window_is_refused():
    x, weights = jnp.ones((1, 4, 4, 3)), jnp.ones((3, 3, 3))
    for change, message in (
        ({"strides": (0, 1)}, "strides and dilation must be from 1"),
        ({"padding": ((0, -1), (0, 0))}, "padding from 0"),
        ({"weights": jnp.ones((3, 3, 2))}, r"weights must be \[i, j, 3 channels\]"),
        ({"weights": jnp.ones((5, 3, 3))}, "the window must fit the padded image"),
        ({"dilation": (1, 2)}, "the window must fit the padded image"),
    ):
        with pytest.raises(ValueError, match=message):
            depthwise_conv(**{"x": x, "weights": weights, **change})


@needs_compiler
def test_the_handler_refuses_forged_arguments_and_reads_nothing_beyond():
    assert NATIVE.is_ready
    options = dict.fromkeys(("stride_y", "stride_x", "dilation_y", "dilation_x"), 1) | {"top": 0, "left": 0}

    def call(x=(1, 4, 4, 3), weights=(3, 3, 3), y=(1, 2, 2, 3), **change):
        return NATIVE.call("cpu", y, jnp.ones(x), jnp.ones(weights), **{**options, **change})

    jax.block_until_ready(call())
    for change in (
        {"weights": (3, 3, 2)}, {"y": (2, 2, 2, 3)}, {"y": (1, 2, 2, 4)}, {"stride_y": 0}, {"dilation_x": -1},
        {"top": -1}, {"left": 2**40}, {"x": (4, 4, 3)}, {"stride_x": 2**40},
    ):  # fmt: skip
        with pytest.raises(Exception, match="depthwise_conv: "):
            jax.block_until_ready(call(**change))
    # A result larger than the window reaches is zeros there.
    assert float(call(y=(1, 9, 9, 3))[0, 8, 8, 0]) == 0.0
    assert float(call(y=(1, 9, 9, 3), top=2**30)[0, 0, 0, 0]) == 0.0
