"""Pruning ratios at smoke size, and what the claims ask for."""

import dataclasses
import types

import pytest

from experiments import pruning_ratio
from experiments.frame import Progress, style

CLAIMS = {claim.id: claim for claim in pruning_ratio.CLAIMS}
NAME = "lenet_300_100"
CONFIG = dataclasses.replace(pruning_ratio.Config.smoke(), networks=(NAME,))


@pytest.fixture(scope="module")
def metrics():
    return pruning_ratio.run(CONFIG, progress=Progress())


def test_every_arm_is_measured(metrics):
    assert set(metrics) == {"baseline", *pruning_ratio.LABELS}
    found = {key.removeprefix(f"{NAME}.") for key in metrics["iterative"][0]}
    assert found == {"kept", "accuracy", "loss", "mean_accuracy", "least_accuracy", "curve"}


def test_the_papers_rates_keep_a_twelfth(metrics):
    # Of 235,200, 30,000 and 1,000 weights 8, 9 and 26 %: 18,816 + 2,700 + 260 of 266,200.
    for arm in pruning_ratio.LABELS:
        assert metrics[arm][0][f"{NAME}.kept"] == pytest.approx(100 * 21_776 / 266_200)


def test_every_curve_has_the_same_fractions_in_falling_order(metrics):
    curves = [metrics[arm][0][f"{NAME}.curve"] for arm in pruning_ratio.LABELS]
    kept = [[point["kept"] for point in curve] for curve in curves]
    assert all(one == pytest.approx(kept[0]) for one in kept)
    assert kept[0] == sorted(kept[0], reverse=True)


def test_tables_and_figures_show_it(metrics):
    record = types.SimpleNamespace(metrics=metrics, config=dataclasses.asdict(CONFIG))
    assert all(table.row_count for table in pruning_ratio.tables(record))
    for figure in pruning_ratio.figures(record).values():
        assert style.render(figure, "png")


def test_claims_of_a_network_that_was_not_run_are_not_run(metrics):
    assert CLAIMS["pruning-ratio-lenet5"].evaluate(metrics).verdict == "not run"


def test_phases_of_retraining_draw_batches_of_their_own():
    assert [*pruning_ratio.phases(2, 3)] == [1002, 2002, 3002]
    assert pruning_ratio.phases(2, 3)[:2] == pruning_ratio.phases(2, 2)  # as the rounds before had them


def arms(metric, **values):
    """Metrics of arms from one metric by seed."""
    return {arm: {i: {f"{NAME}.{metric}": v} for i, v in enumerate(seeds)} for arm, seeds in values.items()}


@pytest.mark.parametrize(("loss", "holds"), [((0.6, 0.3, 0.4), True), ((0.6, 0.5, 0.5), False)])
def test_a_twelfth_may_lose_half_a_point(loss, holds):
    metrics = {"iterative": {i: {f"{NAME}.loss": v, f"{NAME}.kept": 8.0} for i, v in enumerate(loss)}}
    found = CLAIMS["pruning-ratio-lenet-300-100"].evaluate(metrics)
    assert found.holds is holds
    assert found.detail == "12.5 times fewer weights"


@pytest.mark.parametrize(
    ("at_once", "in_rounds", "holds"),
    [
        ((4.0, 5.0, 4.5), (-0.2, 0.1, 0.0), True),  # at least 5 times the 0.1 that count
        ((0.4, 0.4, 0.45), (-0.2, -0.1, 0.0), False),  # below 5 times 0.1
        ((4.0, 5.0, 4.5), (1.0, 1.0, 1.0), False),  # 4.5 times
    ],
)
def test_one_shot_must_lose_five_times_what_rounds_lose(at_once, in_rounds, holds):
    metrics = arms("loss", L2=at_once, iterative=in_rounds)
    assert CLAIMS["pruning-ratio-retraining"].evaluate(metrics).holds is holds


@pytest.mark.parametrize(("ours", "holds"), [((81.0, 81.2, 81.1), True), ((80.0, 80.3, 79.9), False)])
@pytest.mark.parametrize(
    ("claim", "better", "worse"),
    [("pruning-ratio-l1", "L1", "L2"), ("pruning-ratio-l2", "L2_retrained", "L1_retrained")],
)
def test_penalties_are_ordered_by_two_standard_errors(claim, better, worse, ours, holds):
    metrics = arms("mean_accuracy", **{better: ours, worse: (80.0, 80.1, 80.0)})
    assert CLAIMS[claim].evaluate(metrics).holds is holds


@pytest.mark.parametrize(("third", "holds"), [(70.0, True), (81.0, False)])
def test_rounds_must_be_above_the_best_other_arm_of_each_seed(third, holds):
    others = dict.fromkeys(pruning_ratio.OTHERS, (70.0, 75.0, 70.0)) | {"L1": (75.0, 70.0, third)}
    metrics = arms("least_accuracy", iterative=(80.0, 80.2, 80.1), **others)
    assert CLAIMS["pruning-ratio-rounds"].evaluate(metrics).holds is holds


def test_config_refuses_what_it_cannot_run():
    with pytest.raises(ValueError, match="retrain must be positive, got 0"):
        pruning_ratio.Config(retrain=0)
    with pytest.raises(ValueError, match=r"powers must be positive, rise and hold 1, got \(0.5,\)"):
        pruning_ratio.Config(powers=(0.5,))
    with pytest.raises(ValueError, match=r"powers must be positive, rise and hold 1, got \(1.0, 0.5\)"):
        pruning_ratio.Config(powers=(1.0, 0.5))
    with pytest.raises(ValueError, match=r"networks must be one or more, got \(\)"):
        pruning_ratio.Config(networks=())
    with pytest.raises(ValueError, match=r"l1 must be from 0, got -1\.0"):
        pruning_ratio.Config(l1=-1.0)
    with pytest.raises(ValueError, match="data must be digits"):
        pruning_ratio.Config(data="cifar")
