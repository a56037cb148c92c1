"""Binary: weights that are signs times one scale an output, and inputs that are signs.

Source: Rastegari et al., 2016, arXiv:1603.05279, sections 3.1 (BWN) and 3.2 (XNOR-Net).
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt32

from efficient.core.per_leaf import per_leaf
from efficient.core.transform import Key, State, Transform, recipe
from efficient.quantize.block_leaf import BlockLeaf, packed_leaf
from efficient.quantize.blocks import Blocks, channel, spread
from efficient.quantize.formats import Table
from efficient.quantize.product_leaf import ProductLeaf, ProductRule
from efficient.quantize.quantizer import Quantizer
from efficient.quantize.ranges import absmean

SIGNS = Table((-1.0, 1.0))


@jax.custom_jvp
def sign(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """1 where x >= 0, else -1; the gradient is 1 where |x| <= 1, else 0."""
    return jnp.where(x >= 0, 1.0, -1.0).astype(x.dtype)


@sign.defjvp
def _sign_jvp(primals: Any, tangents: Any) -> Any:
    (x,), (dx,) = primals, tangents
    return sign(x), jnp.where(jnp.abs(x) <= 1, dx, 0.0)


@recipe
def binary(blocks: Blocks | None = None) -> Transform:
    """W' = alpha sign(W), alpha = mean |W| of each block (an output channel): the nearest such matrix.

    The gradient of a weight is alpha dL/dW' where |W| <= 1, and that through alpha (section 3.1). There is
    no state. There is no zero: what was pruned comes back as +alpha.

    Args:
      blocks: that share alpha; None is `channel()`.

    Raises:
      ValueError: at `init`, a leaf without an axis that the blocks name.

    *Differs:* the gradient through alpha is exact; the paper's has 1/n in the place of a sum.
    """
    quantizer = Quantizer(format=SIGNS, blocks=blocks or channel(), range=absmean())

    def init(value: jax.Array, *, path: str, stats: Any, key: Key | None) -> State:
        del stats, key
        quantizer.layout(value.shape, path)
        return State()

    def parts(value: jax.Array) -> tuple[jax.Array, jax.Array]:
        return sign(value.astype(jnp.float32)), quantizer.trained_scale(value)

    def apply(value: jax.Array, state: State) -> jax.Array:
        del state
        signs, scale = parts(value)
        return signs * spread(scale, quantizer.layout(value.shape), value.shape)

    def pack(value: jax.Array, state: State) -> BlockLeaf:
        del state
        signs, scale = parts(value)
        layout = quantizer.layout(value.shape)
        return packed_leaf(signs, scale, None, grid=SIGNS, layout=layout, dtype=value.dtype)

    return per_leaf(init=init, apply=apply, pack=pack)


@dataclasses.dataclass(frozen=True)
class Signs(ProductRule):
    """Inputs that are signs times their mean magnitude, of each sum in a dense layer, or each example."""

    is_centred: bool = False

    def before(self, x: Any, args: Any, axes: tuple[int, ...]) -> Any:
        """M + sign(x - m) mean |x - m|, m the mean where centred, else 0."""
        del args
        over = axes if x.ndim == 2 else tuple(range(1, x.ndim))
        middle = jnp.mean(x, axis=over, keepdims=True) if self.is_centred else jnp.zeros_like(x)
        apart = x - middle
        return middle + sign(apart) * jnp.mean(jnp.abs(apart), axis=over, keepdims=True)


@recipe
def binary_inputs(*, is_centred: bool = False) -> Transform:
    """What enters each weight, as signs times their mean magnitude: with `binary`, XNOR-Net. No state.

    Args:
      is_centred: signs are those of inputs less their mean, which is added back: in the product, one sum of
        signs of weights. Inputs that are never negative, such as those after a ReLU, need it: without it,
        each of their signs is 1.

    *Differs:* the paper has a scale for each place of a convolution's output (equation 11), which its authors
    leave out for little loss; ours is one an example. Its networks normalize right before the signs.
    """
    rule = Signs(is_centred)

    def init(value: jax.Array, *, path: str, stats: Any, key: Key | None) -> State:
        del value, path, stats, key
        return State()

    def apply(value: Any, state: State) -> ProductLeaf:
        return ProductLeaf(weight=value, args=state.fixed, rule=rule, axis=-2)

    return per_leaf(init=init, apply=apply, nests=True)


def sign_bits(signs: Float[Array, "*lead n"]) -> UInt32[Array, "*lead words"]:
    """Signs as bits, 1 for what is not negative, 32 to a word, the first lowest; filled up by zeros."""
    *lead, n = signs.shape
    bits = jnp.pad(signs >= 0, [(0, 0)] * len(lead) + [(0, -n % 32)]).astype(jnp.uint32)
    words = bits.reshape(*lead, -1, 32)
    places = jnp.broadcast_to(jnp.arange(32, dtype=jnp.uint32), words.shape)
    return jnp.sum(words << places, axis=-1, dtype=jnp.uint32)


def sign_dot(a: UInt32[Array, "*lead words"], b: UInt32[Array, "*lead words"], n: int) -> Int[Array, "*lead"]:
    """The dot product of n signs, from their bits: n - 2 popcount(a xor b), exactly (section 3.2)."""
    return n - 2 * jnp.sum(jax.lax.population_count(a ^ b), axis=-1, dtype=jnp.int32)
