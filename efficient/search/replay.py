"""Replay: what an agent has lived through, as arrays of a fixed size in which the newest replaces the oldest.

Source: Lin, 1992, doi:10.1007/BF00992699; Lillicrap et al., 2016, arXiv:1509.02971, section 3.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from efficient.core.transform import Key


class Transition(NamedTuple):
    """One step, or several along a leading axis."""

    state: Float[Array, "*steps features"]
    action: Float[Array, "*steps actions"]  # in [0, 1]
    reward: Float[Array, "*steps"]
    next_state: Float[Array, "*steps features"]  # of no meaning after the last step
    is_last: Bool[Array, "*steps"]


class Replay(NamedTuple):
    """Transitions along a leading axis of places, and how many were ever stored."""

    rows: Transition
    ever: Int[Array, ""]  # stored so far, those replaced included

    @property
    def size(self) -> Int[Array, ""]:
        """How many places are in use."""
        return jnp.minimum(self.ever, self.rows.reward.shape[0])


def empty(*, capacity: int, features: int, actions: int) -> Replay:
    """A replay of `capacity` places, none of them in use."""
    rows = Transition(
        state=jnp.zeros((capacity, features)),
        action=jnp.zeros((capacity, actions)),
        reward=jnp.zeros(capacity),
        next_state=jnp.zeros((capacity, features)),
        is_last=jnp.zeros(capacity, bool),
    )
    return Replay(rows, jnp.zeros((), jnp.int32))


def stored(replay: Replay, steps: Transition) -> Replay:
    """The replay with `steps` in it, the oldest of what was there replaced.

    Args:
      replay: what is there.
      steps: along a leading axis, at most as many as there are places.

    Raises:
      ValueError: there are more steps than places.
    """
    capacity, added = replay.rows.reward.shape[0], steps.reward.shape[0]
    if added > capacity:
        raise ValueError(
            f"steps must fit the {capacity} places of the replay, got {added}; raise its capacity."
        )
    places = (replay.ever + jnp.arange(added)) % capacity
    rows = jax.tree.map(lambda held, new: held.at[places].set(new), replay.rows, steps)
    return Replay(rows, replay.ever + added)


def drawn(replay: Replay, key: Key, *, batch: int) -> Transition:
    """`batch` transitions, each drawn evenly from all (one may come twice); zeros where there is none."""
    places = jax.random.randint(key, (batch,), 0, jnp.maximum(replay.size, 1))
    return jax.tree.map(lambda held: held[places], replay.rows)
