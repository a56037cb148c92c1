"""Quantized matmul: every tier gives the reference's numbers, on real shapes and ragged ones."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from efficient.kernels import native
from efficient.kernels.quantized_matmul import quantized_matmul
from efficient.kernels.quantized_matmul.matmul import SOURCE, SYMBOL, TARGET

from efficient.quantize import quantizers
from efficient.quantize.blocks import group as blocks_of
from tests.kernels.packed_cases import SHAPES, TIERS, by_row, needs_compiler, numbers_of, problem


def exact(x, codes, table, scale, shift, columns, group):
    """In float64, by indices alone; and what the rounding of sums may come to."""
    x, table = np.asarray(x), np.asarray(table, np.float64)
    k = x.shape[1]
    numbers = table[numbers_of(codes, 4 if len(table) == 16 else 8, columns)]
    scale = by_row(scale, k, columns, group)
    shift = 0 if shift is None else by_row(shift, k, columns, group)
    weights, size = (numbers - shift) * scale, (np.abs(numbers) + np.abs(shift)) * scale
    x = x.astype(np.float64)
    return x @ weights, (k + 8) * 2.0**-24 * (np.abs(x) @ size)  # each product and sum rounded once


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_tier_on_every_shape(tier, shape):
    for bits, group, has_shift, by_column in itertools.product((4, 8), (0, 32), (False, True), (False, True)):
        p = problem(*shape, bits=bits, group=group, has_shift=has_shift, by_column=by_column)
        want, slack = exact(**p)
        found = quantized_matmul(**p, implementation=tier)
        assert found.shape == want.shape
        assert (np.abs(np.asarray(found) - want) <= slack).all(), (bits, group, has_shift, by_column)


@pytest.mark.parametrize("tier", TIERS)
def test_under_jit_grad_vmap_and_scan(tier):
    p = problem(4, 40, 130, bits=4, group=16, has_shift=True)
    x = p.pop("x")
    run = lambda x: quantized_matmul(x, **p, implementation=tier)  # noqa: E731
    want, slack = exact(np.asarray(x), **p)
    assert (np.abs(np.asarray(jax.jit(run)(x)) - want) <= slack).all()
    rows = jax.vmap(run)(x)
    assert (np.abs(np.asarray(rows) - want) <= slack).all()
    _, scanned = jax.lax.scan(lambda c, row: (c, run(row)), 0, x)
    assert (np.abs(np.asarray(scanned) - want) <= slack).all()
    slope = jax.jit(jax.grad(lambda x: jnp.sum(run(x) ** 2)))(x)
    eye, _ = exact(np.eye(40, dtype=np.float32), **p)
    np.testing.assert_allclose(slope, 2 * want @ eye.T, rtol=2e-4, atol=1e-2)


@pytest.mark.parametrize("tier", TIERS)
def test_leading_axes_and_half_precision(tier):
    p = problem(6, 16, 8, bits=8, group=0, has_shift=False)
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
        shift = None if leaf.zero is None else leaf.zero
        x = jax.random.normal(jax.random.key(1), (2, 96))
        found = quantized_matmul(
            x, leaf.codes, table, leaf.scale, shift, columns=200, group=32, implementation="cpu"
        )
        np.testing.assert_allclose(found, x @ leaf.dense(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"table": jnp.zeros(17)}, "table must have 16 or 256"),
        ({"columns": 9}, "codes must be"),
        ({"columns": 0}, "codes must be"),
        ({"group": -1}, "codes must be"),
        ({"codes": jnp.zeros((4, 4, 4), jnp.uint8)}, "codes must be"),
        ({"scale": jnp.ones((2, 8))}, "scale must be"),
        ({"shift": jnp.ones((1, 3))}, "shift must be"),
    ],
)
def test_what_does_not_go_together_is_refused(change, message):
    p = {**problem(2, 4, 8, bits=4, group=0, has_shift=False), **change}
    with pytest.raises(ValueError, match=message):
        quantized_matmul(**p)


def test_an_unknown_implementation_is_refused():
    with pytest.raises(NotImplementedError, match="reference, cpu, cpu_portable, got"):
        quantized_matmul(**problem(2, 4, 8, bits=4, group=0, has_shift=False), implementation="tpu")


@needs_compiler
@pytest.mark.parametrize(
    "change",
    [
        {"bits": 3}, {"group": 0}, {"group": -5}, {"columns": 7}, {"table": 16 * 16}, {"runs": 2},
        {"rank": 3}, {"rows": 5},
    ],
    ids=str,
)  # fmt: skip
def test_the_handler_itself_refuses_forged_arguments(change):
    """Whatever calls the target, shapes are checked before any memory is read."""
    assert native.registered(SOURCE, SYMBOL, TARGET)
    columns, k = change.get("columns", 8), change.get("rows", 4)
    x = jnp.ones((2, 4) if "rank" not in change else (1, 2, 4))
    table, scale = jnp.zeros(change.get("table", 16)), jnp.ones((change.get("runs", 1), 8))
    args = (x, jnp.zeros((k, 4), jnp.uint8), table, scale, jnp.zeros((0, 0)))
    call = jax.ffi.ffi_call(TARGET, jax.ShapeDtypeStruct((2, columns), jnp.float32))
    attributes = {"bits": change.get("bits", 4), "group": change.get("group", 4), "tier": 0}
    with pytest.raises(Exception, match="quantized_matmul: "):
        jax.block_until_ready(call(*args, **attributes))


def test_without_a_compiler_the_reference_is_used_and_said_so(monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setenv("EFFICIENT_CACHE", str(tmp_path))
    native.registered.cache_clear()
    p = problem(2, 4, 8, bits=4, group=0, has_shift=False)
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
