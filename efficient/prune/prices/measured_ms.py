"""Time of the shrunk model, compiled and run on the default device."""

from collections.abc import Callable
from typing import Any

import jax

from efficient.core.dependencies import Dependencies
from efficient.core.measure import measure
from efficient.core.resize import resized
from efficient.prune.price import Counts, Price, remembered
from efficient.prune.prices.predicted_ms import first_of


def measured_ms(
    found: Dependencies, fn: Callable[..., Any], params: Any, *args: Any, repeats: int = 20
) -> Price:
    """The price in milliseconds, the median of `repeats` calls; each counts compiled and timed once.

    Times vary: fewer channels may be slower, and a second object measures other times.

    Args:
      found: the groups of `params` in `fn(params, *args)`.
      fn: the function.
      params: arrays.
      *args: arrays.
      repeats: calls that are timed, at least 1.

    Raises:
      ValueError: at the call, `repeats` below 1, or counts as `Dependencies.sizes_left` refuses them.
    """

    def price(counts: Counts) -> float:
        keep = first_of(found, counts)
        small = jax.device_put(found.shrink(params, keep))
        return measure(resized(fn, found, keep), small, *args, repeats=repeats, jit=True).median_ms

    return Price(remembered(found, price), unit="ms", name="measured_ms")
