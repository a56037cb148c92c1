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

import zlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from efficient.core.leaf import is_leaf
from efficient.core.paths import Where, flatten, select, unflatten

Key = jax.Array


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
    """

    init: Init
    update: Update
    apply: Callable[[Any, State], Any]
    pack: Callable[[Any, State], Any]


def keep_state(state: State, params: Any, *, grads: Any = None, step: Any) -> State:
    """The `update` of a transform that has nothing to update."""
    del params, grads, step
    return state


def identity() -> Transform:
    """The transform that changes nothing."""
    same = lambda params, state: params  # noqa: E731
    return Transform(lambda params, *, stats=None, key=None: State(), keep_state, same, same)


def chain(*transforms: Transform) -> Transform:
    """Applies transforms from left to right: each sees the weights that the one before hands on.

    `chain(magnitude(0.9), linear(8))` prunes and then quantizes what is left. `state.train` and
    `state.fixed` are tuples, one entry a transform. `pack` hands on packed leaves, so that a transform
    that can keep a leaf inside its own (LoRA over int8) does. In `update` the gradient is pulled back
    through the later transforms: each gets the gradient with respect to its own output.
    """
    for t in transforms:
        require_transform(t, "chain(a, b, ...)")

    def stages(state: State) -> list[tuple[Transform, State]]:
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


def at(where: Where, transform: Transform, *, exclude: Where = ()) -> Transform:
    """Scopes `transform` to the values that `where` chooses and `exclude` does not.

    Args:
      where: a glob such as `"**/kernel"`, a predicate `(path, value) -> bool`, or a sequence of these.
      transform: sees a flat dict of the chosen values, by path.
      exclude: what to leave out, in the same language.

    Raises:
      ValueError: at `init`, when nothing is chosen; the message names the nearest paths.

    Example:
      >>> import jax.numpy as jnp
      >>> t = at("**/kernel", identity())
      >>> t.init({"Dense_0": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}})
      State(train=(), fixed=())
    """
    require_transform(transform, "at(pattern, transform)")

    def chosen(tree: Any) -> dict[str, Any]:
        return select(tree, where, exclude=exclude)

    def put_back(tree: Any, new: Mapping[str, Any]) -> Any:
        by_path, treedef = flatten(tree)
        return unflatten(treedef, {path: new.get(path, value) for path, value in by_path.items()})

    def init(params: Any, *, stats: Any = None, key: Key | None = None) -> State:
        return transform.init(chosen(params), stats=stats, key=key)

    def update(state: State, params: Any, *, grads: Any = None, step: Any) -> State:
        grads = None if grads is None else chosen(grads)
        return transform.update(state, chosen(params), grads=grads, step=step)

    def apply(params: Any, state: State) -> Any:
        return put_back(params, transform.apply(chosen(params), state))

    def pack(params: Any, state: State) -> Any:
        return put_back(params, transform.pack(chosen(params), state))

    return Transform(init, update, apply, pack)


def stacked(transform: Transform) -> Transform:
    """Runs `transform` on each slice along the first axis: a transform a layer, for scanned layers.

    A model that scans over its layers stores their weights with a leading axis, `[layers, ...]`. Under
    `stacked` every layer has its own budget, codebook, scale and factors; the states and leaves have the
    leading axis too, so that `lax.scan` slices them with the layer. A `stats` dict is sliced alike.

    Raises:
      ValueError: the leaves differ in their first axis, or one has none.
    """
    require_transform(transform, "stacked(transform)")

    def layers(params: Any) -> int:
        by_path, _ = flatten(params)
        sizes = {path: v.shape[0] if v.ndim else None for path, v in by_path.items()}
        if len(set(sizes.values())) != 1 or None in sizes.values():
            raise ValueError(
                f"stacked values must share their first axis (the layers), got {sizes!r}; scope with at(...)."
            )
        return int(next(iter(sizes.values())) or 0)

    def init(params: Any, *, stats: Any = None, key: Key | None = None) -> State:
        count = layers(params)
        keys = None if key is None else jax.random.split(key, count)
        if stats is not None:
            stats = {path: stats[path] for path in flatten(params)[0] if path in stats}
        return jax.vmap(lambda p, s, k: transform.init(p, stats=s, key=k))(params, stats, keys)

    def update(state: State, params: Any, *, grads: Any = None, step: Any) -> State:
        one = lambda s, p, g: transform.update(s, p, grads=g, step=step)  # noqa: E731
        return jax.vmap(one)(state, params, grads)

    def apply(params: Any, state: State) -> Any:
        return jax.vmap(transform.apply)(params, state)

    def pack(params: Any, state: State) -> Any:
        return jax.vmap(transform.pack)(params, state)

    return Transform(init, update, apply, pack)


@runtime_checkable
class LeafInit(Protocol):
    """What makes the state of one array."""

    def __call__(self, value: jax.Array, *, path: str, stats: Any, key: Key | None) -> State: ...  # noqa: D102


def per_leaf(
    *,
    init: LeafInit,
    apply: Callable[[Any, State], Any],
    update: Callable[..., State] | None = None,
    pack: Callable[[Any, State], Any] | None = None,
    nests: bool = False,
) -> Transform:
    """A transform that treats every floating value by itself; states are dicts by path.

    Args:
      init: `(value, *, path, stats, key) -> State`. Raises `ValueError` for a value that it cannot treat.
      apply: `(value, State) -> Array | Leaf`; what comes back gets the dtype of `value`.
      update: `(State, value, *, grad, step) -> State`; None keeps the state.
      pack: `(value, State) -> Array | Leaf`; None is `apply`.
      nests: True where `apply` and `pack` take leaves as they are; else they are made dense first.

    Integer and boolean values (counters, PRNG keys) are handed on untouched.
    """

    def own(value: Any) -> Any:
        return value.dense() if is_leaf(value) and not nests else value

    def entry(state: State, path: str) -> State:
        if path not in state.train and path not in state.fixed:
            known = ", ".join(sorted({*state.train, *state.fixed})[:4])
            raise ValueError(
                f"params must be those of init, got a new path {path!r}; the state knows {known}."
            )
        return State(state.train.get(path, ()), state.fixed.get(path, ()))

    def gathered(states: Mapping[str, State]) -> State:
        return State({p: s.train for p, s in states.items()}, {p: s.fixed for p, s in states.items()})

    def do_init(params: Any, *, stats: Any = None, key: Key | None = None) -> State:
        states = {}
        for path, value in flatten(params)[0].items():
            if is_float(value):
                own_key = None if key is None else jax.random.fold_in(key, zlib.crc32(path.encode()))
                whole = value.dense() if is_leaf(value) else value
                states[path] = init(whole, path=path, stats=(stats or {}).get(path), key=own_key)
        if not states:
            raise ValueError(
                f"params must have a floating value to transform, got none of {len(flatten(params)[0])}; "
                "check the pattern that scopes it."
            )
        return gathered(states)

    def do_update(state: State, params: Any, *, grads: Any = None, step: Any) -> State:
        if update is None:
            return state
        by_path = flatten(params)[0]
        grad_by_path = {} if grads is None else flatten(grads)[0]
        return gathered(
            {
                path: update(entry(state, path), dense_value(value), grad=grad_by_path.get(path), step=step)
                for path, value in by_path.items()
                if is_float(value)
            }
        )

    def mapped(one: Callable[[Any, State], Any]) -> Callable[[Any, State], Any]:
        def over(params: Any, state: State) -> Any:
            by_path, treedef = flatten(params)
            new = {
                path: like(one(own(value), entry(state, path)), value) if is_float(value) else value
                for path, value in by_path.items()
            }
            return unflatten(treedef, new)

        return over

    return Transform(do_init, do_update, mapped(apply), mapped(pack or apply))


def require_transform(value: Any, call: str) -> None:
    """Refuses what is no `Transform` where one is asked for."""
    if not isinstance(value, Transform):
        raise ValueError(f"transform must be a Transform, got {type(value).__name__}; call {call}.")


def is_float(value: Any) -> bool:
    """True of arrays, shapes and leaves of a floating dtype."""
    return hasattr(value, "dtype") and jnp.issubdtype(value.dtype, jnp.floating)


def dense_value(value: Any) -> Any:
    """One value, made dense if it is a leaf."""
    return value.dense() if is_leaf(value) else value


def like(new: Any, old: Any) -> Any:
    """`new` in the dtype of `old`."""
    return new if new.dtype == old.dtype else new.astype(old.dtype)
