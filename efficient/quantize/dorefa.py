"""DoReFa: weights squashed by tanh, inputs clipped to [0, 1], both on even grids of that range.

Source: Zhou et al., 2016, arXiv:1606.06160, sections 2.3 and 2.4.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from efficient.core.per_leaf import per_leaf
from efficient.core.transform import Key, State, Transform, recipe
from efficient.quantize.block_leaf import BlockLeaf, packed_leaf
from efficient.quantize.formats import Table
from efficient.quantize.formats.integer import require_bits
from efficient.quantize.pact import snapped
from efficient.quantize.product_leaf import ProductLeaf, ProductRule


def squashed(value: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """tanh(w) / (2 max |tanh(w)|) + 1/2, in [0, 1]; 1/2 where all is zero."""
    bent = jnp.tanh(value)
    most = jnp.max(jnp.abs(bent))
    return bent / (2 * jnp.where(most > 0, most, 1.0)) + 0.5


@recipe
def dorefa(bits: int = 4) -> Transform:
    """Weights 2 quantize(squashed(w)) - 1 on 2^bits numbers evenly from -1 to 1 (equation 9). No state.

    The grid has no zero: what was pruned comes back. The scale of the weights is lost, which a
    normalization after the layer makes up for; without one, train from the start.

    Args:
      bits: 2 to 8; for one bit see `binary`.

    Raises:
      ValueError: at once, `bits` out of range.

    Source: module docstring. *Differs:* gradients are not quantized; `noisy_gradients` does that.
    """
    require_bits(bits, 2)
    steps = 2**bits - 1
    grid = Table(tuple(2 * i / steps - 1 for i in range(steps + 1)))

    def init(value: jax.Array, *, path: str, stats: Any, key: Key | None) -> State:
        del value, path, stats, key
        return State()

    def apply(value: jax.Array, state: State) -> jax.Array:
        del state
        return 2 * snapped(squashed(value.astype(jnp.float32)), jnp.float32(1 / steps)) - 1

    def pack(value: jax.Array, state: State) -> BlockLeaf:
        layout, scale = (0,) * value.ndim, jnp.ones((1,) * value.ndim)
        return packed_leaf(apply(value, state), scale, None, grid=grid, layout=layout, dtype=value.dtype)

    return per_leaf(init=init, apply=apply, pack=pack)


@dataclasses.dataclass(frozen=True)
class UnitReach(ProductRule):
    """Inputs clipped to [0, 1] and rounded."""

    bits: int

    def before(self, x: Any, args: Any, axes: tuple[int, ...]) -> Any:
        """The gradient is 1 inside, its ends included, else 0."""
        del args, axes
        inside = jnp.where((x >= 0) & (x <= 1), x, jax.lax.stop_gradient(jnp.clip(x, 0, 1)))
        return snapped(inside.astype(jnp.float32), jnp.float32(1 / (2**self.bits - 1)))


@recipe
def dorefa_inputs(bits: int = 4) -> Transform:
    """What enters each weight clipped to [0, 1], on 2^bits numbers. There is no state.

    Args:
      bits: 1 to 8.

    Raises:
      ValueError: at once, `bits` out of range.
    """
    require_bits(bits, 1)

    def init(value: jax.Array, *, path: str, stats: Any, key: Key | None) -> State:
        del value, path, stats, key
        return State()

    def apply(value: Any, state: State) -> ProductLeaf:
        return ProductLeaf(weight=value, args=state.fixed, rule=UnitReach(bits), axis=-2)

    return per_leaf(init=init, apply=apply, nests=True)
