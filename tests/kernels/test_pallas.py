"""Pallas tiers: the reference's numbers when interpreted, on ragged shapes; they lower for their platform."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from efficient.kernels.quantized_matmul import int8_matmul, pallas_gpu, pallas_tpu, quantized_matmul
from efficient.kernels.tiers import PALLAS

from tests.kernels import test_int8_matmul, test_quantized_matmul
from tests.kernels.packed_cases import problem

# Rows of x, rows and columns of W, options: blocks that reach over every edge, and each way to keep scales.
FLOAT = [
    ((1, 576, 320), {"bits": 4, "group": 32, "has_shift": True}),
    ((9, 130, 65), {"bits": 2, "group": 30, "has_shift": True}),
    ((17, 1200, 40), {"bits": 4, "group": 120, "is_signed": True}),
    ((5, 1280, 64), {"bits": 8, "group": 640, "has_shift": True, "by_column": False}),
    ((300, 65, 63), {"bits": 8, "is_signed": True, "has_shift": True}),
    ((3, 1030, 20), {"bits": 4, "group": 8, "by_column": False}),
]
INT8 = [
    ((1, 576, 320), {"bits": 4, "group": 32, "has_shift": True}),
    ((9, 130, 65), {"bits": 2, "is_signed": True}),
    ((5, 1280, 64), {"bits": 8, "group": 640, "by_column": False}),
    ((300, 65, 63), {"bits": 8, "has_shift": True}),
    ((3, 1200, 40), {"bits": 4, "group": 96, "is_signed": True, "has_shift": True}),
]


@pytest.mark.parametrize("tier", PALLAS)
@pytest.mark.parametrize(("shape", "options"), FLOAT, ids=str)
def test_floats(tier, shape, options):
    p = problem(*shape, **options)
    want, slack = test_quantized_matmul.exact(**p)
    found = quantized_matmul(**p, implementation=tier)
    assert (np.abs(np.asarray(found) - want) <= slack).all()


@pytest.mark.parametrize("tier", PALLAS)
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_tables(tier, bits):
    p = test_quantized_matmul.with_table(problem(9, 70, 65, bits=bits), 4 if bits == 2 else 16)
    want, slack = test_quantized_matmul.exact(**p)
    found = quantized_matmul(**p, implementation=tier)
    assert (np.abs(np.asarray(found) - want) <= slack).all()


@pytest.mark.parametrize("tier", PALLAS)
@pytest.mark.parametrize(("shape", "options"), INT8, ids=str)
def test_integers(tier, shape, options):
    p = problem(*shape, **options)
    step = jnp.float32(0.01) if options.get("has_shift") else None
    want, slack = test_int8_matmul.exact(**p, x_scale=step)
    found = int8_matmul(**p, x_scale=step, implementation=tier)
    assert (np.abs(np.asarray(found) - want) <= slack).all()


@pytest.mark.parametrize("tier", PALLAS)
def test_a_row_that_is_not_finite_and_derivatives(tier):
    p = problem(3, 40, 24, bits=4, group=32)
    x = p.pop("x").at[1, 2].set(jnp.nan)
    run = lambda x: int8_matmul(x, **p, implementation=tier)  # noqa: E731
    assert np.isnan(run(x)).all(1).tolist() == [False, True, False]
    ours, theirs = (
        jax.grad(lambda x, t: jnp.sum(quantized_matmul(x, **p, implementation=t)[0] ** 2))(x, t)
        for t in (tier, "reference")
    )
    np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("tier", PALLAS)
def test_they_lower_for_their_platform(tier):
    """Every kernel, width and dtype, with and without what is optional, on a host that has no such device."""
    call = {"tpu": "tpu_custom_call", "cuda": "gpu.triton"}[PALLAS[tier]]

    def lowered(run, x):
        text = jax.jit(run).trace(x).lower(lowering_platforms=(PALLAS[tier],)).as_text()
        assert call in text, text[:500]

    for bits in (2, 4, 8):
        for group in (0, 32, 30):
            p = problem(5, 192, 192, bits=bits, group=group, has_shift=bits == 4, is_signed=bits == 8)
            x = p.pop("x")
            for dtype in (jnp.float32, jnp.bfloat16):
                lowered(lambda x, p=p: quantized_matmul(x, **p, implementation=tier), x.astype(dtype))
            if group != 30:
                lowered(lambda x, p=p: int8_matmul(x, **p, implementation=tier), x)
    p = test_quantized_matmul.with_table(problem(300, 1100, 600, bits=4, group=44), 16)
    lowered(lambda x: quantized_matmul(**{**p, "x": x}, implementation=tier), p["x"])


@pytest.mark.parametrize("tier", PALLAS)
def test_what_they_cannot_do_is_said(tier):
    p = test_quantized_matmul.with_table(problem(2, 8, 8, bits=8), 200)
    with pytest.raises(NotImplementedError, match="at most 16 numbers"):
        quantized_matmul(**p, implementation=tier)
    with pytest.raises(NotImplementedError, match="a multiple of 32"):
        int8_matmul(**problem(2, 80, 8, bits=8, group=30), implementation=tier)


def test_blocks_that_no_device_takes_are_refused():
    with pytest.raises(ValueError, match="multiples of 8, 128 and 128"):
        pallas_tpu.Blocks(depth=100)
    with pytest.raises(ValueError, match="powers of two"):
        pallas_gpu.Blocks(rows=48)
