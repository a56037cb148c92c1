"""The check of kernels on a GPU: right when interpreted at smoke size; refused at others without a GPU."""

import pytest

from experiments import gpu_check
from tests.experiments.shown import assert_shown


def test_every_kernel_is_right_when_interpreted():
    metrics = gpu_check.run(gpu_check.Config.smoke())
    errors = metrics["errors"][0]
    assert len(errors) == len(gpu_check.DTYPES) * len(
        gpu_check.checks(gpu_check.jnp.float32, gpu_check._nothing)
    )
    assert max(errors.values()) <= 1, errors
    assert gpu_check.are_right(metrics).holds
    assert_shown(gpu_check, metrics)


def test_claims_ask_for_the_least_of_their_races():
    claims = {claim.id: claim for claim in gpu_check.CLAIMS}
    ratios = {f"{name}.ratio": 3.0 for name in gpu_check.PRODUCTS}
    assert claims["gpu-w4a16"].evaluate({"kernel": {0: ratios}}).holds
    ratios[f"{gpu_check.PRODUCTS[2]}.ratio"] = 2.4
    outcome = claims["gpu-w4a16"].evaluate({"kernel": {0: ratios}})
    assert (outcome.ours, outcome.holds) == (2.4, False)
    assert claims["gpu-flash"].evaluate({"kernel": {0: {}}}).holds is None


def test_without_a_gpu_it_refuses_and_says_why():
    with pytest.raises(RuntimeError, match="a GPU must be the default device, got cpu; --smoke interprets"):
        gpu_check.run(gpu_check.Config())
    with pytest.raises(ValueError, match="rows must be a multiple of 128"):
        gpu_check.Config(rows=100)
