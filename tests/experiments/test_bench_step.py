"""The step benchmark at smoke size: every arm is timed, the plain one against itself is 1."""

import pytest

from experiments import bench_step


def test_every_arm_is_timed():
    metrics = bench_step.run(bench_step.Config.smoke())
    assert set(metrics) == {"baseline", "fixed_mask", "ramp"}
    assert metrics["baseline"][0]["lenet_300_100.ratio"] == 1
    for seeds in metrics.values():
        assert seeds[0]["lenet_300_100.step_ms"] > 0
        assert seeds[0]["lenet_300_100.ratio_lower"] <= seeds[0]["lenet_300_100.ratio_upper"]
    verdicts = {claim.evaluate(metrics).verdict for claim in bench_step.CLAIMS}
    assert verdicts == {"not run"}  # other models


def test_config_refuses_too_few_rounds():
    with pytest.raises(ValueError, match="rounds must be at least 3"):
        bench_step.Config(rounds=2)
