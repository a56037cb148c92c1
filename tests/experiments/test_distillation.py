"""Distillation at smoke size, and what the claims ask for."""

import jax
import pytest

from experiments import distillation
from experiments.frame import Progress
from tests.experiments.shown import assert_shown, made, verdict


@pytest.fixture(scope="module")
def metrics():
    return distillation.run(distillation.Config.smoke(), progress=Progress())


def test_every_arm_is_measured(metrics):
    features = {"attention", "relations", "hints", "peers", "peers_other", "born_again"}
    assert set(metrics) == {"teacher", "baseline", "kd_1", "kd_4", *features}
    assert_shown(distillation, metrics)


def test_the_student_is_as_small_as_it_says():
    shapes = jax.eval_shape(
        distillation.STUDENT.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 28, 28, 1), "float32")
    )
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 2870


@pytest.mark.parametrize(("middle", "holds"), [(81.0, True), (79.0, False)])
def test_the_best_temperature_is_inside(middle, holds):
    metrics = made(baseline=(80.0,), kd_1=(80.0,), kd_4=(middle,), kd_16=(79.5,))
    assert verdict(distillation, "distillation-temperature", metrics) is holds


def test_config_refuses_what_it_cannot_run():
    with pytest.raises(ValueError, match="at least 20 batches"):
        distillation.Config(train=100)
    with pytest.raises(ValueError, match="temperatures must be above 0"):
        distillation.Config(temperatures=(0.0,))
