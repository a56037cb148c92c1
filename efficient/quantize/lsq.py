"""LSQ: the step of the grid is trained with the weights, or with the inputs.

Source: Esser et al., 2020, arXiv:1902.08153, section 2.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from efficient.core.per_leaf import per_leaf
from efficient.core.statistics import known
from efficient.core.transform import Key, State, Transform, recipe
from efficient.quantize.block_leaf import BlockLeaf, packed_leaf
from efficient.quantize.format import Format, round_to
from efficient.quantize.formats import Integer, Unsigned
from efficient.quantize.product_leaf import ProductLeaf, ProductRule


@jax.custom_jvp
def with_gradient(x: Float[Array, "*shape"], factor: float | Float[Array, ""]) -> Float[Array, "*shape"]:
    """`x`, whose gradient is multiplied by `factor`."""
    del factor
    return x


@with_gradient.defjvp
def _with_gradient_jvp(primals: Any, tangents: Any) -> Any:
    x, factor = primals
    return x, tangents[0] * factor


def stepped(
    x: Float[Array, "*shape"], step: Float[Array, ""], *, grid: Format, count: int
) -> Float[Array, "*shape"]:
    """x^ = round(clip(x / s, -Qn, Qp)) s, by equations 1 and 2, with the gradients of equations 3 and 5.

    dx^/ds is round(x / s) - x / s within the grid, else -Qn or Qp; it is multiplied by 1 / sqrt(count Qp).
    dx^/dx is 1 within, else 0.

    Args:
      x: float32.
      step: s; its magnitude counts.
      grid: `Integer` or `Unsigned`.
      count: how many numbers share the step.
    """
    s = with_gradient(jnp.abs(step), 1 / math.sqrt(count * grid.high))
    scaled = x / s
    inside = round_to(grid, scaled)
    ends = jax.lax.stop_gradient(jnp.clip(scaled, grid.low, grid.high))
    return jnp.where(grid.saturates(scaled), ends, inside) * s


def first_step(mean_size: Any, grid: Format) -> Any:
    """Where the step starts: 2 mean |x| / sqrt(Qp); 1 where all is zero (section 2.1)."""
    return jnp.where(mean_size > 0, 2 * mean_size / math.sqrt(grid.high), 1.0)


@recipe
def lsq(bits: int = 4) -> Transform:
    """Weights on integers times a step that is trained: one a leaf, `State.train` by path.

    Args:
      bits: 2 to 8; the grid is -q..q with q = 2^(bits-1) - 1.

    Raises:
      ValueError: at once, `bits` out of range.

    Source: module docstring. *Differs:* the grid is symmetric; the paper's has one number more below zero.
    """
    grid = Integer(bits)

    def init(value: jax.Array, *, path: str, stats: Any, key: Key | None) -> State:
        del path, stats, key
        return State(train=first_step(jnp.mean(jnp.abs(value.astype(jnp.float32))), grid))

    def apply(value: jax.Array, state: State) -> jax.Array:
        return stepped(value.astype(jnp.float32), state.train, grid=grid, count=value.size)

    def pack(value: jax.Array, state: State) -> BlockLeaf:
        step = jnp.abs(state.train)
        numbers = grid.round(value.astype(jnp.float32) / step)
        layout = (0,) * value.ndim
        scale = step.reshape((1,) * value.ndim)
        return packed_leaf(numbers, scale, None, grid=grid, layout=layout, dtype=value.dtype)

    return per_leaf(init=init, apply=apply, pack=pack)


@dataclasses.dataclass(frozen=True)
class LearnedStep(ProductRule):
    """Inputs on a grid whose step is trained."""

    format: Format

    def before(self, x: Any, args: Any, axes: tuple[int, ...]) -> Any:
        """Rounded and clipped; the step is one for all."""
        del axes
        return stepped(x.astype(jnp.float32), args, grid=self.format, count=x.size // x.shape[0])


@recipe
def lsq_inputs(bits: int = 4, *, is_signed: bool = False) -> Transform:
    """What enters each weight on integers times a step that is trained, `State.train` by path.

    The gradient of a step is scaled by the number of inputs of one example: the first axis is the batch.

    Args:
      bits: of the inputs: 2 to 8, or, where they are never negative, from 1.
      is_signed: False: inputs are never negative, as after a ReLU; what is below 0 becomes 0.

    Raises:
      ValueError: at once, `bits` out of range; at `init`, no statistic `absmean` of a leaf.

    Source: module docstring.
    """
    grid: Format = Integer(bits) if is_signed else Unsigned(bits)

    def init(value: jax.Array, *, path: str, stats: Any, key: Key | None) -> State:
        del value, key
        known(stats, "abstotal", path=path, how="pass stats=observe(..., statistics='absmean')")
        return State(train=first_step(jnp.mean(stats.absmean, -1), grid))

    def apply(value: Any, state: State) -> ProductLeaf:
        return ProductLeaf(weight=value, args=state.train, rule=LearnedStep(grid), axis=-2)

    return per_leaf(init=init, apply=apply, nests=True)
