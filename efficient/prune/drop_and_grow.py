"""Drop and grow: training with a fixed number of weights, whose places move.

Now and then the active weights of least worth are dropped, and as many grow elsewhere. A dropped weight is
still there, hidden, among the trained params, and an optimizer with momentum still moves it; yet one that
grows must begin at zero. So what is shown is

    masked(w - offset, mask),        offset := w where a weight grows.

A weight that is dropped and grown at once has not moved, and keeps its value.

*Differs* from training that overwrites weights: an optimizer that decays weights pulls w to zero, and what is
shown to -offset; put `regularizers.l2` of the shown weights into the loss instead. w - offset is rounded to
the precision of the larger of the two: train in float32.
"""

import zlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from efficient.core.paths import flatten, map_with_path
from efficient.core.transform import Key, State, Transform, dense_value, is_float
from efficient.prune.mask import masked, top_mask

Promise = Callable[[jax.Array, Any, Key], Float[Array, "*shape"]]


class Sparse(NamedTuple):
    """What is active; `State.fixed` of sparse training. Masks and offsets by path."""

    masks: Mapping[str, Any]  # Bool [*shape]
    offsets: Mapping[str, Any]  # [*shape], what the trained weight was when it last grew; 0 before
    key: Any  # typed PRNG key []; what is drawn is a function of this one, the step and the path


def drop_and_grow(
    mask: Bool[Array, "*shape"],
    worth: Float[Array, "*shape"],
    promise: Float[Array, "*shape"],
    count: int | Int[Array, ""],
) -> tuple[Bool[Array, "*shape"], Bool[Array, "*shape"]]:
    """Drops the `count` active weights of least worth, then grows the `count` of most promise.

    Those just dropped may grow again. A tie drops the higher flat index and grows the lower; NaN is the least
    of all. Exactly as many are active afterwards as before.

    Args:
      mask: the active weights.
      worth: of each; looked at where the mask is True.
      promise: of each; looked at where a weight is not active after the drop.
      count: from 0 to the number of active weights; may be traced.

    Returns:
      (kept, grown): the active weights that stay, and those that grow; disjoint.

    Example:
      >>> mask = jnp.array([True, True, False, False])
      >>> kept, grown = drop_and_grow(mask, jnp.array([2.0, 1, 0, 0]), jnp.array([9.0, 1, 2, 3]), 1)
      >>> kept.tolist(), grown.tolist()
      ([True, False, False, False], [False, False, False, True])
    """
    kept = top_mask(jnp.where(mask, _clean(worth), -jnp.inf), jnp.sum(mask) - count)
    return kept, top_mask(jnp.where(kept, -jnp.inf, _clean(promise)), count)


def sparse_training(
    start: Transform,
    *,
    is_due: Callable[[Any], Any],
    fraction: Callable[[Any], Any],
    promise: Promise,
) -> Transform:
    """Drops and grows leaf by leaf, by |w|, at the steps that are due. `State.fixed` is a `Sparse`.

    Args:
      start: makes the first masks; its `State.fixed` is a `Pruned`.
      is_due: step -> Bool [], whether masks move.
      fraction: step -> in [0, 1], how many of the active weights of each leaf move; the count is rounded to
        the nearest, half to even, in float32.
      promise: `(value, grad, key) -> float32 [*shape]` of one leaf: where it is largest weights grow; `grad`
        is None where `update` was given none.
    """

    def init(params: Any, *, stats: Any = None, key: Key | None = None) -> State:
        masks = start.init(params, stats=stats, key=key).fixed.masks
        by_path = flatten(params)[0]
        offsets = {path: jnp.zeros(by_path[path].shape, by_path[path].dtype) for path in masks}
        return State(train={}, fixed=Sparse(masks, offsets, key))

    def update(state: State, params: Any, *, grads: Any = None, step: Any) -> State:
        given = {} if grads is None else flatten(grads)[0]
        by_path = flatten(params)[0]

        def move(now: Sparse) -> Sparse:
            drawn = jax.random.fold_in(now.key, step)
            masks, offsets = {}, {}
            for path, mask in now.masks.items():
                value, offset = dense_value(by_path[path]), now.offsets[path]
                worth = jnp.abs(masked(value - offset, mask)).astype(jnp.float32)
                wanted = promise(value, given.get(path), jax.random.fold_in(drawn, zlib.crc32(path.encode())))
                count = jnp.round(fraction(step) * jnp.sum(mask)).astype(jnp.int32)
                kept, grown = drop_and_grow(mask, worth, wanted, count)
                masks[path] = kept | grown
                offsets[path] = jnp.where(grown & ~mask, value, offset)
            return Sparse(masks, offsets, now.key)

        return State(state.train, jax.lax.cond(is_due(step), move, lambda now: now, state.fixed))

    def apply(params: Any, state: State) -> Any:
        def one(path: str, value: Any) -> Any:
            if not is_float(value):
                return value
            if path not in state.fixed.masks:
                raise ValueError(f"params must be those of init, got a new path {path!r}; make a new state.")
            return masked(dense_value(value) - state.fixed.offsets[path], state.fixed.masks[path])

        return map_with_path(one, params)

    return Transform(init, update, apply, apply)


def regrown(old: State, new: State) -> dict[str, Bool[Array, "*shape"]]:
    """Which weights an `update` made active, by path: those whose moments an optimizer must forget.

    `make_step(loss, optimizer, transform, restarted=regrown)` does so. Transforms within chains, scopes and
    plans are found.

    Args:
      old: a state of a transform with sparse training anywhere in it.
      new: the same, updated.

    Raises:
      ValueError: there is no sparse training in the states.
    """
    grown: dict[str, Any] = {}
    for before, after in zip(_parts(old), _parts(new), strict=True):
        for path, mask in after.masks.items():
            own = mask & ~before.masks[path]
            grown[path] = grown[path] | own if path in grown else own
    if not grown:
        raise ValueError(
            f"state must be that of a transform with sparse training, got {jax.tree.structure(new)}; use "
            "rigl or sparse_evolutionary, or leave `restarted` out."
        )
    return grown


def _parts(state: State) -> list[Sparse]:
    """The states of sparse training in a state."""
    found = jax.tree.leaves(state.fixed, is_leaf=lambda part: isinstance(part, Sparse))
    return [part for part in found if isinstance(part, Sparse)]


def _clean(scores: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """NaN as the lowest finite score: after every other number, and before what is out of the question."""
    return jnp.where(jnp.isnan(scores), jnp.finfo(scores.dtype).min, scores)
