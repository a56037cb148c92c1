"""Packed models' races: the smoke run, and what the claims ask."""

import pytest

from experiments import bench_packed
from tests.experiments.shown import assert_shown


@pytest.fixture(scope="module")
def metrics():
    return bench_packed.run(bench_packed.Config.smoke())


def test_every_arm_ran_and_by_kernels(metrics):
    assert_shown(bench_packed, metrics)
    assert set(metrics) == {"baseline", *bench_packed.ARMS}
    for arm in bench_packed.ARMS:
        (values,) = metrics[arm].values()
        assert values["lenet_300_100.kernels"] == 3
        assert values["lenet_300_100.ms"] > 0


def test_a_claim_holds_where_three_of_four_turns_are_faster():
    check = bench_packed.is_faster("resnet18", "w8a8")
    made = lambda low: {"w8a8": {0: {"resnet18.ratio": 2.0, "resnet18.low": low}}}  # noqa: E731
    assert check(made(1.1)).holds
    assert not check(made(0.9)).holds


def test_a_config_that_times_nothing_is_refused():
    with pytest.raises(ValueError, match="repeats must be at least 3"):
        bench_packed.Config(repeats=1)
