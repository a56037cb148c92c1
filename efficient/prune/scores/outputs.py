"""Outputs: scores of a weight's output channels, known by what follows the weight."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from efficient.core.statistics import Statistics, known
from efficient.core.transform import Key
from efficient.prune.score import Score, keep_memory


def of_outputs(worth: Mapping[str, Float[Array, "..."]], *, name: str) -> Score:
    """A score that gives all weights of an output channel, along the last axis, the channel's worth.

    Args:
      worth: by path of the weight, float [*lead, features]; `lead` are its first axes (layers). Features are
        a multiple of the channels where what follows flattens them, channels last: their mean is the
        channel's.
      name: of the argument that `worth` came from.

    Its `start` raises `ValueError` for a weight that `worth` does not have, or not in its shape.
    """

    def start(value: jax.Array, *, path: str, stats: Any, key: Key | None) -> Float[Array, "*ones"]:
        del stats, key
        if path not in worth:
            known_paths = ", ".join(map(repr, worth)) or "nothing"
            raise ValueError(f"{name} must have {path!r}, got {known_paths}; add it, or scope with at(...).")
        found, shape = jnp.asarray(worth[path], jnp.float32), tuple(value.shape)
        lead = found.shape[:-1]
        if not shape or not found.ndim or lead != shape[: len(lead)] or found.shape[-1] % shape[-1]:
            raise ValueError(
                f"{name} of {path!r} must have a number for each output, the last axis of {list(shape)}, got "
                f"shape {list(found.shape)}; give that of what follows the weight."
            )
        channels = found.reshape(*lead, -1, shape[-1]).mean(axis=-2)
        return channels.reshape(*lead, *[1] * (len(shape) - len(lead) - 1), shape[-1])

    return Score(start, keep_memory, lambda memory, value: jnp.broadcast_to(memory, value.shape))


def entering(consumers: Mapping[str, Statistics], field: str, *, how: str) -> dict[str, Any]:
    """A field of the statistics of each weight's consumer, by path of the weight.

    Raises:
      ValueError: a consumer's statistics have it not; `how` says what to call.
    """
    return {path: known(stats, field, path=path, how=how) for path, stats in consumers.items()}
