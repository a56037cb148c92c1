"""Records: written whole, read strictly."""

import contextlib
import copy
import dataclasses
import json
import math
import os

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from experiments.frame import environment
from experiments.frame.record import (
    LIMIT_BYTES,
    Device,
    Record,
    RecordError,
    jsonable,
    read_json,
    read_record,
    write_atomic,
    write_record,
)

RECORD = Record(
    experiment="tiny",
    smoke=False,
    config={"steps": 3, "seeds": [0, 1]},
    seeds=(0, 1),
    metrics={
        "baseline": {0: {"accuracy": 0.5, "curve": [1.0, 2.5]}, 1: {"accuracy": 0.25, "curve": []}},
        "pruned": {0: {"accuracy": 1.0}, 1: {"accuracy": None}},
    },
    versions={"jax": "0.10.2"},
    device=Device(platform="cpu", kind="cpu", count=1, cores=2, cpu="a CPU"),
    date="2026-01-31T12:00:00Z",
    commit=None,
    dirty=None,
    wall_s=1.5,
)
VALID = json.loads(RECORD.to_json())


@pytest.fixture
def path(tmp_path):
    return tmp_path / "tiny.json"


def test_what_is_written_is_read(path):
    assert write_record(path, RECORD) == RECORD
    assert read_record(path) == RECORD
    assert '"curve": [1.0, 2.5]' in path.read_text()  # a curve on one line


def test_what_is_not_finite_is_written_as_null(path):
    bad = {"loss": math.nan, "best": np.float32(math.inf), "curve": np.array([1.0, -math.inf])}
    record = dataclasses.replace(
        RECORD, seeds=(3,), metrics={"baseline": {3: bad}, "pruned": {3: {"n": np.int64(2)}}}
    )
    assert write_record(path, record).metrics["baseline"] == {
        3: {"loss": None, "best": None, "curve": [1.0, None]}
    }
    assert read_record(path).metrics["pruned"] == {3: {"n": 2}}


def test_what_json_cannot_carry_is_refused_with_its_path():
    with pytest.raises(
        ValueError, match="metrics/baseline/1 must be a number, text, bool, list or dict, got"
    ):
        jsonable({"baseline": [1, object()]}, "metrics")


def changed(where, value):
    """The valid record with one place changed; `...` takes the place away."""
    record = copy.deepcopy(VALID)
    *parents, last = where
    place = record
    for key in parents:
        place = place[key]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return record


@pytest.mark.parametrize(
    ("where", "value", "message"),
    [
        (("wall_s",), ..., "tiny.json: wall_s must be present"),
        (("extra",), 1, "tiny.json: extra must be one of schema, experiment"),
        (("schema",), 2, "schema must be 1, got 2; run the experiment again"),
        (("schema",), True, "schema must be an integer, got True"),
        (("experiment",), 3, "experiment must be a text, got 3"),
        (("smoke",), "no", "smoke must be true or false, got 'no'"),
        (("config",), [], "config must be an object"),
        (("seeds",), 3, "seeds must be a list, got 3"),
        (("seeds",), [0, "1"], "seeds must be an integer, got '1'"),
        (("seeds",), [0, 2], r"seeds must be those of the metrics, \(0, 1\), got \(0, 2\)"),
        (("metrics",), {"pruned": {"0": {}}}, "must be a `baseline` and at least one other arm, got"),
        (("metrics", "pruned"), ..., "must be a `baseline` and at least one other arm"),
        (("metrics", "pruned"), {}, "pruned must be an arm with at least one seed"),
        (("metrics", "pruned"), {"x": {}}, "must be keyed by an integer seed, got 'x'"),
        (("metrics", "pruned"), {"0": 1}, "pruned/0 must be an object, got 1"),
        (("metrics", "<b>"), {"0": {}}, "must be named by letters, digits and _.+-, got '<b>'"),
        (("versions", "jax"), None, "versions/jax must be a text, got None"),
        (("device", "cores"), "two", "device: cores must be an integer, got 'two'"),
        (("device", "cpu"), ..., "device: cpu must be present"),
        (("date",), "yesterday", "date must be a UTC time such as 2026-01-31T12:00:00Z, got 'yesterday'"),
        (("commit",), 7, "commit must be a text or null, got 7"),
        (("dirty",), "no", "dirty must be true, false or null, got 'no'"),
        (("wall_s",), -1.0, "wall_s must be at least 0, got -1.0"),
        (("wall_s",), True, "wall_s must be a number, got True"),
    ],
)
def test_a_record_edited_by_hand_is_refused_with_the_field(path, where, value, message):
    path.write_text(json.dumps(changed(where, value)))
    with pytest.raises(RecordError, match=message):
        read_record(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "must be JSON"),
        (b"{", "must be JSON"),
        (b"\xff\xfe", "must be JSON: 'utf-8'"),
        (b'{"a": NaN}', "numbers must be finite, got NaN"),
        (b'{"a": -Infinity}', "numbers must be finite, got -Infinity"),
        (b'{"a": 1e999}', "numbers must be finite, got 1e999"),
        (b'{"a": 1, "a": 2}', "keys must be different, got 'a' twice"),
        (b"1" * 5000, "integers must fit 64 bits"),
        (b"9223372036854775808", "integers must fit 64 bits"),
        (b"[" * 100_000, "nested too deep"),
        (b"[1]", "must be an object, got"),
    ],
)
def test_what_is_no_record_is_refused(path, text, message):
    path.write_bytes(text)
    with pytest.raises(RecordError, match=message):
        read_record(path)


def test_a_file_that_is_too_large_is_not_read(path):
    with path.open("wb") as file:
        file.truncate(LIMIT_BYTES + 1)
    with pytest.raises(RecordError, match=f"must be at most {LIMIT_BYTES} bytes, got {LIMIT_BYTES + 1}"):
        read_json(path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(st.sampled_from(sorted(VALID)), JSON)
def test_any_json_in_any_field_is_a_record_or_refused(path, field, value):
    path.write_text(json.dumps({**VALID, field: value}))
    try:
        found = read_record(path)
    except RecordError:
        return
    assert json.loads(found.to_json()) == {**VALID, field: value}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(st.data())
def test_any_damaged_byte_is_a_record_or_refused(path, data):
    text = bytearray(RECORD.to_json().encode())
    text[data.draw(st.integers(0, len(text) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(text)
    with contextlib.suppress(RecordError):  # and no other error
        assert read_record(path).schema == 1


def test_a_write_that_fails_leaves_the_old_file(path, monkeypatch):
    write_atomic(path, "old")

    def full(handle):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="disk full"):
        write_atomic(path, "new")
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


def test_the_environment_is_described():
    device = environment.device()
    assert device.platform == "cpu"
    assert device.cores >= 1
    assert device.cpu
    assert set(environment.versions()) == {"python", *environment.LIBRARIES}


def test_commit_and_dirt(tmp_path):
    def git(*arguments):
        environment.subprocess.run(["git", "-C", str(tmp_path), *arguments], check=True, capture_output=True)

    assert environment.commit(tmp_path) == (None, None)
    git("init")
    assert environment.commit(tmp_path) == (None, None)  # no commit yet
    (tmp_path / "code.py").write_text("1")
    git("add", ".")
    git("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false", "commit", "-m", "x")
    head, dirty = environment.commit(tmp_path)
    assert len(head) == 40
    assert dirty is False
    write_atomic(tmp_path / "experiments" / "records" / "a.json", "{}")
    assert environment.commit(tmp_path)[1] is False  # a record is no dirt
    (tmp_path / "code.py").write_text("2")
    assert environment.commit(tmp_path)[1] is True
