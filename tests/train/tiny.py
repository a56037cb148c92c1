"""The smallest of everything: a linear model, a mask, a leaf, and batches that know their place."""

import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from efficient.core.leaf import Leaf, dense, leaf, static
from efficient.core.per_leaf import per_leaf
from efficient.core.transform import State, Transform


class Place(NamedTuple):
    index: int


FIRST = Place(0)


class Batch(NamedTuple):
    x: Any
    y: Any
    resume_at: Place = FIRST


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stream:
    """Batch i is a function of i; `length` batches."""

    length: int
    start: Place = FIRST

    def __iter__(self) -> Iterator[Batch]:
        for i in range(self.start.index, self.length):
            draw = np.random.default_rng(i)
            x = draw.normal(size=(4, 3)).astype(np.float32)
            y = (x @ np.float32([[1.0], [-2.0], [0.5]]))[:, 0]
            yield Batch(x, y, Place(i + 1))


def params() -> dict[str, Any]:
    return {"w": jnp.array([0.5, -1.0, 2.0]), "b": jnp.array(0.25)}


def loss(weights: Any, model_state: Any, batch: Batch, key: Any) -> Any:
    """Mean of (x w + b - y)^2."""
    del key
    weights = dense(weights)
    error = batch.x @ weights["w"] + weights["b"] - batch.y
    return jnp.mean(error**2), (model_state, {"error": jnp.mean(jnp.abs(error))})


def noisy_loss(weights: Any, model_state: Any, batch: Batch, key: Any) -> Any:
    """As `loss`, on inputs with noise: a resumed run must draw the same."""
    x = batch.x + 0.1 * jax.random.normal(key, batch.x.shape)
    return loss(weights, model_state, batch._replace(x=x), key)


def mask(*kept: int) -> Transform:
    """Keeps the given places of every vector; updates nothing."""

    def init(value: Any, *, path: str, stats: Any, key: Any) -> State:
        return State(
            fixed=jnp.zeros(value.shape, bool).at[np.array(kept)].set(True)
            if value.ndim
            else jnp.ones((), bool)
        )

    return per_leaf(init=init, apply=lambda v, s: jnp.where(s.fixed, v, 0))


def shift() -> Transform:
    """Adds a trained vector: `train` of its own."""
    init = lambda v, *, path, stats, key: State(train=jnp.zeros_like(v))  # noqa: E731
    return per_leaf(init=init, apply=lambda v, s: v + s.train)


@leaf
class ScaledLeaf(Leaf):
    """`codes * scale`, with integer codes: a leaf whose parts are not all differentiable."""

    codes: Any
    scale: Any
    out_dtype: Any = static()

    @property
    def shape(self) -> tuple[int, ...]:
        return self.codes.shape

    @property
    def dtype(self) -> Any:
        return self.out_dtype

    def dense(self) -> jax.Array:
        return self.codes.astype(self.out_dtype) * self.scale


def scaled() -> Transform:
    """Replaces each value by a `ScaledLeaf` with a trained scale."""

    def init(value: Any, *, path: str, stats: Any, key: Any) -> State:
        return State(train=jnp.ones(()), fixed=jnp.round(value).astype(jnp.int8))

    def apply(value: Any, state: State) -> ScaledLeaf:
        return ScaledLeaf(codes=state.fixed, scale=state.train, out_dtype=value.dtype)

    return per_leaf(init=init, apply=apply)


def spy() -> Transform:
    """Remembers the gradient, the params and the step of its last update."""

    def init(p: Any, *, stats: Any = None, key: Any = None) -> State:
        return State(fixed={"grads": p, "params": p, "step": jnp.zeros((), jnp.int32)})

    def update(state: State, p: Any, *, grads: Any = None, step: Any) -> State:
        return State(fixed={"grads": grads, "params": p, "step": step})

    same = lambda p, s: p  # noqa: E731
    return Transform(init, update, same, same)
