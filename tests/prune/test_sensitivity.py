"""Sensitivity: each array or group pruned alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from efficient.core.dependencies import dependencies
from efficient.prune import Sensitivity, magnitude, ranking, sensitivity
from efficient.prune.allocations import at_most
from efficient.prune.allocations.at_most import from_sensitivity
from efficient.prune.scores import absolute
from efficient.prune.sensitivity import channels_alone, scan

PARAMS = {
    "a": {"kernel": jnp.array([1.0, 2.0, 3.0, 4.0]), "bias": jnp.ones(2)},
    "b": {"kernel": jnp.array([8.0, 0.0, 0.0, 8.0]), "table": jnp.arange(4)},
}


def total(p):
    return float(p["a"]["kernel"].sum() + p["b"]["kernel"].sum() + p["a"]["bias"].sum())


def test_by_hand():
    # As it is 10 + 16 + 2 = 28. Half of a is 1 + 2, three quarters 1 + 2 + 3; of b nothing, and 8.
    scan = sensitivity(total, PARAMS, magnitude, sparsities=(0.5, 0.75))
    assert scan.baseline == 28
    assert scan.curves == {"a/kernel": {0.5: 25, 0.75: 22}, "b/kernel": {0.5: 28, 0.75: 20}}
    assert scan.losses() == {"a/kernel": {0.5: 3, 0.75: 6}, "b/kernel": {0.5: 0, 0.75: 8}}
    assert repr(scan) == "<Sensitivity: 2 pruned alone, 28 as it is>"


def test_its_losses_make_the_limits_of_an_allocation():
    scan = sensitivity(total, PARAMS, magnitude, sparsities=(0.5, 0.75))
    limits = from_sensitivity(scan.losses(), most_loss=6)
    assert limits == {"a/kernel": 0.75, "b/kernel": 0.5}
    scores = {path: jnp.ones(4) for path in limits}
    assert at_most(limits).share(scores, dict.fromkeys(limits, (4,)), 0.9) == {
        "a/kernel": 1,
        "b/kernel": 2,
    }


def test_params_stay_as_they_are_and_a_path_is_no_pattern():
    p = {"a*": {"kernel": jnp.ones(2)}, "ab": {"kernel": jnp.ones(2)}}
    value = lambda p: float(p["a*"]["kernel"].sum() + 10 * p["ab"]["kernel"].sum())  # noqa: E731
    scan = sensitivity(value, p, magnitude, sparsities=(0.5,))
    assert scan.losses() == {"a*/kernel": {0.5: 1}, "ab/kernel": {0.5: 10}}
    assert value(p) == 22


def test_a_bar_sees_every_pair():
    seen = []

    def track(pairs):
        for pair in pairs:
            seen.append(pair)
            yield pair

    sensitivity(total, PARAMS, magnitude, where="a/kernel", sparsities=(0.5, 0.75), track=track)
    assert seen == [("a/kernel", 0.5), ("a/kernel", 0.75)]


def test_channels_of_groups():
    # a:1 = columns of a and rows of b. The outputs of ones are (1 + 1 + 1) w of each channel left.
    p = {"a": jnp.ones((3, 4)), "b": jnp.array([[1.0], [4.0], [2.0], [3.0]])}
    fn = lambda p, x: x @ p["a"] @ p["b"]  # noqa: E731
    found = dependencies(fn, p, jnp.ones((1, 3)))
    ways = channels_alone(found, ranking(found, absolute(), p), p)
    made = scan(lambda p: float(fn(p, jnp.ones((1, 3)))[0, 0]), p, ways, (0.5, 0.75, 0.99))
    assert made.baseline == 30
    assert made.curves == {"a:1": {0.5: 21, 0.75: 12, 0.99: 12}}  # one channel stays


class Axes:
    """Remembers what is drawn."""

    def __init__(self):
        self.lines, self.words = [], {}

    def plot(self, x, y, form, label):
        self.lines.append((label, x, y))

    def set(self, **words):
        self.words |= words


def test_it_draws_and_prints():
    made = Sensitivity(baseline=90.0, curves={"conv": {0.8: 70.0, 0.4: 89.5}, "out": {0.4: 88.0}})
    axes = Axes()
    made.draw(axes, names={"out": "classifier"})
    assert axes.lines == [
        ("conv", [0.0, 0.4, 0.8], [90.0, 89.5, 70.0]),
        ("classifier", [0.0, 0.4], [90.0, 88.0]),
    ]
    assert axes.words == {"xlabel": "sparsity of one alone"}
    text = str(made)
    assert "90 as it is" in " ".join(text.split())  # a title folds over a narrow table
    assert "89.5" in text
    assert text.index("conv") < text.index("out")


def test_it_draws_on_matplotlib():
    figure = pytest.importorskip("matplotlib.figure")
    axes = figure.Figure().subplots()
    Sensitivity(baseline=90.0, curves={"conv": {0.4: 89.5}}).draw(axes)
    np.testing.assert_array_equal(axes.lines[0].get_xydata(), [[0, 90], [0.4, 89.5]])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: sensitivity(total, PARAMS, magnitude, where="z"), "got 'z' that matches none"),
        (lambda: sensitivity(total, PARAMS, magnitude, where="b/table"), "pruned must have one way at least"),
        (
            lambda: sensitivity(total, PARAMS, magnitude, sparsities=()),
            r"sparsities must be one or more in \[0, 1\), got \(\)",
        ),
        (
            lambda: sensitivity(total, PARAMS, magnitude, sparsities=(0.5, 1.0)),
            r"sparsities must be one or more in \[0, 1\), got \(0.5, 1.0\)",
        ),
    ],
)
def test_wrong_requests_are_refused_before_anything_is_measured(make, message, monkeypatch):
    monkeypatch.setitem(globals(), "total", lambda p: pytest.fail("measured"))
    with pytest.raises(ValueError, match=message):
        make()


def test_jitted_evaluation_is_traced_once():
    traces = []

    @jax.jit
    def value(p):
        traces.append(1)
        return p["a"]["kernel"].sum()

    sensitivity(lambda p: float(value(p)), PARAMS, magnitude, sparsities=(0.5, 0.75))
    assert len(traces) == 1
