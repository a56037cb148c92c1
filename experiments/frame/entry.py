"""The ledger's entries: every experiment of a package with its claims, committed record and figures."""

import dataclasses
import importlib
import inspect
import math
import pkgutil
from pathlib import Path
from typing import Any

from experiments.frame.claim import Claim, Outcome
from experiments.frame.record import Record, RecordError, read_record


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
    """One experiment in the ledger."""

    name: str
    module: str  # what `python -m` takes
    title: str  # the first line of its docstring
    record: Record | None
    rows: tuple[tuple[Claim, Outcome], ...]
    figures: tuple[tuple[str, bytes], ...]  # name and SVG


def _entry(module: Any, records: Path) -> Entry:
    name = module.__name__.rpartition(".")[2]
    path = records / f"{name}.json"
    record = read_record(path) if path.exists() else None
    if record is not None and (record.smoke or record.experiment != name):
        seen = "a smoke run" if record.smoke else record.experiment
        raise RecordError(
            f"{path} must be a whole run of {name}, got {seen}; run python -m {module.__name__}."
        )
    pictures = sorted(records.glob(f"{name}.*.svg")) if record else []
    return Entry(
        name=name,
        module=module.__name__,
        title=(inspect.getdoc(module) or name).partition("\n")[0],
        record=record,
        rows=tuple((claim, claim.evaluate(record.metrics if record else None)) for claim in module.CLAIMS),
        figures=tuple((picture.stem.partition(".")[2], picture.read_bytes()) for picture in pictures),
    )


def entries(package: str, records: Path) -> list[Entry]:
    """Every module of `package` that has `CLAIMS`, by name.

    Args:
        package: its modules are imported; packages inside it are not searched.
        records: the folder of the committed records, `<name>.json` and `<name>.<figure>.svg`.

    Raises:
        RecordError: a record that `read_record` refuses, of a smoke run or of another experiment.
        ValueError: two claims of one id.
    """
    found = []
    for info in pkgutil.iter_modules(importlib.import_module(package).__path__):
        module = None if info.ispkg else importlib.import_module(f"{package}.{info.name}")
        if hasattr(module, "CLAIMS"):
            found.append(_entry(module, records))
    ids = [claim.id for entry in found for claim, _ in entry.rows]
    for one in ids:
        if ids.count(one) > 1:
            raise ValueError(f"id must be different for every claim, got {one!r} twice; rename one.")
    return found


def claims_json(found: list[Entry]) -> list[dict[str, Any]]:
    """Every claim as JSON; what was not run, or is not finite, is null."""
    return [
        {
            "id": claim.id,
            "experiment": entry.name,
            "paper": claim.source,
            "metric": ", ".join(filter(None, [claim.metric, claim.unit])),
            "published": claim.published,
            "ours": None if isinstance(outcome.ours, float) and math.isnan(outcome.ours) else outcome.ours,
            "spread": outcome.spread,
            "seeds": list(outcome.seeds),
            "holds": outcome.holds,
        }
        for entry in found
        for claim, outcome in entry.rows
    ]


def tally(found: list[Entry]) -> dict[str, int]:
    """How many claims have each verdict."""
    verdicts = [outcome.verdict for entry in found for _, outcome in entry.rows]
    return {verdict: verdicts.count(verdict) for verdict in ("holds", "does not hold", "not run")}


def duration(seconds: float) -> str:
    """A wall time for a reader."""
    if seconds < 120:
        return f"{seconds:.3g} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"


def provenance(record: Record) -> str:
    """Where, when and with what a record was measured."""
    device = record.device
    accelerator = "" if device.platform == "cpu" else f"{device.count} x {device.kind}, "
    changed = " with uncommitted changes" if record.dirty else ""
    commit = f"commit {record.commit[:12]}{changed}" if record.commit else "no commit"
    when = record.date[:16].replace("T", " ")
    versions = ", ".join(f"{name} {version}" for name, version in record.versions.items())
    return (
        f"Measured {when} UTC in {duration(record.wall_s)} on {accelerator}{device.cores} cores of "
        f"{device.cpu}; {versions}; {commit}."
    )
