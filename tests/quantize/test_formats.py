"""Formats: exact tables, rounding as the standards have it, codes that come back."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from efficient.quantize import formats, round_to
from efficient.quantize.formats.normal_float import normal_float

FLOATS = {
    "e4m3": (formats.E4M3, ml_dtypes.float8_e4m3fn, 448),
    "e5m2": (formats.E5M2, ml_dtypes.float8_e5m2, 57344),
    "e3m2": (formats.E3M2, ml_dtypes.float6_e3m2fn, 28),
    "e2m3": (formats.E2M3, ml_dtypes.float6_e2m3fn, 7.5),
    "e2m1": (formats.E2M1, ml_dtypes.float4_e2m1fn, 6),
}
EVERY = {
    **{name: row[0] for name, row in FLOATS.items()},
    "nf4": formats.NF4,
    "int2": formats.Integer(2),
    "int8": formats.Integer(8),
    "unsigned3": formats.Unsigned(3),
    "affine4": formats.Affine(4),
    "powers4": formats.PowerOfTwo(4),
    "signs": formats.Table((-1.0, 1.0)),
}


@pytest.mark.parametrize(("grid", "dtype", "largest"), FLOATS.values(), ids=FLOATS)
class TestFloatsAgainstMlDtypes:
    def test_every_code(self, grid, dtype, largest):
        codes = np.arange(2**grid.bits, dtype=np.uint8)
        want = codes.view(dtype).astype(np.float32)
        is_number = np.isfinite(want)
        np.testing.assert_array_equal(grid.table()[is_number], want[is_number])
        assert np.isnan(grid.table()[~is_number]).all()
        assert grid.high == largest == np.nanmax(grid.table())

    def test_rounding_ties_subnormals_and_saturation(self, grid, dtype, largest):
        table = np.unique(grid.table()[np.isfinite(grid.table())])
        middles = (table[1:] + table[:-1]) / 2  # every tie there is
        drawn = np.random.default_rng(0).normal(size=4000) * largest / 3
        x = np.concatenate([table, middles, drawn, drawn * 1e-4, [2 * largest, -2 * largest]]).astype(
            np.float32
        )
        want = np.clip(x, -largest, largest).astype(dtype).astype(np.float32)
        got = np.asarray(grid.round(jnp.asarray(x)))
        np.testing.assert_array_equal(got, want)
        np.testing.assert_array_equal(grid.decode(grid.encode(jnp.asarray(got))), got)

    def test_error_is_half_a_unit_in_the_last_place(self, grid, dtype, largest):
        x = np.abs(np.random.default_rng(1).normal(size=2000).astype(np.float32))
        x = x[x < largest]
        error = np.abs(np.asarray(grid.round(jnp.asarray(x))) - x)
        least = 2.0 ** (1 - grid.bias - grid.mantissa)  # the spacing of subnormals
        assert np.all(error <= np.maximum(x * 2.0 ** -(grid.mantissa + 1), least / 2))


@pytest.mark.parametrize("grid", EVERY.values(), ids=EVERY)
class TestEveryFormat:
    def test_codes_come_back(self, grid):
        codes = np.arange(2**grid.bits, dtype=np.uint8)
        numbers = np.asarray(grid.decode(jnp.asarray(codes)))
        keep = np.isfinite(numbers) & (numbers >= grid.low) & (numbers <= grid.high)
        again = np.asarray(grid.decode(grid.encode(jnp.asarray(numbers[keep]))))
        np.testing.assert_array_equal(again, numbers[keep])
        np.testing.assert_array_equal(np.asarray(grid.round(jnp.asarray(numbers[keep]))), numbers[keep])
        assert len(np.unique(codes)) == 2**grid.bits

    def test_the_nearest_number_is_taken(self, grid):
        numbers = grid.table()
        numbers = numbers[np.isfinite(numbers)]
        numbers = np.unique(numbers[(numbers >= grid.low) & (numbers <= grid.high)])
        x = np.random.default_rng(2).uniform(1.2 * grid.low - 1, 1.2 * grid.high, 3000).astype(np.float32)
        got = np.asarray(grid.round(jnp.asarray(x)))
        best = np.min(np.abs(x[:, None] - numbers), 1)
        if isinstance(grid, formats.PowerOfTwo):  # nearest in the logarithm
            inside = (np.abs(x) >= 2.0**grid.least) & (np.abs(x) <= 1)
            ratio = np.abs(got[inside] / x[inside])
            assert np.all((ratio <= 2**0.5 + 1e-6) & (ratio >= 2**-0.5 - 1e-6))
        else:
            np.testing.assert_allclose(np.abs(got - x), best, rtol=0, atol=1e-6 * grid.high)

    def test_nan_shows(self, grid):
        assert np.isnan(np.asarray(grid.round(jnp.array([jnp.nan])))).all()

    def test_the_gradient_passes_inside_and_stops_beyond(self, grid):
        x = jnp.array([0.3 * grid.high, 3 * grid.high + 3, 3 * grid.low - 3])
        np.testing.assert_array_equal(jax.grad(lambda v: jnp.sum(round_to(grid, v)))(x), [1, 0, 0])


def test_integers_by_hand():
    # 3 bits: -3..3, half to even, two's complement: -3 is 5, -1 is 7.
    grid = formats.Integer(3)
    np.testing.assert_array_equal(grid.round(jnp.array([-9.0, -1.5, 0.5, 1.5, 3.4])), [-3, -2, 0, 2, 3])
    np.testing.assert_array_equal(grid.encode(jnp.array([-3.0, -1.0, 0.0, 2.0])), [5, 7, 0, 2])


def test_powers_of_two_by_hand():
    # 3 bits: 0 and +-1, 1/2, 1/4; in the logarithm 0.3536 is half-way between the last two, 0.1768 to zero.
    grid = formats.PowerOfTwo(3)
    got = grid.round(jnp.array([5.0, 0.75, 0.7, 0.36, 0.35, 0.18, 0.17, -0.2]))
    np.testing.assert_array_equal(got, [1, 1, 0.5, 0.5, 0.25, 0.25, 0, -0.25])
    np.testing.assert_array_equal(grid.encode(jnp.array([0.0, 0.25, 0.5, 1.0, -0.25])), [0, 1, 2, 3, 5])


def test_nf4_is_its_construction():
    np.testing.assert_allclose(formats.NF4.numbers, normal_float(4).numbers, rtol=0, atol=3e-7)
    assert formats.NF4.numbers[7] == 0
    assert len(normal_float(3).numbers) == 8


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: formats.Integer(1), "bits must be from 2 to 8, got 1"),
        (lambda: formats.Unsigned(9), "bits must be from 1 to 8, got 9"),
        (lambda: formats.PowerOfTwo(7), "bits must be from 2 to 6, got 7"),
        (lambda: formats.Table((1.0, -1.0)), "numbers must be 2 to 256 finite ones, ascending"),
        (lambda: formats.Table((-2.0, -1.0)), "numbers must be 2 to 256 finite ones"),
        (lambda: formats.Floating(0, 3, 1, 1.0), "exponent must be from 1"),
        (lambda: normal_float(9), "bits must be from 2 to 8, got 9"),
    ],
)
def test_what_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
