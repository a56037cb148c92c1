"""Ranges: each does what its formula says, and what only fills a block does not count."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from efficient.quantize import formats, ranges

INT4 = formats.Integer(4)
EVERY = {
    "minmax": ranges.minmax(),
    "absmean": ranges.absmean(),
    "percentile": ranges.percentile(90),
    "mse": ranges.mse(),
    "octav": ranges.octav(),
    "kl": ranges.kl(),
}
NORMAL = np.random.default_rng(0).normal(size=(2, 500)).astype(np.float32)


def of(chosen, values, grid=INT4, weights=None):
    values = jnp.asarray(values, jnp.float32)
    weights = jnp.ones_like(values) if weights is None else jnp.asarray(weights, jnp.float32)
    return [np.asarray(a) for a in jax.jit(lambda v, w: chosen.of(v, w, grid))(values, weights)]


def error(values, bound, grid=INT4):
    scale = bound[..., None] / grid.high
    rounded = np.clip(np.round(values / scale), -grid.high, grid.high) * scale
    return np.sum((values - rounded) ** 2, -1)


@pytest.mark.parametrize("chosen", EVERY.values(), ids=EVERY)
class TestEveryRange:
    def test_fill_does_not_count(self, chosen):
        filled = np.concatenate([NORMAL, np.full((2, 60), 99.0, np.float32)], 1)
        weights = np.concatenate([np.ones_like(NORMAL), np.zeros((2, 60), np.float32)], 1)
        # Sums of float32 over as many terms in another order, and bins of a histogram from the same largest.
        for got, want in zip(of(chosen, filled, weights=weights), of(chosen, NORMAL), strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-5)

    def test_it_is_within_the_numbers_and_grows_with_them(self, chosen):
        low, high = of(chosen, NORMAL)
        assert np.all(low <= high)
        assert np.all(high <= np.abs(NORMAL).max(-1))
        for got, want in zip(of(chosen, 4 * NORMAL), (low, high), strict=True):
            np.testing.assert_allclose(got, 4 * want, rtol=1e-5)

    def test_zeros_have_an_empty_range(self, chosen):
        low, high = of(chosen, np.zeros((1, 8)))
        assert low == high == 0


def test_minmax_by_hand():
    low, high = of(EVERY["minmax"], [[3.0, -1.0, 2.0]])
    assert (low, high) == (-1, 3)


def test_percentile_by_hand():
    # |x| = 1..10: 90 % are at or below 9. With a zero point, 5 % at each end: -9..9 of -10..10 (21 numbers).
    low, high = of(ranges.percentile(90), [np.arange(1.0, 11)])
    assert (low, high) == (-9, 9)
    low, high = of(ranges.percentile(90), [np.arange(-10.0, 11)], formats.Affine(4))
    assert (low, high) == (-9, 9)


def test_absmean_is_the_best_scale_of_signs():
    _, high = of(EVERY["absmean"], NORMAL)
    tried = np.linspace(0.5, 1.2, 701)
    costs = [np.sum((NORMAL - b * np.sign(NORMAL)) ** 2, -1) for b in tried]
    np.testing.assert_allclose(high, tried[np.argmin(costs, 0)], atol=1e-3)  # the spacing of what is tried


def test_mse_is_the_best_of_its_candidates():
    _, high = of(ranges.mse(64), NORMAL)
    largest = np.abs(NORMAL).max(-1)
    costs = np.stack([error(NORMAL, largest * share) for share in np.linspace(1, 0.2, 64)])
    np.testing.assert_allclose(
        error(NORMAL, np.maximum(high, -of(ranges.mse(64), NORMAL)[0])), costs.min(0), rtol=1e-3
    )


@pytest.mark.parametrize("bits", [4, 6, 8])
def test_octav_is_a_fixed_point_near_the_least_error(bits):
    """Of its equation, to float32; and its error is within 5 % of the least that brute force finds."""
    grid = formats.Integer(bits)
    _, high = of(EVERY["octav"], NORMAL, grid)
    size = np.abs(NORMAL).astype(np.float64)
    beyond = size > high[:, None]
    count = (~beyond).sum(-1) / (12 * grid.high**2) + beyond.sum(-1)
    np.testing.assert_allclose(high, (size * beyond).sum(-1) / count, rtol=1e-4)
    best = np.min([error(NORMAL, np.full(2, b), grid) for b in np.linspace(0.2, 4.5, 500)], 0)
    assert np.all(error(NORMAL, high, grid) <= 1.05 * best)


def test_kl_clips_a_far_outlier_and_keeps_an_even_distribution():
    many = np.random.default_rng(1).normal(size=(1, 20000)).astype(np.float32)
    outlier = np.concatenate([many, [[60.0]]], 1)
    _, high = of(EVERY["kl"], outlier, formats.Integer(8))
    assert 2 < high < 20
    even = np.linspace(-1, 1, 20000, dtype=np.float32)[None]
    assert of(EVERY["kl"], even, formats.Integer(8))[1] > 0.9


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ranges.percentile(0), r"share must be in \(0, 100\], got 0"),
        (lambda: ranges.mse(1), "candidates must be from 2"),
        (lambda: ranges.octav(0), "iterations must be from 1, got 0"),
        (lambda: ranges.kl(8), "bins must be from 64"),
        (lambda: of(ranges.octav(), NORMAL, formats.NF4), "evenly spaced and symmetric for octav"),
        (lambda: of(ranges.kl(), NORMAL, formats.Affine(4)), "format must be symmetric for kl"),
    ],
)
def test_what_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
