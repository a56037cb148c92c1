"""The races of the kernels at smoke size."""

import pytest

from experiments import bench_kernels
from tests.experiments.shown import assert_shown


def test_every_arm_is_raced_and_agrees_with_its_reference():
    config = bench_kernels.Config.smoke()
    metrics = bench_kernels.run(config)
    assert set(metrics) == {"baseline", *bench_kernels.ARMS}
    for arm in bench_kernels.ARMS:
        found = metrics[arm][0]
        assert set(found) == {f"48x130.{b}.{m}" for b in config.batches for m in ("ms", "ratio", "error")}
        assert all(value > 0 for name, value in found.items() if not name.endswith("error"))
    assert_shown(bench_kernels, metrics)


def test_claims_are_judged_by_the_mean_over_shapes():
    claim = {one.id: one for one in bench_kernels.CLAIMS}["kernels-w8a8-1"]
    shapes = bench_kernels.Config().shapes
    values = {f"{shape}.1.ratio": 3.0 if i else 24.0 for i, shape in enumerate(shapes)}
    outcome = claim.evaluate({"w8a8": {0: values}})
    assert outcome.ours == pytest.approx(3 * 8 ** (1 / len(shapes)))
    assert not outcome.holds


def test_config_refuses_what_is_no_shape():
    for shape in ("576", "0x4", "ax4", "4x"):
        with pytest.raises(ValueError, match="rows x columns"):
            bench_kernels.Config(shapes=(shape,))
    with pytest.raises(ValueError, match="rounds must be at least 3"):
        bench_kernels.Config(rounds=1)
