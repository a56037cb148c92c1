"""Finished parts of a run, kept until it ends, so that a killed run continues at the next part.

One JSON file a part under `runs/<experiment>/<hash>/`; the hash is of the config, the code, the versions and
the device, so that a run of anything else starts over by itself.
"""

import hashlib
import json
import re
import shutil
import time
from collections.abc import Callable, Iterable, Sized
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from experiments.frame.progress import Progress, T
from experiments.frame.record import jsonable, read_json, write_atomic


def fingerprint(facts: dict[str, Any]) -> str:
    """Twelve hexadecimal digits of SHA-256 of the facts as JSON with sorted keys."""
    return hashlib.sha256(json.dumps(jsonable(facts), sort_keys=True).encode()).hexdigest()[:12]


class Checkpoint:
    """Finished parts in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, name: str) -> Path:
        """The file of a part.

        Raises:
            ValueError: a name that could leave the folder, or that a file system could fold into another.
        """
        if not re.fullmatch(r"[a-z0-9][a-z0-9_.+-]*", name):
            raise ValueError(
                f"part must be named by lower case letters, digits and _.+-, got {name!r}; rename it."
            )
        return self.folder / f"{name}.json"

    def load(self, name: str) -> tuple[Any, float] | None:
        """A finished part's value and the seconds that it took, or None.

        Raises:
            ValueError: its file was damaged.
        """
        path = self.path(name)
        if not path.exists():
            return None
        kept = read_json(path)
        if (
            not isinstance(kept, dict)
            or kept.keys() != {"value", "wall_s"}
            or not isinstance(kept["wall_s"], float)
        ):
            raise ValueError(
                f"{path} must be a finished part with value and wall_s, got other JSON; pass --fresh."
            )
        return kept["value"], kept["wall_s"]

    def save(self, name: str, value: Any, wall_s: float) -> Any:
        """Keeps a part; returns its value as `load` would, so that a resumed run sees the same."""
        value = jsonable(value, name)
        write_atomic(self.path(name), json.dumps({"value": value, "wall_s": float(wall_s)}, allow_nan=False))
        return value

    def clear(self) -> None:
        """Forgets every part: the run has ended, or starts over."""
        shutil.rmtree(self.folder, ignore_errors=True)


class Live(Progress):
    """Bars on a console and parts in a checkpoint; use it as a context manager."""

    def __init__(self, console: Console, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self.kept_s = 0.0  # seconds of the parts that earlier runs did
        self._names: list[str] = []
        self._bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
        )

    def __enter__(self) -> "Live":
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def part(self, name: str, compute: Callable[[], Any]) -> Any:
        """A part inside another has its name after the other's."""
        full = ".".join([*self._names, name])
        kept = self.checkpoint.load(full)
        if kept is not None:
            self.kept_s += kept[1]
            self._bars.console.print(
                f"{full}: kept from the run that stopped ({kept[1]:.1f} s)", highlight=False
            )
            return kept[0]
        start, kept_before = time.perf_counter(), self.kept_s
        self._say(f"{full}: started")
        self._names.append(name)
        try:
            value = compute()
        finally:
            self._names.pop()
        seconds = time.perf_counter() - start + self.kept_s - kept_before
        self._say(f"{full}: done ({seconds:.1f} s)")
        return self.checkpoint.save(full, value, seconds)

    def _say(self, line: str) -> None:
        """A line where there is no terminal to draw bars on."""
        if not self._bars.console.is_terminal:
            print(line, file=self._bars.console.file, flush=True)

    def track(self, items: Iterable[T], label: str, *, total: int | None = None) -> Iterable[T]:
        """A bar that goes away when it is full."""
        if total is None and isinstance(items, Sized):
            total = len(items)
        task = self._bars.add_task(" ".join([*self._names, label]), total=total)
        try:
            for item in items:
                yield item
                self._bars.advance(task)
        finally:
            self._bars.remove_task(task)
