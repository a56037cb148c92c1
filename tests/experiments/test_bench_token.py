"""A token's products at smoke size: every arm computes the same, and claims are judged by their bars."""

import jax
import numpy as np
import pytest

from experiments import bench_token
from tests.experiments.shown import assert_shown


def test_arms_agree_as_far_as_their_bits_go():
    made = bench_token.programs(bench_token.Config.smoke(), 0)
    want = np.asarray(made["baseline"][0]())
    for arm, bound in (("w4", 0.2), ("w4a8", 0.2), ("w8a8", 0.03)):
        found = np.asarray(jax.block_until_ready(made[arm][0]()))
        assert found.shape == want.shape == (1, 512)
        # Of the size of the logits: steps of 1 / 7 and 1 / 127 of the largest weight, drawn at random.
        assert np.abs(found - want).std() / want.std() < bound, arm
    assert made["w4"][1] < made["w8a8"][1] < made["baseline"][1]


def test_it_runs_and_is_shown():
    metrics = bench_token.run(bench_token.Config.smoke())
    assert set(metrics) == {"baseline", *bench_token.ARMS}
    assert_shown(bench_token, metrics)


def test_claims_are_judged_by_their_bars():
    claims = {claim.id: claim for claim in bench_token.CLAIMS}
    made = lambda **values: {"w4a8": {0: values}}  # noqa: E731
    assert claims["token-w4a8"].evaluate(made(ratio=12.5)).holds
    assert not claims["token-w4a8"].evaluate(made(ratio=11.5)).holds
    assert not claims["token-bandwidth"].evaluate(made(share=0.5)).holds
    assert claims["token-llama-cpp"].evaluate(made(ms=5.0)).holds
    with pytest.raises(ValueError, match="repeats must be at least 3"):
        bench_token.Config(repeats=2)
