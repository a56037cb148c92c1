"""Masks: which keys a query sees."""

from typing import Any, NamedTuple


class Mask(NamedTuple):
    """A rule over places in a sequence. A value: it hashes."""

    is_causal: bool = False  # no key after the query
    window: int = 0  # keys up to and with the query's own; 0 is all
    sinks: int = 0  # first keys of the sequence, seen from beyond the window too


def visible(query: Any, key: Any, length: Any, mask: Mask) -> Any:
    """Whether a query at a place sees the key at a place; arrays that broadcast. Keys end at `length`."""
    seen = key < length
    if mask.is_causal:
        seen = seen & (key <= query)
    if mask.window:
        seen = seen & ((key > query - mask.window) | (key < mask.sinks))
    return seen


def checked_mask(*, is_causal: bool, window: int, sinks: int) -> Mask:
    """The rule of these options.

    Raises:
      ValueError: a window that is not causal, sinks without a window, or one below 0.
    """
    if window < 0 or sinks < 0 or (window and not is_causal) or (sinks and not window):
        raise ValueError(
            f"window must be from 0 and causal, sinks from 0 and with a window, got window={window}, "
            f"sinks={sinks}, is_causal={is_causal}; leave them out for all keys."
        )
    return Mask(is_causal, window, sinks)
