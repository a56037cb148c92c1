"""Shrinking at smoke size."""

import pytest

from experiments import bench_shrink
from experiments.frame import Progress


def test_both_arms_are_measured_and_the_results_agree():
    metrics = bench_shrink.run(bench_shrink.Config.smoke(), progress=Progress())
    dense, small = metrics["baseline"][0], metrics["shrunk"][0]
    # Channels 20 -> 10, 50 -> 25 and 500 -> 250; biases, and the classifier's 10 outputs, beside them.
    assert small["lenet5.params"] == 26 * 10 + (250 + 1) * 25 + (400 + 1) * 250 + 251 * 10
    assert dense["lenet5.params"] == 431_080
    assert small["lenet5.error"] <= bench_shrink.TOLERANCE
    claims = {claim.id: claim.evaluate(metrics).verdict for claim in bench_shrink.CLAIMS}
    assert claims["shrink-exact"] == "holds"
    assert claims["shrink-resnet50"] == "not run"


def test_config_refuses_what_it_cannot_run():
    with pytest.raises(
        ValueError, match=r"sparsity must be in \(0, 1\), batch from 1 and repeats from 3, got 1"
    ):
        bench_shrink.Config(sparsity=1.0)
    with pytest.raises(ValueError, match=r"models must be among .*, got \['vgg'\]; choose from these"):
        bench_shrink.Config(models=("vgg",))
