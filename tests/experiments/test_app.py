"""The command line of an experiment, and runs that are killed."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest
from rich.table import Table

from experiments.frame import app, by_seed
from experiments.frame.checkpoint import Checkpoint
from experiments.frame.record import RecordError, read_record
from tests.experiments.sample import closed_form

ROOT = Path(__file__).resolve().parents[2]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    seeds: tuple[int, ...] = (0, 1, 2)

    @classmethod
    def smoke(cls):
        return cls(seeds=(0,))


def experiment(one, **more):
    """A module-like experiment whose arms `one(seed, progress)` computes."""
    return types.SimpleNamespace(
        Config=Config,
        CLAIMS=closed_form.CLAIMS,
        __file__=__file__,
        __doc__="A tiny one.",
        __name__="tiny",
        run=lambda config, *, progress=None: by_seed(one, config.seeds, progress=progress),
        **more,
    )


def arms(seed):
    return {"baseline": {"snr_db": 1.0 * seed}, "treatment": {"snr_db": 2.0 * seed}}


class Stop:
    """Computes arms, notes the seeds, and raises at one of them once."""

    def __init__(self, seed, error):
        self.at, self.error, self.seen = seed, error, []

    def __call__(self, seed, progress):
        self.seen.append(seed)
        if seed == self.at:
            self.at = None
            raise self.error
        return arms(seed)


def files(root):
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


@pytest.fixture(autouse=True)
def _narrow(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")


@pytest.fixture
def go(tmp_path):
    def run(module, *argv, name="tiny"):
        return app.run_app(module, name, ["program", *argv], root=tmp_path)

    return run


def test_a_whole_run_writes_the_committed_record_and_its_figures(go, tmp_path, capsys):
    assert go(closed_form, name="closed_form") == 0
    assert files(tmp_path) == [
        "experiments/records/closed_form.curve.svg",
        "experiments/records/closed_form.json",
        "runs/closed_form/closed_form.curve.png",
    ]
    record = read_record(tmp_path / "experiments/records/closed_form.json")
    assert record.metrics == closed_form.run(closed_form.Config())  # run is pure: the bars change nothing
    assert (record.smoke, record.seeds) == (False, (0, 1, 2))
    out = capsys.readouterr().out
    for path in files(tmp_path):
        assert f"wrote {tmp_path / path}" in out
    for text in ("holds", "does not hold", "not run", "snr_db"):
        assert text in out
    assert max(len(line) for line in out.splitlines() if not line.startswith("wrote")) <= 80


def test_a_smoke_run_leaves_the_committed_records_alone(go, tmp_path, capsys):
    module = experiment(lambda seed, progress: arms(seed))
    assert go(module, "--smoke") == 0
    assert files(tmp_path) == ["runs/tiny/smoke.json"]
    assert read_record(tmp_path / "runs/tiny/smoke.json").smoke
    assert "judge no claim" in capsys.readouterr().out
    where = tmp_path / "experiments" / "records" / "tiny.json"
    assert go(module, "--smoke", f"--record={where}") == app.USAGE
    assert f"must be outside {tmp_path / 'experiments' / 'records'} in a smoke run" in capsys.readouterr().err
    assert not where.exists()


def test_a_record_that_is_a_folder_is_refused_before_the_run(go, tmp_path, capsys):
    assert go(experiment(None), f"--record={tmp_path}") == app.USAGE
    assert f"record must be a file, got the folder {tmp_path}" in capsys.readouterr().err


def test_only_the_default_config_is_committed(go, tmp_path):
    module = experiment(lambda seed, progress: arms(seed))
    assert go(module, "--seeds=5") == 0
    (written,) = files(tmp_path)
    assert written.startswith("runs/tiny/")
    assert read_record(tmp_path / written).seeds == (5,)
    assert go(module, "--seeds=5", f"--record={tmp_path / 'mine.json'}") == 0
    assert read_record(tmp_path / "mine.json").config == {"seeds": [5]}


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--seeds=1,1", "error: seeds must be at least one and different, got (1, 1)"),
        ("--smok", "error: flag must be a known one, got --smok; did you mean --smoke?"),
    ],
)
def test_a_bad_request_is_an_error_without_traceback(go, capsys, argument, message):
    assert go(experiment(None), argument) == app.USAGE
    captured = capsys.readouterr()
    assert captured.err.startswith(message)
    assert captured.out == ""


def test_help_says_what_there_is(go, tmp_path, capsys):
    assert go(experiment(None), "--help") == 0
    out = capsys.readouterr().out
    assert "A tiny one." in out
    assert "--[no]smoke" in out
    assert "--seeds" in out
    assert files(tmp_path) == []


def test_an_experiment_can_print_its_own_tables(go, capsys):
    def tables(record):
        yield Table("arm", title=record.experiment.upper())

    assert go(experiment(lambda seed, progress: arms(seed), tables=tables)) == 0
    out = capsys.readouterr().out
    assert "TINY" in out
    assert "snr_db" not in out


def test_without_matplotlib_the_record_is_kept(go, tmp_path, monkeypatch):
    monkeypatch.setattr(app.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'efficient\[plots\]'"):
        go(experiment(lambda seed, progress: arms(seed), figures=dict))
    assert files(tmp_path) == ["experiments/records/tiny.json"]


def test_a_run_that_was_stopped_continues(go, tmp_path, capsys):
    stop = Stop(1, KeyboardInterrupt())
    assert go(experiment(stop)) == app.STOPPED
    assert "the same command continues" in capsys.readouterr().err
    assert go(experiment(stop), "--seeds=7") == 0  # another config knows nothing of it
    assert go(experiment(stop)) == 0
    assert stop.seen == [0, 1, 7, 1, 2]
    assert "seed-0: kept from the run that stopped" in capsys.readouterr().err
    assert read_record(tmp_path / "experiments/records/tiny.json").metrics == {
        "baseline": {seed: {"snr_db": 1.0 * seed} for seed in (0, 1, 2)},
        "treatment": {seed: {"snr_db": 2.0 * seed} for seed in (0, 1, 2)},
    }
    assert go(experiment(stop)) == 0  # the run had ended: this one measures again
    assert stop.seen[5:] == [0, 1, 2]


def test_fresh_starts_over(go):
    stop = Stop(1, KeyboardInterrupt())
    assert go(experiment(stop)) == app.STOPPED
    assert go(experiment(stop), "--fresh") == 0
    assert stop.seen == [0, 1, 0, 1, 2]


def test_parts_inside_a_part_are_kept_too(go, tmp_path):
    seen = []

    def one(seed, progress):
        def compute(arm):
            seen.append((seed, arm))
            if len(seen) == 2:
                raise KeyboardInterrupt
            time.sleep(0.02)
            return {"n": [seed]}

        return {arm: progress.part(arm, lambda arm=arm: compute(arm)) for arm in ("baseline", "pruned")}

    assert go(experiment(one), "--seeds=3") == app.STOPPED
    (kept,) = files(tmp_path)
    assert kept.endswith("/seed-3.baseline.json")
    assert go(experiment(one), "--seeds=3", f"--record={tmp_path / 'r.json'}") == 0
    assert seen == [(3, "baseline"), (3, "pruned"), (3, "pruned")]
    assert read_record(tmp_path / "r.json").wall_s >= 0.04  # with the part of the run that stopped


def test_metrics_with_one_arm_are_refused_and_the_parts_kept(go, tmp_path):
    with pytest.raises(RecordError, match="must be a `baseline` and at least one other arm"):
        go(experiment(lambda seed, progress: {"baseline": {}}), "--seeds=0")
    assert [path.rpartition("/")[2] for path in files(tmp_path)] == ["seed-0.json"]


def test_a_part_is_named_safely_and_read_strictly(tmp_path):
    checkpoint = Checkpoint(tmp_path)
    for name in ("../x", "A", "", "a/b"):
        with pytest.raises(ValueError, match=r"part must be named by lower case letters, digits and _\.\+-"):
            checkpoint.path(name)
    checkpoint.path("a").write_text(json.dumps({"value": 1}))
    with pytest.raises(ValueError, match="must be a finished part with value and wall_s, got other JSON"):
        checkpoint.load("a")


SLOW = """
import dataclasses, os, sys, time
from pathlib import Path
from experiments.frame import app, by_seed

HERE, CLAIMS = Path(__file__).parent, ()

@dataclasses.dataclass(frozen=True)
class Config:
    seeds: tuple[int, ...] = (0, 1, 2)

def run(config, *, progress=None):
    def one(seed, progress):
        with open(HERE / "log", "a") as log:
            log.write(f"{seed}\\n")
        if seed == 2 and "HANG" in os.environ:
            time.sleep(600)
        return {"baseline": {"n": seed}, "treatment": {"n": 2 * seed}}
    return by_seed(one, config.seeds, progress=progress)

if __name__ == "__main__":
    sys.exit(app.run_app(sys.modules["__main__"], "slow", sys.argv, root=HERE))
"""


def test_a_killed_process_continues_at_the_next_part(tmp_path):
    script, log = tmp_path / "slow.py", tmp_path / "log"
    script.write_text(SLOW)
    settings = os.environ | {"PYTHONPATH": str(ROOT), "HANG": "1"}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([sys.executable, str(script)], env=settings, **quiet) as process:
        deadline = time.monotonic() + 120
        while not log.exists() or log.read_text() != "0\n1\n2\n":
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    slow = types.ModuleType("slow")
    slow.__file__ = str(script)
    exec(compile(SLOW, script, "exec"), slow.__dict__)
    assert app.run_app(slow, "slow", ["slow"], root=tmp_path) == 0
    assert log.read_text() == "0\n1\n2\n2\n"
    record = read_record(tmp_path / "experiments" / "records" / "slow.json")
    assert record.metrics["treatment"] == {seed: {"n": 2 * seed} for seed in (0, 1, 2)}
    assert list((tmp_path / "runs").rglob("*.json")) == []


def test_the_frame_imports_neither_jax_nor_matplotlib():
    code = (
        "import sys, experiments.ledger, experiments.frame; print({'jax', 'matplotlib'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
