"""Ranges at smoke size, and what the claims ask for."""

import pytest

from experiments import ptq_ranges
from experiments.frame import Progress
from tests.experiments.shown import assert_shown, made, verdict


@pytest.fixture(scope="module")
def metrics():
    return ptq_ranges.run(ptq_ranges.Config.smoke(), progress=Progress())


def test_every_arm_is_measured(metrics):
    weights = {"tensor_minmax_4", "channel_minmax_4", "group_minmax_4"}
    weights |= {f"channel_{name}_4" for name in ptq_ranges.RANGES if name != "minmax"}
    assert set(metrics) == {"baseline", *weights, *(f"inputs_{name}_4" for name in ptq_ranges.RANGES)}
    error = {name: metrics[name][0]["weight_sqnr"] for name in weights}
    assert error["group_minmax_4"] > error["channel_minmax_4"] > error["tensor_minmax_4"]
    assert error["channel_mse_4"] >= error["channel_minmax_4"]
    assert_shown(ptq_ranges, metrics)


def test_eight_bits_are_judged_by_the_worst_range():
    arms = {"channel_minmax_8": (89.9, 90.0), "inputs_kl_8": (89.0, 89.2), "tensor_minmax_8": (50.0, 50.0)}
    assert verdict(ptq_ranges, "ranges-eight", made(baseline=(90.0, 90.0), **arms)) is False
    arms["inputs_kl_8"] = (89.6, 89.6)
    assert verdict(ptq_ranges, "ranges-eight", made(baseline=(90.0, 90.0), **arms)) is True
