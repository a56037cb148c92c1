"""Compiled: a plan for params of certain shapes: what it does to each value, its transform, its report."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from rich.console import Group, RenderableType
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from efficient.core.report import Report, compare
from efficient.core.transform import State, Transform
from efficient.core.words import as_text

Status = Literal["matched", "skipped", "refused"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """What the plan does to one value."""

    path: str
    array: str  # dtype and shape
    status: Status
    rule: str  # "rules[0]", "default", or empty
    reason: str  # why it is skipped or refused
    dense_bytes: int
    packed_bytes: int  # as `pack` would store it


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compiled:
    """A plan for params of certain shapes; prints as a table."""

    transform: Transform  # `state.train` and `state.fixed` are tuples, one entry a rule that takes values
    coverage: tuple[Row, ...]  # every value of the params, in their order
    rules: Mapping[str, str]  # what "rules[0]" and the like stand for
    notes: tuple[str, ...]  # tied weights

    @property
    def dense_bytes(self) -> int:
        """Bytes of the params as they are."""
        return sum(row.dense_bytes for row in self.coverage)

    @property
    def packed_bytes(self) -> int:
        """Bytes of the params once packed."""
        return sum(row.packed_bytes for row in self.coverage)

    def report(
        self, fn: Any, params: Any, state: State, *args: Any, repeats: int = 20, warmup: int = 2
    ) -> Report:
        """Packs, and measures `fn(params, *args)` against `lift(fn)(packed, *args)`; see `report.compare`.

        Raises:
          ValueError: `state` is no state of this plan's transform, or as `report.compare`.
        """
        if not isinstance(state, State) or not callable(fn):
            raise ValueError(
                f"report must be given (fn, params, state, *args), got {type(fn).__name__}, ..., "
                f"{type(state).__name__}; make the state by compiled.transform.init(params)."
            )
        packed = self.transform.pack(params, state)
        return compare(fn, params, packed, *args, repeats=repeats, warmup=warmup)

    def __rich__(self) -> RenderableType:
        table = Table("value", "array", "what", "dense", "packed", title="The plan")
        table.columns[0].overflow = table.columns[1].overflow = "fold"
        for row in self.coverage:
            what = row.rule if row.status == "matched" else f"{row.status}: {row.reason}"
            sizes = decimal(row.dense_bytes), decimal(row.packed_bytes)
            table.add_row(*map(Text, (row.path, row.array, what, *sizes)))
        table.add_section()
        matched = sum(row.status == "matched" for row in self.coverage)
        words = f"{matched} of {len(self.coverage)} matched"
        table.add_row("total", "", words, decimal(self.dense_bytes), decimal(self.packed_bytes))
        legend = (f"{name}: {words}" for name, words in self.rules.items())
        return Group(table, *map(Text, legend), *map(Text, self.notes))

    def __str__(self) -> str:
        return as_text(self)
