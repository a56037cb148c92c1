"""Claims, outcomes and the arithmetic of seeds."""

import dataclasses
import math
import operator
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.frame import Claim, Outcome, by_seed, column, deviation, mean, paired, show
from tests.experiments.sample import closed_form

METRICS = {
    "baseline": {0: {"accuracy": 0.9}, 1: {"accuracy": 0.8}},
    "pruned": {0: {"accuracy": 0.7, "curve": [1]}, 1: {"accuracy": None, "curve": [2]}},
}
CLAIM = closed_form.CLAIMS[0]


def test_column_by_hand():
    assert column(METRICS, "baseline", "accuracy") == {0: 0.9, 1: 0.8}
    assert math.isnan(column(METRICS, "pruned", "accuracy")[1])  # null is NaN


@pytest.mark.parametrize(
    ("arm", "metric", "message"),
    [
        ("dense", "accuracy", "no arm 'dense'"),
        ("baseline", "loss", "no number 'loss' in arm 'baseline', seed 0"),
        ("pruned", "curve", "no number 'curve' in arm 'pruned', seed 0"),
    ],
)
def test_column_says_what_was_not_measured(arm, metric, message):
    with pytest.raises(LookupError, match=message):
        column(METRICS, arm, metric)


def test_paired_goes_seed_by_seed():
    assert paired(operator.sub, {0: 3.0, 1: 5.0}, {1: 1.0, 0: 2.0}) == {0: 1.0, 1: 4.0}
    with pytest.raises(LookupError, match=r"seeds \[0\] in one arm and \[1\] in another"):
        paired(operator.sub, {0: 1.0}, {1: 1.0})


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=9))
def test_mean_and_deviation_agree_with_statistics(values):
    assert mean(values) == pytest.approx(statistics.fmean(values), rel=1e-12, abs=1e-9)
    assert deviation(values) == pytest.approx(statistics.stdev(values), rel=1e-6, abs=1e-6)


def test_what_is_not_finite_stays_so():
    assert math.isnan(mean([1.0, math.inf]))
    assert math.isnan(mean([1.7e308, 1.7e308]))  # the sum overflows
    assert deviation([1.0, math.nan]) is None
    assert deviation([1e200, -1e200]) is None  # the square overflows
    assert deviation([1.0]) is None


def test_an_outcome_of_seeds_by_hand():
    # mean (1 + 3) / 2 = 2, deviation sqrt((1 + 1) / (2 - 1)) = sqrt 2
    assert Outcome.of({4: 1.0, 7: 3.0}, holds=True) == Outcome(
        ours=2.0, spread=math.sqrt(2), seeds=(4, 7), holds=True
    )


def test_nothing_holds_from_nan_or_from_nothing():
    assert Outcome.of({0: 1.0, 1: math.nan}, holds=True).holds is False
    with pytest.raises(LookupError, match="no seeds"):
        Outcome.of({}, holds=True)
    with pytest.raises(ValueError, match="holds must be False without a seed and a finite number"):
        Outcome(ours=math.nan, seeds=(0,), holds=True)
    with pytest.raises(ValueError, match="a claim never holds from nothing"):
        Outcome(ours=1.0, holds=True)
    with pytest.raises(ValueError, match="holds must be None exactly where ours is"):
        Outcome(ours=None, seeds=(0,), holds=True)


def test_a_claim_without_its_inputs_is_not_run():
    metrics = closed_form.run(closed_form.Config.smoke())
    holds, fails, missing = (claim.evaluate(metrics).holds for claim in closed_form.CLAIMS)
    assert (holds, fails, missing) == (True, False, None)
    assert CLAIM.evaluate(None) == Outcome(ours=None, holds=None, detail="no record")
    assert closed_form.CLAIMS[2].evaluate(metrics).detail == (
        "not measured: no number 'entropy_bits' in arm 'treatment', seed 0"
    )


def test_the_experiment_loses_six_decibels_where_the_theory_says_so():
    # of uniform numbers in [-1, 1]: 10 log10((1/3) / (step^2/12)), step = 2 / 2^b, is 6.02 b
    found = closed_form.run(closed_form.Config(samples=100_000, seeds=(0,)))
    assert found["baseline"][0]["snr_db"] == pytest.approx(6.0206 * 4, abs=0.1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": "No Slug"}, "id must be lower case letters, digits, - and _, got 'No Slug'"),
        ({"arxiv": "arXiv:1510.00149"}, "arxiv must be a number such as 1510.00149"),
        ({"paper": " "}, "paper must be a text"),
        ({"rule": ""}, "rule must be a text"),
    ],
)
def test_a_claim_is_validated(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CLAIM, **change)


def test_an_old_arxiv_number_is_one():
    claim = dataclasses.replace(CLAIM, arxiv="quant-ph/0101012", where="table 1")
    assert isinstance(claim, Claim)
    assert claim.source == "Bennett, Spectra of quantized signals, 1948, arXiv:quant-ph/0101012, table 1"


@pytest.mark.parametrize(
    ("value", "options", "text"),
    [
        (92.4137, {"spread": 0.1234, "unit": "%"}, "92.41 ± 0.12 %"),
        (92.4137, {"spread": 12.3}, "92 ± 12"),
        (0.5, {}, "0.5"),
        (9228362, {}, "9,228,362"),
        (1e300, {"spread": 1e290}, "1e+300 ± 1.0e+290"),
        (1.0, {"spread": 1e-12}, "1 ± 1.0e-12"),
        (1.0, {"spread": 0.0, "unit": "x"}, "1 x"),
        (0.1022, {"spread": 1.7e-17}, "0.1022"),
        ("a > b", {"unit": "x"}, "a > b"),
        (None, {"unit": "x"}, "-"),
        (math.nan, {}, "not finite"),
    ],
)
def test_values_as_a_reader_sees_them(value, options, text):
    assert show(value, **options) == text


@pytest.mark.parametrize("seeds", [(), (1, 1)])
def test_seeds_are_different_and_some(seeds):
    with pytest.raises(ValueError, match="seeds must be at least one and different"):
        by_seed(lambda seed, progress: {}, seeds)


def test_an_arm_that_no_record_can_name_is_refused_after_the_first_seed():
    done = []
    with pytest.raises(ValueError, match=r"arms must be named by letters.* got 'L1 retrained'; rename it"):
        by_seed(lambda seed, progress: done.append(seed) or {"L1 retrained": {}}, (0, 1))
    assert done == [0]


def test_above_wants_two_standard_errors():
    outcome = Outcome.above({0: 1.0, 1: 2.0, 2: 3.0})  # mean 2, standard error 1 / sqrt(3) = 0.577
    assert (outcome.holds, outcome.ours) == (True, 2.0)
    assert Outcome.above({0: 1.0, 1: 2.0, 2: 3.0}, 0.84).holds is True  # 2 - 2 * 0.5774 = 0.8453
    assert Outcome.above({0: 1.0, 1: 2.0, 2: 3.0}, 0.85).holds is False
    assert Outcome.above({0: 5.0}).holds is False
    assert Outcome.above({0: 1.0, 1: float("nan")}).holds is False


def test_at_most_judges_the_mean():
    outcome = Outcome.at_most({0: 0.5, 1: 0.1}, 0.3)
    assert (outcome.ours, outcome.holds, outcome.seeds) == (0.3, True, (0, 1))
    assert Outcome.at_most({0: 0.31}, 0.3).holds is False
    assert Outcome.at_most({0: float("nan")}, 0.3).holds is False
