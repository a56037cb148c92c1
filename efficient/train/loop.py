"""Loop: steps over batches, with a row of measurements now and then. It serves every experiment.

state, history = fit(state, step, batches, evaluate=evaluator(score, transform, test), every=100)
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from efficient.train.checkpoint import Checkpoints
from efficient.train.early_stop import EarlyStop
from efficient.train.log import Logger, Row
from efficient.train.source import from_position, position_of
from efficient.train.step import Metrics, Step, TrainState, copied


def fit(
    state: TrainState,
    step: Step,
    batches: Iterable[Any],
    *,
    steps: int | None = None,
    evaluate: Callable[[TrainState], Mapping[str, float]] | None = None,
    every: int = 100,
    early_stop: EarlyStop | None = None,
    loggers: Sequence[Logger] = (),
    checkpoints: Checkpoints | None = None,
    progress: bool = True,
) -> tuple[TrainState, list[Row]]:
    """Trains until `steps`, the end of `batches`, or an early stop.

    Nothing waits for the device between two rows. With `checkpoints` a killed run, started again with the
    same arguments, ends with the same bits as one that was left alone.

    Args:
      state: stays the caller's; where the run has a checkpoint it only gives the structure.
      step: of `make_step`, or of `make_epoch` with `source.Chunks`: one call is then many steps, and a row or
        an end that falls inside a chunk comes after it.
      batches: see `source`; they say how many epochs.
      steps: total number of optimizer steps, >= 1, those before a resumption counted; None for as many as
        there are batches.
      evaluate: measures a state, such as `evaluator(...)`; must leave the state's memory alone.
      every: steps between two rows, >= 1. The last step has a row too.
      early_stop: looks at the rows so far.
      loggers: each gets every row.
      checkpoints: where to keep the run, at rows.
      progress: False draws no bar; there is none either where the standard error is no terminal.

    Returns:
      (state, history). A row has `step`, the means of the step's metrics since the last row as `train/...`,
      and what `evaluate` gave as `eval/...`.

    Raises:
      ValueError: `steps` or `every` is below 1, or `batches` cannot be resumed though there are checkpoints.
    """
    for name, value in (("steps", steps), ("every", every)):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value!r}; count optimizer steps.")
    kept = checkpoints.restore(state) if checkpoints else None
    state, history = (kept.state, kept.history) if kept else (copied(state), [])
    position = kept.position if kept else ()
    batches = from_position(batches, position) if kept else batches
    saved, saved_at = history[-1]["step"] if kept else 0, time.monotonic()
    if early_stop and early_stop.stops(history):
        return state, history
    with _Bar(steps, is_shown=progress) as bar:
        for part in _parts(state, step, batches, every=every, steps=steps, tick=bar.at):
            state, position = part.state, position_of(part.batch) if checkpoints else ()
            history.append(_row(part, evaluate(state) if evaluate else {}))
            bar.tell(history[-1])
            for logger in loggers:
                logger(history[-1])
            if checkpoints and time.monotonic() - saved_at >= checkpoints.every_s:
                checkpoints.save(state, position=position, history=history)
                saved, saved_at = part.done, time.monotonic()
            if early_stop and early_stop.stops(history):
                break
    if checkpoints and history and saved != history[-1]["step"]:
        checkpoints.save(state, position=position, history=history)
    return state, history


class _Part(NamedTuple):
    """The steps from one row to the next."""

    state: TrainState  # after the last of them
    done: int  # optimizer steps taken, those before this part counted
    metrics: list[Metrics]  # of each call, on the device
    batch: Any  # the last one


def _parts(
    state: TrainState,
    step: Step,
    batches: Iterable[Any],
    *,
    every: int,
    steps: int | None,
    tick: Callable[[int], None],
) -> Iterator[_Part]:
    """Runs the steps, and pauses where a row is due; takes no batch that it does not use."""
    done, metrics = int(state.step), []
    if steps is not None and done >= steps:
        return
    for batch in batches:
        state, of_call = step(state, batch)
        metrics.append(of_call)
        before, done = done, done + of_call["loss"].size
        tick(done)
        is_over = steps is not None and done >= steps
        if is_over or done // every > before // every:
            yield _Part(state, done, metrics, batch)
            metrics = []
        if is_over:
            return
    if metrics:
        yield _Part(state, done, metrics, batch)


def _row(part: _Part, scores: Mapping[str, float]) -> Row:
    """The row at the end of a part; here the host waits for the device."""
    calls = jax.device_get(part.metrics)
    means = {
        f"train/{name}": float(
            np.mean(np.concatenate([np.ravel(call[name]) for call in calls]), dtype=np.float64)
        )
        for name in calls[0]
    }
    return {"step": part.done, **means, **{f"eval/{name}": float(score) for name, score in scores.items()}}


class _Bar:
    """A bar on the standard error that goes away when it is done."""

    def __init__(self, steps: int | None, *, is_shown: bool) -> None:
        console = Console(stderr=True)
        self._bars = Progress(
            MofNCompleteColumn(),
            BarColumn(bar_width=24),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.description}"),
            console=console,
            transient=True,
            disable=not (is_shown and console.is_terminal),
        )
        self._task = self._bars.add_task("", total=steps)
        self._drawn_at = 0.0

    def __enter__(self) -> "_Bar":
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def at(self, done: int) -> None:
        """Steps taken; drawn ten times a second, as a step may take microseconds."""
        now = time.monotonic()
        if now - self._drawn_at >= 0.1:
            self._bars.update(self._task, completed=done)
            self._drawn_at = now

    def tell(self, row: Mapping[str, float]) -> None:
        """The newest row beside the bar."""
        shown = "  ".join(f"{name} {value:.4g}" for name, value in row.items() if name != "step")
        self._bars.update(self._task, completed=int(row["step"]), description=shown)
