"""Linear quantization: weights on a symmetric grid of integers, one scale a channel or a tensor.

Source: Jacob et al., 2018, arXiv:1712.05877, sections 2.1 and 3; the straight-through gradient is Bengio et
al., 2013, arXiv:1308.3432.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from efficient.core.contraction import contraction, spread
from efficient.core.leaf import Leaf, leaf, static
from efficient.core.per_leaf import per_leaf
from efficient.core.rows import rows
from efficient.core.transform import State, Transform, recipe
from efficient.quantize.codes import Codes, as_matrix, by_columns, product


@leaf
class QuantizedLeaf(Leaf):
    """A weight `values * scale`. Stored: one int8 a weight and the scales."""

    values: Any  # int8, the weight's shape
    scale: Any  # float32, the weight's axes, 1 along those that share a scale
    out_dtype: Any = static()

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the weight."""
        return tuple(self.values.shape)

    @property
    def dtype(self) -> Any:
        """What `dense` returns."""
        return self.out_dtype

    def dense(self) -> jax.Array:
        """`values * scale`, multiplied in float32."""
        return (self.values.astype(jnp.float32) * self.scale).astype(self.out_dtype)

    def stack(self, length: int) -> Any:
        """Sliceable: a scale shared by all layers is repeated."""
        scale = jnp.broadcast_to(self.scale, (length, *self.scale.shape[1:]))
        return dataclasses.replace(self, scale=scale)

    def dot_general(self, site: Any) -> Any:
        """Rule: by a kernel; or with the integers, the scale at the result, or the input if summed over."""
        out = product(site, self)
        if out is not None:
            return out
        c = contraction(site)
        varies = {axis for axis, size in enumerate(self.scale.shape) if size != 1}
        values = self.values.astype(self.out_dtype)
        if varies.isdisjoint(c.contract):
            return (site.bind(values) * spread(self.scale, c)).astype(site.out_dtype)
        if not varies <= set(c.contract):
            return NotImplemented
        shape = [1] * site.other.ndim
        for axis, place in zip(c.contract, c.other_contract, strict=True):
            shape[place] = self.scale.shape[axis]
        order = sorted(range(len(c.contract)), key=lambda i: c.other_contract[i])
        scale = jnp.transpose(self.scale, [*(c.contract[i] for i in order), *c.batch, *c.free]).reshape(shape)
        scaled = (site.other * scale).astype(site.other.dtype)
        return site.bind(values, other=scaled).astype(site.out_dtype)

    def conv_general_dilated(self, site: Any) -> Any:
        """Rule: by a kernel; or convolve with the integers, then scale each output channel."""
        found = product(site, self)
        if found is not None:
            return found
        numbers = site.params["dimension_numbers"]
        out_axis = numbers.rhs_spec[0]
        others = [size for axis, size in enumerate(self.scale.shape) if axis != out_axis]
        if site.index != 1 or site.params["batch_group_count"] != 1 or math.prod(others) != 1:
            return NotImplemented
        out = site.bind(self.values.astype(self.out_dtype))
        shape = [1] * out.ndim
        shape[numbers.out_spec[1]] = self.scale.size
        return (out * self.scale.reshape(shape)).astype(site.out_dtype)

    def as_codes(self, summed: int) -> Codes | None:
        """The weight for kernels; None where a scale is summed over."""
        if math.prod(self.scale.shape[:summed]) != 1 or 0 in self.shape:
            return None
        return Codes(
            codes=as_matrix(self.values, self.shape, summed),
            scale=by_columns(self.scale, self.shape, summed),
            shift=None,
            table=None,
            bits=8,
            group=0,
            is_signed=True,
        )

    def as_rows(self, summed: int) -> Codes | None:
        """The same, its last axes summed over."""
        free = self.shape[: len(self.shape) - summed]
        if math.prod(self.scale.shape[len(free) :]) != 1 or 0 in self.shape:
            return None
        scale = self.scale.reshape(self.scale.shape[: len(free)])
        scale = scale.reshape(1, 1) if scale.size == 1 else jnp.broadcast_to(scale, free).reshape(-1, 1)
        codes = as_matrix(self.values, self.shape, len(free))
        return Codes(codes, scale, shift=None, table=None, bits=8, group=0, is_signed=True)

    def gather(self, site: Any) -> Any:
        """Rule: rows of an embedding, scaled; a row out of bounds is NaN where the mode says so."""
        found = rows(site)
        if found is None:
            return NotImplemented
        values = found.take(self.values.astype(self.out_dtype))
        if self.scale.shape[0] == 1:
            scale = found.along(self.scale[0], values.ndim)
        else:
            scale = found.take(self.scale)
        return (values * scale).astype(site.out_dtype)

    def transpose(self, site: Any) -> "QuantizedLeaf":
        """Rule."""
        scale = jnp.transpose(self.scale, site.params["permutation"])
        return dataclasses.replace(self, values=site.bind(self.values), scale=scale)

    def squeeze(self, site: Any) -> "QuantizedLeaf":
        """Rule."""
        scale = jax.lax.squeeze(self.scale, site.params["dimensions"])
        return dataclasses.replace(self, values=site.bind(self.values), scale=scale)

    def slice(self, site: Any) -> "QuantizedLeaf":
        """Rule."""
        p, ndim = site.params, self.scale.ndim
        strides = p["strides"] or (1,) * ndim
        shared = [size == 1 for size in self.scale.shape]
        cut = tuple(
            slice(None) if one else slice(a, b, s)
            for one, a, b, s in zip(shared, p["start_indices"], p["limit_indices"], strides, strict=True)
        )
        return dataclasses.replace(self, values=site.bind(self.values), scale=self.scale[cut])

    def dynamic_slice(self, site: Any) -> Any:
        """Rule, where the axes that are cut share a scale."""
        cut = [axis for axis, n in enumerate(site.params["slice_sizes"]) if n != self.shape[axis]]
        scale, starts = self.scale, site.operands[1:]
        for axis in cut:
            if scale.shape[axis] != 1:
                scale = jax.lax.dynamic_slice_in_dim(
                    scale, starts[axis], site.params["slice_sizes"][axis], axis
                )
        return dataclasses.replace(self, values=site.bind(self.values), scale=scale)

    def broadcast_in_dim(self, site: Any) -> "QuantizedLeaf":
        """Rule: new axes share the scale."""
        shape = [1] * len(site.params["shape"])
        for axis, place in enumerate(site.params["broadcast_dimensions"]):
            shape[place] = self.scale.shape[axis]
        return dataclasses.replace(self, values=site.bind(self.values), scale=self.scale.reshape(shape))

    def reshape(self, site: Any) -> Any:
        """Rule, where one scale serves all, or only axes of length 1 come and go."""
        new = site.params["new_sizes"]
        if self.scale.size == 1:
            scale = self.scale.reshape([1] * len(new))
        elif [n for n in new if n != 1] == [n for n in self.shape if n != 1]:
            own = iter([s for s, n in zip(self.scale.shape, self.shape, strict=True) if n != 1])
            scale = self.scale.reshape([1 if n == 1 else next(own) for n in new])
        else:
            return NotImplemented
        return dataclasses.replace(self, values=site.bind(self.values), scale=scale)


@jax.custom_jvp
def round_through(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Rounds to the nearest integer, half to even; the gradient passes as if it had not (STE)."""
    return jnp.round(x)


@round_through.defjvp
def _round_through_jvp(primals: Any, tangents: Any) -> Any:
    return round_through(*primals), tangents[0]


def absmax_scale(value: Float[Array, "*shape"], *, bits: int, axis: int | None) -> Float[Array, "*ones"]:
    """The smallest scale that clips nothing, max |value| / (2^(bits-1) - 1), axes kept; 1 where that is zero.

    A NaN makes its channel's scale, and so the whole channel, NaN: it is seen and not rounded away.

    Args:
      value: any shape.
      bits: 2 to 8.
      axis: the axis that has a scale for each index; None for one scale in all.
    """
    others = tuple(i for i in range(value.ndim) if axis is None or i != axis % value.ndim)
    scale = jnp.max(jnp.abs(value), axis=others, keepdims=True) / (2 ** (bits - 1) - 1)
    is_nothing = ~(scale > 0) & ~jnp.isnan(scale)  # zeros, or too small to divide by; NaN stays, and shows
    return jnp.where(is_nothing, 1.0, scale).astype(value.dtype)


def fake_quantize(
    value: Float[Array, "*shape"], scale: Float[Array, "*ones"], *, bits: int
) -> Float[Array, "*shape"]:
    """clip(round(value / scale), -q, q) * scale with q = 2^(bits-1) - 1; zero stays zero.

    The gradient in `value` is 1 where the rounded value is in the range, its ends included, and 0 where it
    is clipped; `scale` may be trained too.
    """
    return integers(value, scale, bits=bits) * scale


def integers(
    value: Float[Array, "*shape"], scale: Float[Array, "*ones"], *, bits: int
) -> Float[Array, "*shape"]:
    """The grid points of `fake_quantize`, as floats: integers in [-q, q]."""
    largest = 2 ** (bits - 1) - 1
    rounded = round_through(value / scale)
    clipped = jax.lax.stop_gradient(jnp.clip(rounded, -largest, largest))
    return jnp.where(jnp.abs(rounded) <= largest, rounded, clipped)


@recipe
def linear(bits: int = 8, *, axis: int | None = -1) -> Transform:
    """Quantizes every weight to a symmetric integer grid; trains through it (QAT).

    The scale follows the weights: max |w| of the channel over 2^(bits-1) - 1, without a gradient. There is
    no state. Zeros stay exactly zero. `pack` stores one int8 a weight, whatever `bits`.

    Args:
      bits: 2 to 8.
      axis: the axis with a scale for each index; -1 is the output channel of Flax's kernels; None is one
        scale a leaf.

    Raises:
      ValueError: at once, `bits` outside 2..8; at `init`, a leaf that has no such axis.

    Source: module docstring. *Differs:* the range is narrow, [-127, 127] at 8 bits, so that it is symmetric.
    """
    if not 2 <= bits <= 8:
        raise ValueError(
            f"bits must be from 2 to 8, got {bits!r}; one sign and at least one level are needed."
        )

    def scale_of(value: jax.Array) -> jax.Array:
        return jax.lax.stop_gradient(absmax_scale(value.astype(jnp.float32), bits=bits, axis=axis))

    def init(value: jax.Array, *, path: str, stats: Any, key: Any) -> State:
        del stats, key
        if axis is not None and not -value.ndim <= axis < value.ndim:
            raise ValueError(
                f"axis must be one of the {value.ndim} axes of {path!r}, got {axis}; axis=None is one scale."
            )
        return State()

    def apply(value: jax.Array, state: State) -> jax.Array:
        del state
        return fake_quantize(value.astype(jnp.float32), scale_of(value), bits=bits)

    def pack(value: jax.Array, state: State) -> QuantizedLeaf:
        del state
        scale = scale_of(value)
        values = integers(value.astype(jnp.float32), scale, bits=bits).astype(jnp.int8)
        return QuantizedLeaf(values=values, scale=scale, out_dtype=value.dtype)

    return per_leaf(init=init, apply=apply, pack=pack)
