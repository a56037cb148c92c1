"""Network slimming at smoke size, its parts by hand, and what its claims ask for."""

import types

import jax
import jax.numpy as jnp
import pytest

from efficient.core.dependencies import dependencies
from efficient.prune.allocations import per_leaf, together
from experiments import network_slimming, network_slimming_worth
from experiments.frame import Progress


@pytest.fixture(scope="module")
def measured():
    return network_slimming.run(network_slimming.Config.smoke(), progress=Progress())


def two_layers():
    """Two hidden layers of 2 and 3 channels, a scale on each."""
    weights = {
        "a": {"kernel": jnp.array([[1.0, -4.0]]), "scale": jnp.array([0.5, -0.1])},
        "b": {"kernel": jnp.array([[1.0, 0.0, 2.0], [-1.0, 1.0, 2.0]]), "scale": jnp.array([0.0, 0.3, 0.9])},
        "c": {"kernel": jnp.ones((3, 1))},
    }

    def model(variables, x):
        w = variables["params"]
        x = jax.nn.relu(x @ w["a"]["kernel"] * w["a"]["scale"][None])
        return jax.nn.relu(x @ w["b"]["kernel"] * w["b"]["scale"][None]) @ w["c"]["kernel"]

    return dependencies(model, {"params": weights}, jnp.ones((1, 1))), weights


def lists(by_group):
    return [one.tolist() for one in by_group.values()]


def test_every_arm_is_measured(measured):
    assert set(measured) == {"baseline", "penalty.0", "penalty.0.005", "slimmed.0.5", "scales.0.5", "l1.0.5"}
    for kind in network_slimming.LABELS:
        values = measured[f"{kind}.0.5"][0]
        assert {"untuned_accuracy", "accuracy", "untuned_loss", "loss", "macs", "params"} <= set(values)
    # Of channels 3 and 5, four go.
    assert measured["slimmed.0.5"][0]["channels"] == pytest.approx(50)
    assert sum(measured["penalty.0"][0]["histogram"]) == 8


def test_half_of_every_layer_is_counted(measured):
    values = measured["l1.0.5"][0]  # channels 3 and 5 become 1 and 3
    assert values["params"] == 9 * 1 * 1 + 2 * 1 + 9 * 1 * 3 + 2 * 3 + 3 * 10 + 10
    assert values["macs"] == 784 * (9 * 1 * 1 + 9 * 1 * 3) + 3 * 10


def test_the_small_network_computes_what_the_masked_one_does(measured):
    assert measured["slimmed.0.5"][0]["error"] < 1e-4


def test_a_channel_is_worth_its_scale_or_its_filter():
    found, weights = two_layers()
    assert lists(network_slimming_worth.by_scale(found, weights)) == [
        pytest.approx([0.5, 0.1]),
        pytest.approx([0.0, 0.3, 0.9]),
    ]
    assert lists(network_slimming_worth.by_norm(found, weights)) == [[1.0, 4.0], [2.0, 1.0, 4.0]]


def test_channels_of_all_layers_compete_by_scale():
    found, weights = two_layers()
    worth = network_slimming_worth.by_scale(found, weights)
    # Of 0.5, 0.1 and 0, 0.3, 0.9 the two smallest go: 40 % of five.
    assert lists(network_slimming_worth.best(worth, 0.4, together())) == [[True, False], [False, True, True]]
    # Of each layer alone, half: one of two, round(1.5) = 2 of three.
    assert lists(network_slimming_worth.best(worth, 0.5, per_leaf())) == [[True, False], [False, False, True]]


def test_a_layer_keeps_a_channel():
    worth = {"a": jnp.array([0.1, 0.2]), "b": jnp.array([0.5, 0.6])}
    assert lists(network_slimming_worth.best(worth, 0.5, together())) == [[False, True], [True, True]]


def test_scales_near_zero_are_counted():
    worth = {"a": jnp.array([0.0, 0.04, 0.06]), "b": jnp.array([2.0])}
    assert network_slimming_worth.near_zero(worth) == 50.0
    counts = network_slimming_worth.histogram(worth)
    assert (counts[0], counts[1], counts[2], counts[-1], sum(counts)) == (1, 1, 1, 1, 4)


def claim(name):
    (found,) = (one for one in network_slimming.CLAIMS if one.id == name)
    return found


@pytest.mark.parametrize(
    ("losses", "ours", "holds"),
    [((0.2, 0.9), 40.0, True), ((0.2, 0.5), 70.0, True), ((0.6, 0.9), 0.0, False)],
)
def test_the_largest_fraction_without_loss(losses, ours, holds):
    metrics = {f"slimmed.{f}": {0: {"loss": loss}} for f, loss in zip((0.4, 0.7), losses, strict=True)}
    outcome = claim("slimming-no-loss").evaluate(metrics)
    assert (outcome.ours, outcome.holds) == (ours, holds)


@pytest.mark.parametrize(("near", "holds"), [((50.0, 52.0), True), ((12.0, 14.0), False)])
def test_the_penalty_must_move_scales(near, holds):
    metrics = {
        "penalty.0": {i: {"near_zero": 2.0} for i in range(2)},
        "penalty.0.005": {i: {"near_zero": value} for i, value in enumerate(near)},
    }
    assert claim("slimming-scales").evaluate(metrics).holds is holds


@pytest.mark.parametrize(("untuned", "holds"), [(30.0, True), (5.0, False)])
def test_less_is_lost_untuned(untuned, holds):
    metrics = {
        f"{kind}.{f}": {i: {"untuned_loss": loss + i} for i in range(2)}
        for kind, loss in (("slimmed", 5.0), ("scales", untuned))
        for f in (0.4, 0.7)
    }
    assert claim("slimming-untuned").evaluate(metrics).holds is holds


@pytest.mark.parametrize(("macs", "low", "holds"), [(40, 1.1, True), (60, 1.1, False), (40, 0.9, False)])
def test_the_small_network_must_be_smaller_and_faster(macs, low, holds):
    metrics = {
        "baseline": {0: {"macs": 100}},
        "slimmed.0.7": {0: {"macs": macs, "speedup": 2.0, "speedup_lower": low}},
    }
    assert claim("slimming-shrunk").evaluate(metrics).holds is holds


def test_what_was_not_measured_is_not_judged():
    assert claim("slimming-no-loss").evaluate({}).holds is None


def test_tables_and_figures_are_made(measured):
    record = types.SimpleNamespace(metrics=measured)
    assert len(network_slimming.tables(record)) == 2
    assert set(network_slimming.figures(record)) == {"scales", "pruned"}


def test_config_refuses_what_it_cannot_run():
    with pytest.raises(ValueError, match="tune must be positive, got 0"):
        network_slimming.Config(tune=0)
    with pytest.raises(ValueError, match=r"fractions must rise within 0 and 1, got \(0.7, 0.4\)"):
        network_slimming.Config(fractions=(0.7, 0.4))
    with pytest.raises(ValueError, match=r"penalties must rise within 0 and inf, got \(0.0,\)"):
        network_slimming.Config(penalties=(0.0,))
    with pytest.raises(ValueError, match="stages must be 1 to 4, got 0"):
        network_slimming.Config(stages=0)
    with pytest.raises(ValueError, match="repeats must be at least 3, got 1"):
        network_slimming.Config(repeats=1)
