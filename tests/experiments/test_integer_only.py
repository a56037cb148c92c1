"""Integers alone at smoke size, and what its claims ask for."""

import pytest

from experiments import integer_only
from experiments.frame import Progress
from tests.experiments.shown import assert_shown, made, verdict


@pytest.fixture(scope="module")
def metrics():
    return integer_only.run(integer_only.Config.smoke(), progress=Progress())


def test_every_arm_is_measured(metrics):
    assert set(metrics) == {"baseline", "per_channel", "per_tensor", "four_bits"}
    assert metrics["per_channel"][0]["sqnr"] > metrics["four_bits"][0]["sqnr"]
    assert all(metrics[arm][0]["steps"] <= 1 for arm in integer_only.ARMS)
    assert metrics["baseline"][0]["bytes"] / metrics["per_channel"][0]["bytes"] > 3.5
    assert_shown(integer_only, metrics)


@pytest.mark.parametrize(("worst", "holds"), [(1.0, True), (2.0, False)])
def test_one_step_is_asked_of_every_arm(worst, holds):
    steps = made("steps", per_channel=(0.0, 1.0), per_tensor=(1.0, worst), four_bits=(0.0, 0.0))
    assert verdict(integer_only, "integer-one-step", steps) is holds


def test_config_refuses_what_it_cannot_run():
    with pytest.raises(ValueError, match="calibration must be positive"):
        integer_only.Config(calibration=0)
    with pytest.raises(ValueError, match="data must be"):
        integer_only.Config(data="nothing")
