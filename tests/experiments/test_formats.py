"""Formats at smoke size, where the checkpoint is, and what the claims ask for."""

import jax.numpy as jnp
import pytest

from efficient.models import find_efficientnet_lite0
from experiments import formats
from experiments.frame import Progress
from tests.experiments.shown import assert_shown, made, verdict


def test_two_formats_on_real_weights():
    try:
        find_efficientnet_lite0()
    except FileNotFoundError as error:
        pytest.skip(str(error))
    metrics = formats.run(formats.Config.smoke(), progress=Progress())
    assert set(metrics) == {"baseline", "int8_tensor", "e4m3"}
    assert metrics["e4m3"][0]["matrix_bits"] == pytest.approx(8, abs=1e-4)
    assert metrics["int8_tensor"][0]["weight_sqnr"] > 30
    assert_shown(formats, metrics)


@pytest.mark.parametrize("name", ["nf4", "nf4_double", "mxfp4", "nvfp4", "kmeans4"])
def test_bits_of_a_matrix(name):
    bits = {"nf4": 4.5, "nf4_double": 4.126953125, "mxfp4": 4.25, "nvfp4": 4.5 + 32 / 2**18,
            "kmeans4": 4 + 16 * 32 / 2**18}  # fmt: skip
    found = formats.bits_of(formats.EVERY[name](), {"kernel": jnp.ones((512, 512))}, name)
    assert found == pytest.approx(bits[name], abs=1e-6)


def test_wide_kernels_are_chosen():
    assert formats.is_wide("a/kernel", jnp.ones((1, 1, 64, 8)))
    assert not formats.is_wide("a/kernel", jnp.ones((3, 3, 64, 8)))
    assert not formats.is_wide("a/kernel", jnp.ones((1, 1, 63, 8)))
    assert not formats.is_wide("a/bias", jnp.ones(64))


@pytest.mark.parametrize(("double", "holds"), [(4.127, True), (4.2, False)])
def test_saved_bits_are_those_of_the_paper(double, holds):
    assert verdict(formats, "formats-double", made("matrix_bits", nf4=(4.5,), nf4_double=(double,))) is holds


def test_config_refuses_what_it_cannot_run():
    with pytest.raises(ValueError, match="formats must be of int8, int8_tensor"):
        formats.Config(formats=("int9",))
