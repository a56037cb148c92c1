"""Side by side: transforms of values that do not overlap, as one."""

from collections.abc import Sequence
from typing import Any

import jax

from efficient.core.paths import flatten
from efficient.core.scope import at
from efficient.core.transform import Key, State, Transform


def side_by_side(parts: Sequence[tuple[frozenset[str], Transform]]) -> Transform:
    """Transforms of values that do not overlap; states are tuples, one entry a transform.

    Unlike in a chain none sees what another has made, so that gradients need no pulling back.
    """

    def scope(own: frozenset[str], transform: Transform) -> Transform:
        return at(lambda path, value: path in own, transform)

    scoped = [scope(own, transform) for own, transform in parts]

    def states(state: State) -> list[State]:
        return [State(*pair) for pair in zip(state.train, state.fixed, strict=True)]

    def joined(made: Sequence[State]) -> State:
        return State(tuple(s.train for s in made), tuple(s.fixed for s in made))

    def init(params: Any, *, stats: Any = None, key: Key | None = None) -> State:
        missing = sorted(set().union(*(own for own, _ in parts)) - set(flatten(params)[0]))
        if missing:
            raise ValueError(
                f"params must be those of the plan, got none at {missing[0]!r}; compile it for these."
            )
        keys = [None if key is None else jax.random.fold_in(key, i) for i, _ in enumerate(parts)]
        return joined(
            [
                t.init(params, stats=of_paths(stats, own), key=k)
                for t, (own, _), k in zip(scoped, parts, keys, strict=True)
            ]
        )

    def update(state: State, params: Any, *, grads: Any = None, step: Any) -> State:
        pairs = zip(scoped, states(state), strict=True)
        return joined([t.update(s, params, grads=grads, step=step) for t, s in pairs])

    def apply(params: Any, state: State) -> Any:
        for t, s in zip(scoped, states(state), strict=True):
            params = t.apply(params, s)
        return params

    def pack(params: Any, state: State) -> Any:
        for t, s in zip(scoped, states(state), strict=True):
            params = t.pack(params, s)
        return params

    return Transform(init, update, apply, pack)


def of_paths(stats: Any, own: Any) -> Any:
    """The statistics of some paths."""
    return None if stats is None else {path: one for path, one in stats.items() if path in own}
