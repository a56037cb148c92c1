"""The ledger: one row a claim, from committed records only."""

import dataclasses
import html.parser
import json
import shutil
import sys
import types

import pytest

from experiments import ledger, pruning_table
from experiments.frame import Claim, Outcome, Record, app, entry
from experiments.frame.entry import duration, entries
from experiments.frame.record import Device, RecordError, read_record, write_record
from tests.experiments.sample import closed_form

PACKAGE = "tests.experiments.sample"


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A root with the record of a whole run."""
    root = tmp_path_factory.mktemp("measured")
    assert app.run_app(closed_form, "closed_form", ["program"], root=root) == 0
    return root


@pytest.fixture
def root(measured, tmp_path):
    return shutil.copytree(measured, tmp_path / "root")


@pytest.fixture
def path(root):
    return root / "experiments" / "records" / "closed_form.json"


def run(root, *argv):
    return ledger.run_ledger(["ledger", *argv], root=root, package=PACKAGE)


def test_json_is_every_claim_and_nothing_else(root, capsys):
    assert run(root, "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    names = ["id", "experiment", "paper", "metric", "published", "ours", "spread", "seeds", "holds"]
    assert [list(row) for row in rows] == [names] * 3
    assert [row["holds"] for row in rows] == [True, False, None]
    assert [row["seeds"] for row in rows] == [[0, 1, 2], [0, 1, 2], []]
    assert rows[0]["ours"] == pytest.approx(6.02, abs=0.5)
    assert rows[0]["published"] == 6.02
    assert rows[2]["ours"] is None
    assert not (root / "RESULTS.md").exists()


def test_without_a_record_no_claim_holds(tmp_path, capsys):
    assert run(tmp_path, "--json") == 0
    assert [row["holds"] for row in json.loads(capsys.readouterr().out)] == [None] * 3
    assert run(tmp_path) == 0
    assert "No record." in (tmp_path / "RESULTS.md").read_text()


def test_check_says_what_is_stale(root, capsys):
    assert run(root, "--check") == 1
    assert run(root) == 0
    assert run(root, "--check") == 0
    text = (root / "RESULTS.md").read_text()
    assert run(root) == 0
    assert (root / "RESULTS.md").read_text() == text  # the same records give the same bytes
    capsys.readouterr()
    (root / "docs" / "ledger.html").write_text("edited")
    assert run(root, "--check") == 1
    assert (
        capsys.readouterr().err
        == f"{root / 'docs' / 'ledger.html'} is stale; run python -m experiments.ledger.\n"
    )


def test_markdown_has_one_row_a_claim(root):
    run(root)
    text = (root / "RESULTS.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| [closed")]
    assert [row.count(" | ") for row in rows] == [6, 6, 6]  # a bar inside a text is escaped
    assert [row.rsplit(" | ", 1)[1] for row in rows] == ["holds |", "**does not hold** |", "**not run** |"]
    assert "**holds: 1, does not hold: 1, not run: 1**" in text
    assert "<script>" not in text


class Page(html.parser.HTMLParser):
    """Which elements a page has, and what it loads."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.sources, self.open = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.sources += [
            value for name, value in attrs if name in ("src", "srcset", "style") or name.startswith("on")
        ]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_self_contained_and_escapes_what_records_say(root, path):
    value = json.loads(path.read_text())
    evil = "<img src=x onerror=alert(1)>\"'<script>alert(2)</script>"
    value["versions"]["jax"] = value["device"]["cpu"] = value["commit"] = evil
    path.write_text(json.dumps(value))
    path.with_name("closed_form.curve.svg").write_text(evil)
    assert run(root) == 0
    page = Page((root / "docs" / "ledger.html").read_text())
    assert page.open == []
    assert "script" not in page.tags
    assert page.tags.count("img") == 1
    assert [source[:26] for source in page.sources] == ["data:image/svg+xml;base64,"]
    assert "<script>" not in (root / "RESULTS.md").read_text()
    assert "<img" not in (root / "RESULTS.md").read_text()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"smoke": True}, "must be a whole run of closed_form, got a smoke run; run python -m"),
        ({"experiment": "other"}, "must be a whole run of closed_form, got other"),
    ],
)
def test_a_record_of_something_else_is_refused(root, path, capsys, change, message):
    write_record(path, dataclasses.replace(read_record(path), **change))
    with pytest.raises(RecordError, match=message):
        entries(PACKAGE, path.parent)
    assert run(root, "--json") == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err


def test_a_damaged_record_is_an_error_and_writes_nothing(root, path, capsys):
    path.write_text('{"schema": NaN}')
    assert run(root) == 2
    assert "numbers must be finite, got NaN" in capsys.readouterr().err
    assert not (root / "RESULTS.md").exists()


def test_a_metric_that_diverged_does_not_hold(root, path, capsys):
    value = json.loads(path.read_text())
    value["metrics"]["treatment"]["1"]["snr_db"] = None
    path.write_text(json.dumps(value))
    assert run(root, "--json") == 0
    row = json.loads(capsys.readouterr().out)[0]
    assert (row["ours"], row["spread"], row["holds"]) == (None, None, False)


def test_one_id_belongs_to_one_claim(monkeypatch, tmp_path):
    names = ["a", "b"]
    modules = {"pack": types.SimpleNamespace(__path__=[])}
    modules |= {
        f"pack.{name}": types.SimpleNamespace(
            CLAIMS=closed_form.CLAIMS[:1], __name__=f"pack.{name}", __doc__=""
        )
        for name in names
    }
    monkeypatch.setattr(entry.importlib, "import_module", modules.__getitem__)
    infos = [types.SimpleNamespace(name=name, ispkg=False) for name in names]
    monkeypatch.setattr(entry.pkgutil, "iter_modules", lambda path: infos)
    with pytest.raises(ValueError, match="id must be different for every claim, got 'closed-form-bit' twice"):
        entries("pack", tmp_path)


def test_an_unknown_flag_is_an_error(tmp_path, capsys):
    assert run(tmp_path, "--jsn") == 2
    assert "did you mean --json?" in capsys.readouterr().err
    assert run(tmp_path, "--help") == 0
    assert "--[no]check" in capsys.readouterr().out


def test_what_an_experiment_prints_at_import_is_no_json(monkeypatch, tmp_path, capsys):
    def noisy(package, records):
        print("loading")
        return []

    monkeypatch.setattr(ledger, "entries", noisy)
    assert run(tmp_path, "--json") == 0
    assert capsys.readouterr() == ("[]\n", "loading\n")


def hand_made(metrics):
    return Record(
        experiment="tiny",
        smoke=False,
        config={},
        seeds=(0,),
        metrics=metrics,
        versions={"jax": "0.10.2"},
        device=Device(platform="gpu", kind="H200", count=1, cores=16, cpu="a CPU"),
        date="2026-01-31T12:00:59Z",
        commit="0123456789abcdef",
        dirty=True,
        wall_s=7500.0,
    )


def test_provenance_by_hand():
    record = hand_made({"baseline": {0: {}}, "pruned": {0: {}}})
    assert entry.provenance(record) == (
        "Measured 2026-01-31 12:00 UTC in 2 h 05 min on 1 x H200, 16 cores of a CPU; jax 0.10.2; "
        "commit 0123456789ab with uncommitted changes."
    )
    clean = dataclasses.replace(
        record, dirty=False, commit=None, device=dataclasses.replace(record.device, platform="cpu")
    )
    assert entry.provenance(clean).endswith("in 2 h 05 min on 16 cores of a CPU; jax 0.10.2; no commit.")


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0123, "0.0123 s"), (119.0, "119 s"), (150.0, "2 min"), (7200, "2 h 00 min")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def claim_of(name, holds):
    """A claim of a pruning experiment and what it came to."""
    claim = Claim(
        id=f"{name}-gap", paper="A|B", metric="a gap", published="above 0", rule="it is above", check=len
    )
    ours = None if holds is None else -1.5
    return claim, Outcome(ours=ours, seeds=(0,) if holds is not None else (), holds=holds)


def entry_of(name, record, holds):
    return entry.Entry(
        name=name, module=f"m.{name}", title="T", record=record, rows=(claim_of(name, holds),), figures=()
    )


def test_pruning_sets_cost_beside_result_and_names_what_failed():
    metrics = {
        "baseline": {0: {"accuracy": 90.0}, 1: {"accuracy": 92.0}},
        "weights.wanda": {
            seed: {"seconds": 0.5, "statistics_bytes": 2500, "accuracy": 88.0 + 2 * seed} for seed in (0, 1)
        },
        "curve": {0: {"seconds": 1.0}, 1: {"seconds": 1.0}},  # without a result: no method
    }
    measured = hand_made(metrics)
    text = pruning_table.pruning(
        [
            entry_of("thinet", None, None),
            entry_of("pruning_methods", measured, False),
            entry_of("other", measured, False),
        ]
    )
    lines = text.splitlines()
    assert [line for line in lines if line.startswith("| wanda")] == [
        "| wanda | - | 0.5 | 2.5 | - | - | 89.0 ± 1.4 |"  # deviation of 88 and 90: sqrt(2)
    ]
    assert [line for line in lines if line.startswith("| [")] == [
        "| [pruning_methods](../RESULTS.md#pruning_methods) | T | 2 h 05 min | 0 | 1 | 0 |",
        "| [thinet](../RESULTS.md#thinet) | T | - | 0 | 0 | 1 |",
    ]
    assert [line for line in lines if line.startswith("- ")] == [
        r"- **pruning\_methods-gap**: a gap. Published: above 0 (A\|B); ours: -1.5. Asked for: it is above."
    ]
    assert "Dense: 91.0 ± 1.4 %." in text
    assert "Nothing that was run" not in text


def test_pruning_without_records_says_so():
    text = pruning_table.pruning([entry_of("amc", None, None)])
    assert text.endswith("## What did not reproduce\n\nNothing that was run.\n")
    assert "tuned" not in text


def test_the_committed_experiments_are_all_readable():
    assert "experiments" in sys.modules
    found = entries("experiments", ledger.ROOT / "experiments" / "records")
    assert all(one.rows for one in found)
