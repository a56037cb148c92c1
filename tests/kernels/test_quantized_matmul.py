"""Quantized matmul: every tier gives the reference's numbers, on real shapes and ragged ones."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from efficient.kernels import native
from efficient.kernels.quantized_matmul import quantized_matmul
from efficient.kernels.quantized_matmul.matmul import NATIVE

from efficient.quantize import quantizers
from efficient.quantize.blocks import group as blocks_of
from tests.kernels.laws import KernelLaws
from tests.kernels.packed_cases import (
    TIERS,
    by_row,
    codes_of,
    needs_compiler,
    on_shapes,
    problem,
    whole_numbers,
)

TIERS = [*TIERS, pytest.param("cpu_avx512", marks=needs_compiler)]


def exact(x, codes, scale, shift, bits, columns, group, is_signed, table=None):
    """In float64, by indices alone; and what the rounding of sums may come to."""
    x = np.asarray(x)
    k = x.shape[1]
    numbers = whole_numbers(codes, bits, columns, is_signed)
    if table is not None:
        numbers = np.asarray(table, np.float64)[codes_of(codes, bits, columns)]
    scale = by_row(scale, k, columns, group)
    shift = 0 if shift is None else by_row(shift, k, columns, group)
    weights, size = (numbers - shift) * scale, (np.abs(numbers) + np.abs(shift)) * scale
    x = x.astype(np.float64)
    return x @ weights, (k + 8) * 2.0**-24 * (np.abs(x) @ size)  # each product and sum rounded once


def with_table(p, entries, seed=5):
    """The same codes (only those that the table has), each standing for a number drawn at random."""
    table = jnp.asarray(np.random.default_rng(seed).normal(size=entries), jnp.float32)
    codes = p["codes"] % entries if p["bits"] == 8 else p["codes"]
    return {**p, "table": table, "codes": codes}


class TestLaws(KernelLaws):
    native = ("cpu", "cpu_portable", "cpu_avx512")
    moving = ("x", "scale")
    cases = {
        "smollm": ((1, 576, 192), {"bits": 4, "group": 32}, 0),
        "shifted": ((9, 130, 65), {"bits": 4, "group": 64, "has_shift": True, "is_signed": True}, 0),
        "crumbs": ((3, 96, 129), {"bits": 2, "by_column": False}, 0),
        "codebook": ((12, 33, 130), {"bits": 4}, 16),
        "bytes": ((70, 65, 64), {"bits": 8, "group": 32, "is_signed": True}, 0),
    }

    def arguments(self, case, draw):
        shape, options, entries = case
        p = problem(*shape, **options, seed=int(draw.random.integers(100)))
        p = {**(with_table(p, entries) if entries else p), "x": draw(*shape[:2])}
        arrays = {name: value for name, value in p.items() if isinstance(value, jax.Array)}
        return arrays, {name: value for name, value in p.items() if name not in arrays}

    def run(self, arrays, options, implementation):
        return quantized_matmul(**arrays, **options, implementation=implementation)

    def exact(self, arrays, options):
        want, slack = exact(**arrays, **options)
        return want, slack + 1e-37


@pytest.mark.parametrize(("tier", "shape"), on_shapes(TIERS))
def test_every_tier_on_every_shape(tier, shape):
    kinds = [
        (2, False, 0),
        (2, True, 0),
        (2, False, 4),
        (4, False, 0),
        (4, True, 0),
        (4, False, 16),
        (8, False, 0),
    ]
    kinds += [(8, True, 0), (8, False, 16), (8, False, 200), (8, False, 256)]
    options = itertools.cycle(itertools.product((0, 30, 32), (False, True), (False, True)))
    for (bits, is_signed, entries), _ in itertools.product(kinds, range(2)):
        group, has_shift, by_column = next(options)
        p = problem(
            *shape, bits=bits, group=group, has_shift=has_shift, by_column=by_column, is_signed=is_signed
        )
        p = with_table(p, entries) if entries else p
        want, slack = exact(**p)
        found = quantized_matmul(**p, implementation=tier)
        assert found.shape == want.shape
        assert (np.abs(np.asarray(found) - want) <= slack).all(), (bits, is_signed, entries, group, has_shift)


@pytest.mark.parametrize("tier", TIERS)
def test_codes_of_8_bits_may_be_int8(tier):
    p = problem(3, 40, 200, bits=8, is_signed=True)
    want, slack = exact(**p)
    codes = p["codes"].view(jnp.int8)
    found = quantized_matmul(**{**p, "codes": codes, "is_signed": False}, implementation=tier)
    assert (np.abs(np.asarray(found) - want) <= slack).all()


@pytest.mark.parametrize("tier", TIERS)
def test_many_matrices_under_vmap(tier):
    """Stacked weights, as a scan over layers or experts has them."""
    made = [problem(3, 40, 130, bits=4, group=16, has_shift=True, seed=seed) for seed in range(3)]
    arrays = {name: jnp.stack([p[name] for p in made]) for name in ("x", "codes", "scale", "shift")}
    run = lambda own: quantized_matmul(**{**made[0], **own}, implementation=tier)  # noqa: E731
    found = jax.vmap(run)(arrays)
    for got, p in zip(np.asarray(found), made, strict=True):
        want, slack = exact(**p)
        assert (np.abs(got - want) <= slack).all()


@pytest.mark.parametrize("tier", TIERS)
def test_derivatives_are_those_of_the_product(tier):
    """In every float argument, reverse and forward, of second order, and under vmap."""
    p = with_table(problem(4, 40, 130, bits=4, group=16, has_shift=True), 16)
    names = ("x", "scale", "shift", "table")

    def loss(floats, tier):
        return jnp.sum(quantized_matmul(**{**p, **floats}, implementation=tier) ** 2) / 1000

    floats = {name: p[name] for name in names}
    ours, theirs = (jax.jit(jax.grad(loss), static_argnums=1)(floats, t) for t in (tier, "reference"))
    for name in names:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-4, atol=1e-3, err_msg=name)
    direction = {name: jnp.ones_like(value) for name, value in floats.items()}
    (_, ours), (_, theirs) = (
        jax.jvp(jax.grad(functools.partial(loss, tier=t)), (floats,), (direction,))
        for t in (tier, "reference")
    )
    for name in names:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-3, atol=1e-2, err_msg=name)
    each = jax.vmap(jax.grad(lambda x: loss({**floats, "x": x[None]}, tier)))(p["x"])
    whole = jax.grad(lambda x: loss({**floats, "x": x}, "reference"))(p["x"])
    np.testing.assert_allclose(each, whole, rtol=1e-4, atol=1e-3)


def test_a_gradient_keeps_the_codes_and_not_the_weights():
    """Between the forward and the backward pass, nothing of the size of W in float."""
    p = problem(4, 64, 256, bits=4)
    x = p.pop("x")
    _, pull = jax.vjp(lambda x: quantized_matmul(x, **p), x)
    kept = sum(a.size * a.dtype.itemsize for a in jax.tree.leaves(pull) if hasattr(a, "size"))
    assert kept < 64 * 256 * 4 / 2, kept


@pytest.mark.parametrize("tier", TIERS)
def test_leading_axes_and_half_precision(tier):
    p = problem(6, 16, 8, bits=8)
    x = p.pop("x").astype(jnp.bfloat16)
    found = quantized_matmul(x.reshape(2, 3, 16), **p, implementation=tier)
    want, _ = exact(np.asarray(x, np.float32), **p)
    assert found.shape == (2, 3, 8)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(found, np.float32).reshape(6, 8), want, rtol=2**-8, atol=1e-5)


@needs_compiler
def test_the_codes_of_a_leaf_as_they_are():
    w = jax.random.normal(jax.random.key(0), (96, 200))
    for q in (
        quantizers.integer(4, blocks_of(32)),
        quantizers.affine(4, blocks_of(32)),
        quantizers.nf4(32, is_double=False),
    ):
        leaf = q.encode(w)
        table = jnp.asarray(leaf.grid.table(), jnp.float32)
        x = jax.random.normal(jax.random.key(1), (2, 96))
        found = quantized_matmul(
            x, leaf.codes, leaf.scale, leaf.zero, table=table, bits=4, columns=200, group=32,
            implementation="cpu",
        )  # fmt: skip
        np.testing.assert_allclose(found, x @ leaf.dense(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bits": 3}, "bits must be 2, 4 or 8"),
        ({"table": jnp.zeros(17)}, "table must have a number for each code, at most 16"),
        ({"columns": 9}, "codes must be"),
        ({"columns": 0}, "codes must be"),
        ({"group": -1}, "codes must be"),
        ({"codes": jnp.zeros((4, 4, 4), jnp.uint8)}, "codes must be"),
        ({"scale": jnp.ones((2, 8))}, "scale must be"),
        ({"shift": jnp.ones((1, 3))}, "shift must be"),
    ],
)
def test_what_does_not_go_together_is_refused(change, message):
    p = {**problem(2, 4, 8, bits=4), **change}
    with pytest.raises(ValueError, match=message):
        quantized_matmul(**p)


def test_an_unknown_implementation_is_refused():
    with pytest.raises(NotImplementedError, match="cpu_avx512, pallas_tpu, pallas_gpu, got"):
        quantized_matmul(**problem(2, 4, 8, bits=4), implementation="tpu")


@needs_compiler
@pytest.mark.parametrize(
    "change",
    [
        {"bits": 3}, {"group": 0}, {"group": -5}, {"columns": 7}, {"table": 16 * 16}, {"runs": 2},
        {"rank": 3}, {"rows": 5}, {"table": 256}, {"dtype": jnp.int16}, {"dtype": jnp.float32},
    ],
    ids=str,
)  # fmt: skip
def test_the_handler_itself_refuses_forged_arguments(change):
    """Whatever calls the target, shapes are checked before any memory is read."""
    assert NATIVE.is_ready
    columns, k = change.get("columns", 8), change.get("rows", 4)
    x = jnp.ones((2, 4) if "rank" not in change else (1, 2, 4))
    table, scale = jnp.zeros(change.get("table", 16)), jnp.ones((change.get("runs", 1), 8))
    args = (x, jnp.zeros((k, 4), change.get("dtype", jnp.uint8)), table, scale, jnp.zeros((0, 0)))
    call = jax.ffi.ffi_call(NATIVE.target, jax.ShapeDtypeStruct((2, columns), jnp.float32))
    attributes = {
        "bits": change.get("bits", 4),
        "group": change.get("group", 4),
        "tier": 0,
        "is_signed": False,
    }
    with pytest.raises(Exception, match="quantized_matmul: "):
        jax.block_until_ready(call(*args, **attributes))


def test_without_a_compiler_the_reference_is_used_and_said_so(monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setenv("EFFICIENT_CACHE", str(tmp_path))
    native.registered.cache_clear()
    p = problem(2, 4, 8, bits=4)
    with pytest.warns(RuntimeWarning, match="the slower reference is used, as a C"):
        found = quantized_matmul(**p)
    want, slack = exact(**p)
    assert (np.abs(np.asarray(found) - want) <= slack).all()
    with pytest.raises(NotImplementedError, match="install g"):
        quantized_matmul(**p, implementation="cpu")
    native.registered.cache_clear()


@needs_compiler
def test_a_source_that_does_not_compile_says_what_the_compiler_said(tmp_path, monkeypatch):
    monkeypatch.setenv("EFFICIENT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "bad.cc").write_text("this is no C++")
    with pytest.raises(native.NoCompiler, match=r"must compile bad\.cc, got exit 1"):
        native.library(tmp_path / "bad.cc")
    assert not list((tmp_path / "cache").iterdir())
