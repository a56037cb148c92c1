"""Log: where the rows of a history go while a run goes on.

A logger is a callable that takes a row, `{"step": 100, "train/loss": 0.3, ...}`. A resumed run writes some
rows again: the first row that a logger gets puts aside what its file had from that step on.
"""

import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Row = dict[str, float]
Logger = Callable[[Mapping[str, float]], None]


class JsonLines:
    """One JSON object a row in a text file; a number that is not finite is null, as JSON has no NaN."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        self._is_trimmed = False

    def __call__(self, row: Mapping[str, float]) -> None:
        """Appends a row."""
        if not self._is_trimmed:
            self._trim(row["step"])
            self._is_trimmed = True
        finite = {name: value if math.isfinite(value) else None for name, value in row.items()}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(finite) + "\n")

    def _trim(self, step: float) -> None:
        """Keeps the rows before `step`; a line that a killed run left unfinished goes too."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        lines = (
            self._path.read_text(encoding="utf-8", errors="replace").splitlines()
            if self._path.exists()
            else []
        )
        kept = [line for line in lines if _step_of(line) < step]
        unfinished = self._path.with_name(self._path.name + ".tmp")
        unfinished.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
        os.replace(unfinished, self._path)


def _step_of(line: str) -> float:
    """The step of a line, or infinity where it is no row."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return math.inf
    step = row.get("step") if isinstance(row, dict) else None
    return step if isinstance(step, int | float) else math.inf


class TensorBoard:
    """Rows as scalars in a folder that TensorBoard reads; needs the package tensorboardX.

    Raises:
      ValueError: at the first row, when tensorboardX is not installed.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._folder = Path(folder)
        self._writer: Any = None

    def __call__(self, row: Mapping[str, float]) -> None:
        """Writes a row, and flushes it."""
        step = int(row["step"])
        if self._writer is None:
            self._writer = self._open(step)
        for name, value in row.items():
            if name != "step":
                self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def _open(self, step: int) -> Any:
        """A writer whose reader forgets what an earlier run wrote from `step` on."""
        try:
            from tensorboardX import SummaryWriter
        except ImportError:
            raise ValueError(
                "TensorBoard must have tensorboardX, got no such package; pip install 'efficient[logs]'."
            ) from None
        return SummaryWriter(str(self._folder), purge_step=step)

    def close(self) -> None:
        """Ends the writer's thread; a row after this opens a new file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
