import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from efficient.core.cost import Equation, cost
from efficient.core.measure import DeviceProfile, Race, Timing, calibrate, measure, race


class Output:
    """An output that counts how often it is waited for."""

    def __init__(self, log):
        self.log = log

    def block_until_ready(self):
        self.log.append("waited")
        return self


def test_quantiles_by_hand():
    timing = Timing(samples_ms=(4.0, 1.0, 3.0, 2.0, 9.0))
    assert (timing.n, timing.min_ms, timing.lower_ms, timing.median_ms, timing.upper_ms) == (5, 1, 2, 3, 4)


def test_every_output_of_every_call_is_waited_for():
    calls, waited = [], []

    def fn(x):
        calls.append(x)
        return {"a": Output(waited), "b": [Output(waited)]}

    assert measure(fn, 7, warmup=2, repeats=3).n == 3
    assert calls == [7] * 5
    assert waited == ["waited"] * 10


def test_jit_compiles_once_and_before_the_clock_starts():
    fn = chex.assert_max_traces(n=1)(lambda x: x @ x)
    assert measure(fn, jnp.ones((4, 4)), warmup=1, repeats=3, jit=True).n == 3


def test_time_is_wall_clock_in_milliseconds():
    import time

    timing = measure(lambda: time.sleep(0.02), warmup=1, repeats=3)
    assert timing.min_ms >= 20


def test_race_takes_turns():
    calls = []
    result = race(lambda x: calls.append(("a", x)), lambda x: calls.append(("b", x)), 1, warmup=1, repeats=2)
    assert calls == [("a", 1), ("b", 1)] * 3
    assert (result.first.n, result.second.n) == (2, 2)


def test_ratio_is_of_medians():
    # medians 4 and 2; the ratios of the turns are 1, 2, 8
    result = Race(first=Timing(samples_ms=(2.0, 4.0, 8.0)), second=Timing(samples_ms=(2.0, 2.0, 1.0)))
    assert result.ratio == 2.0
    assert result.ratio_quartiles == (1.5, 5.0)


def test_race_shows_which_is_faster():
    x = jnp.ones((256, 256))
    result = race(lambda v: v @ v @ v @ v @ v @ v @ v @ v, lambda v: v[0] + 1, x, repeats=9, jit=True)
    assert result.ratio > 1
    assert result.ratio_quartiles[0] > 1


def equation(products, moved):
    return Equation(
        path="",
        scope="",
        primitive="",
        kind="weight",
        macs=0,
        products=products,
        bytes_moved=moved,
        times=1,
        shape=(),
    )


def test_roofline_by_hand():
    device = DeviceProfile(name="paper", peak_flops=1000.0, bandwidth=100.0)
    # 2*50/1000 s against 5/100 s: compute; 2*5/1000 s against 20/100 s: memory
    assert device.predict_ms([equation(50, 5)]) == pytest.approx(100.0)
    assert device.predict_ms([equation(5, 20)]) == pytest.approx(200.0)
    assert device.predict_ms([equation(50, 5), equation(5, 20)]) == pytest.approx(300.0)
    assert device.predict_ms([]) == 0


def test_attention_takes_time_whatever_the_convention_counts():
    shapes = jax.ShapeDtypeStruct((8, 8), jnp.float32)
    device = DeviceProfile(name="slow", peak_flops=1.0, bandwidth=1e9)
    for convention in ("conv_fc", "matmul"):
        report = cost(lambda w, x: x @ x.T, shapes, shapes, convention=convention)
        assert device.predict_ms(report.equations) == pytest.approx(2e3 * 512)


def test_calibration_is_positive_and_named():
    device = calibrate(size=64, read_bytes=1 << 14, repeats=2)
    assert device.name == jax.devices()[0].device_kind
    assert np.isfinite([device.peak_flops, device.bandwidth]).all()
    assert device.peak_flops > 0
    assert device.bandwidth > 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: measure(abs, 1, warmup=0), "warmup must be at least 1, got 0; the first call compiles."),
        (lambda: measure(abs, 1, repeats=0), "repeats must be at least 1, got 0; the median needs a call."),
        (lambda: race(abs, abs, 1, warmup=0), "warmup must be at least 1, got 0"),
        (lambda: race(abs, abs, 1, repeats=-1), "repeats must be at least 1, got -1"),
        (lambda: Timing(samples_ms=()), r"samples_ms must not be empty, got \(\); time at least one call."),
        (lambda: calibrate(size=0), "size must be at least 1, got 0; 1024 suits"),
        (lambda: calibrate(read_bytes=8), "read_bytes must be at least 4096, got 8; exceed the caches."),
        (
            lambda: DeviceProfile(name="", peak_flops=0.0, bandwidth=1.0),
            "peak_flops must be above 0, got 0.0; see calibrate.",
        ),
        (
            lambda: DeviceProfile(name="", peak_flops=1.0, bandwidth=float("nan")),
            "bandwidth must be above 0, got nan; see calibrate.",
        ),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_times_print_in_a_line():
    one, other = Timing(samples_ms=(1.0, 2.0, 3.0)), Timing(samples_ms=(4.0, 4.0, 4.0))
    assert repr(one) == "<Timing: median 2 ms of 3, quartiles 1.5 to 2.5>"
    race = repr(Race(first=other, second=one))
    assert race == "<Race: 4 ms against 2 ms, ratio 2.000, quartiles 1.667 to 3.000>"
