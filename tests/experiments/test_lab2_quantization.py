"""Lab 2 at smoke size, and what the claims ask for."""

import pytest

from experiments import lab2_quantization
from experiments.frame import Progress
from tests.experiments.shown import assert_shown, made, verdict


@pytest.fixture(scope="module")
def metrics():
    return lab2_quantization.run(lab2_quantization.Config.smoke(), progress=Progress())


def test_every_arm_is_measured(metrics):
    assert set(metrics) == {"baseline", "int8", "means_2", "sums_2"}
    assert metrics["int8"][0]["accuracy"] == pytest.approx(metrics["int8"][0]["untuned_accuracy"], abs=5)
    assert_shown(lab2_quantization, metrics)


def test_untuned_is_compared_with_untuned():
    metrics = made("untuned_accuracy", baseline=(90.0,), means_8=(89.8,))
    assert verdict(lab2_quantization, "lab2-means-8", metrics) is True
    metrics = made("untuned_accuracy", baseline=(90.0, 90.0), means_2=(60.0, 75.0))
    assert verdict(lab2_quantization, "lab2-collapse-2", metrics) is False
