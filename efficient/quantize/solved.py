"""Solved: weights moved to a grid by a method that looks at what enters them, once, at `init`."""

from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from efficient.core.layer import layer
from efficient.core.per_leaf import per_leaf
from efficient.core.transform import Key, State, Transform
from efficient.quantize.block_leaf import BlockLeaf, plain
from efficient.quantize.blocks import spread
from efficient.quantize.format import Format, safe
from efficient.quantize.quantizer import Grid, Quantizer


class Solved(NamedTuple):
    """Of one array: the model sees `fake(w + change)` on the grid, so that weights that are trained move."""

    grid: Grid
    change: Any  # float32, the weight's shape


class Places(NamedTuple):
    """The grid of every weight of one layer: its numbers are `scale (n - zero)`."""

    scale: Float[Array, "inputs outputs"]
    zero: Float[Array, "inputs outputs"]

    def nearest(self, weights: Float[Array, "*shape"], grid: Format) -> Float[Array, "*shape"]:
        """The nearest numbers."""
        return (grid.round(weights / self.scale + self.zero) - self.zero) * self.scale


@runtime_checkable
class Solve(Protocol):
    """Weights on the grid for one layer: `(weights, gram, places) -> weights`, [inputs, outputs]."""

    def __call__(  # noqa: D102
        self,
        weights: Float[Array, "inputs outputs"],
        gram: Float[Array, "inputs inputs"],
        places: Places,
    ) -> Float[Array, "inputs outputs"]: ...


def solving(quantizer: Quantizer, solve: Solve) -> Transform:
    """A transform that solves each layer once, at `init`, with the Gram matrix of what enters it.

    `State.fixed` is a `Solved` by path; grids stay. Further training is straight through, from there.

    Raises:
      ValueError: at `init`, no Gram matrix for a leaf, or one of other inputs; or as `Quantizer.layout`.
    """

    def init(value: jax.Array, *, path: str, stats: Any, key: Key | None) -> State:
        del key
        layout = quantizer.layout(value.shape, path)
        grid = quantizer.grid(value)
        scale = spread(safe(plain(grid.scale).astype(jnp.float32)), layout, value.shape)
        zero = jnp.zeros_like(scale) if grid.zero is None else spread(grid.zero, layout, value.shape)
        solved = layer(value, path=path, stats=stats).solved(
            lambda w, gram, s, z: solve(w, gram, Places(s, z)), scale, zero
        )
        return State(fixed=Solved(grid, solved - value.astype(jnp.float32)))

    def moved(value: jax.Array, state: State) -> jax.Array:
        return value.astype(jnp.float32) + state.fixed.change

    def apply(value: jax.Array, state: State) -> jax.Array:
        return quantizer.fake(moved(value, state), state.fixed.grid)

    def pack(value: jax.Array, state: State) -> BlockLeaf:
        return quantizer.encode(moved(value, state), state.fixed.grid)

    return per_leaf(init=init, apply=apply, pack=pack)
