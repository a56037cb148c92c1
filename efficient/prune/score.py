"""Score: how much each weight matters; what stays is what scores highest.

A score is three pure functions of one array. What it must know beyond the weight (what entered it, gradients
at the start) comes by `stats`; what it learns while training it keeps in its memory.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from efficient.core.transform import Key


@runtime_checkable
class Start(Protocol):
    """What makes a score's memory of one array."""

    def __call__(self, value: jax.Array, *, path: str, stats: Any, key: Key | None) -> Any: ...  # noqa: D102


class Score(NamedTuple):
    """How much each weight of an array matters.

    start(value, *, path, stats, key): the memory, a pytree of arrays, () where there is none. `stats` is that
      of this path, as `observe` returns it, or None. Raises `ValueError` where what it needs is missing.
    track(memory, value, grad): the memory after a training step; `grad` is the gradient of the loss with
      respect to what the model saw, dense, or None.
    of(memory, value): float32 [*shape]; higher stays, NaN goes first.
    is_blank(stats): True where it knows nothing yet, so that all weights are alike.
    """

    start: Start
    track: Callable[[Any, jax.Array, Any], Any]
    of: Callable[[Any, jax.Array], Float[Array, "*shape"]]
    is_blank: Callable[[Any], bool] = lambda stats: False
    name: str = "Score(...)"

    def __repr__(self) -> str:
        return self.name


def keep_memory(memory: Any, value: jax.Array, grad: Any) -> Any:
    """The `track` of a score that learns nothing while training."""
    del value, grad
    return memory


def of_weights(function: Callable[[Float[Array, "*shape"]], Float[Array, "*shape"]]) -> Score:
    """A score of the weights alone; `function` gets them in float32."""

    def start(value: jax.Array, *, path: str, stats: Any, key: Key | None) -> tuple[()]:
        del value, path, stats, key
        return ()

    return Score(start, keep_memory, lambda memory, value: function(value.astype(jnp.float32)))


def require_gradient(grad: Any) -> Any:
    """The gradient that `track` of a score that learns while training is given.

    Raises:
      ValueError: there is none.
    """
    if grad is None:
        raise ValueError(
            "grads must be given to a score that learns from them, got None; pass update(grads=...)."
        )
    return grad
