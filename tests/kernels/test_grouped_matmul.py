"""Rows in groups: every tier gives float64's numbers, of floats and of packed codes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from efficient.kernels.grouped_matmul import grouped_matmul, grouped_quantized_matmul
from efficient.kernels.grouped_matmul.grouped_matmul import NATIVE, QUANTIZED

from tests.kernels.laws import KernelLaws
from tests.kernels.packed_cases import needs_compiler, whole_numbers


def by_group(x, weights, sizes):
    """In float64, and the sum of magnitudes."""
    out, size = np.zeros((2, len(x), weights.shape[2]))
    row = 0
    for own, count in zip(weights, np.asarray(sizes), strict=True):
        rows = np.asarray(x[row : row + count], np.float64)
        out[row : row + count], size[row : row + count] = rows @ own, np.abs(rows) @ np.abs(own)
        row += count
    return out, size


class TestFloats(KernelLaws):
    moving = ("x", "weights")
    rows = ("x", "sizes")
    cases = {  # rows, k, n, sizes of groups
        "experts": (70, 64, 96, [20, 0, 33, 17]),
        "adapters": (9, 130, 8, [1, 1, 0, 5, 1]),
        "left over": (200, 33, 65, [130, 5]),
        "one": (1, 1, 1, [1]),
        "none": (5, 8, 9, [0, 0]),
    }

    def arguments(self, case, draw):
        m, k, n, sizes = case
        arrays = {"x": draw(m, k), "weights": draw(len(sizes), k, n), "sizes": jnp.asarray(sizes, jnp.int32)}
        return arrays, {}

    def run(self, arrays, options, implementation):
        sizes = arrays["sizes"][: arrays["weights"].shape[0]]
        return grouped_matmul(arrays["x"], arrays["weights"], sizes, implementation=implementation)

    def exact(self, arrays, options):
        out, size = by_group(arrays["x"], np.asarray(arrays["weights"], np.float64), arrays["sizes"])
        return out, (arrays["x"].shape[1] + 4) * 2.0**-24 * size + 1e-37


class TestCodes(KernelLaws):
    pallas = ()
    moving = ("x", "scale")
    rows = ("x", "sizes")
    cases = {
        "int4": (30, 64, 130, [9, 0, 1, 20], {"bits": 4, "group": 32, "is_signed": True}),
        "int8": (12, 33, 9, [3, 8], {"bits": 8}),
    }

    def arguments(self, case, draw):
        m, k, n, sizes, options = case
        e, runs = len(sizes), -(-k // options.get("group", k))
        arrays = {
            "x": draw(m, k),
            "sizes": jnp.asarray(sizes, jnp.int32),
            "codes": draw.whole(0, 256, e, k, -(-n * options["bits"] // 8), dtype=np.uint8),
            "scale": 0.5 + jnp.abs(draw(e, runs, n)),
            "shift": draw(e, runs, 1),
        }
        return arrays, {**options, "columns": n}

    def run(self, arrays, options, implementation):
        return grouped_quantized_matmul(**arrays, **options, implementation=implementation)

    def exact(self, arrays, options):
        k, n = arrays["x"].shape[1], options["columns"]
        run = np.arange(k) // options.get("group", k)
        weights, sizes = [], []
        for codes, scale, shift in zip(arrays["codes"], arrays["scale"], arrays["shift"], strict=True):
            numbers = whole_numbers(codes, options["bits"], n, options.get("is_signed", False))
            scale, shift = np.asarray(scale, np.float64)[run], np.asarray(shift, np.float64)[run]
            weights.append((numbers - shift) * scale)
            sizes.append((np.abs(numbers) + np.abs(shift)) * scale)
        out, _ = by_group(arrays["x"], np.stack(weights), arrays["sizes"])
        _, size = by_group(arrays["x"], np.stack(sizes), arrays["sizes"])
        return out, (k + 8) * 2.0**-24 * size + 1e-37


def test_sizes_that_reach_beyond_the_rows_are_cut_off():
    x, weights = jnp.ones((4, 2)), jnp.arange(1.0, 4)[:, None, None] * jnp.ones((3, 2, 1))
    found = grouped_matmul(x, weights, jnp.array([3, 5, 2]))
    assert found[:, 0].tolist() == [2.0, 2.0, 2.0, 4.0]
    found = grouped_matmul(x, weights, jnp.array([-3, 2, 1]))
    assert found[:, 0].tolist() == [4.0, 4.0, 6.0, 0.0]


def test_what_does_not_go_together_is_refused():
    x, sizes = jnp.ones((4, 6)), jnp.ones(2, jnp.int32)
    codes, scale = jnp.zeros((2, 6, 4), jnp.uint8), jnp.ones((2, 1, 8))
    for call, message in (
        (lambda: grouped_matmul(x, jnp.ones((2, 5, 3)), sizes), r"weights must be \[e, 6, n\]"),
        (lambda: grouped_matmul(x, jnp.ones((3, 6, 3)), sizes), r"sizes \[e\]"),
        (
            lambda: grouped_quantized_matmul(x, sizes, codes[:1], scale, bits=4, columns=8),
            "a matrix for each",
        ),
        (lambda: grouped_quantized_matmul(x, sizes, codes, scale, bits=4, columns=9), "codes must be"),
        (
            lambda: grouped_quantized_matmul(x, sizes, codes, scale[:, :, :3], bits=4, columns=8),
            "scale must be",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(NotImplementedError, match="reference, cpu, cpu_portable, got 'pallas_tpu'"):
        grouped_quantized_matmul(x, sizes, codes, scale, bits=4, columns=8, implementation="pallas_tpu")


@needs_compiler
def test_handlers_refuse_forged_arguments():
    assert NATIVE.is_ready
    assert QUANTIZED.is_ready
    i = lambda *values: jnp.asarray(values, jnp.int32)  # noqa: E731

    def floats(x=(4, 6), weights=(2, 6, 3), sizes=(1, 3), y=(4, 3)):
        return NATIVE.call("cpu", y, jnp.ones(x), jnp.ones(weights), i(*sizes))

    def packed(
        x=(4, 6), sizes=(1, 3), codes=(2, 6, 4), dtype=jnp.uint8, table=0, scale=(2, 1, 8), shift=(0, 0, 0),
        y=(4, 8), bits=4, group=6,
    ):  # fmt: skip
        args = (
            jnp.ones(x),
            i(*sizes),
            jnp.zeros(codes, dtype),
            jnp.ones(table),
            jnp.ones(scale),
            jnp.ones(shift),
        )
        return QUANTIZED.call("cpu", y, *args, bits=bits, group=group, is_signed=False)

    for call, name, changes in (
        (floats, "grouped_matmul", [
            {"weights": (2, 5, 3)}, {"sizes": (1, 4)}, {"sizes": (-1, 3)}, {"sizes": (1,)}, {"y": (4, 4)},
            {"sizes": (2**31 - 1, 2**31 - 1)}, {"y": (3, 3)},
        ]),
        (packed, QUANTIZED.name, [
            {"codes": (2, 6, 5)}, {"codes": (3, 6, 4)}, {"dtype": jnp.int16}, {"table": 17},
            {"scale": (2, 2, 8)},
            {"shift": (2, 1, 7)}, {"y": (4, 7)}, {"bits": 5}, {"group": 0}, {"group": 3}, {"sizes": (5, 0)},
        ]),
    ):  # fmt: skip
        jax.block_until_ready(call())
        for change in changes:
            with pytest.raises(Exception, match=name + ": "):
                jax.block_until_ready(call(**change))
