"""Restart: what an optimizer remembers of some weights, forgotten.

A weight that grows anew (`efficient.prune.rigl`) has nothing to do with the moments of the one that was
dropped in its place: `make_step(loss, optimizer, transform, restarted=regrown)`.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from efficient.core.paths import path_string
from efficient.core.transform import State

# (State before an update, State after it) -> {path among the params: Bool [*shape]}; None for nothing.
Restarted = Callable[[State, State], Mapping[str, Any] | None]


def restart(opt_state: Any, params: Any, regrown: Mapping[str, Any]) -> Any:
    """`opt_state` with zeros in the moments of the weights that have `regrown`.

    A moment is an array whose path ends with that of a param (the longest, where several would do) and that
    has its shape. All else stays: counts, hyperparameters, and statistics of another shape (Adafactor's rows
    and columns). Not for optimizers that keep the weights themselves (lookahead, schedule-free).

    Adam's count goes on, so that nothing corrects the bias of moments that start anew: n steps on, under a
    steady gradient, a regrown weight moves by (1 - b1^n) / sqrt(1 - b2^n) times the learning rate, where
    others move by one: up to 6.6 times at b1 = 0.9, b2 = 0.999. A weight that had no gradient for long does
    the same.

    Args:
      opt_state: of any optax transformation, chained, masked and partitioned ones included.
      params: those that `optimizer.init` was given; only shapes are looked at.
      regrown: Bool [*shape] by path; other values keep their moments.

    Raises:
      ValueError: `regrown` has a path or a shape that `params` have not.

    Source: Evci et al., 2020, arXiv:1911.11134; the authors' code zeroes the momentum of grown weights.
    """
    shapes = {path_string(keys): jnp.shape(v) for keys, v in jax.tree_util.tree_leaves_with_path(params)}
    for path, mask in regrown.items():
        if shapes.get(path) != jnp.shape(mask):
            raise ValueError(
                f"regrown must have paths and shapes of params, got {path!r} of {jnp.shape(mask)!r} where "
                f"they have {shapes.get(path, 'no such path')}; name weights that the optimizer moves."
            )

    def one(keys: Any, value: Any) -> Any:
        own = _owner(path_string(keys), shapes)
        if own not in regrown or jnp.shape(value) != shapes[own]:
            return value
        return jnp.where(regrown[own], jnp.zeros((), value.dtype), value)

    return jax.tree_util.tree_map_with_path(one, opt_state)


def _owner(path: str, shapes: Mapping[str, Any]) -> str:
    """The longest path of `shapes` that `path` ends with; empty where there is none."""
    parts = path.split("/")
    ends = ("/".join(parts[i:]) for i in range(len(parts)))
    return next((end for end in ends if end in shapes), "")
