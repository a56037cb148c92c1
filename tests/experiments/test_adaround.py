"""Rounding methods at smoke size, and what the claims ask for."""

import pytest

from experiments import adaround
from experiments.frame import Progress
from tests.experiments.shown import assert_shown, made, verdict


@pytest.fixture(scope="module")
def metrics():
    return adaround.run(adaround.Config.smoke(), progress=Progress())


def test_solvers_err_less_than_the_nearest(metrics):
    assert set(metrics) == {"baseline", *(f"{name}_3" for name in adaround.METHODS)}
    assert metrics["nearest_3"][0]["layer_error"] == 1
    for name in ("gptq_3", "adaround_3"):
        assert metrics[name][0]["layer_error"] < 0.8
        assert metrics[name][0]["worst_layer"] <= 1
    assert_shown(adaround, metrics)


@pytest.mark.parametrize(("error", "holds"), [((0.7, 0.89), True), ((0.7, 0.92), False)])
def test_a_fifth_less_is_asked_for(error, holds):
    assert verdict(adaround, "adaround-error", made("layer_error", adaround_4=error)) is holds
