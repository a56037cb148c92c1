"""Mixed: weights and inputs on integer grids whose widths are data, so that no choice of them compiles anew.

t = at("**/kernel", mixed())
state = t.init(params, stats=stats)                       # 8 bits everywhere
run = jax.jit(lambda state, x: lift(model.apply)(t.apply(params, state), x))
run(with_widths(state, choice), x)                        # one program for all choices
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from efficient.core.per_leaf import per_leaf
from efficient.core.transform import Key, State, Transform, recipe
from efficient.quantize import quantizers
from efficient.quantize.block_leaf import BlockLeaf, packed_leaf
from efficient.quantize.format import safe
from efficient.quantize.formats import Affine, Integer
from efficient.quantize.inputs import reach
from efficient.quantize.linear import round_through
from efficient.quantize.mixed.prices import Choice
from efficient.quantize.product_leaf import ProductLeaf, ProductRule


class Assigned(NamedTuple):
    """What a layer was given."""

    weights: Any  # int32[], bits of its weights
    inputs: Any  # int32[], bits of what they are multiplied with; None where inputs stay
    low: Any = None  # float32, the range of the inputs
    high: Any = None


@dataclasses.dataclass(frozen=True)
class AnyWidth(ProductRule):
    """Inputs on the grid of `Affine(bits)` over a range. `args`: (bits, low, high)."""

    def before(self, x: Any, args: Any, axes: tuple[int, ...]) -> Any:
        """Rounded; what is beyond is clipped."""
        del axes
        bits, low, high = args
        low, high = jnp.minimum(low, 0.0), jnp.maximum(high, 0.0)
        levels = _levels(bits)
        step = safe((high - low) / levels)
        zero = jnp.round(-low / step)
        codes = jnp.clip(round_through(x.astype(jnp.float32) / step) + zero, 0, levels)
        return (codes - zero) * step


def _levels(bits: Any) -> Any:
    """2^bits - 1."""
    return jnp.left_shift(jnp.int32(1), bits).astype(jnp.float32) - 1


def _known(bits: Any) -> int:
    """A width; one that is only known later is stored as 8 bits, which hold what any other does."""
    try:
        return int(np.asarray(bits))
    except jax.errors.TracerArrayConversionError:
        return 8


@recipe
def mixed(*, has_inputs: bool = True) -> Transform:
    """Weights on symmetric integers, one scale a channel, and their inputs on integers around a zero point.

    Widths are in `State.fixed`, an `Assigned` for each path, 8 bits at first: `with_widths` sets them. At
    equal widths weights are those of `quantize(quantizers.integer(bits))`, inputs those of
    `quantize_inputs(Affine(bits))`; gradients pass straight through. Under `stacked` and under `jit`
    widths are not known to `pack`, which then stores 8 bits a weight.

    Args:
      has_inputs: False leaves inputs as they are, and needs no statistics.

    Raises:
      ValueError: at `init`, no `min` and `max` for a leaf whose inputs are quantized.
    """

    def init(value: jax.Array, *, path: str, stats: Any, key: Key | None) -> State:
        del key
        quantizers.integer(8).layout(value.shape, path)
        eight = jnp.int32(8)
        if not has_inputs:
            return State(fixed=Assigned(eight, None))
        return State(fixed=Assigned(eight, eight, *reach(stats, None, Affine(8), path=path)))

    def numbers(value: jax.Array, bits: Any) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
        value = value.astype(jnp.float32)
        size = jnp.abs(jax.lax.stop_gradient(value))
        largest = jnp.max(size, axis=tuple(range(value.ndim - 1)), keepdims=True)
        high = (_levels(bits) - 1) / 2
        scale = largest / high
        return jnp.clip(round_through(value / safe(scale)), -high, high), scale

    def wrapped(weight: Any, own: Assigned) -> Any:
        if own.inputs is None:
            return weight
        return ProductLeaf(weight=weight, args=(own.inputs, own.low, own.high), rule=AnyWidth(), axis=-2)

    def apply(value: jax.Array, state: State) -> Any:
        whole, scale = numbers(value, state.fixed.weights)
        return wrapped(whole * scale, state.fixed)

    def pack(value: jax.Array, state: State) -> BlockLeaf | ProductLeaf:
        whole, scale = numbers(value, state.fixed.weights)
        layout = quantizers.integer(8).layout(value.shape)
        grid = Integer(_known(state.fixed.weights))
        leaf = packed_leaf(whole, scale, None, grid=grid, layout=layout, dtype=value.dtype)
        return wrapped(leaf, state.fixed)

    return per_leaf(init=init, apply=apply, pack=pack, nests=has_inputs)


def with_widths(state: State, choice: Choice) -> State:
    """The state of `mixed` with these widths; layers that the choice leaves out keep theirs.

    Raises:
      ValueError: a path that the state does not have, or a width outside 2 to 8.
    """
    fixed: dict[str, Assigned] = dict(state.fixed) if isinstance(state.fixed, Mapping) else {}
    for path, widths in choice.items():
        if path not in fixed:
            raise ValueError(f"choice must name layers of the state, got {path!r}; it has {list(fixed)!r}.")
        if not all(2 <= bits <= 8 for bits in widths):
            raise ValueError(f"widths must be from 2 to 8 bits, got {tuple(widths)} for {path!r}.")
        own = fixed[path]
        inputs = own.inputs if own.inputs is None else jnp.int32(widths.inputs)
        fixed[path] = own._replace(weights=jnp.int32(widths.weights), inputs=inputs)
    return State(state.train, fixed)
