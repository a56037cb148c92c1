"""Pruning methods at smoke size, and what its claims ask for."""

import dataclasses
import types

import pytest

from efficient.prune import scores
from experiments import pruning_methods
from experiments.frame import Progress, style


@pytest.fixture(scope="module")
def metrics():
    return pruning_methods.run(pruning_methods.Config.smoke(), progress=Progress())


def test_every_arm_is_measured(metrics):
    config = pruning_methods.Config.smoke()
    assert set(metrics) == {"baseline", *config.methods}
    for name, values in metrics.items():
        if name.startswith("weights."):
            assert values[0]["zeros"] == pytest.approx(100 * config.sparsity, abs=0.2), name
        elif name != "baseline":  # 1 - 1/4 between two pruned groups, 1/2 at the ends
            assert 70 < values[0]["zeros"] < 75, name
    assert metrics["weights.wanda"][0]["statistics_bytes"] > 0
    assert metrics["weights.magnitude"][0]["statistics_bytes"] == 0


def test_tables_and_figures_show_it(metrics):
    record = types.SimpleNamespace(metrics=metrics, config=dataclasses.asdict(pruning_methods.Config.smoke()))
    assert all(table.row_count for table in pruning_methods.tables(record))
    for figure in pruning_methods.figures(record).values():
        assert style.render(figure, "png")


def test_every_score_that_needs_no_training_is_in_the_table():
    shown = {name for table in pruning_methods.KINDS.values() for name in table}
    named = {
        "absolute": "magnitude", "activation_norm": "activation-norm", "grasp": "grasp",
        "group_norm": "l2-norm", "optimal_brain_damage": "obd-fisher", "optimal_brain_surgeon": "obs",
        "random": "random", "slimming": "bn-scale", "snip": "snip", "taylor": "taylor", "wanda": "wanda",
        "zero_fraction": "apoz",
    }  # fmt: skip
    assert set(named) == set(scores.__all__) - {"movement"}  # which learns while training
    assert set(named.values()) <= shown


@pytest.mark.parametrize(("tuned", "holds"), [((60.0, 69.0), True), ((50.0, 70.0), False)])
def test_tuning_must_halve_what_lies_between_the_methods(tuned, holds):
    untuned = (30.0, 60.0)
    metrics = {f"weights.{i}": {0: {"untuned_accuracy": untuned[i], "accuracy": tuned[i]}} for i in range(2)}
    (claim,) = (claim for claim in pruning_methods.CLAIMS if claim.id == "methods-tuning")
    assert claim.evaluate(metrics).holds is holds


@pytest.mark.parametrize(("ours", "holds"), [((50.0, 52.0, 51.0), True), ((40.0, 44.0, 39.0), False)])
@pytest.mark.parametrize(
    ("claim", "better", "worse"),
    [
        ("methods-reconstruction", "weights.sparsegpt", "weights.magnitude"),
        ("methods-thinet", "channels.thinet", "channels.l1-norm"),
    ],
)
def test_correcting_must_be_better_by_two_standard_errors(claim, better, worse, ours, holds):
    metrics = {
        arm: {i: {"untuned_accuracy": v} for i, v in enumerate(seeds)}
        for arm, seeds in ((better, ours), (worse, (40.0, 41.0, 40.0)))
    }
    (found,) = (one for one in pruning_methods.CLAIMS if one.id == claim)
    assert found.evaluate(metrics).holds is holds


def test_config_refuses_what_it_cannot_run():
    with pytest.raises(ValueError, match=r"sparsity must be in \(0, 1\), got 1.0"):
        pruning_methods.Config(sparsity=1.0)
    with pytest.raises(ValueError, match="calibration must be positive, got 0"):
        pruning_methods.Config(calibration=0)
    with pytest.raises(ValueError, match=r"methods must be among .* got \['weights.none'\]"):
        pruning_methods.Config(methods=("weights.none",))
