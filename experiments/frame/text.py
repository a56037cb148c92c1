"""Text: English prose that every CPython has, as bytes, for small language models.

    text = manual()
    batch = next(draws(text.train, size=65, batch_size=16, steps=1, seed=0))

It is the language reference behind `help("assert")`, the module `pydoc_data.topics`: each paragraph once (its
chapters repeat one another), white space made single spaces, one line a paragraph: 345 kB with Python 3.11,
somewhat more or less with another version.
"""

import pydoc_data.topics
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32, UInt8


class Text(NamedTuple):
    """Bytes to learn from, and bytes held out: what follows them."""

    train: UInt8[np.ndarray, " train"]
    test: UInt8[np.ndarray, " test"]


def manual(*, test: float = 0.1, most: int = 0) -> Text:
    """The text of this Python.

    Args:
        test: fraction of it that is held out, its end, in (0, 1).
        most: of its bytes are used, from the first; 0 is all.

    Raises:
        ValueError: `test` is out of its range, or `most` is negative.
    """
    if not 0 < test < 1:
        raise ValueError(f"test must be in (0, 1), got {test!r}; 0.1 holds a tenth out.")
    if most < 0:
        raise ValueError(f"most must be 0 or more bytes, got {most!r}; 0 is all.")
    chapters = pydoc_data.topics.topics
    paragraphs = [part for name in sorted(chapters) for part in chapters[name].split("\n\n")]
    lines = dict.fromkeys(" ".join(part.split()) for part in paragraphs)
    whole = np.frombuffer("\n".join(filter(None, lines)).encode(), np.uint8)[: most or None]
    cut = round(len(whole) * (1 - test))
    return Text(whole[:cut], whole[cut:])


def windows(text: UInt8[np.ndarray, " bytes"], size: int) -> Int32[np.ndarray, "windows size"]:
    """The text cut into pieces of `size` bytes; what is left over at its end is dropped.

    Raises:
        ValueError: the text has not one such piece.
    """
    _require_piece(text, size)
    count = len(text) // size
    return text[: count * size].reshape(count, size).astype(np.int32)


def draws(
    text: UInt8[np.ndarray, " bytes"], *, size: int, batch_size: int, steps: int, seed: int
) -> Iterator[Int32[np.ndarray, "batch size"]]:
    """`steps` batches of pieces of `size` bytes, each from a place drawn at random.

    Raises:
        ValueError: at the first batch, the text has not one such piece.
    """
    _require_piece(text, size)
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        starts = rng.integers(0, len(text) - size + 1, batch_size)
        yield text[starts[:, None] + np.arange(size)].astype(np.int32)


def _require_piece(text: UInt8[np.ndarray, " bytes"], size: int) -> None:
    """Refuses pieces that the text has not one of."""
    if not 0 < size <= len(text):
        raise ValueError(f"size must be from 1 to the text's {len(text)} bytes, got {size!r}; take less.")
