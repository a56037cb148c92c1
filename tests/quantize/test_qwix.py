"""Interop with qwix: the same numbers both ways, and the same numbers from both libraries' quantization."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from efficient import lift
from efficient.quantize import (
    Quantizer,
    channel,
    formats,
    group,
    quantizers,
    tensor,
    tile,
)
from efficient.quantize.qwix_arrays import from_qwix, to_qwix

qwix = pytest.importorskip("qwix", reason="qwix is not installed")
W = jax.random.normal(jax.random.key(0), (64, 32))
QUANTIZERS = {
    "int8": quantizers.integer(8),
    "int5": quantizers.integer(5),
    "int4_tensor": quantizers.integer(4, tensor()),
    "int4_group": quantizers.integer(4, group(16)),
    "int3_tile": quantizers.integer(3, tile(16, 8)),
    "affine8": quantizers.affine(8),
    "affine4": quantizers.affine(4, group(32)),
    "affine3": quantizers.affine(3),
    "e4m3": quantizers.fp8(),
    "e5m2": quantizers.fp8(wide=True),
    "mxfp4": quantizers.mxfp4(),
    "nvfp4": quantizers.nvfp4(),
    "nf4": quantizers.nf4(),
}


@pytest.mark.parametrize("name", QUANTIZERS)
def test_both_ways_stand_for_the_same(name):
    leaf = QUANTIZERS[name].encode(W)
    array = to_qwix(leaf)
    np.testing.assert_array_equal(qwix.dequantize(array), leaf.dense())
    back = from_qwix(array)
    np.testing.assert_array_equal(back.dense(), leaf.dense())
    assert back.grid == leaf.grid
    assert back.shape == leaf.shape


@pytest.mark.parametrize(
    ("qtype", "blocks"),
    [("int8", {}), ("int4", {}), ("int4", {0: 16}), ("int3", {}), ("nf4", {0: 32}),
     ("float8_e4m3fn", {}), ("float8_e5m2", {}), ("float4_e2m1fn", {0: 16})],
)  # fmt: skip
@pytest.mark.parametrize("method", ["absmax", "minmax"])
def test_what_qwix_quantizes_is_read(qtype, blocks, method):
    if method == "minmax" and qtype not in ("int8", "int4"):
        pytest.skip("qwix has zero points for int8 and int4")
    array = qwix.quantize(
        W, qtype if qtype in ("nf4", "int3") else jnp.dtype(qtype), channelwise_axes=(1,),
        tiled_axes=blocks, calibration_method=method,
    )  # fmt: skip
    leaf = from_qwix(array)
    np.testing.assert_allclose(leaf.dense(), qwix.dequantize(array), rtol=0, atol=1e-6)
    x = jax.random.normal(jax.random.key(1), (4, 64))
    # Codes are summed before zero points come off: float32 sums of 64 terms, each as large as the range.
    slack = 72 * 2.0**-24 * np.abs(x).sum(1, keepdims=True) * 2 * np.ptp(np.asarray(leaf.dense()))
    assert (np.abs(lift(lambda w, x: x @ w)(leaf, x) - x @ leaf.dense()) <= slack).all()


@pytest.mark.parametrize(
    ("ours", "qtype", "tiles"),
    [
        (quantizers.fp8(channel()), "float8_e4m3fn", {}),
        (Quantizer(format=formats.E2M1, blocks=group(16)), "float4_e2m1fn", {0: 16}),
        (Quantizer(format=formats.NF4, blocks=group(32)), "nf4", {0: 32}),
    ],
)
def test_both_libraries_round_alike(ours, qtype, tiles):
    """Integers differ on purpose: qwix's scale covers half a step more."""
    theirs = qwix.quantize(
        W, qtype if qtype == "nf4" else jnp.dtype(qtype), channelwise_axes=(1,), tiled_axes=tiles
    )
    close = np.isclose(ours.encode(W).dense(), qwix.dequantize(theirs), rtol=1e-5, atol=1e-6)
    assert close.mean() > 0.995  # ties of a half step go either way


def test_integers_err_by_at_most_half_a_step_in_both():
    theirs = qwix.quantize(W, jnp.int4, channelwise_axes=(1,))
    for shown, scale in ((qwix.dequantize(theirs), theirs.scale), (quantizers.integer(4).fake(W), None)):
        step = jnp.max(jnp.abs(W), 0, keepdims=True) / 7 if scale is None else scale
        assert float(jnp.max(jnp.abs(shown - W) / jnp.broadcast_to(step, W.shape))) <= 0.5 + 1e-5


def test_refusals():
    with pytest.raises(ValueError, match="blocks must divide"):
        to_qwix(quantizers.integer(4, group(24)).encode(W))
    with pytest.raises(ValueError, match="format must be Integer"):
        to_qwix(quantizers.mxfp6().encode(W))
    fields = {"qvalue": jnp.zeros((4, 4), jnp.int8), "zero_point": None, "qtype": jnp.int8}
    with pytest.raises(ValueError, match="scale must divide"):
        from_qwix(types.SimpleNamespace(scale=jnp.ones((3, 1)), **fields))
    with pytest.raises(ValueError, match="qtype must be int2 to int8"):
        from_qwix(types.SimpleNamespace(scale=jnp.ones((1, 1)), **{**fields, "qtype": jnp.uint8}))
