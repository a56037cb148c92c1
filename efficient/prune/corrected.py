"""Corrected: a mask, and what the weights that stay gain for those that go."""

from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from efficient.core.per_leaf import per_leaf
from efficient.core.transform import Key, State, Transform
from efficient.prune.mask import masked


class Corrected(NamedTuple):
    """Of one array: the model sees `where(mask, w + change, 0)`, so that the weights that you train move."""

    mask: Any  # Bool [*shape]
    change: Any  # float32 [*shape], zero where the mask is False


@runtime_checkable
class Solve(Protocol):
    """What corrects one array; `stats` is that of its path, or None."""

    def __call__(self, value: jax.Array, *, path: str, stats: Any, key: Key | None) -> Corrected: ...  # noqa: D102


def correction(solve: Solve) -> Transform:
    """A transform that solves each array once, at `init`; `State.fixed` is a `Corrected` by path."""

    def init(value: jax.Array, *, path: str, stats: Any, key: Key | None) -> State:
        return State(fixed=solve(value, path=path, stats=stats, key=key))

    def apply(value: jax.Array, state: State) -> jax.Array:
        mask, change = state.fixed
        return masked(value.astype(jnp.float32) + change, mask)

    return per_leaf(init=init, apply=apply)


def require_sparsity(sparsity: float) -> None:
    """Refuses a fraction that would leave nothing.

    Raises:
      ValueError: it is outside [0, 1).
    """
    if not 0 <= sparsity < 1:
        raise ValueError(f"sparsity must be in [0, 1), got {sparsity!r}; 0.5 zeros half of the weights.")
