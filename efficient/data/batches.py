"""Batches: a value that says which images come at each step; where to go on is a pair of integers.

Step s of epoch e is a pure function of (seed, e, s), so there is no iterator state to lose: store the last
batch's `resume_at`, and what follows is the same, bit for bit, in another process.
"""

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int, Int32, Shaped

from efficient.data.sampling import permutation


class Position(NamedTuple):
    """A place in the stream of batches, before the batch that stands there; JSON keeps it as a list."""

    epoch: int  # 0, 1, ...
    step: int  # in [0, steps_per_epoch)


_FIRST = Position(epoch=0, step=0)


class Batch(NamedTuple):
    """Images and labels of one step, always `batch_size` of them, so that one compile suffices."""

    images: Shaped[np.ndarray, "batch *image"]
    labels: Int32[np.ndarray, " batch"]
    mask: Bool[np.ndarray, " batch"]  # False where a row only fills up: leave it out of every mean
    resume_at: Position  # store it once the batch is used; `Batches(start=...)` goes on after it


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Batches:
    """An iterable of `Batch`; iterate it again and it gives the same again.

    To resume: `dataclasses.replace(batches, start=Position(*stored))`.

    Raises:
      ValueError: an option is out of its range, or there would be no batch.
    """

    images: Shaped[np.ndarray, "n *image"]  # any dtype; as in Dataset
    labels: Int32[np.ndarray, " labels"]  # one for each image
    batch_size: int  # rows a batch, >= 1
    seed: int | None  # of the shuffles, in [0, 2**64); None keeps the order of the arrays
    epochs: int | None  # how many passes, >= 1; None never ends
    drop_last: bool  # what is left over in an epoch: True drops it, False fills it up and masks the filling
    start: Position = _FIRST  # the first batch to give; (epochs, 0), the end, gives none

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size!r}; choose more.")
        if len(self.labels) != len(self.images):
            raise ValueError(
                f"labels must be {len(self.images)}, one for each image, got {len(self.labels)!r}; "
                "give both of one part."
            )
        if self.steps_per_epoch == 0:
            raise ValueError(
                f"images must fill at least one batch of {self.batch_size}, got {len(self.images)!r}; "
                "choose a smaller batch_size, or drop_last=False."
            )
        if self.seed is not None and not 0 <= self.seed < 2**64:
            raise ValueError(f"seed must be None or in [0, 2**64), got {self.seed!r}; choose another.")
        if self.epochs is not None and self.epochs < 1:
            raise ValueError(f"epochs must be None or at least 1, got {self.epochs!r}; None never ends.")
        self._require_position("start", self.start)

    def _require_position(self, name: str, position: Position) -> None:
        """Refuses a position that these batches do not have."""
        epoch, step = position
        is_end = epoch == self.epochs and step == 0
        is_inside = (
            epoch >= 0 and (self.epochs is None or epoch < self.epochs) and 0 <= step < self.steps_per_epoch
        )
        if not (is_inside or is_end):
            raise ValueError(
                f"{name} must have epoch at most {self.epochs} and step below {self.steps_per_epoch}, "
                f"got {tuple(position)!r}; was it stored with another batch_size or data set?"
            )

    @property
    def steps_per_epoch(self) -> int:
        """How many batches an epoch has."""
        whole, left = divmod(len(self.images), self.batch_size)
        return whole + (left > 0 and not self.drop_last)

    def order(self, epoch: int) -> Int[np.ndarray, " n"]:
        """The order of the images in an epoch."""
        count = len(self.images)
        return np.arange(count) if self.seed is None else permutation(count, seed=self.seed, epoch=epoch)

    def __iter__(self) -> Iterator[Batch]:
        epoch, step = self.start
        while epoch != self.epochs:
            order = self.order(epoch)
            for here in range(step, self.steps_per_epoch):
                yield self._batch(order, Position(epoch, here))
            epoch, step = epoch + 1, 0

    def _batch(self, order: Int[np.ndarray, " n"], position: Position) -> Batch:
        """The batch at `position`, given its epoch's order; filled up with its own rows."""
        epoch, step = position
        rows = order[step * self.batch_size : (step + 1) * self.batch_size]
        filled = np.resize(rows, self.batch_size)
        is_last = step + 1 == self.steps_per_epoch
        return Batch(
            images=self.images[filled],
            labels=self.labels[filled],
            mask=np.arange(self.batch_size) < len(rows),
            resume_at=Position(epoch + 1, 0) if is_last else Position(epoch, step + 1),
        )


def evaluation_batches(
    images: Shaped[np.ndarray, "n *image"], labels: Int32[np.ndarray, " labels"], *, batch_size: int
) -> Batches:
    """Every image once, in order; the last batch is filled up and masked.

    Over all batches, the sum of (correct * mask) over the sum of mask is the accuracy, exactly.

    Raises:
      ValueError: as `Batches`.
    """
    return Batches(images=images, labels=labels, batch_size=batch_size, seed=None, epochs=1, drop_last=False)
