"""Text: bytes of this Python's manual, cut and drawn."""

import numpy as np
import pytest

from experiments.frame import text


def test_the_manual_is_prose_whose_end_is_held_out():
    whole = text.manual(test=0.1)
    size = len(whole.train) + len(whole.test)
    assert size > 100_000  # 345 kB with Python 3.11
    assert len(whole.train) == round(0.9 * size)
    lines = (whole.train.tobytes() + whole.test.tobytes()).decode().split("\n")
    assert len(set(lines)) == len(lines)  # each paragraph once
    assert all(line and "  " not in line for line in lines)


def test_most_keeps_the_first_bytes():
    whole, part = text.manual(), text.manual(test=0.25, most=1000)
    assert (len(part.train), len(part.test)) == (750, 250)
    np.testing.assert_array_equal(np.concatenate(part), whole.train[:1000])


def test_windows_cut_and_drop_what_is_left():
    cut = text.windows(np.arange(8, dtype=np.uint8), 3)
    np.testing.assert_array_equal(cut, [[0, 1, 2], [3, 4, 5]])
    assert cut.dtype == np.int32


def test_draws_are_pieces_of_the_text_and_the_same_for_a_seed():
    letters = np.arange(10, dtype=np.uint8)
    first, again = (list(text.draws(letters, size=4, batch_size=5, steps=3, seed=1)) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert np.shape(first) == (3, 5, 4)
    assert (np.diff(first, axis=-1) == 1).all()
    # The only piece of the whole length, drawn again and again.
    (batch,) = text.draws(letters, size=10, batch_size=2, steps=1, seed=0)
    np.testing.assert_array_equal(batch, [letters, letters])


def test_pieces_longer_than_the_text_are_refused():
    letters = np.arange(10, dtype=np.uint8)
    with pytest.raises(ValueError, match="size must be from 1 to the text's 10 bytes, got 11; take less"):
        text.windows(letters, 11)
    with pytest.raises(ValueError, match="size must be from 1 to the text's 10 bytes, got 0"):
        next(text.draws(letters, size=0, batch_size=1, steps=1, seed=0))


def test_a_part_that_cannot_be_held_out_is_refused():
    with pytest.raises(ValueError, match=r"test must be in \(0, 1\), got 1.0"):
        text.manual(test=1.0)
    with pytest.raises(ValueError, match="most must be 0 or more bytes, got -1"):
        text.manual(most=-1)
