"""ThiNet at smoke size, its parts by hand, and what its claims ask for."""

import types

import chex
import jax
import jax.numpy as jnp
import pytest

from efficient import observe
from efficient.core.dependencies import dependencies
from efficient.prune.reconstruct import thinet as recipe
from experiments import thinet, thinet_arms
from experiments.frame import Progress


@pytest.fixture(scope="module")
def measured():
    config = thinet.Config.smoke()
    return config, thinet.run(config, progress=Progress())


def question(sparsity=0.5):
    """Three channels, the last twice the first: kernels `up` [1, 3] and `down` [3, 2]."""
    weights = {"up": {"kernel": jnp.array([[1.0, 3.0, 2.0]])}, "down": {"kernel": jnp.ones((3, 2))}}
    model = lambda w, x: jax.nn.relu(x @ w["up"]["kernel"]) @ w["down"]["kernel"]  # noqa: E731
    x = jnp.array([[1.0], [2.0]])
    found = dependencies(model, weights, x)
    stats = observe(model, weights, [x], where="down/kernel", statistics=("gram", "zeros"))
    (site,) = thinet_arms.sites_of(found)
    return thinet_arms.Question(found, weights, site, sparsity, stats, jax.random.key(0)), model, x


def test_every_arm_is_measured(measured):
    config, metrics = measured
    arms = {f"{kind}.{name}" for kind in thinet_arms.KINDS for name in config.methods}
    assert set(metrics) == {"baseline", "shrunk", *arms}
    for arm in arms:
        values = metrics[arm][0]
        assert {"0@0.5", "alone", "untuned_accuracy", "accuracy"} <= set(values)
        assert values["untuned_accuracy"] == values["masked_accuracy"], arm  # what is cut out was not used


def test_the_network_is_really_smaller(measured):
    _, metrics = measured
    # Channels 3 and 5 become 1 and 3: round(1.5) = 2 of 3 go, round(2.5) = 2 of 5. Images of 28 x 28.
    assert metrics["shrunk"][0]["params"] == 9 * 1 * 1 + 2 * 1 + 9 * 1 * 3 + 2 * 3 + 3 * 10 + 10
    assert metrics["shrunk"][0]["macs"] == 784 * (9 * 1 * 1 + 9 * 1 * 3) + 3 * 10


def test_a_site_is_what_makes_and_what_takes_in_channels():
    asked, _, _ = question()
    assert asked.site == ("up/kernel:1", 3, "up/kernel", "down/kernel")


@pytest.mark.parametrize(
    ("method", "kept"),
    [
        ("first", [True, True, False]),
        ("l1", [False, True, True]),
        ("apoz", [True, True, False]),  # none is ever zero: a tie keeps the lower index
        ("thinet", [False, True, True]),  # the first adds least to the output
    ],
)
def test_which_channels_stay(method, kept):
    asked, _, _ = question(sparsity=1 / 3)
    assert thinet_arms.METHODS[method](asked).tolist() == kept


def test_every_method_keeps_as_many_channels():
    asked, _, _ = question(sparsity=1 / 3)
    for name, method in thinet_arms.METHODS.items():
        assert int(method(asked).sum()) == 2, name


def test_least_squares_gives_back_what_other_channels_can_say():
    asked, model, x = question(sparsity=2 / 3)
    mask = jnp.array([True, False, False])
    plain, solved = (thinet_arms.cut(asked, mask, solves=solves) for solves in (False, True))
    # Outputs are (1 + 3 + 2) x: without correction the first channel says x of the 6 x.
    assert model(plain, x).tolist() == [[1.0, 1.0], [2.0, 2.0]]
    # All channels are multiples of the first, which then says all but for the damping of 1 % of the mean
    # diagonal of the Gram matrix, 5 (1 + 9 + 4) / 3: 1 + 25 / (5 + 0.01 * 70 / 3).
    assert model(solved, x)[0, 0] == pytest.approx(1 + 25 / (5 + 0.7 / 3), rel=1e-5)


def test_the_solution_is_that_of_the_recipe():
    asked, _, _ = question(sparsity=1 / 3)
    solved = thinet_arms.cut(asked, thinet_arms.METHODS["thinet"](asked), solves=True)
    t, weight = recipe(1 / 3), {"down/kernel": asked.variables["down"]["kernel"]}
    own = t.apply(weight, t.init(weight, stats=asked.stats))
    chex.assert_trees_all_close(solved["down"]["kernel"], own["down/kernel"], rtol=1e-5)


@pytest.mark.parametrize(("gaps", "holds"), [((3.0, 4.0), True), ((3.0, -2.0), False)])
def test_an_ordering_must_be_beyond_its_error(gaps, holds):
    metrics = {
        "solved.thinet": {i: {"untuned_accuracy": 50 + gap} for i, gap in enumerate(gaps)},
        "plain.l1": {i: {"untuned_accuracy": 50.0} for i in range(2)},
    }
    (claim,) = (claim for claim in thinet.CLAIMS if claim.id == "thinet-l1-untuned")
    assert claim.evaluate(metrics).holds is holds


@pytest.mark.parametrize(("macs", "lower", "holds"), [(25, 1.2, True), (40, 1.2, False), (25, 0.9, False)])
def test_the_small_network_must_be_smaller_and_faster(macs, lower, holds):
    metrics = {
        "baseline": {0: {"macs": 100}},
        "shrunk": {0: {"macs": macs, "speedup": 2.0, "speedup_lower": lower}},
    }
    (claim,) = (claim for claim in thinet.CLAIMS if claim.id == "thinet-shrunk")
    assert claim.evaluate(metrics).holds is holds


def test_tables_and_figures_are_made(measured):
    config, metrics = measured
    record = types.SimpleNamespace(
        config={"layers": config.layers, "fractions": config.fractions, "whole": config.whole},
        metrics=metrics,
    )
    assert len(thinet.tables(record)) == 2
    assert set(thinet.figures(record)) == {"alone", "whole"}


def test_config_refuses_what_it_cannot_run():
    with pytest.raises(ValueError, match="tune must be positive, got 0"):
        thinet.Config(tune=0)
    with pytest.raises(ValueError, match=r"fractions and whole must be in \(0, 1\), got \(1.0,\) and 0.5"):
        thinet.Config(fractions=(1.0,))
    with pytest.raises(ValueError, match="stages must be 1 to 4, got 5"):
        thinet.Config(stages=5)
    with pytest.raises(ValueError, match=r"layers must be from 0 to 7, got \(8,\)"):
        thinet.Config(layers=(8,))
    with pytest.raises(ValueError, match=r"methods must be among .* got \['none'\]"):
        thinet.Config(methods=("none",))
    with pytest.raises(ValueError, match="repeats must be at least 3, got 1"):
        thinet.Config(repeats=1)
