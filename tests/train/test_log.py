import json
import struct
import sys

import pytest

from efficient.train import JsonLines, TensorBoard


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_rows_are_lines_and_what_is_not_finite_is_null(tmp_path):
    log = JsonLines(tmp_path / "run.jsonl")
    log({"step": 1, "loss": 0.1})
    log({"step": 2, "loss": float("nan"), "eval": float("inf")})
    assert rows(tmp_path / "run.jsonl") == [{"step": 1, "loss": 0.1}, {"step": 2, "loss": None, "eval": None}]


def test_a_resumed_run_replaces_the_rows_that_it_writes_again(tmp_path):
    path = tmp_path / "run.jsonl"
    good = '{"step": 1}\n{"step": 2}\n{"step": 3}\n'
    path.write_text(
        good + '[]\n{"step": "x"}\n{"no": 1}\n\xff\n' + "[" * 100_000 + '\n{"step": 4, "lo'
    )  # killed here
    log = JsonLines(path)
    log({"step": 3, "again": 1})
    log({"step": 4, "again": 1})
    assert rows(path) == [{"step": 1}, {"step": 2}, {"step": 3, "again": 1}, {"step": 4, "again": 1}]


def scalars(folder):
    """(tag, step, value) of every event of every file: records are length, crc, protobuf, crc."""
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for path in sorted(folder.iterdir()):
        data, at = path.read_bytes(), 0
        while at < len(data):
            (length,) = struct.unpack_from("<Q", data, at)
            event = Event.FromString(data[at + 12 : at + 12 + length])
            found += [(value.tag, event.step, value.simple_value) for value in event.summary.value]
            at += 16 + length
    return found


def test_tensorboard_reads_the_rows(tmp_path, monkeypatch):
    monkeypatch.setitem(
        sys.modules, "torch", None
    )  # tensorboardX imports it where it can, which takes seconds
    log = TensorBoard(tmp_path)
    log({"step": 1, "train/loss": 0.5})
    log({"step": 2, "train/loss": 0.25, "eval/accuracy": 1.0})
    log.close()
    log.close()  # twice is once
    assert scalars(tmp_path) == [("train/loss", 1, 0.5), ("train/loss", 2, 0.25), ("eval/accuracy", 2, 1.0)]


def test_without_the_package_it_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(
        ValueError, match=r"TensorBoard must have tensorboardX, .* pip install 'efficient\[logs\]'"
    ):
        TensorBoard(tmp_path)({"step": 1})
