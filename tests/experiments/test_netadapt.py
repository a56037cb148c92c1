"""NetAdapt's experiment at smoke size, the uniform network, and what its claims ask for."""

import pytest

from experiments import netadapt, netadapt_arms
from experiments.frame import Progress


@pytest.fixture(scope="module")
def metrics():
    return netadapt.run(netadapt.Config.smoke(), progress=Progress())


def claim(name):
    (found,) = (one for one in netadapt.CLAIMS if one.id == name)
    return found


def test_every_arm_is_measured(metrics):
    assert set(metrics) == {"baseline", "uniform", "netadapt", "netadapt_ms"}
    for arm in ("uniform", "netadapt", "netadapt_ms"):
        values = metrics[arm][0]
        assert values["counted_macs"] == values["macs"]  # the closed form is what the program counts
        assert values["ms"] > 0
        assert len(values["counts"]) == 8
    assert metrics["uniform"][0]["macs"] <= 80
    assert len(metrics["uniform"][0]["path"]) == len(metrics["netadapt"][0]["path"]) - 1
    assert all(one.evaluate(metrics).holds is not None for one in netadapt.CLAIMS)


@pytest.mark.parametrize("name", ["netadapt-budget", "netadapt-ms-budget"])
def test_a_budget_is_met_at_any_size(metrics, name):
    assert claim(name).evaluate(metrics).holds


def test_the_figure_shows_the_search(metrics):
    record = type("Record", (), {"metrics": metrics})
    (figure,) = netadapt.figures(record).values()
    searched, tuned = figure.axes
    assert [text.get_text() for text in searched.get_legend().texts] == list(netadapt.LABELS.values())
    assert len(tuned.get_legend().texts) == 4


def test_uniform_counts_are_the_most_that_the_budget_allows():
    # a + 10 b of 10 and 4: ratio 0.874 keeps 9 and 3, 39 of 50; from 0.875 b keeps all: round(3.5) is 4.
    def price(counts):
        return counts["a"] + 10 * counts["b"]

    assert netadapt_arms.uniform_counts(price, {"a": 10, "b": 4}, 40) == {"a": 9, "b": 3}
    with pytest.raises(ValueError, match="budget must be at least 11, one channel a group, got 10"):
        netadapt_arms.uniform_counts(price, {"a": 10, "b": 4}, 10)


def test_a_search_that_cannot_go_on_shows_how_far_it_came():
    def stopped(message):
        yield "start"
        raise ValueError(message)

    found = netadapt_arms.until_stuck(stopped("budget must be reachable by cuts of one group, got 1.0"))
    assert list(found) == ["start"]
    with pytest.raises(ValueError, match="kernel must be float"):
        list(netadapt_arms.until_stuck(stopped("kernel must be float")))


@pytest.mark.parametrize(
    ("share", "counted", "holds"), [(49.0, 49.0, True), (51.0, 51.0, False), (49.0, 49.5, False)]
)
def test_macs_must_be_within_the_budget_and_those_of_the_program(share, counted, holds):
    metrics = {"netadapt": {0: {"share": share, "counted_macs": counted, "budget": 50.0}}}
    assert claim("netadapt-budget").evaluate(metrics).holds is holds


def test_config_refuses_what_it_cannot_run():
    with pytest.raises(ValueError, match="short must be positive, got 0"):
        netadapt.Config(short=0)
    with pytest.raises(ValueError, match=r"budget must be in \(0, 1\), got 1.0"):
        netadapt.Config(budget=1.0)
    with pytest.raises(ValueError, match=r"ms_step must be in \(0, 1\], got 1.5"):
        netadapt.Config(ms_step=1.5)
