"""Quantize and pack: every tier has the reference's bits, and those stand for what was given."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from efficient.kernels.quantize_pack import Packed, quantize_pack, unpack
from efficient.kernels.quantize_pack.quantize_pack import NATIVE
from efficient.kernels.quantized_matmul import quantized_matmul

from tests.kernels.laws import KernelLaws
from tests.kernels.packed_cases import needs_compiler


class TestLaws(KernelLaws):
    """What is unpacked lies within half a step of what was given; the top of a range within one."""

    cases = {
        "cache": ((2, 5, 3, 64), {"bits": 8}),
        "cache4": ((2, 5, 3, 64), {"bits": 4, "group": 32, "is_symmetric": False}),
        "ragged": ((3, 33), {"bits": 2, "is_symmetric": False}),
        "runs": ((7, 130), {"bits": 4, "group": 16}),
        "odd runs": ((7, 33), {"bits": 4, "group": 5}),
        "weights": ((65, 130), {"bits": 4, "group": 32, "axis": -2, "is_symmetric": False}),
        "weights2": ((2, 9, 300), {"bits": 2, "axis": -2}),
    }
    moving = ()

    def arguments(self, case, draw):
        shape, options = case
        return {"x": draw(*shape)}, options

    def run(self, arrays, options, implementation):
        packed = quantize_pack(arrays["x"], **options, implementation=implementation)
        return unpack(
            packed, arrays["x"].shape[-1], axis=options.get("axis", -1), group=options.get("group", 0)
        )

    def exact(self, arrays, options):
        x = np.asarray(arrays["x"], np.float64)
        axis, symmetric = options.get("axis", -1), options.get("is_symmetric", True)
        group = options.get("group", 0) or x.shape[axis]
        steps = np.zeros_like(x)
        for start in range(0, x.shape[axis], group):
            run = [slice(None)] * x.ndim
            run[axis] = slice(start, start + group)
            own = x[tuple(run)]
            top, low = (
                np.maximum(own.max(axis, keepdims=True), 0),
                np.minimum(own.min(axis, keepdims=True), 0),
            )
            most = 2 ** (options["bits"] - 1) - 1 if symmetric else 2 ** options["bits"] - 1
            steps[tuple(run)] = (np.maximum(top, -low) if symmetric else top - low) / most
        return x, steps * (0.5 if symmetric else 1) * (1 + 2**-13) + 255 * 2.0**-126


@pytest.mark.parametrize("tier", TestLaws.all_tiers()[1:])
def test_every_tier_has_the_same_bits(tier):
    """With zeros, a nan, an infinity, what is below normal, and ties."""
    draw = np.random.default_rng(0)
    for shape in ((2, 65, 130), (5, 33)):
        x = draw.normal(size=shape).astype(np.float32)
        x[..., 0, :], x[..., 1, 3], x[..., 2, 7] = 0, np.nan, -np.inf
        x[..., 3, :] *= 1e-40
        x[..., 4, :] = np.round(x[..., 4, :] * 4) / 2
        for bits, group, axis, symmetric in itertools.product((2, 4, 8), (0, 16), (-1, -2), (True, False)):
            if axis == -2 and tier.startswith("pallas"):
                continue
            options = {"bits": bits, "group": group, "axis": axis, "is_symmetric": symmetric}
            ours, theirs = (
                quantize_pack(jnp.asarray(x), **options, implementation=t) for t in (tier, "reference")
            )
            np.testing.assert_array_equal(ours.codes, theirs.codes, err_msg=str(options))
            np.testing.assert_array_equal(ours.scale, theirs.scale, err_msg=str(options))
            if not symmetric:
                np.testing.assert_array_equal(ours.shift, theirs.shift, err_msg=str(options))


def test_by_hand():
    # Steps of 7 / 7 = 1: codes 7, -3, 2 (2.5 to the even), 0; -3 is 13 in four bits. Bytes 0xD7, 0x02.
    packed = quantize_pack(jnp.array([[7.0, -3.2, 2.5, 0.1]]), bits=4)
    assert packed.codes.tolist() == [[0xD7, 0x02]]
    assert packed.scale.tolist() == [[1.0]]
    assert packed.shift is None
    # From -1 to 2 in steps of 1, the code of 0 is 1: codes 0, 3, 1, 2, the first lowest: 0b10011100.
    packed = quantize_pack(jnp.array([[-1.0, 2.0, 0.0, 1.0]]), bits=2, is_symmetric=False)
    assert packed.codes.tolist() == [[0b10011100]]
    assert (packed.scale.tolist(), packed.shift.tolist()) == ([[1.0]], [[1.0]])


def test_weights_are_what_quantized_matmul_takes():
    x, w = (jax.random.normal(jax.random.key(i), s) for i, s in enumerate(((3, 70), (70, 40))))
    packed = quantize_pack(w, bits=4, group=32, axis=-2, is_symmetric=False)
    found = quantized_matmul(x, *packed, bits=4, columns=40, group=32)
    np.testing.assert_allclose(found, x @ unpack(packed, 40, axis=-2, group=32), rtol=1e-4, atol=1e-4)
    signed = quantize_pack(w, bits=4, group=32, axis=-2)
    found = quantized_matmul(x, *signed, bits=4, columns=40, group=32, is_signed=True)
    np.testing.assert_allclose(found, x @ unpack(signed, 40, axis=-2, group=32), rtol=1e-4, atol=1e-4)


def test_what_is_not_to_be_packed_is_refused():
    x = jnp.ones((4, 6))
    for change, message in (
        ({"bits": 3}, "bits must be 2, 4 or 8, got 3"),
        ({"axis": 0}, "axis must be -1 or -2"),
        ({"group": -1}, "group must be from 0, got -1"),
        ({"x": jnp.ones(6), "axis": -2}, "axis must be -1 or -2, and x must have it"),
        ({"x": jnp.ones((0, 6))}, "no axis of 0"),
    ):
        with pytest.raises(ValueError, match=message):
            quantize_pack(**{"x": x, "bits": 4, **change})
    with pytest.raises(NotImplementedError, match="axis must be -1 for pallas_tpu"):
        quantize_pack(x, bits=4, axis=-2, implementation="pallas_tpu")
    with pytest.raises(ValueError, match="codes must be 9 numbers of 2, 4 or 8 bits a row, got 2 bytes"):
        unpack(Packed(jnp.zeros((1, 2), jnp.uint8), jnp.ones((1, 1))), 9)


@needs_compiler
def test_the_handler_refuses_forged_arguments():
    assert NATIVE.is_ready
    good = {"bits": 4, "group": 4, "axis": 2}

    def call(x=(1, 2, 4), codes=(1, 2, 2), scale=(1, 2, 1), shift=(0, 0, 0), **change):
        kinds = (jnp.uint8, jnp.float32, jnp.float32)
        results = tuple(map(jax.ShapeDtypeStruct, (codes, scale, shift), kinds))
        return jax.block_until_ready(NATIVE.calls("cpu", results, jnp.ones(x), **{**good, **change}))

    call()
    for change in (
        {"bits": 3}, {"bits": 0}, {"group": 0}, {"group": 5}, {"axis": 0}, {"axis": 3}, {"codes": (1, 2, 3)},
        {"scale": (1, 2, 2)}, {"shift": (1, 2, 2)}, {"x": (1, 2, 5)}, {"axis": 1}, {"scale": (2, 1)},
    ):  # fmt: skip
        with pytest.raises(Exception, match="quantize_pack: "):
            call(**change)
