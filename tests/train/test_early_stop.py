import pytest
from hypothesis import given
from hypothesis import strategies as st

from efficient.train import EarlyStop


def stops_at(values, **options):
    """The number of rows after which it stops, or None."""
    stop = EarlyStop(metric="m", **options)
    rows = [{"m": value} for value in values]
    return next((n for n in range(len(rows) + 1) if stop.stops(rows[:n])), None)


@pytest.mark.parametrize(
    ("values", "options", "expected"),
    [
        ([1, 2, 3, 4], {"patience": 1, "better": "higher"}, None),
        ([1, 2, 2], {"patience": 1, "better": "higher"}, 3),  # a tie is no improvement
        ([3, 2, 1, 2, 1.5], {"patience": 2, "better": "lower"}, 5),
        ([1, 3, 2, 2.9, 3.1, 1], {"patience": 3, "better": "higher"}, None),
        ([1, 1.05, 1.2], {"patience": 1, "better": "higher", "min_change": 0.1}, 2),
        ([float("nan"), float("nan")], {"patience": 2, "better": "lower"}, 2),
    ],
)
def test_by_hand(values, options, expected):
    assert stops_at(values, **options) == expected


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=12), st.integers(1, 4))
def test_lower_is_higher_of_the_negative(values, patience):
    negative = [-value for value in values]
    higher, lower = {"patience": patience, "better": "higher"}, {"patience": patience, "better": "lower"}
    assert stops_at(values, **higher) == stops_at(negative, **lower)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"patience": 0, "better": "lower"},
            "patience must be at least 1, got 0; 1 stops at the first setback",
        ),
        ({"patience": 1, "better": "max"}, "better must be 'higher' or 'lower', got 'max'; an accuracy"),
        (
            {"patience": 1, "better": "lower", "min_change": -1.0},
            "min_change must be at least 0, got -1.0; 0 counts",
        ),
    ],
)
def test_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        EarlyStop(metric="m", **options)


def test_an_unknown_metric_names_those_there_are():
    with pytest.raises(
        ValueError, match="metric must be one of eval/accuracy, step, got 'accuracy'; choose one"
    ):
        EarlyStop(metric="accuracy", patience=1, better="higher").stops([{"step": 1, "eval/accuracy": 0.5}])
