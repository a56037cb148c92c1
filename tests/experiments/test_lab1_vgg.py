"""Lab 1 at smoke size, its exact counts, its sorting of channels, and what its claims ask for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from efficient.core.dependencies import dependencies
from efficient.prune import Sensitivity
from experiments import lab1_vgg, lab1_vgg_arms
from experiments.frame import Progress


@pytest.fixture(scope="module")
def metrics():
    return lab1_vgg.run(lab1_vgg.Config.smoke(), progress=Progress())


def claim(name):
    (found,) = (one for one in lab1_vgg.CLAIMS if one.id == name)
    return found


def test_every_arm_is_measured(metrics):
    assert set(metrics) == {"full", "full_pruned", "baseline", "first", "sorted", "scan", "fine"}
    assert set(metrics["first"][0]) == {"untuned_accuracy", "accuracy", "loss"}
    assert metrics["fine"][0]["kept"] <= 25
    assert len(metrics["scan"][0]["curves"]) == 9
    assert all(one.evaluate(metrics).holds is not None for one in lab1_vgg.CLAIMS)


@pytest.mark.parametrize(
    "name", ["lab1-macs", "lab1-pruned-macs", "lab1-params", "lab1-pruned-params", "lab1-sorting"]
)
def test_what_is_exact_holds_at_any_size_of_what_is_trained(metrics, name):
    assert claim(name).evaluate(metrics).holds


def test_figures_name_every_layer(metrics):
    record = type("Record", (), {"metrics": metrics})
    made = lab1_vgg.figures(record)
    (legend,) = made["sensitivity"].legends
    assert [text.get_text() for text in legend.texts] == [*(f"layer{i}" for i in range(8)), "classifier"]
    assert set(made) == {"sensitivity", "arms"}


def mlp(p, x):
    """Two layers; the bias belongs to the hidden units."""
    return jnp.maximum(x @ p["a"] + p["bias"][None], 0) @ p["b"]


def test_channels_go_by_the_norm_of_what_consumes_them():
    # Rows of b have norms 3, 5 and 1: the order is 1, 0, 2, for a's columns and the bias too.
    p = {
        "a": jnp.array([[1.0, 2.0, 3.0]]),
        "bias": jnp.array([0.1, 0.2, 0.3]),
        "b": jnp.array([[3.0, 0.0], [3.0, 4.0], [0.0, 1.0]]),
    }
    x = jnp.array([[1.0], [2.0]])
    found = dependencies(mlp, p, x)
    (name,) = found.free
    np.testing.assert_allclose(lab1_vgg_arms.consumed_norms(found, p)[name], [3, 5, 1])
    moved = lab1_vgg_arms.permuted(found, p, {name: np.array([1, 0, 2])})
    assert jax.tree.map(lambda v: v.tolist(), moved["a"]) == [[2.0, 1.0, 3.0]]
    np.testing.assert_allclose(moved["bias"], [0.2, 0.1, 0.3])
    np.testing.assert_allclose(mlp(moved, x), mlp(p, x), rtol=1e-6)


def test_limits_are_those_of_the_least_loss_that_leaves_so_few():
    # Bearing 1 point, a goes to 0.5 and b to 0.8: 5 + 2 of 20 stay. Bearing none, only a's 0.5: 15 of 20.
    scan = Sensitivity(baseline=90.0, curves={"a": {0.5: 90.0, 0.8: 60.0}, "b": {0.5: 89.5, 0.8: 89.0}})
    sizes = {"a": 10, "b": 10}
    assert lab1_vgg_arms.limits_for(scan, sizes, 0.75) == {"a": 0.5, "b": 0.0}
    assert lab1_vgg_arms.limits_for(scan, sizes, 0.35) == {"a": 0.5, "b": 0.8}
    with pytest.raises(ValueError, match=r"kept must be what the scan's sparsities can leave, got 0.1"):
        lab1_vgg_arms.limits_for(scan, sizes, 0.1)


@pytest.mark.parametrize(("conv1", "holds"), [(20.0, True), (41.0, False), (0.5, False)])
def test_the_first_must_lose_most_and_the_classifier_least(conv1, holds):
    losses = {lab1_vgg.FIRST: 40.0, "layer1/conv/kernel": conv1, lab1_vgg.LAST: 1.0}
    metrics = {"scan": {0: {f"loss_{path}": loss for path, loss in losses.items()}}}
    assert claim("lab1-sensitivity-extremes").evaluate(metrics).holds is holds


def test_config_refuses_what_it_cannot_run():
    with pytest.raises(ValueError, match="tune must be positive, got 0"):
        lab1_vgg.Config(tune=0)
    with pytest.raises(ValueError, match=r"channels must be in \(0, 1\), got 1.0"):
        lab1_vgg.Config(channels=1.0)
    with pytest.raises(ValueError, match=r"sparsities must be in \(0, 1\) and hold 0.9, got \(0.5,\)"):
        lab1_vgg.Config(sparsities=(0.5,))
    with pytest.raises(ValueError, match=r"kept must be what sparsities up to 0.9 can leave, got 0.05"):
        lab1_vgg.Config(kept=0.05)
