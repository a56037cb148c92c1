"""Per leaf: a transform from functions of one array."""

import zlib
from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import jax

from efficient.core.leaf import is_leaf
from efficient.core.paths import flatten, unflatten
from efficient.core.transform import Key, State, Transform, dense_value, is_float, like, require_state


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
        parts = (state.train, state.fixed) if isinstance(state, State) else ()
        require_state(state, all(isinstance(part, Mapping) for part in parts))
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
