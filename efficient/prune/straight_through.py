"""Straight-through pruning: the model sees the largest weights, and the gradient reaches all of them.

Nothing is lost for good: a hidden weight is trained on, and shows again when it has grown large enough.

Source: Lin et al., 2020, arXiv:2006.07253 (masks made anew from dense weights that the gradient at the masked
ones moves); the straight-through gradient is Bengio et al., 2013, arXiv:1308.3432; the decay of hidden
weights Zhou et al., 2021, arXiv:2102.04010 (SR-STE).
Differs: the first paper makes masks anew every 16 steps, here at each unless `every` says more; the last
decays under plain SGD, here the decay is part of the gradient, which an adaptive optimizer scales.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from efficient.core.paths import flatten, map_with_path
from efficient.core.transform import Key, State, Transform, dense_value, is_float, recipe, require_state
from efficient.prune.allocation import Allocation
from efficient.prune.mask import masked
from efficient.prune.pattern import Pattern
from efficient.prune.prune import EACH, EVERYTHING, Pruned, Schedule, prune, require_schedule
from efficient.prune.scores.absolute import absolute


@recipe
def straight_through(
    sparsity: float | Schedule | None = None,
    *,
    pattern: Pattern = EVERYTHING,
    allocation: Allocation = EACH,
    every: int = 1,
    decay: float = 0.0,
) -> Transform:
    """Shows the weights of largest |w|, chosen anew among all of them; the gradient passes the mask.

    With mask m of the trained weights w and gradient g of what is shown,

        shown = m * w,    dL/dw = g + decay * (1 - m) * w.

    The first masks are those of the weights at `init`, all others those of the moved weights at `update`. A
    tie keeps the lower flat index; NaN goes first. `State.fixed` is a `Pruned`.

    Args:
      sparsity: in [0, 1); or a schedule step -> sparsity; None is the pattern's own, such as 0.5 of 2:4.
      pattern: which weights stay or go together.
      allocation: how the budget is shared out among arrays.
      every: masks are made anew at steps that `every` divides, at least 1.
      decay: pulls hidden weights to zero, at least 0; the paper of SR-STE has 2e-4. With it there are only
        reverse derivatives.

    Raises:
      ValueError: at once, `sparsity` outside [0, 1), or None with a pattern that has none of its own, `every`
        below 1 or `decay` below 0; at `init`, no floating leaf, or one that the pattern refuses; at `apply`,
        a floating leaf that `init` was not given.

    Example:
      >>> t = straight_through(0.5)
      >>> params = {"w": jnp.array([3.0, 1.0])}
      >>> state = t.init(params)
      >>> t.apply(params, state)["w"].tolist()
      [3.0, 0.0]
      >>> jax.grad(lambda p: jnp.sum(t.apply(p, state)["w"]))(params)["w"].tolist()
      [1.0, 1.0]

    Source, *Differs:* module docstring.
    """
    chooser = functools.partial(prune, absolute(), pattern=pattern, allocation=allocation)
    first = chooser(sparsity)  # refuses what it must
    goal: Any = pattern.sparsity if sparsity is None else sparsity
    require_schedule(goal, every)
    if not decay >= 0:
        raise ValueError(f"decay must be at least 0, got {decay!r}; 2e-4 suits SGD.")

    def init(params: Any, *, stats: Any = None, key: Key | None = None) -> State:
        del stats, key
        return State(train={}, fixed=Pruned(first.init(params).fixed.masks, {}))

    def update(state: State, params: Any, *, grads: Any = None, step: Any) -> State:
        del grads
        old: Pruned = state.fixed
        own = {path: value for path, value in flatten(params)[0].items() if path in old.masks}
        now = chooser(lambda _: goal(step)) if callable(goal) else first
        masks = jax.lax.cond(step % every == 0, lambda _: dict(now.init(own).fixed.masks), dict, old.masks)
        return State(state.train, Pruned(masks, old.memory))

    def apply(params: Any, state: State) -> Any:
        require_state(state, isinstance(state, State) and isinstance(state.fixed, Pruned))

        def one(path: str, value: Any) -> Any:
            if not is_float(value):
                return value
            if path not in state.fixed.masks:
                raise ValueError(f"params must be those of init, got a new path {path!r}; make a new state.")
            mask, whole = state.fixed.masks[path], dense_value(value)
            return _decayed(whole, mask, decay) if decay else _passed(whole, mask)

        return map_with_path(one, params)

    return Transform(init, update, apply, apply)


@jax.custom_jvp
def _passed(value: Float[Array, "*shape"], mask: Bool[Array, "*shape"]) -> Float[Array, "*shape"]:
    """`masked`, whose gradient passes as if it were not."""
    return masked(value, mask)


@_passed.defjvp
def _passed_jvp(primals: Any, tangents: Any) -> Any:
    return _passed(*primals), tangents[0]


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _decayed(
    value: Float[Array, "*shape"], mask: Bool[Array, "*shape"], decay: float
) -> Float[Array, "*shape"]:
    """`_passed`, with `decay` times the hidden weights added to the gradient."""
    return masked(value, mask)


def _decayed_forward(value: Any, mask: Any, decay: float) -> Any:
    return masked(value, mask), masked(value, ~mask)


def _decayed_backward(decay: float, hidden: Any, grad: Any) -> Any:
    return grad + jnp.asarray(decay, grad.dtype) * hidden, None


_decayed.defvjp(_decayed_forward, _decayed_backward)
