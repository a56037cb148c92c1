"""The quantization benchmark at smoke size."""

import pytest

from experiments import bench_quantize


def test_every_arm_is_timed():
    metrics = bench_quantize.run(bench_quantize.Config.smoke())
    assert set(metrics) == {*bench_quantize.ARMS, "gptq"}
    assert metrics["baseline"][0]["lenet_300_100.ratio"] == 1
    assert metrics["gptq"][0]["layers"] == 4
    assert metrics["gptq"][0]["error"] < 1
    assert metrics["gptq"][0]["resident_mb"] >= metrics["gptq"][0]["resident_before_mb"] > 10


def test_config_refuses_too_few_rounds():
    with pytest.raises(ValueError, match="rounds must be at least 3"):
        bench_quantize.Config(rounds=2)
