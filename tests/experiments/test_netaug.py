"""Network augmentation at smoke size, and what the claims ask for."""

import pytest

from experiments import netaug
from experiments.frame import Progress
from tests.experiments.shown import assert_shown, made, verdict


@pytest.fixture(scope="module")
def metrics():
    return netaug.run(netaug.Config.smoke(), progress=Progress())


def test_every_arm_is_measured(metrics):
    assert set(metrics) == set(netaug.LABELS)
    assert {metrics[name][0]["params"] for name in ("baseline", "tiny_augmented", "tiny_dropout")} == {2034.0}
    assert_shown(netaug, metrics)


def test_widths_grow_evenly_to_the_widest():
    assert netaug.widths_between((6, 10), 3.0, 4) == [(9, 15), (12, 20), (15, 25), (18, 30)]


@pytest.mark.parametrize(("large", "holds"), [((90.0, 90.1, 89.9), True), ((89.0, 89.1, 89.2), False)])
def test_augmentation_must_not_help_the_large_network(large, holds):
    metrics = made(large_augmented=(90.0, 90.0, 90.0), large=large)
    assert verdict(netaug, "netaug-large", metrics) is holds


def test_config_refuses_what_it_cannot_run():
    with pytest.raises(ValueError, match="factors must be above 1"):
        netaug.Config(tiny_factor=1.0)
