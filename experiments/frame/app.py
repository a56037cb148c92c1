"""The command line of an experiment: flags, bars, tables, figures, the record, what its claims come to."""

import dataclasses
import datetime
import importlib.util
import sys
import time
import types
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from experiments.frame import environment
from experiments.frame.checkpoint import Checkpoint, Live, fingerprint
from experiments.frame.claim import Claim, deviation, mean, show
from experiments.frame.flags import config_from_flags, define, help_text, parse
from experiments.frame.progress import check_seeds
from experiments.frame.record import Record, jsonable, write_atomic, write_record

USAGE, STOPPED = 2, 130  # exit codes


@dataclasses.dataclass(frozen=True, kw_only=True)
class Common:
    """The flags of every experiment."""

    smoke: bool = False  # the same path at tiny sizes; never into the committed records
    fresh: bool = False  # start over instead of continuing a run that was stopped
    record: str = ""  # where the record goes; empty: the committed records at the default config, else runs/
    help: bool = False  # show this


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """What a command line asks for, and where its results go."""

    name: str  # the experiment
    config: Any
    common: Common
    record: Path
    runs: Path  # folder of what is not committed
    parts: Path  # folder of the finished parts


def _request(
    module: types.ModuleType, name: str, common: Common, values: flags.FlagValues, root: Path
) -> Request:
    """Config and places.

    Raises:
        ValueError: a config that its dataclass refuses, a record that is a folder, or a smoke run into the
            committed records.
    """
    base = module.Config.smoke() if common.smoke else module.Config()
    config = config_from_flags(module.Config, values, base=base)
    if hasattr(config, "seeds"):
        check_seeds(config.seeds)
    facts = {
        "config": dataclasses.asdict(config),
        "code": environment.code_digest(Path(str(module.__file__))),
        "versions": environment.versions(),
        "device": dataclasses.asdict(environment.device()),
    }
    records, runs = root / "experiments" / "records", root / "runs" / name
    parts = runs / fingerprint(facts)
    if common.record:
        record = Path(common.record).resolve()
    elif common.smoke:
        record = runs / "smoke.json"
    elif config == module.Config():
        record = records / f"{name}.json"
    else:  # the committed record is that of the default config
        record = parts.with_suffix(".json")
    if record.is_dir():
        raise ValueError(f"record must be a file, got the folder {record}; add a name, such as {name}.json.")
    if common.smoke and record.is_relative_to(records.resolve()):
        raise ValueError(f"record must be outside {records} in a smoke run, got {record}; leave out --smoke.")
    return Request(name=name, config=config, common=common, record=record, runs=runs, parts=parts)


def _measure(module: types.ModuleType, request: Request, console: Console, root: Path) -> Record:
    """Runs the experiment and writes its record."""
    commit, dirty = environment.commit(root)
    date = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    checkpoint, start = Checkpoint(request.parts), time.perf_counter()
    if request.common.fresh:
        checkpoint.clear()
    with Live(console, checkpoint) as live:
        metrics = module.run(request.config, progress=live)
    record = Record(
        experiment=request.name,
        smoke=request.common.smoke,
        config=jsonable(dataclasses.asdict(request.config), "config"),
        seeds=tuple(dict.fromkeys(seed for seeds in metrics.values() for seed in seeds)),
        metrics=metrics,
        versions=environment.versions(),
        device=environment.device(),
        date=date,
        commit=commit,
        dirty=dirty,
        wall_s=round(time.perf_counter() - start + live.kept_s, 3),
    )
    record = write_record(request.record, record)
    checkpoint.clear()
    return record


def summary(record: Record) -> Table:
    """Every metric that is one number: mean and deviation over seeds, one column an arm."""
    table = Table(title=f"{record.experiment}, {len(record.seeds)} seed{'s' * (len(record.seeds) != 1)}")
    table.add_column("metric", overflow="fold")
    for arm in record.metrics:
        table.add_column(arm, justify="right", overflow="fold")
    arms = [list(seeds.values()) for seeds in record.metrics.values()]
    for name in dict.fromkeys(name for rows in arms for row in rows for name in row):
        numbers = [[row[name] for row in rows if isinstance(row.get(name), int | float)] for rows in arms]
        cells = [
            show(mean(found), spread=deviation(found)) if found and len(found) == len(rows) else "-"
            for found, rows in zip(numbers, arms, strict=True)
        ]
        if set(cells) != {"-"}:
            table.add_row(escape(name), *cells)
    return table


def verdicts(claims: Iterable[Claim], record: Record) -> Table:
    """What each claim comes to."""
    table = Table(title="claims")
    table.add_column("claim", overflow="fold", min_width=28)
    table.add_column("published", justify="right", overflow="fold", max_width=12)
    table.add_column("ours", justify="right", overflow="fold", max_width=14)
    table.add_column("verdict", overflow="fold")
    colours = {True: "green", False: "red", None: "yellow"}
    for claim in claims:
        outcome = claim.evaluate(record.metrics)
        table.add_row(
            f"{claim.id}\n[dim]{escape(claim.rule)}[/dim]",
            escape(show(claim.published, unit=claim.unit)),
            escape(show(outcome.ours, spread=outcome.spread, unit=claim.unit)),
            "not judged" if record.smoke else f"[{colours[outcome.holds]}]{outcome.verdict}[/]",
        )
    return table


def save_figures(module: types.ModuleType, record: Record, request: Request) -> list[Path]:
    """A PNG to look at under `runs/` and, beside the record, an SVG for the ledger."""
    if not hasattr(module, "figures"):
        return []
    if importlib.util.find_spec("matplotlib") is None:
        raise ModuleNotFoundError(
            "figures need matplotlib; pip install 'efficient[plots]'. The record is kept."
        )
    from experiments.frame import style

    with style.context():
        made = module.figures(record)
    saved = []
    for name, one in made.items():
        file = f"{request.record.stem}.{name}"
        for path in (request.runs / f"{file}.png", request.record.with_name(f"{file}.svg")):
            write_atomic(path, style.render(one, path.suffix[1:]))
            saved.append(path)
    return saved


def report(module: types.ModuleType, record: Record, request: Request, console: Console) -> None:
    """Prints the tables and the claims, saves the figures, and says where everything is."""
    for table in module.tables(record) if hasattr(module, "tables") else [summary(record)]:
        console.print(table)
    console.print(verdicts(module.CLAIMS, record))
    if record.smoke:
        console.print("A smoke run: its sizes show that the path works, they judge no claim.")
    for place in [request.record, *save_figures(module, record, request)]:
        console.print(f"wrote {place}", highlight=False, soft_wrap=True, markup=False)


def run_app(
    module: types.ModuleType, name: str, argv: Sequence[str], *, root: Path = environment.ROOT
) -> int:
    """Does what a command line asks of an experiment.

    Args:
        module: has `Config`, `run`, `CLAIMS` and, if it likes, `tables` and `figures`.
        name: of the experiment, as in its record's file name.
        argv: the command line, program name first.
        root: the folder of `experiments/records/` and `runs/`.

    Returns:
        The exit code: 0 also where a claim does not hold, for that is a result.
    """
    console, errors = Console(), Console(stderr=True)
    values = flags.FlagValues()
    define(Common, values, group="flags of every experiment")
    define(module.Config, values, group="flags of this experiment")
    try:
        parse(values, argv)
        common = config_from_flags(Common, values)
        if common.help:
            print(help_text(module, values))
            return 0
        request = _request(module, name, common, values, root)
    except ValueError as error:
        errors.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        return USAGE
    try:
        record = _measure(module, request, errors, root)
    except KeyboardInterrupt:
        errors.print("stopped; the same command continues at the first part that is not finished.")
        return STOPPED
    report(module, record, request, console)
    return 0


def main() -> None:
    """Runs the module that is `__main__` as an experiment: the last line of each experiment's file."""
    module = sys.modules["__main__"]
    sys.exit(run_app(module, Path(str(module.__file__)).stem, sys.argv))
