"""Source: what the loop asks of batches, so that a killed run can find its place again.

Any iterable of pytrees can be trained on. To be resumable it is a dataclass with a field `start`, and each
batch has `resume_at`: the `start` with which the next batch comes first. `efficient.data.Batches` is one.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import numpy as np


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Chunks:
    """`size` batches of `batches` at a time, stacked along a new first axis: for `make_epoch`.

    What is left over when `batches` end comes as a smaller chunk, which compiles anew.

    Raises:
      ValueError: `size` is below 1.
    """

    batches: Iterable[Any]  # resumable, if the chunks are to be
    size: int  # batches a chunk, >= 1

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size must be at least 1, got {self.size!r}; 1 stacks one batch at a time.")

    def __iter__(self) -> Iterator[Any]:
        batches = iter(self.batches)
        while chunk := list(itertools.islice(batches, self.size)):
            yield jax.tree.map(lambda *values: np.stack(values), *chunk)


def position_of(batch: Any) -> tuple[int, ...]:
    """Where to go on after a batch, or after the last one of a chunk.

    Raises:
      ValueError: the batch does not say.
    """
    if not hasattr(batch, "resume_at"):
        raise ValueError(
            f"batches must have resume_at for a run with checkpoints, got {type(batch).__name__!r}; use "
            "efficient.data.Batches, or add the field."
        )
    return tuple(int(np.ravel(number)[-1]) for number in batch.resume_at)


def from_position(batches: Any, position: tuple[int, ...]) -> Any:
    """The batches that follow `position`.

    Raises:
      ValueError: `batches` has no `start`.
    """
    if isinstance(batches, Chunks):
        return dataclasses.replace(batches, batches=from_position(batches.batches, position))
    if not dataclasses.is_dataclass(batches) or not hasattr(batches, "start"):
        raise ValueError(
            f"batches must be a dataclass with a field start to be resumed, got {type(batches).__name__!r}; "
            "use efficient.data.Batches."
        )
    return dataclasses.replace(batches, start=type(batches.start)(*position))  # type: ignore[type-var]
