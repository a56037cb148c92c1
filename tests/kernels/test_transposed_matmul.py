"""x W^T of packed codes: every tier gives float64's numbers, x rounded or not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from efficient.kernels.quantized_matmul import int8_reference, transposed_matmul
from efficient.kernels.quantized_matmul.reference import rounded
from efficient.kernels.quantized_matmul.transposed import NATIVE

from tests.kernels.laws import KernelLaws
from tests.kernels.packed_cases import codes_of, needs_compiler


class TestLaws(KernelLaws):
    pallas = ()
    moving = ("x", "scale")
    cases = {  # rows of x, of W, what is summed over
        "smollm": ((1, 70, 576), {"bits": 4, "group": 32, "is_signed": True}),
        "rounded": ((3, 70, 576), {"bits": 4, "group": 32, "is_rounded": True, "has_shift": True}),
        "step": ((2, 33, 130), {"bits": 8, "is_signed": True, "is_rounded": True, "x_scale": 0.02}),
        "of all": ((6, 33, 300), {"bits": 8, "group": 64, "is_rounded": True, "per_row": False}),
        "crumbs": ((5, 9, 70), {"bits": 2, "group": 5, "has_shift": True}),
        "crumbs, rounded": ((5, 9, 256), {"bits": 2, "group": 64, "is_rounded": True}),
        "table": ((4, 65, 33), {"bits": 4, "entries": 16}),
        "many": ((70, 66, 300), {"bits": 4, "group": 128, "has_shift": True}),
        "some": ((11, 3, 40), {"bits": 8, "entries": 200, "group": 7}),
    }

    def arguments(self, case, draw):
        (m, n, k), options = case
        options = {**options}
        runs, has_shift = -(-k // (options.get("group") or k)), options.pop("has_shift", False)
        entries = options.pop("entries", 0)
        codes = draw.whole(0, 256, n, -(-k * options["bits"] // 8), dtype=np.uint8)
        arrays = {
            "x": draw(m, k),
            "codes": codes % entries if entries > 16 else codes,
            "scale": 0.5 + jnp.abs(draw(n, runs)),
        }
        if has_shift:
            arrays["shift"] = draw(1, runs)
        if entries:
            arrays["table"] = draw(entries)
        return arrays, options

    def run(self, arrays, options, implementation):
        options = {**options}
        step = options.pop("x_scale", None)
        step = None if step is None else jnp.float32(step)
        return transposed_matmul(**arrays, **options, x_scale=step, implementation=implementation)

    def exact(self, arrays, options):
        x, bits = np.asarray(arrays["x"]), options["bits"]
        group = options.get("group") or x.shape[1]
        numbers = codes_of(arrays["codes"], bits, x.shape[1]).astype(np.float64)
        if "table" in arrays:
            numbers = np.asarray(arrays["table"], np.float64)[numbers.astype(int)]
        elif options.get("is_signed"):
            numbers = np.where(numbers >= 2 ** (bits - 1), numbers - 2**bits, numbers)

        def along(values):
            return np.asarray(values, np.float64)[:, np.arange(x.shape[1]) // group]

        shift = along(arrays["shift"]) if "shift" in arrays else 0.0
        weights, size = (numbers - shift) * along(arrays["scale"]), (np.abs(numbers) + np.abs(shift))
        step = np.ones((len(x), 1))
        if options.get("is_rounded"):
            given = options.get("x_scale")
            given = None if given is None else jnp.float32(given)
            x, step = map(np.asarray, rounded(arrays["x"], given, options.get("per_row", True)))
        x = x.astype(np.float64)
        # Two's complement is multiplied with its first bit turned, which adds 2^(bits - 1) to each number.
        size = (size + 2 ** (bits - 1)) * along(arrays["scale"])
        slack = (x.shape[1] + 16) * 2.0**-24 * (np.abs(x) @ size.T) * step + 1e-37
        return x @ weights.T * step, slack


def test_by_hand():
    # Codes 2, 15, 1, the first lowest: bytes 0xF2, 0x01. (2 - 1) 0.5 + (15 - 1) 0.5 10 + (1 - 1) = 70.5.
    found = transposed_matmul(
        jnp.array([[1.0, 10.0, 100.0]]), jnp.array([[0xF2, 0x01]], jnp.uint8), jnp.array([[0.5]]),
        jnp.array([[1.0]]), bits=4,
    )  # fmt: skip
    assert found.tolist() == [[70.5]]


def test_x_is_rounded_as_by_int8_matmul():
    x = jax.random.normal(jax.random.key(0), (3, 40))
    codes = jax.random.bits(jax.random.key(1), (40, 9), jnp.uint8)
    packing = {"bits": 8, "columns": 9, "group": 40, "is_signed": True}
    from efficient.kernels.quantized_matmul.arguments import Packing

    want = int8_reference(x, codes, jnp.ones((1, 9)), None, None, packing=Packing(**packing))
    found = transposed_matmul(x, codes.T, jnp.ones((9, 1)), bits=8, is_signed=True, is_rounded=True)
    np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("tier", TestLaws.all_tiers())
def test_a_row_that_is_not_finite_is_nan_and_codes_may_be_int8(tier):
    x = jnp.ones((3, 8)).at[1, 2].set(jnp.inf)
    codes = jnp.full((4, 8), -3, jnp.int8)
    found = transposed_matmul(x, codes, jnp.ones((1, 1)), bits=8, is_rounded=True, implementation=tier)
    assert np.isnan(found).all(1).tolist() == [False, True, False]
    np.testing.assert_allclose(found[0], -24 * np.ones(4), rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bits": 3}, "bits must be 2, 4 or 8"),
        ({"codes": jnp.zeros((4, 3), jnp.uint8)}, "codes must be rows of bytes of 8 columns"),
        ({"group": -1}, "codes must be"),
        ({"scale": jnp.ones((4, 2))}, "scale must be"),
        ({"shift": jnp.ones((3, 1))}, "shift must be"),
        ({"table": jnp.ones(17)}, "table must have a number for each code, at most 16"),
        ({"x_scale": jnp.float32(1)}, "x_scale must go with is_rounded"),
    ],
)
def test_what_does_not_go_together_is_refused(change, message):
    good = {
        "x": jnp.ones((2, 8)),
        "codes": jnp.zeros((4, 4), jnp.uint8),
        "scale": jnp.ones((4, 1)),
        "bits": 4,
    }
    with pytest.raises(ValueError, match=message):
        transposed_matmul(**{**good, **change})


@needs_compiler
def test_the_handler_refuses_forged_arguments():
    assert NATIVE.is_ready
    options = {"bits": 4, "group": 8, "is_signed": False, "rounds": 0}

    def call(
        x=(2, 8),
        codes=(4, 4),
        dtype=jnp.uint8,
        table=0,
        scale=(4, 1),
        shift=(0, 0),
        y=(2, 4),
        steps=0,
        **change,
    ):
        args = (
            jnp.ones(x),
            jnp.zeros(codes, dtype),
            jnp.ones(table),
            jnp.ones(scale),
            jnp.ones(shift),
            jnp.ones(steps),
        )
        return jax.block_until_ready(NATIVE.call("cpu", y, *args, **{**options, **change}))

    call()
    for change in (
        {"bits": 3}, {"group": 0}, {"rounds": 3}, {"rounds": -1}, {"codes": (4, 5)}, {"dtype": jnp.int16},
        {"table": 8}, {"table": 17}, {"scale": (3, 1)}, {"scale": (4, 2)}, {"shift": (4, 2)}, {"y": (2, 5)},
        {"y": (3, 4)}, {"steps": 2}, {"group": 4}, {"x": (1, 2, 8)},
    ):  # fmt: skip
        with pytest.raises(Exception, match="transposed_matmul: "):
            call(**change)
