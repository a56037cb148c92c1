"""Rewrites the ledger, `RESULTS.md` and `docs/ledger.html`, and `docs/pruning.md` from the committed records.

`python -m experiments.ledger` writes them, `--check` says whether they are up to date, `--json` prints the
claims.
"""

import contextlib
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from experiments.frame.entry import Entry, claims_json, entries, tally
from experiments.frame.environment import ROOT
from experiments.frame.flags import config_from_flags, define, help_text, parse
from experiments.frame.markdown import results
from experiments.frame.page import page
from experiments.frame.record import RecordError, write_atomic
from experiments.pruning_table import pruning


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What the command line can ask for."""

    json: bool = False  # print every claim as JSON and write nothing
    check: bool = False  # write nothing; exit with 1 where a file is not what the records say
    help: bool = False  # show this


def run_ledger(argv: Sequence[str], *, root: Path = ROOT, package: str = "experiments") -> int:
    """Does what a command line asks of the ledger.

    Args:
        argv: the command line, program name first.
        root: the folder of `experiments/records/`, `RESULTS.md` and `docs/`.
        package: where the experiments are.

    Returns:
        The exit code: 1 where `--check` finds a stale file, 2 for a bad flag or record.
    """
    values = flags.FlagValues()
    define(Options, values)
    try:
        parse(values, argv)
        options = config_from_flags(Options, values)
        if options.help:
            print(help_text(sys.modules[__name__], values))
            return 0
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    try:
        with contextlib.redirect_stdout(sys.stderr):  # what an experiment prints at import is no JSON
            found = entries(package, root / "experiments" / "records")
    except RecordError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if options.json:
        print(json.dumps(claims_json(found), indent=1, ensure_ascii=False, allow_nan=False))
        return 0
    files = {
        root / "RESULTS.md": results(found),
        root / "docs" / "ledger.html": page(found),
        root / "docs" / "pruning.md": pruning(found),
    }
    return _check(files) if options.check else _write(files, found)


def _check(files: dict[Path, str]) -> int:
    """1 where a file is missing or is not what the records say."""
    stale = [path for path, text in files.items() if not path.exists() or path.read_bytes() != text.encode()]
    for path in stale:
        print(f"{path} is stale; run python -m experiments.ledger.", file=sys.stderr)
    return 1 if stale else 0


def _write(files: dict[Path, str], found: list[Entry]) -> int:
    for path, text in files.items():
        write_atomic(path, text)
        print(f"wrote {path}")
    print("claims: " + ", ".join(f"{verdict}: {count}" for verdict, count in tally(found).items()))
    return 0


if __name__ == "__main__":
    sys.exit(run_ledger(sys.argv))
