"""Stored bytes of the shrunk params, in closed form; a compressed leaf shrinks in proportion."""

import math
from typing import Any

import jax.numpy as jnp
import numpy as np

from efficient.core.dependencies import Dependencies
from efficient.core.leaf import is_leaf
from efficient.core.paths import flatten
from efficient.prune.price import Price, in_proportion


def stored_bytes(found: Dependencies, params: Any) -> Price:
    """The price in bytes of all that `params` hold, running statistics too: microseconds a call.

    Args:
      found: the groups of `params`.
      params: arrays, shapes or packed leaves; give the part that is stored.

    Raises:
      ValueError: at the call, counts as `Dependencies.sizes_left` refuses them.
    """
    paid = [(path, _bytes_of(value)) for path, value in flatten(params)[0].items()]
    return Price(in_proportion(found, paid), unit="bytes", name="stored_bytes")


def _bytes_of(value: Any) -> int:
    """Stored bytes of an array, a shape or a leaf."""
    if is_leaf(value):
        return int(value.nbytes)
    return math.prod(np.shape(value)) * int(jnp.result_type(value).itemsize)
