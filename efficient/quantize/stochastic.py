"""Stochastic rounding: up or down at random, right on average; and gradients rounded so.

Source: Gupta et al., 2015, arXiv:1502.02551, section 3.1; Banner et al., 2018, arXiv:1805.11046 (gradients).
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from efficient.core.per_leaf import per_leaf
from efficient.core.transform import Key, State, Transform, recipe
from efficient.quantize.block_leaf import BlockLeaf, packed_leaf, plain
from efficient.quantize.blocks import spread
from efficient.quantize.format import safe
from efficient.quantize.formats.integer import require_bits
from efficient.quantize.product_leaf import ProductLeaf, ProductRule
from efficient.quantize.quantizer import Quantizer


@jax.custom_jvp
def stochastic_round(x: Float[Array, "*shape"], key: Key) -> Float[Array, "*shape"]:
    """floor(x + u), u even in [0, 1): x on average. The gradient passes straight through."""
    return jnp.floor(x + jax.random.uniform(key, x.shape, x.dtype))


@stochastic_round.defjvp
def _stochastic_round_jvp(primals: Any, tangents: Any) -> Any:
    return stochastic_round(*primals), tangents[0]


@recipe
def stochastic(quantizer: Quantizer) -> Transform:
    """Quantizes with stochastic rounding, drawn anew at each `update`; a zero stays zero.

    `State.fixed` is two keys a leaf, the second moved on by `update`: in between nothing changes.

    Args:
      quantizer: how; evenly spaced formats only. Scales follow the weights.

    Raises:
      ValueError: at once, a format that is not evenly spaced; at `init`, no key, or as `Quantizer.layout`.
    """
    if not quantizer.format.is_even:
        raise ValueError(
            f"format must be evenly spaced for stochastic rounding, got {quantizer.format!r}; use integers."
        )
    grid = quantizer.format

    def init(value: jax.Array, *, path: str, stats: Any, key: Key | None) -> State:
        del stats
        quantizer.layout(value.shape, path)
        if key is None:
            raise ValueError(f"key must be given for {path!r}, got None; call init(params, key=...).")
        return State(fixed=(key, key))

    def update(state: State, value: jax.Array, *, grad: Any, step: Any) -> State:
        del value, grad
        first, _ = state.fixed
        return State(fixed=(first, jax.random.fold_in(first, step)))

    def numbers(value: jax.Array, state: State) -> tuple[jax.Array, Any]:
        found, layout = quantizer.grid(value), quantizer.layout(value.shape)
        scale = spread(safe(plain(found.scale).astype(jnp.float32)), layout, value.shape)
        zero = 0.0 if found.zero is None else spread(found.zero, layout, value.shape)
        drawn = stochastic_round(value.astype(jnp.float32) / scale + zero, state.fixed[1])
        inside = jnp.clip(drawn, grid.low, grid.high)
        return jnp.where(
            (drawn >= grid.low) & (drawn <= grid.high), drawn, jax.lax.stop_gradient(inside)
        ), found

    def apply(value: jax.Array, state: State) -> jax.Array:
        drawn, found = numbers(value, state)
        layout = quantizer.layout(value.shape)
        zero = 0.0 if found.zero is None else spread(found.zero, layout, value.shape)
        return (drawn - zero) * spread(plain(found.scale).astype(jnp.float32), layout, value.shape)

    def pack(value: jax.Array, state: State) -> BlockLeaf:
        drawn, found = numbers(value, state)
        layout = quantizer.layout(value.shape)
        return packed_leaf(drawn, found.scale, found.zero, grid=grid, layout=layout, dtype=value.dtype)

    return per_leaf(init=init, apply=apply, update=update, pack=pack)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def noisy_cotangent(y: Float[Array, "*shape"], key: Key, bits: int) -> Float[Array, "*shape"]:
    """`y`, whose cotangent is rounded to integers times max |g| / q, at random: right on average."""
    del key, bits
    return y


def _noisy_forward(y: Any, key: Any, bits: int) -> tuple[Any, Any]:
    del bits
    return y, key


def _noisy_backward(bits: int, key: Any, g: Any) -> tuple[Any, None]:
    scale = safe(jnp.max(jnp.abs(g)).astype(jnp.float32) / (2 ** (bits - 1) - 1))
    own = jax.random.fold_in(key, g.size)
    return (stochastic_round(g.astype(jnp.float32) / scale, own) * scale).astype(g.dtype), None


noisy_cotangent.defvjp(_noisy_forward, _noisy_backward)


@dataclasses.dataclass(frozen=True)
class NoisyCotangent(ProductRule):
    """The gradient of each product, rounded at random before it goes on to weight and inputs."""

    bits: int

    def after(self, y: Any, args: Any) -> Any:
        """The product itself."""
        return noisy_cotangent(y, args, self.bits)


@recipe
def noisy_gradients(bits: int = 8) -> Transform:
    """Rounds the gradient that enters each product's backward pass, stochastically: int8 training.

    Both products of the backward pass then have one operand of few bits; with `linear` and `quantize_inputs`
    in the chain, two. `State.fixed` is two keys a leaf; `update` moves the second on.

    Args:
      bits: 2 to 8.

    Raises:
      ValueError: at once, `bits` out of range; at `init`, no key.

    Source: module docstring. *Differs:* numbers are rounded, and multiplied in floating point.
    """
    require_bits(bits, 2)

    def init(value: jax.Array, *, path: str, stats: Any, key: Key | None) -> State:
        del value, stats
        if key is None:
            raise ValueError(f"key must be given for {path!r}, got None; call init(params, key=...).")
        return State(fixed=(key, key))

    def update(state: State, value: jax.Array, *, grad: Any, step: Any) -> State:
        del value, grad
        first, _ = state.fixed
        return State(fixed=(first, jax.random.fold_in(first, step)))

    def apply(value: Any, state: State) -> ProductLeaf:
        return ProductLeaf(weight=value, args=state.fixed[1], rule=NoisyCotangent(bits), axis=-2)

    return per_leaf(init=init, apply=apply, update=update, nests=True)
