"""Data-free quantization at smoke size, where the checkpoint is, and what the claims ask for."""

import pytest

from efficient.models import find_efficientnet_lite0
from experiments import dfq
from experiments.frame import Progress
from tests.experiments.shown import assert_shown, made, verdict


@pytest.fixture(scope="module")
def metrics():
    try:
        find_efficientnet_lite0()
    except FileNotFoundError as error:
        pytest.skip(str(error))
    return dfq.run(dfq.Config.smoke(), progress=Progress())


def test_equalization_brings_one_scale_a_tensor_near_one_a_channel(metrics):
    assert set(metrics) == {"baseline", "even", *dfq.ARMS}
    db = {name: values[0]["sqnr"] for name, values in metrics.items()}
    assert db["even"] > 90  # the same function, up to rounding of float32
    assert db["channel"] > db["equalized"] > db["tensor"]
    assert db["equalized_corrected"] > db["equalized"]
    assert_shown(dfq, metrics)


@pytest.mark.parametrize(("equalized", "holds"), [((15.0, 16.0), True), ((15.0, 12.0), False)])
def test_half_the_gap_is_asked_for_in_every_seed(equalized, holds):
    db = made("sqnr", tensor=(5.0, 6.0), channel=(20.0, 20.0), equalized=equalized)
    assert verdict(dfq, "dfq-equalized", db) is holds


def test_config_refuses_what_it_cannot_run():
    with pytest.raises(ValueError, match="images must be a multiple of 8"):
        dfq.Config(images=9)
