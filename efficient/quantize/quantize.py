"""Quantize: rounds weights to a grid, whatever the format, the blocks and the range.

at("**/kernel", quantize(Quantizer(format=Integer(4), blocks=group(64), range=mse())))
"""

from typing import Any

import jax

from efficient.core.per_leaf import per_leaf
from efficient.core.transform import State, Transform, recipe
from efficient.quantize.block_leaf import BlockLeaf
from efficient.quantize.quantizer import Grid, Quantizer


@recipe
def quantize(quantizer: Quantizer, *, is_frozen: bool = False) -> Transform:
    """Quantizes every weight, and trains through it (QAT): the gradient passes straight through the rounding.

    Args:
      quantizer: how.
      is_frozen: True: grids stay as the weights at `init` made them, in `State.fixed`, and weights that grow
        beyond are clipped. False: grids follow the weights, at the cost of finding them anew at each `apply`;
        there is no state.

    Raises:
      ValueError: at `init`, a leaf without an axis that the blocks name, or a range that the format does not
        go with.

    Example:
      >>> import jax.numpy as jnp
      >>> from efficient.quantize import Quantizer, formats
      >>> t = quantize(Quantizer(format=formats.Integer(3)))
      >>> w = {"a": jnp.array([3.0, 1.4, -0.6])}
      >>> t.apply(w, t.init(w))["a"].tolist()
      [3.0, 1.0, -1.0]
    """

    def init(value: jax.Array, *, path: str, stats: Any, key: Any) -> State:
        del stats, key
        quantizer.layout(value.shape, path)
        return State(fixed=quantizer.grid(value)) if is_frozen else State()

    def grid_of(value: jax.Array, state: State) -> Grid:
        return state.fixed if is_frozen else quantizer.grid(value)

    def apply(value: jax.Array, state: State) -> jax.Array:
        return quantizer.fake(value, grid_of(value, state))

    def pack(value: jax.Array, state: State) -> BlockLeaf:
        return quantizer.encode(value, grid_of(value, state))

    return per_leaf(init=init, apply=apply, pack=pack)
