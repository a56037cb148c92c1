"""Products in 8-bit integers: every tier gives the oracle's numbers, and the oracle exact ones."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from efficient.kernels.quantized_matmul import int8_matmul
from efficient.kernels.quantized_matmul.int8 import NATIVE

from tests.kernels.laws import KernelLaws
from tests.kernels.packed_cases import (
    SHAPES,
    TIERS,
    by_row,
    needs_compiler,
    on_shapes,
    problem,
    whole_numbers,
)

TIERS = [*TIERS, pytest.param("cpu_vnni", marks=needs_compiler)]


def exact(x, codes, scale, shift, columns, group, bits, is_signed, x_scale=None):
    """In float64 after rounding in float32; and what the rounding of partial sums may come to."""
    x = np.asarray(x)
    k = x.shape[1]
    top = np.abs(x).max(axis=1, keepdims=True)
    dynamic = np.maximum(top * np.float32(1 / 127), np.finfo(np.float32).tiny)
    step = dynamic if x_scale is None else np.float32(x_scale)
    q = np.clip(np.rint(x * (np.float32(1) / step)), -127, 127).astype(np.float64)
    numbers = whole_numbers(codes, bits, columns, is_signed)
    scale = by_row(scale, k, columns, group)
    shift = 0 if shift is None else by_row(shift, k, columns, group)
    weights, size = (numbers - shift) * scale, (np.abs(numbers) + np.abs(shift)) * scale
    return q @ weights * step, (k + 8) * 2.0**-24 * (np.abs(q) @ size) * step


class TestLaws(KernelLaws):
    native = ("cpu", "cpu_portable", "cpu_vnni")
    cases = {
        "smollm": ((3, 576, 192), {"bits": 4, "group": 32, "is_signed": True}),
        "shifted": ((9, 130, 65), {"bits": 4, "group": 64, "has_shift": True}),
        "crumbs": ((2, 96, 129), {"bits": 2, "by_column": False}),
        "bytes": ((20, 65, 64), {"bits": 8, "is_signed": True}),
    }

    def arguments(self, case, draw):
        shape, options = case
        p = {**problem(*shape, **options, seed=int(draw.random.integers(100))), "x": draw(*shape[:2])}
        arrays = {name: value for name, value in p.items() if isinstance(value, jax.Array)}
        return arrays, {name: value for name, value in p.items() if name not in arrays}

    def run(self, arrays, options, implementation):
        return int8_matmul(**arrays, **options, implementation=implementation)

    def exact(self, arrays, options):
        want, slack = exact(**{"shift": None, **arrays, **options})
        return want, slack + 1e-37


@pytest.mark.parametrize(("tier", "shape"), on_shapes(TIERS, [*SHAPES, (125, 600, 66)]))
def test_every_tier_on_every_shape(tier, shape):
    options = itertools.product((2, 4, 8), (0, 30, 32), (False, True), (False, True))
    for i, (bits, group, has_shift, by_column) in enumerate(options):
        is_signed = i % 5 in (1, 2)
        p = problem(
            *shape, bits=bits, group=group, has_shift=has_shift, by_column=by_column, is_signed=is_signed
        )
        if i % 3 == 0:
            p["x_scale"] = jnp.float32(0.01)  # some values saturate
        want, slack = exact(**p)
        found = int8_matmul(**p, implementation=tier)
        assert found.shape == want.shape
        assert (np.abs(np.asarray(found) - want) <= slack).all(), (
            bits,
            group,
            has_shift,
            by_column,
            is_signed,
        )


@pytest.mark.parametrize("tier", TIERS)
def test_sums_of_whole_numbers_are_exact(tier):
    """The largest sums there are, over more rows than one piece has: no saturation, no rounding."""
    for bits, sign in itertools.product((2, 4, 8), (-1, 1)):
        k = 512
        x = jnp.full((5, k), 127.0 * sign).at[:, 0].set(127)
        codes = jnp.full((k, 10 * bits), 255, jnp.uint8)
        found = int8_matmul(x, codes, jnp.ones((1, 1)), bits=bits, columns=80, implementation=tier)
        np.testing.assert_array_equal(found, 127.0 * (2**bits - 1) * (1 + sign * (k - 1)))


@pytest.mark.parametrize("tier", TIERS)
def test_rows_of_zeros_and_rows_that_are_not_finite(tier):
    p = problem(6, 40, 70, bits=4, group=16, has_shift=True)
    x = p["x"].at[0].set(0).at[1, 3].set(jnp.nan).at[2, 39].set(-jnp.inf).at[3].set(1e-42)
    found = np.asarray(int8_matmul(**{**p, "x": x}, implementation=tier))
    np.testing.assert_array_equal(found[0], 0)
    assert np.isnan(found[1:3]).all()
    want, slack = exact(**{**p, "x": p["x"][4:]})
    assert (np.abs(found[4:] - want) <= slack).all()
    assert np.isfinite(found[3]).all()


@pytest.mark.parametrize("tier", [*TIERS, "pallas_tpu", "pallas_gpu"])
def test_one_dynamic_step_for_all_rows(tier):
    p = problem(5, 40, 70, bits=4, has_shift=True)
    step = np.abs(p["x"]).max() * np.float32(1 / 127)
    want, slack = exact(**p, x_scale=step)
    run = lambda x: int8_matmul(**{**p, "x": x}, per_row=False, implementation=tier)  # noqa: E731
    assert (np.abs(np.asarray(run(p["x"])) - want) <= slack).all()
    both = jax.vmap(run)(jnp.stack([p["x"], 3 * p["x"]]))  # each with a step of its own
    assert (np.abs(np.asarray(both[1]) - 3 * want) <= 4 * slack).all()
    assert np.isnan(run(p["x"].at[2, 2].set(jnp.inf))).all()


@pytest.mark.parametrize("tier", TIERS)
def test_a_step_that_is_none_gives_nan(tier):
    p = problem(2, 8, 6, bits=8)
    for step in (0.0, -1.0, np.inf, np.nan, 1e-40):
        assert np.isnan(int8_matmul(**p, x_scale=jnp.float32(step), implementation=tier)).all(), step


@pytest.mark.parametrize("tier", TIERS)
def test_under_jit_grad_vmap_and_scan(tier):
    p = problem(4, 40, 130, bits=4, group=16, has_shift=True)
    x = p.pop("x")
    run = lambda x: int8_matmul(x, **p, implementation=tier)  # noqa: E731
    want, slack = exact(x, **p)
    assert (np.abs(np.asarray(jax.jit(run)(x)) - want) <= slack).all()
    assert (np.abs(np.asarray(jax.vmap(run)(x)) - want) <= slack).all()
    _, scanned = jax.lax.scan(lambda c, row: (c, run(row)), 0, x)
    assert (np.abs(np.asarray(scanned) - want) <= slack).all()
    slope = jax.grad(lambda x: jnp.sum(run(x)))(x)
    numbers = whole_numbers(p["codes"], 4, 130, False) - by_row(p["shift"], 40, 130, 16)
    weights = numbers * by_row(p["scale"], 40, 130, 16)
    np.testing.assert_allclose(slope, np.tile(weights.sum(1), (4, 1)), rtol=1e-4, atol=1e-2)


def test_a_clipped_number_has_no_gradient():
    p = problem(1, 4, 6, bits=8)
    x = jnp.array(
        [[0.5, -3.0, 1.27, 1.3]]
    )  # with steps of 0.01: the second and the last are beyond 127 of them
    slope = jax.grad(lambda x: jnp.sum(int8_matmul(**{**p, "x": x}, x_scale=jnp.float32(0.01))))(x)
    np.testing.assert_array_equal(np.asarray(slope == 0)[0], [False, True, False, True])


@pytest.mark.parametrize("tier", TIERS)
def test_codes_of_8_bits_may_be_int8(tier):
    p = problem(9, 40, 200, bits=8, is_signed=True)
    want, slack = exact(**p)
    codes = p["codes"].view(jnp.int8)
    found = int8_matmul(**{**p, "codes": codes, "is_signed": False}, implementation=tier)
    assert (np.abs(np.asarray(found) - want) <= slack).all()


def test_leading_axes_and_half_precision():
    p = problem(6, 16, 8, bits=8)
    x = p.pop("x").astype(jnp.bfloat16)
    found = int8_matmul(x.reshape(2, 3, 16), **p)
    assert found.shape == (2, 3, 8)
    assert found.dtype == jnp.bfloat16
    want, _ = exact(np.asarray(x, np.float32), **p)
    np.testing.assert_allclose(np.asarray(found, np.float32).reshape(6, 8), want, rtol=2**-8, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bits": 3}, "bits must be 2, 4 or 8"),
        ({"columns": 9}, "codes must be"),
        ({"group": -1}, "codes must be"),
        ({"scale": jnp.ones((2, 8))}, "scale must be"),
        ({"shift": jnp.ones((1, 3))}, "shift must be"),
    ],
)
def test_what_does_not_go_together_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        int8_matmul(**{**problem(2, 4, 8, bits=4), **change})


def test_an_unknown_implementation_is_refused():
    with pytest.raises(NotImplementedError, match="cpu_vnni, pallas_tpu, pallas_gpu, got"):
        int8_matmul(**problem(2, 4, 8, bits=4), implementation="tpu")


@needs_compiler
@pytest.mark.parametrize(
    "change",
    [
        {"bits": 3}, {"group": 0}, {"group": -5}, {"columns": 7}, {"steps": 2}, {"runs": 2}, {"rank": 3},
        {"rows": 5}, {"shift": (1, 7)}, {"dtype": jnp.int16},
    ],
    ids=str,
)  # fmt: skip
def test_the_handler_itself_refuses_forged_arguments(change):
    """Whatever calls the target, shapes are checked before any memory is read."""
    assert NATIVE.is_ready
    x = jnp.ones((2, 4) if "rank" not in change else (1, 2, 4))
    codes = jnp.zeros((change.get("rows", 4), 4), change.get("dtype", jnp.uint8))
    scale, shift = jnp.ones((change.get("runs", 1), 8)), jnp.zeros(change.get("shift", (0, 0)))
    args = (x, codes, scale, shift, jnp.ones(change.get("steps", 0)))
    call = jax.ffi.ffi_call(NATIVE.target, jax.ShapeDtypeStruct((2, change.get("columns", 8)), jnp.float32))
    attributes = {
        "bits": change.get("bits", 4),
        "group": change.get("group", 4),
        "tier": 0,
        "per_row": True,
        "is_signed": False,
    }
    with pytest.raises(Exception, match=r"int8_matmul: |[Ww]rong"):
        jax.block_until_ready(call(*args, **attributes))
