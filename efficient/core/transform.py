"""Transform: how the weights that the model sees are made from those that you train.

    state   = t.init(params, key=key)                    # masks, scales, codebooks, adapters
    weights = t.apply(params, state)                     # what the model sees; inside the loss
    state   = t.update(state, params, grads=g, step=i)   # schedules, ramps, running ranges
    small   = t.pack(params, state)                      # leaves that are really small; inference

`state.train` is what the optimizer may move beside the params; `state.fixed` is what it may not:

    def loss(params, train):
        weights = t.apply(params, State(train, state.fixed))
        return cross_entropy(lift(model.apply)(weights, x), y)

`apply` and `pack` return the tree that they were given, with arrays of the same shape and dtype, or
`Leaf`s that stand for such arrays: a model runs on them through `lift`.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, ParamSpec, Protocol, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp

from efficient.core.leaf import is_leaf
from efficient.core.words import array_words

Key = jax.Array
P = ParamSpec("P")
Made = TypeVar("Made")


class State(NamedTuple):
    """What a transform remembers. Both parts are pytrees."""

    train: Any = ()  # the optimizer may move it: LSQ steps, LoRA factors, centroids
    fixed: Any = ()  # it may not: masks, indices, frozen bases, counters


@runtime_checkable
class Init(Protocol):
    """`init(params, *, stats=None, key=None) -> State`."""

    def __call__(self, params: Any, *, stats: Any = None, key: Key | None = None) -> State: ...  # noqa: D102


@runtime_checkable
class Update(Protocol):
    """`update(state, params, *, grads=None, step) -> State`."""

    def __call__(self, state: State, params: Any, *, grads: Any = None, step: Any) -> State: ...  # noqa: D102


class Transform(NamedTuple):
    """Four pure functions; `chain` composes them.

    init(params, *, stats=None, key=None): a `State`. Traceable, so that a plan can be checked on shapes.
      `stats` is a dict by path, as `observe` returns it. `key` is needed only by what draws at random.
    update(state, params, *, grads=None, step): a `State` of the same structure. `grads` is the gradient of
      the loss with respect to what `apply` returned (dense: zero weights have gradients too).
    apply(params, state): what the model sees; differentiable in `params` and `state.train`.
    pack(params, state): the same weights in their smallest form, for inference.

    Example:
      >>> chain(identity(), identity())
      chain(identity(), identity())
    """

    init: Init
    update: Update
    apply: Callable[[Any, State], Any]
    pack: Callable[[Any, State], Any]
    name: str = "Transform(...)"  # the call that built it: see `recipe`

    def __repr__(self) -> str:
        return self.name


def recipe(make: Callable[P, Made]) -> Callable[P, Made]:
    """Decorates a function that builds a transform, which then prints as the call: `magnitude(0.9)`.

    It serves every NamedTuple of functions that has a `name`: scores, patterns and allocations too.
    """

    @functools.wraps(make)
    def named(*args: P.args, **kwargs: P.kwargs) -> Made:
        words = [*map(_words, args), *(f"{key}={_words(value)}" for key, value in kwargs.items())]
        made: Any = make(*args, **kwargs)
        return made._replace(name=f"{make.__name__}({', '.join(words)})")

    return named


def _words(argument: Any) -> str:
    """An argument as it was written, or nearly: a function by what built it, an array by its shape."""
    if hasattr(argument, "dtype"):
        return array_words(argument)
    if isinstance(argument, Mapping):
        return "{" + ", ".join(f"{key!r}: {_words(value)}" for key, value in argument.items()) + "}"
    if not callable(argument) or not hasattr(argument, "__qualname__"):
        return repr(argument)
    builder, is_local, _ = argument.__qualname__.partition(".<locals>.")
    return f"{builder}(...)" if is_local else builder


def keep_state(state: State, params: Any, *, grads: Any = None, step: Any) -> State:
    """The `update` of a transform that has nothing to update."""
    del params, grads, step
    return state


@recipe
def identity() -> Transform:
    """The transform that changes nothing."""
    same = lambda params, state: params  # noqa: E731
    return Transform(lambda params, *, stats=None, key=None: State(), keep_state, same, same)


@recipe
def chain(*transforms: Transform) -> Transform:
    """Applies transforms from left to right: each sees the weights that the one before hands on.

    `chain(magnitude(0.9), linear(8))` prunes and then quantizes what is left. `state.train` and
    `state.fixed` are tuples, one entry a transform. `pack` hands on packed leaves, so that a transform
    that can keep a leaf inside its own (LoRA over int8) does. In `update` the gradient is pulled back
    through the later transforms: each gets the gradient with respect to its own output.

    Raises:
      ValueError: at once, one of them is no `Transform`.

    Example:
      >>> from efficient.prune import magnitude
      >>> from efficient.quantize import linear
      >>> t = chain(magnitude(0.5), linear(8))
      >>> params = {"kernel": jnp.array([[1.0, -4.0], [2.0, 0.5]])}
      >>> t.apply(params, t.init(params))["kernel"].tolist()
      [[0.0, -4.0], [2.0, 0.0]]
    """
    for t in transforms:
        require_transform(t, "chain(a, b, ...)")

    def stages(state: State) -> list[tuple[Transform, State]]:
        parts = (state.train, state.fixed) if isinstance(state, State) else ()
        require_state(state, all(type(part) is tuple and len(part) == len(transforms) for part in parts))
        return [
            (t, State(*s))
            for t, s in zip(transforms, zip(state.train, state.fixed, strict=True), strict=True)
        ]

    def joined(states: list[State]) -> State:
        return State(tuple(s.train for s in states), tuple(s.fixed for s in states))

    def init(params: Any, *, stats: Any = None, key: Key | None = None) -> State:
        states = []
        for i, t in enumerate(transforms):
            states.append(
                t.init(params, stats=stats, key=None if key is None else jax.random.fold_in(key, i))
            )
            params = t.apply(params, states[-1])
        return joined(states)

    def update(state: State, params: Any, *, grads: Any = None, step: Any) -> State:
        inputs, pullbacks = [], []
        for t, s in stages(state):
            inputs.append(params)
            if grads is None:
                params = t.apply(params, s)
            else:
                params, pullback = jax.vjp(lambda p, t=t, s=s: t.apply(p, s), params)
                pullbacks.append(pullback)
        outward = [grads] * len(transforms)
        for i in reversed(range(len(transforms) - 1)):
            outward[i] = None if grads is None else pullbacks[i + 1](outward[i + 1])[0]
        return joined(
            [
                t.update(s, p, grads=g, step=step)
                for (t, s), p, g in zip(stages(state), inputs, outward, strict=True)
            ]
        )

    def apply(params: Any, state: State) -> Any:
        for t, s in stages(state):
            params = t.apply(params, s)
        return params

    def pack(params: Any, state: State) -> Any:
        for t, s in stages(state):
            params = t.pack(params, s)
        return params

    return Transform(init, update, apply, pack)


def require_transform(value: Any, call: str) -> None:
    """Refuses what is no `Transform` where one is asked for."""
    if not isinstance(value, Transform):
        raise ValueError(f"transform must be a Transform, got {type(value).__name__}; call {call}.")


def require_state(state: Any, is_own: bool = True) -> None:
    """Refuses a state that `init` of the same transform did not make.

    Raises:
      ValueError: `state` is no `State`, or not of this transform's form.
    """
    if not isinstance(state, State) or not is_own:
        raise ValueError(
            f"state must be what init of the same transform returns, got {type(state).__name__} of another "
            "form; call it as apply(params, state), pack(params, state), update(state, params, step=...)."
        )


def is_float(value: Any) -> bool:
    """True of arrays, shapes and leaves of a floating dtype."""
    return hasattr(value, "dtype") and jnp.issubdtype(value.dtype, jnp.floating)


def dense_value(value: Any) -> Any:
    """One value, made dense if it is a leaf."""
    return value.dense() if is_leaf(value) else value


def like(new: Any, old: Any) -> Any:
    """`new` in the dtype of `old`."""
    cast = new if new.dtype == old.dtype else new.astype(old.dtype)
    if cast is NotImplemented:
        raise ValueError(
            f"leaf {type(new).__name__} must stand for {old.dtype} here, got {new.dtype}; give its class a "
            "field out_dtype, or an astype of its own."
        )
    return cast
