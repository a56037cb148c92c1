"""AMC at smoke size, the published lists of channels, and what its claims ask for."""

import pytest

from experiments import amc, amc_lists
from experiments.frame import Progress


def test_every_arm_is_measured():
    config = amc.Config.smoke()
    metrics = amc.run(config, progress=Progress())
    assert set(metrics) == {"baseline", "published", *amc.SEARCHES}
    whole = metrics["baseline"][0]["macs"]
    for arm in amc.SEARCHES:
        values = metrics[arm][0]
        assert 0 < values["macs"] <= config.budget * whole
        assert len(values["kept"]) == 8
        assert len(values["seen"]) == (1 if arm == "uniform" else config.evaluations)
        assert values["held_accuracy"] == max(values["seen"])
    # The claims on published lists hold, those on gaps have one seed and never hold.
    outcomes = {claim.id: claim.evaluate(metrics).holds for claim in amc.CLAIMS}
    assert outcomes == {
        "amc-untuned": False,
        "amc-tuned": False,
        "amc-evolution": False,
        "amc-mobilenet-v1": True,
        "amc-mobilenet-v2": True,
    }


def test_the_published_lists_to_the_mac():
    """568,740,352 is MobileNet V1 whole: the list has 51.7 % of it."""
    assert amc_lists.listed_macs("mobilenet_v1") == 293_870_000
    assert amc_lists.listed_macs("mobilenet_v2") == 210_620_528
    assert round(100 * 293_870_000 / 568_740_352, 1) == 51.7


def test_a_list_in_which_a_sum_has_two_numbers_is_refused(monkeypatch):
    wrong = {**amc_lists.v2_channels(), "block2/project": 32}
    monkeypatch.setattr(amc_lists, "LISTS", {"mobilenet_v2": lambda: wrong})
    with pytest.raises(ValueError, match=r"block1/project/conv/kernel:3 must have one number of chan"):
        amc_lists.listed_macs("mobilenet_v2")


@pytest.mark.parametrize(("macs", "holds"), [(293_870_000, True), (293_870_001, False)])
def test_a_list_holds_to_the_mac(macs, holds):
    (claim,) = (claim for claim in amc.CLAIMS if claim.id == "amc-mobilenet-v1")
    assert claim.evaluate({"published": {0: {"mobilenet_v1": macs}}}).holds is holds


@pytest.mark.parametrize(("gaps", "holds"), [((2.0, 2.1, 2.2), True), ((2.0, -2.0, 1.0), False)])
def test_a_search_must_be_better_by_two_standard_errors(gaps, holds):
    metrics = {
        "uniform": {seed: {"accuracy": 80.0} for seed in range(3)},
        "amc": {seed: {"accuracy": 80.0 + gap} for seed, gap in enumerate(gaps)},
    }
    (claim,) = (claim for claim in amc.CLAIMS if claim.id == "amc-tuned")
    assert claim.evaluate(metrics).holds is holds


def test_config_refuses_what_it_cannot_run():
    with pytest.raises(ValueError, match="evaluations must be positive, got 0"):
        amc.Config(evaluations=0)
    with pytest.raises(ValueError, match=r"budget must be in \(0, 1\), got 1.0"):
        amc.Config(budget=1.0)
    with pytest.raises(ValueError, match="data must be digits"):
        amc.Config(data="cifar")
