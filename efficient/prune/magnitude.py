"""Magnitude pruning: zero the weights of smallest absolute value.

Source: Han et al., 2015, arXiv:1506.02626, section 3. With a schedule: Zhu and Gupta, 2017,
arXiv:1710.01878, section 3.
Differs: the first paper thresholds at a multiple of each layer's standard deviation; here the *count* is
set, so that the sparsity asked for is the sparsity obtained.
"""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

from efficient.core.paths import flatten, map_with_path
from efficient.core.transform import State, Transform, dense_value, is_float, recipe
from efficient.prune.mask import kept_of, masked, top_mask

Schedule = Callable[[Any], Any]


@recipe
def magnitude(
    sparsity: float | Schedule, *, scope: Literal["leaf", "global"] = "leaf", every: int = 1
) -> Transform:
    """Zeros a fraction `sparsity` of the weights that it is given: those of smallest |w|.

    A weight once zeroed stays so: a schedule that rises only adds zeros (one that falls changes nothing).
    A tie keeps the lower flat index; NaN goes first; at least one weight of every budget stays.

    Args:
      sparsity: in [0, 1); or a schedule step -> sparsity, such as `cubic_ramp`, applied by `update`.
      scope: "leaf" gives each leaf its own budget; "global" ranks all leaves together.
      every: under a schedule, masks are made anew at steps that `every` divides.

    Raises:
      ValueError: at once, `sparsity` outside [0, 1), an unknown `scope`, or `every` below 1; at `init`,
        no floating leaf; at `apply`, a floating leaf that `init` was not given.

    Source: module docstring.
    """
    if not callable(sparsity) and not 0 <= sparsity < 1:
        raise ValueError(f"sparsity must be in [0, 1), got {sparsity!r}; 0.9 zeros nine weights in ten.")
    if scope not in ("leaf", "global"):
        raise ValueError(f"scope must be 'leaf' or 'global', got {scope!r}; choose one.")
    if every < 1:
        raise ValueError(f"every must be at least 1, got {every}; it counts steps between masks.")

    def masks_of(scores: dict[str, jax.Array], amount: Any) -> dict[str, jax.Array]:
        if scope == "leaf":
            return {path: top_mask(s, kept_of(s.size, amount)) for path, s in scores.items()}
        flat = jnp.concatenate([s.ravel() for s in scores.values()])
        mask = top_mask(flat, kept_of(flat.size, amount))
        return _split_like(mask, scores)

    def init(params: Any, *, stats: Any = None, key: Any = None) -> State:
        del stats, key
        scores = {path: _score(value) for path, value in flatten(params)[0].items() if is_float(value)}
        if not scores:
            raise ValueError(
                "params must have a floating leaf to prune, got none; check the pattern that scopes it."
            )
        return State(train={}, fixed=masks_of(scores, sparsity(0) if callable(sparsity) else sparsity))

    def update(state: State, params: Any, *, grads: Any = None, step: Any) -> State:
        del grads
        if not callable(sparsity):
            return state
        by_path = flatten(params)[0]

        def again(masks: dict[str, jax.Array]) -> dict[str, jax.Array]:
            scores = {p: jnp.where(mask, _score(by_path[p]), -jnp.inf) for p, mask in masks.items()}
            made = masks_of(scores, sparsity(step))
            return {p: made[p] & mask for p, mask in masks.items()}

        fixed = jax.lax.cond(step % every == 0, again, lambda masks: masks, state.fixed)
        return State(state.train, fixed)

    def apply(params: Any, state: State) -> Any:
        def one(path: str, value: Any) -> Any:
            if not is_float(value):
                return value
            if path not in state.fixed:
                raise ValueError(f"params must be those of init, got a new path {path!r}; make a new state.")
            return masked(dense_value(value), state.fixed[path])

        return map_with_path(one, params)

    return Transform(init, update, apply, apply)


def _score(value: Any) -> jax.Array:
    """|w| in float32; NaN is -1, which goes before all numbers."""
    score = jnp.abs(dense_value(value).astype(jnp.float32))
    return jnp.where(jnp.isnan(score), -1.0, score)


def _split_like(flat: jax.Array, like: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """`flat` cut into arrays of the shapes of `like`, in order."""
    pieces, start = {}, 0
    for path, value in like.items():
        pieces[path] = flat[start : start + value.size].reshape(value.shape)
        start += value.size
    return pieces
