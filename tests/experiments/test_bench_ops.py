"""The races of operations at smoke size, and what their claims ask."""

import jax.numpy as jnp
import pytest

from experiments import bench_ops
from tests.experiments.shown import assert_shown


def test_every_operation_is_raced_and_right():
    metrics = bench_ops.run(bench_ops.Config.smoke())
    kernel = metrics["kernel"][0]
    for name in bench_ops.NAMES:
        assert kernel[f"{name}.ms"] > 0
        assert kernel[f"{name}.error"] <= bench_ops.TOLERANCE
        assert kernel[f"{name}.low"] <= kernel[f"{name}.ratio"] <= kernel[f"{name}.high"]
    assert_shown(bench_ops, metrics)


def test_a_result_that_is_not_the_references_is_refused():
    case = bench_ops.Case(
        jnp.sin, lambda x, implementation=None: x + (implementation is None), (jnp.ones(3),)
    )
    with pytest.raises(ArithmeticError, match="must agree with the reference, got an error of 1"):
        bench_ops.raced(case, 3)


def test_a_claim_holds_where_three_of_four_turns_are_faster():
    name = bench_ops.NAMES[0]
    made = lambda low: {"kernel": {0: {f"{name}.ratio": 2.0, f"{name}.low": low}}}  # noqa: E731
    assert bench_ops.is_faster(name)(made(1.1)).holds
    assert not bench_ops.is_faster(name)(made(0.9)).holds
    with pytest.raises(ValueError, match="repeats must be at least 3"):
        bench_ops.Config(repeats=1)
