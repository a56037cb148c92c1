"""Sparse products: every tier gives the dense product's numbers, on real shapes and ragged ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from efficient.kernels.sparse_matmul import (
    block_sparse,
    block_sparse_matmul,
    csr,
    csr_matmul,
    n_m,
    n_m_matmul,
)

from efficient.prune.leaves import BlockSparseLeaf, CSRLeaf, NMLeaf
from tests.kernels.laws import KernelLaws
from tests.kernels.packed_cases import TIERS, needs_compiler

SHAPES = [(1, 576, 192), (3, 31, 129), (8, 65, 64), (37, 130, 65)]  # rows of x, rows and columns of W


def weights(k, n, sparsity, *, block=(1, 1), seed=0):
    """A matrix with blocks of zeros, at random."""
    draw = np.random.default_rng(seed)
    stays = draw.random((-(-k // block[0]), -(-n // block[1]))) >= sparsity
    mask = np.kron(stays, np.ones(block))[:k, :n]
    return (draw.normal(size=(k, n)) * mask).astype(np.float32)


def n_of_m(k, n, keep, m, *, seed=0):
    """A matrix with `keep` of every m along its rows; some groups have fewer."""
    draw = np.random.default_rng(seed)
    groups = draw.random((-(-k // m), m, n))
    mask = (np.argsort(np.argsort(groups, 1), 1) < keep).reshape(-1, n)[:k]
    return (draw.normal(size=(k, n)) * mask * (draw.random((k, n)) > 0.05)).astype(np.float32)


def block_case(k, n, *, seed=0, block=(4, 4), sparsity=0.7):
    """A product as a function of x and the values, those, and W."""
    dense = weights(k, n, sparsity, block=block, seed=seed)
    leaf = jax.tree.map(jnp.asarray, BlockSparseLeaf.from_dense(dense, block=block))
    run = lambda x, values, **o: block_sparse_matmul(x, values, leaf.columns, leaf.pointers, size=n, **o)  # noqa: E731
    return run, leaf.values, dense


def csr_case(k, n, *, seed=0, axis=0, sparsity=0.8):
    """The same."""
    dense = weights(k, n, sparsity, seed=seed)
    leaf = jax.tree.map(jnp.asarray, CSRLeaf.from_dense(dense, axis=axis))
    run = lambda x, values, **o: csr_matmul(  # noqa: E731
        x, values, leaf.indices, leaf.pointers, size=n, by_row=axis == 0, **o
    )
    return run, leaf.values, dense


def n_m_case(k, n, *, seed=0, keep=2, m=4):
    """The same."""
    dense = n_of_m(k, n, keep, m, seed=seed)
    leaf = jax.tree.map(jnp.asarray, NMLeaf.from_dense(dense, n=keep, m=m))
    run = lambda x, values, **o: n_m_matmul(x, values, leaf.positions, m=m, **o)  # noqa: E731
    return run, leaf.values, dense


CASES = {
    "blocks of 4x4": block_case,
    "blocks of 32x32": lambda k, n, **o: block_case(k, n, block=(32, 32), **o),
    "blocks of 5x40": lambda k, n, **o: block_case(k, n, block=(5, 40), sparsity=0.5, **o),
    "no block": lambda k, n, **o: block_case(k, n, sparsity=1.0, **o),
    "rows": csr_case,
    "columns": lambda k, n, **o: csr_case(k, n, axis=1, **o),
    "rows, all": lambda k, n, **o: csr_case(k, n, sparsity=0.0, **o),
    "2:4": n_m_case,
    "1:4": lambda k, n, **o: n_m_case(k, n, keep=1, **o),
    "4:8": lambda k, n, **o: n_m_case(k, n, keep=4, m=8, **o),
    "2:16": lambda k, n, **o: n_m_case(k, n, keep=2, m=16, **o),
    "1:2": lambda k, n, **o: n_m_case(k, n, keep=1, m=2, **o),
    "3:5": lambda k, n, **o: n_m_case(k, n, keep=3, m=5, **o),
    "1:32": lambda k, n, **o: n_m_case(k, n, keep=1, m=32, **o),
}


def exact(x, dense):
    """In float64; and what the rounding of sums may come to."""
    x, dense = np.asarray(x, np.float64), np.asarray(dense, np.float64)
    return x @ dense, (x.shape[1] + 8) * 2.0**-24 * (np.abs(x) @ np.abs(dense))


def inputs(m, k, seed=1):
    """Rows of x."""
    return jnp.asarray(np.random.default_rng(seed).normal(size=(m, k)), jnp.float32)


class TestLaws(KernelLaws):
    pallas = ()
    moving = ("x", "values")
    cases = {name: name for name in ("blocks of 4x4", "blocks of 32x32", "rows", "columns", "2:4", "1:4")}

    def arguments(self, case, draw):
        run, values, dense = CASES[case](65, 72)
        return {"x": draw(3, 65), "values": values}, {"run": run, "dense": dense}

    def run(self, arrays, options, implementation):
        return options["run"](**arrays, implementation=implementation)

    def exact(self, arrays, options):
        want, slack = exact(arrays["x"], options["dense"])
        return want, slack + 1e-37


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("case", CASES)
def test_every_tier_on_every_shape(case, tier):
    for m, k, n in SHAPES if tier != "reference" else SHAPES[1:3]:
        run, values, dense = CASES[case](k, n)
        x = inputs(m, k)
        want, slack = exact(x, dense)
        found = run(x, values, implementation=tier)
        assert found.shape == want.shape
        assert (np.abs(np.asarray(found) - want) <= slack).all(), (m, k, n)


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("case", ["blocks of 4x4", "rows", "columns", "2:4"])
def test_under_jit_vmap_and_scan(case, tier):
    run, values, dense = CASES[case](40, 136)
    x = inputs(5, 40)
    want, slack = exact(x, dense)
    own = lambda x: run(x, values, implementation=tier)  # noqa: E731
    assert (np.abs(np.asarray(jax.jit(own)(x)) - want) <= slack).all()
    assert (np.abs(np.asarray(jax.vmap(own)(x)) - want) <= slack).all()
    _, scanned = jax.lax.scan(lambda c, row: (c, own(row)), 0, x)
    assert (np.abs(np.asarray(scanned) - want) <= slack).all()
    two = jnp.stack([values, 2 * values])
    both = jax.vmap(lambda values: run(x, values, implementation=tier))(two)
    assert (np.abs(np.asarray(both[1]) - 2 * want) <= 2 * slack).all()


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("case", ["blocks of 5x40", "rows", "columns", "2:4"])
def test_derivatives_are_those_of_the_dense_product(case, tier):
    run, values, dense = CASES[case](40, 136)
    x = inputs(5, 40)
    dx, dv = jax.grad(lambda x, v: jnp.sum(run(x, v, implementation=tier) ** 2), (0, 1))(x, values)
    slope = jax.grad(lambda x, w: jnp.sum((x @ w) ** 2), (0, 1))(x, jnp.asarray(dense))
    np.testing.assert_allclose(dx, slope[0], rtol=1e-4, atol=1e-3)
    through = jax.jvp(lambda v: run(x, v, implementation=tier), (values,), (values,))[1]
    np.testing.assert_allclose(through, x @ dense, rtol=1e-4, atol=1e-4)
    # Both are sums over the weights that are stored of slope times weight.
    np.testing.assert_allclose(jnp.sum(dv * values), jnp.sum(slope[1] * dense), rtol=1e-4)


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("case", ["rows", "2:4", "blocks of 4x4"])
def test_leading_axes_and_half_precision(case, tier):
    run, values, dense = CASES[case](16, 8)
    x = inputs(6, 16).astype(jnp.bfloat16)
    found = run(x.reshape(2, 3, 16), values, implementation=tier)
    assert found.shape == (2, 3, 8)
    assert found.dtype == jnp.bfloat16
    want, _ = exact(np.asarray(x, np.float32), dense)
    np.testing.assert_allclose(np.asarray(found, np.float32).reshape(6, 8), want, rtol=2**-8, atol=1e-5)


@pytest.mark.parametrize("tier", TIERS)
def test_padding_meets_nothing(tier):
    """Entries after the last line, and places out of bounds, as leaves of one size for many layers have."""
    dense = weights(16, 24, 0.5)
    x = inputs(3, 16)
    leaf = CSRLeaf.from_dense(dense)
    more = lambda a, fill: jnp.asarray(np.concatenate([a, np.full(5, fill, a.dtype)]))  # noqa: E731
    found = csr_matmul(
        x, more(leaf.values, 9), more(leaf.indices, 200), jnp.asarray(leaf.pointers), size=24,
        implementation=tier,
    )  # fmt: skip
    np.testing.assert_allclose(found, x @ dense, rtol=1e-5, atol=1e-5)
    blocks = BlockSparseLeaf.from_dense(dense)
    values = jnp.concatenate([blocks.values, jnp.ones((5, 4, 4))])
    found = block_sparse_matmul(
        x, values, more(blocks.columns, 200), jnp.asarray(blocks.pointers), size=24, implementation=tier
    )
    np.testing.assert_allclose(found, x @ dense, rtol=1e-5, atol=1e-5)


def test_what_does_not_go_together_is_refused():
    x, ones = jnp.ones((2, 4)), jnp.ones
    u = lambda n: jnp.zeros(n, jnp.uint8)  # noqa: E731
    for call, message in (
        (lambda: csr_matmul(x, ones(3), u(2), u(5), size=6), "indices must be"),
        (lambda: csr_matmul(x, ones(3), u(3), u(4), size=6), "pointers 5"),
        (lambda: csr_matmul(x, ones(3), u(3), u(5), size=0), "size positive"),
        (lambda: block_sparse_matmul(x, ones((3, 2, 2)), u(3), u(4), size=6), "pointers 3"),
        (lambda: block_sparse_matmul(x, ones((3, 2, 2)), u(2), u(3), size=6), "columns must be"),
        (lambda: n_m_matmul(ones((2, 5)), ones((1, 2, 6)), u(3), m=4), "values must be n"),
        (lambda: n_m_matmul(x, ones((1, 2, 6)), u(4), m=4), "positions must be 2 bits"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_an_unknown_implementation_is_refused():
    run, values, _ = n_m_case(4, 8)
    with pytest.raises(NotImplementedError, match="reference, cpu, cpu_portable, got 'tpu'"):
        run(inputs(1, 4), values, implementation="tpu")


@needs_compiler
@pytest.mark.parametrize("seed", range(6))
def test_handlers_survive_any_indices(seed):
    """Pointers, indices and positions at random: whatever they are, nothing beyond the arrays is touched."""
    draw = np.random.default_rng(seed)
    for tier in ("cpu", "cpu_portable"):
        for m in (1, 9):
            x = inputs(m, 17)
            kept = int(draw.integers(0, 50))
            numbers = lambda n: jnp.asarray(draw.integers(0, 2**32, n), jnp.uint32)  # noqa: E731
            for by_row, lines in ((True, 18), (False, 24)):
                out = csr_matmul(
                    x, jnp.ones(kept), numbers(kept) % 40, numbers(lines) % 60, size=23, by_row=by_row,
                    implementation=tier,
                )  # fmt: skip
                assert np.isfinite(out).all()
                wild = csr_matmul(
                    x,
                    jnp.ones(kept),
                    numbers(kept),
                    numbers(lines),
                    size=23,
                    by_row=by_row,
                    implementation=tier,
                )
                assert np.isfinite(wild).all()
            blocks = block_sparse_matmul(
                x, jnp.ones((kept, 4, 3)), numbers(kept) % 12, numbers(6) % 60, size=23, implementation=tier
            )
            assert np.isfinite(blocks).all()
            for places, groups, keep, columns in ((7, 3, 2, 16), (3, 6, 2, 24), (13, 2, 5, 70)):
                size = groups * keep * columns * (places - 1).bit_length()
                stream = jnp.asarray(draw.integers(0, 256, -(-size // 8)), jnp.uint8)
                out = n_m_matmul(x, jnp.ones((groups, keep, columns)), stream, m=places, implementation=tier)
                assert np.isfinite(out).all()


@needs_compiler
def test_handlers_refuse_forged_arguments():
    """Whatever calls a target, shapes are checked before any memory is read."""
    one = jnp.ones
    u = lambda *s: jnp.zeros(s, jnp.uint8)  # noqa: E731
    forged = [
        (csr.NATIVE, (one((2, 4)), one(3), u(3), u(4)), {"by_row": True}),
        (csr.NATIVE, (one((2, 4)), one(3), u(2), u(5)), {"by_row": True}),
        (csr.NATIVE, (one((2, 4)), one(3), u(3).astype(jnp.int8), u(5)), {"by_row": True}),
        (csr.NATIVE, (one((2, 4)), one((3, 1)), u(3), u(5)), {"by_row": True}),
        (csr.NATIVE, (one((3, 4)), one(3), u(3), u(5)), {"by_row": True}),
        (block_sparse.NATIVE, (one((2, 4)), one((3, 2, 2)), u(3), u(4)), {}),
        (block_sparse.NATIVE, (one((2, 4)), one((3, 0, 2)), u(3), u(3)), {}),
        (block_sparse.NATIVE, (one((2, 4)), one((3, 2, 2)), u(2), u(3)), {}),
        (block_sparse.NATIVE, (one((2, 4)), one((3, 2, 2)), one(3), u(3)), {}),
        (n_m.NATIVE, (one((2, 4)), one((1, 2, 6)), u(2)), {"m": 4}),
        (n_m.NATIVE, (one((2, 4)), one((2, 2, 6)), u(6)), {"m": 4}),
        (n_m.NATIVE, (one((2, 4)), one((1, 5, 6)), u(8)), {"m": 4}),
        (n_m.NATIVE, (one((2, 4)), one((1, 2, 6)), u(3)), {"m": 0}),
        (n_m.NATIVE, (one((2, 4)), one((1, 2, 7)), u(4)), {"m": 4}),
    ]  # fmt: skip
    for native, args, attributes in forged:
        assert native.is_ready
        with pytest.raises(Exception, match=native.name + "|[Ww]rong"):
            jax.block_until_ready(native.call("cpu", (2, 6), *args, **attributes))
