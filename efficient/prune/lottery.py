"""Lottery ticket: train, prune the smallest weights, go back to the early weights, and again.

    early = params                                     # of the start, or of some step of the first training
    masks = all_kept(params, where="**/kernel")
    for sparsity in rounds(0.9):
        t = fixed_masks(masks)
        state = create(ticket(early, masks), t, optimizer, key=key)
        trained, _ = fit(state, make_step(loss, optimizer, t), batches)
        masks = next_masks(trained.params, masks, sparsity)
    winner = ticket(early, masks)                      # train it once more, under fixed_masks(masks)

The control of the paper has the same masks over other weights: `ticket(model.init(other_key, x), masks)`.

Source: Frankle and Carbin, 2019, arXiv:1803.03635, sections 1 and 2; going back to a later step than the
first, Frankle et al., 2019, arXiv:1903.01611.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool

from efficient.core.paths import Where, flatten, map_with_path, select
from efficient.core.transform import State, Transform, dense_value, is_float, keep_state
from efficient.prune.allocation import Allocation
from efficient.prune.mask import masked, top_mask
from efficient.prune.prune import EACH, Pruned

Masks = Mapping[str, Bool[Array, "..."]]


def rounds(final_sparsity: float, *, per_round: float = 0.2) -> tuple[float, ...]:
    """The sparsity after each round, if each prunes a fraction `per_round` of what the last has left.

    s_k = 1 - (1 - per_round)^k, up to `final_sparsity`, with which the last round ends.

    Args:
      final_sparsity: in (0, 1).
      per_round: in (0, 1); the paper's is 0.2.

    Raises:
      ValueError: an argument is out of its range.

    Example:
      >>> [round(s, 4) for s in rounds(0.5)]
      [0.2, 0.36, 0.488, 0.5]
    """
    for name, value in (("final_sparsity", final_sparsity), ("per_round", per_round)):
        if not 0 < value < 1:
            raise ValueError(f"{name} must be in (0, 1), got {value!r}; 0.9 prunes nine weights in ten.")
    made, left = [], 1 - per_round
    while 1 - left < final_sparsity - 1e-9:  # a round that is there but for rounding is the last
        made.append(1 - left)
        left *= 1 - per_round
    return (*made, final_sparsity)


def all_kept(params: Any, *, where: Where = "**/kernel") -> dict[str, Bool[Array, "..."]]:
    """The masks before the first round: True everywhere.

    Args:
      params: a pytree of arrays.
      where: which floating values are to be pruned, as `paths.matches` takes it; all others stay dense.

    Raises:
      ValueError: `where` chooses nothing, or no floating value.
    """
    masks = {path: jnp.ones(v.shape, bool) for path, v in select(params, where).items() if is_float(v)}
    if not masks:
        raise ValueError(f"where must choose a floating value, got {where!r} that chooses none; widen it.")
    return masks


def next_masks(
    trained: Any, masks: Masks, sparsity: float, *, allocation: Allocation = EACH
) -> dict[str, Bool[Array, "..."]]:
    """What stays of `masks` at `sparsity`: the trained weights of largest |w|.

    What is gone stays gone; a sparsity below that of `masks` changes nothing. A tie keeps the lower flat
    index; NaN goes first.

    Args:
      trained: params at the end of a training under `masks`.
      masks: by path.
      sparsity: of all weights under masks, in [0, 1).
      allocation: `per_leaf()` is the paper's layer-wise pruning, `together()` its global one.

    Raises:
      ValueError: `sparsity` is out of its range, or `masks` are not those of `trained`.
    """
    if not 0 <= sparsity < 1:
        raise ValueError(f"sparsity must be in [0, 1), got {sparsity!r}; take one of rounds(0.9).")
    by_path = _under(trained, masks)
    scores = {}
    for path, mask in masks.items():
        size = jnp.abs(by_path[path].astype(jnp.float32))
        scores[path] = jnp.where(mask, jnp.where(jnp.isnan(size), -1.0, size), -jnp.inf)
    kept = allocation.share(scores, {path: mask.shape for path, mask in masks.items()}, sparsity)
    return {path: top_mask(scores[path], kept[path]) & mask for path, mask in masks.items()}


def ticket(early: Any, masks: Masks) -> Any:
    """The early weights where their mask is True, zero elsewhere; values without a mask are as they were.

    Args:
      early: params as they were before training, or at an early step of it.
      masks: by path.

    Raises:
      ValueError: `masks` are not those of `early`.
    """
    _under(early, masks)
    return map_with_path(lambda path, v: masked(dense_value(v), masks[path]) if path in masks else v, early)


def fixed_masks(masks: Masks) -> Transform:
    """Applies the masks that it is given, for ever; values without a mask are handed on.

    `State.fixed` is a `Pruned`.

    Args:
      masks: by path.

    Raises:
      ValueError: at `init`, `masks` are not those of the params.
    """

    def init(params: Any, *, stats: Any = None, key: Any = None) -> State:
        del stats, key
        _under(params, masks)
        return State(train={}, fixed=Pruned(dict(masks), {}))

    def apply(params: Any, state: State) -> Any:
        return ticket(params, state.fixed.masks)

    return Transform(init, keep_state, apply, apply, name=f"fixed_masks(of {len(masks)} values)")


def _under(params: Any, masks: Masks) -> dict[str, Any]:
    """The values that have a mask, dense, by path.

    Raises:
      ValueError: a mask has no value of its shape.
    """
    by_path = flatten(params)[0]
    for path, mask in masks.items():
        got = tuple(by_path[path].shape) if path in by_path else None
        if got != tuple(mask.shape):
            raise ValueError(
                f"masks must be those of the params, got {path!r} of shape {tuple(mask.shape)!r} where they "
                f"have {'no such path' if got is None else got}; start from all_kept(params)."
            )
    return {path: dense_value(by_path[path]) for path in masks}
