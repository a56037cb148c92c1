from typing import NamedTuple

import numpy as np
import pytest

from efficient.data import Batches, Position
from efficient.train import Chunks
from efficient.train.source import from_position, position_of
from tests.train import tiny

BATCHES = Batches(
    images=np.arange(10, dtype=np.uint8),
    labels=np.arange(10, dtype=np.int32),
    batch_size=3,
    seed=1,
    epochs=2,
    drop_last=False,
)


@pytest.mark.parametrize("taken", [0, 1, 3, 4, 7, 8])
def test_batches_of_the_data_floor_go_on_where_they_were(taken):
    whole = list(BATCHES)
    position = tuple(BATCHES.start) if taken == 0 else position_of(whole[taken - 1])
    rest = list(from_position(BATCHES, position))
    assert [list(b.images) for b in rest] == [list(b.images) for b in whole[taken:]]
    assert isinstance(from_position(BATCHES, position).start, Position)


def test_chunks_stack_and_go_on_after_their_last_batch():
    chunks = list(Chunks(batches=BATCHES, size=3))
    assert [c.images.shape for c in chunks] == [(3, 3), (3, 3), (2, 3)]
    np.testing.assert_array_equal(np.concatenate([c.images for c in chunks]), [b.images for b in BATCHES])
    position = position_of(chunks[0])
    assert position == (0, 3)
    rest = list(from_position(Chunks(batches=BATCHES, size=3), position))
    np.testing.assert_array_equal(rest[0].images, chunks[1].images)


def test_what_cannot_be_resumed_is_refused():
    class Bare(NamedTuple):
        x: int

    with pytest.raises(
        ValueError, match="batches must have resume_at for a run with checkpoints, got 'Bare'; use"
    ):
        position_of(Bare(1))
    with pytest.raises(
        ValueError, match="batches must be a dataclass with a field start to be resumed, got 'list'"
    ):
        from_position([tiny.Batch(0, 0)], (0,))
    with pytest.raises(ValueError, match="size must be at least 1, got 0; 1 stacks one batch"):
        Chunks(batches=[], size=0)
