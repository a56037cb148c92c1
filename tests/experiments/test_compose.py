"""Stacks of methods at smoke size, and what the claims ask for."""

import jax.numpy as jnp
import pytest

from experiments import compose
from experiments.frame import Progress
from tests.experiments.shown import assert_shown, made, verdict


@pytest.fixture(scope="module")
def metrics():
    return compose.run(compose.Config.smoke(), progress=Progress())


def test_every_stack_keeps_what_it_promises(metrics):
    names = set(compose.stacks(compose.Config.smoke()))
    taught = {f"{name}+distil" for name in compose.TAUGHT}
    assert set(metrics) == {"baseline", *names, *(f"untuned.{n}" for n in names), *compose.ROUNDED, *taught}
    for name, values in metrics.items():
        if name != "baseline":
            assert values[0]["moved"] <= 1e-6
        if "prune" in name:
            assert values[0]["zeros"] >= 79.9
    assert metrics["prune+quantize"][0]["bits"] < metrics["quantize"][0]["bits"] < 3.5
    assert_shown(compose, metrics)


def test_bits_are_entropies():
    codes = jnp.array([[0.0, 0.5], [0.0, -0.5], [1.0, 0.5], [1.0, -0.5]])
    # A quarter zeros: 0.8113 bits each; one value in the first channel, two in the second: 4 bits; scales.
    assert compose.bits_a_weight(codes, 8, 3) == pytest.approx((8 * 0.811278 + 4 + 64) / 8, abs=1e-5)
    assert compose.bits_a_weight(jnp.arange(1.0, 21.0)[:, None], 20, 3) == 32


def test_zeros_must_not_be_fewer_in_any_seed():
    metrics = {
        "prune": made("zeros", a=(80.0, 80.0))["a"],
        "prune+quantize": made("zeros", a=(85.0, 79.9))["a"],
    }
    assert verdict(compose, "compose-zeros", metrics) is False
