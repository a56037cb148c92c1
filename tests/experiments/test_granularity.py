"""Granularity at smoke size, and what its claims ask for."""

import dataclasses
import types

import pytest

from experiments import granularity
from experiments.frame import Progress, style

CLAIMS = {claim.id: claim for claim in granularity.CLAIMS}


@pytest.fixture(scope="module")
def metrics():
    return granularity.run(granularity.Config.smoke(), progress=Progress())


def test_every_arm_is_measured(metrics):
    grains = {f"{name}_75" for name in (*granularity.GRAINS, "n_m")}
    assert set(metrics) == {"baseline", "all_magnitude", "all_random", *grains}
    assert set(metrics["fine_75"][0]) == {"zeros", "untuned_accuracy", "accuracy"}


def test_all_grains_have_the_sparsity_that_is_asked_for(metrics):
    # Of [5, 5, 20, 50]: 25,000 weights, 5,000 rows, 1,000 kernels and 50 filters, of which
    # 12 or 13 stay.
    zeros = {name: metrics[f"{name}_75"][0]["zeros"] for name in (*granularity.GRAINS, "n_m")}
    assert zeros.pop("channel") == pytest.approx(75, abs=1.001)
    assert zeros == pytest.approx(dict.fromkeys(zeros, 75.0))
    for arm in ("all_magnitude", "all_random"):
        assert metrics[arm][0]["zeros"] == pytest.approx(95.0)


def test_tables_and_figures_show_it(metrics):
    record = types.SimpleNamespace(metrics=metrics, config=dataclasses.asdict(granularity.Config.smoke()))
    assert all(table.row_count for table in granularity.tables(record))
    for figure in granularity.figures(record).values():
        assert style.render(figure, "png")


def tuned(**accuracies):
    """Metrics of arms from their accuracies by seed."""
    return {arm: {i: {"accuracy": a} for i, a in enumerate(seeds)} for arm, seeds in accuracies.items()}


@pytest.mark.parametrize(
    ("channel", "holds"),
    [
        ((89.0, 89.0, 89.2), True),  # better
        ((90.1, 89.9, 90.3), True),  # 0.1 below, standard error 0.12
        ((90.5, 90.4, 90.6), False),  # 0.5 below, standard error 0.06
    ],
)
def test_not_below_allows_two_standard_errors(channel, holds):
    found = CLAIMS["granularity-vector-channel"].evaluate(
        tuned(vector_75=(90.0, 90.0, 90.0), channel_75=channel)
    )
    assert found.holds is holds


def test_one_seed_cannot_tell():
    metrics = tuned(vector_75=(90.0,), channel_75=(80.0,), fine_75=(90.0,))
    assert CLAIMS["granularity-vector-channel"].evaluate(metrics).holds is False
    assert CLAIMS["granularity-fine-channel"].evaluate(metrics).holds is False


def test_a_number_that_is_not_finite_does_not_hold():
    metrics = tuned(vector_75=(90.0, None), channel_75=(80.0, 80.0))
    assert CLAIMS["granularity-vector-channel"].evaluate(metrics).holds is False


@pytest.mark.parametrize(("fine", "holds"), [((91.0, 91.0, 91.2), True), ((90.0, 90.2, 90.1), False)])
def test_single_weights_must_be_better_than_filters(fine, holds):
    metrics = tuned(fine_75=fine, channel_75=(90.0, 90.0, 90.1))
    assert CLAIMS["granularity-fine-channel"].evaluate(metrics).holds is holds


@pytest.mark.parametrize(("chance", "holds"), [((80.0, 80.1, 80.2), True), ((82.0, 82.5, 83.0), False)])
def test_magnitude_must_be_two_points_above_chance(chance, holds):
    metrics = tuned(all_magnitude=(85.0, 84.8, 84.9), all_random=chance)
    assert CLAIMS["granularity-random"].evaluate(metrics).holds is holds


@pytest.mark.parametrize(("pruned", "holds"), [((89.6, 89.5), True), ((89.4, 89.4), False)])
def test_two_of_four_may_lose_half_a_point(pruned, holds):
    metrics = tuned(baseline=(90.0, 90.0), n_m_50=pruned)
    assert CLAIMS["granularity-n-m-dense"].evaluate(metrics).holds is holds


def test_claims_of_a_sparsity_that_was_not_run_are_not_run(metrics):
    assert CLAIMS["granularity-fine-n-m"].evaluate(metrics).verdict == "not run"


def test_config_refuses_what_it_cannot_run():
    with pytest.raises(ValueError, match="epochs must be positive, got 0"):
        granularity.Config(epochs=0)
    with pytest.raises(ValueError, match=r"sparsities must be percents from 1 to 99, got \(100,\)"):
        granularity.Config(sparsities=(100,))
    with pytest.raises(ValueError, match=r"sparsities must be percents from 1 to 99, got \(\)"):
        granularity.Config(sparsities=())
    with pytest.raises(ValueError, match="data must be digits"):
        granularity.Config(data="cifar")
