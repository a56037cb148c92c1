"""One-shot pruning of a language model at smoke size, and what the claims ask for."""

import dataclasses
import types

import jax.numpy as jnp
import numpy as np
import pytest

from experiments import sparsegpt_wanda
from experiments.frame import Progress, style

CLAIMS = {claim.id: claim for claim in sparsegpt_wanda.CLAIMS}


@pytest.fixture(scope="module")
def metrics():
    return sparsegpt_wanda.run(sparsegpt_wanda.Config.smoke(), progress=Progress())


def test_every_arm_is_measured(metrics):
    named = {f"{method}_{pattern}" for method in sparsegpt_wanda.METHODS for pattern in ("50", "2_4")}
    assert set(metrics) == {"baseline", *named}
    for arm in named:
        assert set(metrics[arm][0]) == {"perplexity", "error", "better"}
        assert metrics[arm][0]["perplexity"] > 1


def test_least_squares_is_nearest_under_every_mask(metrics):
    for pattern in ("50", "2_4"):
        for method in sparsegpt_wanda.PLAIN:
            plain = metrics[f"{method}_{pattern}"][0]["error"]
            nearest = metrics[f"{method}_corrected_{pattern}"][0]["error"]
            assert nearest <= plain + 0.1, (method, pattern)  # damped by 1 % of the mean square


def test_tables_and_figures_show_it(metrics):
    record = types.SimpleNamespace(metrics=metrics, config=dataclasses.asdict(sparsegpt_wanda.Config.smoke()))
    assert all(table.row_count for table in sparsegpt_wanda.tables(record))
    for figure in sparsegpt_wanda.figures(record).values():
        assert style.render(figure, "png")


def test_the_error_is_that_of_what_comes_out():
    # x = (1, 0) and (0, 2): G = diag(1, 4). W = (3, 1) gives |XW|^2 = 9 + 4; without its last weight 4 go.
    gram = jnp.diag(jnp.array([1.0, 4.0]))
    found = sparsegpt_wanda.error(jnp.array([[3.0], [1.0]]), jnp.array([[3.0], [0.0]]), gram)
    assert float(found) == pytest.approx(4 / 13)


def test_windows_are_grouped_and_the_rest_is_dropped():
    pieces = np.arange(10).reshape(5, 2)
    first, second = sparsegpt_wanda.windows_of(pieces, 2)
    np.testing.assert_array_equal(first, [[0, 1], [2, 3]])
    np.testing.assert_array_equal(second, [[4, 5], [6, 7]])


def test_better_is_the_share_of_kernels_no_worse():
    assert sparsegpt_wanda.better({"a": 1.0, "b": 3.0}, {"a": 1.0, "b": 2.0}) == 50.0


def perplexities(**values):
    """Metrics of arms from their perplexity by seed."""
    return {arm: {i: {"perplexity": v} for i, v in enumerate(seeds)} for arm, seeds in values.items()}


@pytest.mark.parametrize(("ours", "holds"), [((6.0, 6.1, 6.0), True), ((6.5, 6.8, 6.6), False)])
@pytest.mark.parametrize(
    ("claim", "worse", "better"),
    [
        ("wanda-50", "magnitude_50", "wanda_50"),
        ("wanda-2-4", "magnitude_2_4", "wanda_2_4"),
        ("sparsegpt-50", "wanda_50", "sparsegpt_50"),
        ("sparsegpt-2-4", "wanda_2_4", "sparsegpt_2_4"),
    ],
)
def test_a_ratio_must_be_above_one_by_two_standard_errors(claim, worse, better, ours, holds):
    metrics = perplexities(**{worse: (6.6, 6.7, 6.5), better: ours})
    assert CLAIMS[claim].evaluate(metrics).holds is holds


@pytest.mark.parametrize(("least", "holds"), [(100.0, True), (92.9, False)])
def test_every_kernel_of_every_seed_must_be_no_worse(least, holds):
    metrics = {arm: {0: {"better": 100.0}, 1: {"better": 100.0}} for arm in ("sparsegpt_50", "sparsegpt_2_4")}
    metrics["sparsegpt_2_4"][1]["better"] = least
    assert CLAIMS["sparsegpt-layers"].evaluate(metrics).holds is holds


def test_config_refuses_what_it_cannot_run():
    with pytest.raises(ValueError, match="steps must be positive, got 0"):
        sparsegpt_wanda.Config(steps=0)
    with pytest.raises(ValueError, match=r"sparsities must be in \(0, 1\), got \(1.0,\)"):
        sparsegpt_wanda.Config(sparsities=(1.0,))
    with pytest.raises(ValueError, match="width must be a positive multiple of 8, got 20"):
        sparsegpt_wanda.Config(width=20)
    with pytest.raises(ValueError, match="text must be 0 or more, got -1"):
        sparsegpt_wanda.Config(text=-1)
