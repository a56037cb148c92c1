"""Mixed precision at smoke size, and what the claims ask for."""

import pytest

from experiments import haq
from experiments.frame import Progress
from tests.experiments.shown import assert_shown, made, verdict


@pytest.fixture(scope="module")
def metrics():
    return haq.run(haq.Config.smoke(), progress=Progress())


def test_every_way_stays_within_the_budget(metrics):
    assert set(metrics) == {"baseline", "published", "uniform_3", *(f"{name}_3" for name in haq.LABELS)}
    most = metrics["uniform_3"][0]["bit_ops"]
    assert all(metrics[f"{name}_3"][0]["bit_ops"] <= most for name in haq.LABELS)
    assert metrics["published"][0]["bitfusion"] == pytest.approx(0.5965, abs=5e-5)
    assert metrics["published"][0]["bytes"] == pytest.approx(0.09958, abs=5e-6)
    assert_shown(haq, metrics)


@pytest.mark.parametrize(("spent", "holds"), [(99.0, True), (101.0, False)])
def test_the_budget_is_asked_of_every_way(spent, holds):
    prices = made("bit_ops", uniform_3=(100.0,), agent_3=(90.0,), evolution_3=(spent,))
    assert verdict(haq, "haq-budget", prices) is holds
