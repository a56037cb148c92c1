"""One and two bits at smoke size."""

import pytest

from experiments import binary_ternary
from experiments.frame import Progress
from tests.experiments.shown import assert_shown


@pytest.fixture(scope="module")
def metrics():
    return binary_ternary.run(binary_ternary.Config.smoke(), progress=Progress())


def test_what_is_stored_is_what_was_trained(metrics):
    assert set(metrics) == {"baseline", *binary_ternary.METHODS}
    for name in binary_ternary.METHODS:
        assert metrics[name][0]["packed_accuracy"] == metrics[name][0]["accuracy"]
    assert metrics["bwn"][0]["bytes"] < metrics["twn"][0]["bytes"] < metrics["baseline"][0]["bytes"] / 10
    assert_shown(binary_ternary, metrics)
