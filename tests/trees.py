"""Small models of each kind of tree: Linen dict, NNX state, scanned layers, plain pytree."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx

from efficient import Transform, at, stacked

FEATURES = 6


class Tree(NamedTuple):
    """A model and how to scope a transform to its matrices."""

    fn: Callable[[Any, Any], Any]
    params: Any
    x: jax.Array
    scope: Callable[[Transform], Transform]


class Mlp(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(FEATURES)(nn.gelu(nn.Dense(8)(x)))


class NnxMlp(nnx.Module):
    def __init__(self, *, rngs: nnx.Rngs):
        self.up = nnx.Linear(FEATURES, 8, rngs=rngs)
        self.down = nnx.Linear(8, FEATURES, rngs=rngs)

    def __call__(self, x):
        return self.down(nnx.gelu(self.up(x)))


class Block(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        return x + nn.Dense(FEATURES)(nn.gelu(x)), None


class Scanned(nn.Module):
    @nn.compact
    def __call__(self, x):
        layers = nn.scan(nn.remat(Block), variable_axes={"params": 0}, split_rngs={"params": True}, length=3)
        return layers(name="layers")(x, None)[0]


def _inputs() -> jax.Array:
    return jax.random.normal(jax.random.key(7), (5, FEATURES))


def _linen() -> Tree:
    x = _inputs()
    return Tree(Mlp().apply, Mlp().init(jax.random.key(0), x), x, lambda t: at("**/kernel", t))


def _nnx() -> Tree:
    graph, state = nnx.split(NnxMlp(rngs=nnx.Rngs(0)))
    return Tree(lambda s, x: nnx.merge(graph, s)(x), state, _inputs(), lambda t: at("**/kernel", t))


def _scanned() -> Tree:
    x = _inputs()
    return Tree(
        Scanned().apply, Scanned().init(jax.random.key(0), x), x, lambda t: at("**/kernel", stacked(t))
    )


def _plain() -> Tree:
    keys = jax.random.split(jax.random.key(0), 2)
    params = [
        (jax.random.normal(keys[0], (FEATURES, 8)), jnp.ones(8)),
        {"out": jax.random.normal(keys[1], (8, 3))},
    ]

    def fn(p, x):
        (w, b), last = p
        return jnp.tanh(jnp.einsum("bi,io->bo", x, w) + b[None]) @ last["out"]

    return Tree(fn, params, _inputs(), lambda t: at(("0/0", "1/out"), t))


TREES: dict[str, Callable[[], Tree]] = {"linen": _linen, "nnx": _nnx, "scanned": _scanned, "plain": _plain}
