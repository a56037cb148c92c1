"""The lift benchmark at smoke size: its arms agree, are measured in turn, and the claims judge the ratios."""

import jax
import numpy as np
import pytest

from experiments import bench_lift
from experiments.bench_lift import BASELINE, CLAIMS, INSIDE, LIFTED, Config


@pytest.fixture(scope="module")
def metrics():
    return bench_lift.run(Config.smoke())


def test_the_arms_compute_the_same():
    outs = [np.asarray(jax.jit(fn)(*args)) for fn, args in bench_lift.subjects(Config.smoke(), 0).values()]
    # Two layers of width 4 in float32: a few roundings of the largest output.
    slack = 16 * np.finfo(np.float32).eps * np.abs(outs[0]).max()
    assert np.abs(outs[0]).max() > 0
    for out in outs[1:]:
        np.testing.assert_allclose(out, outs[0], rtol=0, atol=slack)


def test_every_arm_has_every_metric(metrics):
    assert list(metrics) == [BASELINE, INSIDE, LIFTED]
    names = {"instructions"} | {
        f"{what}_{of}"
        for what in ("trace", "trace_lower", "run")
        for of in ("ms", f"over_{BASELINE}", f"over_{INSIDE}")
    }
    for arm in metrics:
        assert set(metrics[arm][0]) == names
        assert all(value > 0 for value in metrics[arm][0].values())
    for arm in (BASELINE, INSIDE):
        assert {metrics[arm][0][f"{what}_over_{arm}"] for what in ("trace", "trace_lower", "run")} == {1}


def test_lowering_comes_on_top_of_the_trace(metrics):
    assert all(metrics[arm][0]["trace_lower_ms"] > metrics[arm][0]["trace_ms"] for arm in metrics)


def test_lifting_compiles_to_no_more_than_dense_inside(metrics):
    assert metrics[LIFTED][0]["instructions"] <= metrics[INSIDE][0]["instructions"]


def test_a_trace_never_comes_from_a_cache():
    seen = []
    trace = bench_lift.tracer(lambda x: seen.append(1) or x + 1, (np.ones(2, np.float32),))
    assert trace()["trace"] > 0
    trace()
    assert len(seen) == 2


def test_arms_take_turns_in_alternating_order():
    order = []
    arms = {
        name: lambda name=name: order.append(name) or {"order": len(order), "round": len(order) // 2}
        for name in "ab"
    }
    found = bench_lift.in_turn(arms, range(3))
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert found["order"] == {"a": [1, 4, 5], "b": [2, 3, 6]}


def test_instructions_are_counted():
    hlo = """HloModule jit_f, entry_computation_layout={(f32[2]{0})->f32[2]{0}}

%fused (p: f32[2]) -> f32[2] {
  %p = f32[2]{0} parameter(0)
  ROOT %add.1 = f32[2]{0} add(%p, %p)
}

ENTRY main.3 {
  x.1 = f32[2]{0} parameter(0), metadata={op_name="x"}
  ROOT %wrapped-add = f32[2]{0} fusion(x.1), kind=kLoop, calls=%fused
}
"""
    assert bench_lift.instructions(hlo) == 4


def measured(*, trace, instructions, run):
    """Metrics of two seeds."""
    lifted = [{"trace_over_baseline": t, "instructions": instructions, "run_over_inside": run} for t in trace]
    return {
        BASELINE: {seed: {} for seed in range(len(trace))},
        INSIDE: {seed: {"instructions": 100} for seed in range(len(trace))},
        LIFTED: dict(enumerate(lifted)),
    }


@pytest.mark.parametrize(
    ("values", "holds"),
    [
        ({"trace": (1.2, 1.29), "instructions": 100, "run": 1.04}, (True, True, True)),
        ({"trace": (1.2, 1.30), "instructions": 101, "run": 1.05}, (False, False, False)),
    ],
)
def test_claims_judge_by_their_rules(values, holds):
    outcomes = [claim.evaluate(measured(**values)) for claim in CLAIMS]
    assert tuple(outcome.holds for outcome in outcomes) == holds
    assert [outcome.ours for outcome in outcomes] == pytest.approx(
        [sum(values["trace"]) / 2, values["instructions"] / 100, values["run"]]
    )


@pytest.mark.parametrize("name", ["layers", "width", "batch", "repeats", "runs"])
def test_config_refuses_sizes_below_one(name):
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0; see --help"):
        Config(**{name: 0})
