"""Integer program: what a quantized model does, in int8 tensors, int32 sums and shifts.

Each operation knows its numbers in integers (`run`) and what they stand for (`simulate`): the same operation
on real numbers, rounded where an integer tensor is rounded. The two differ by one step at most.
"""

import abc
import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from efficient.quantize.integer.arithmetic import HIGH, LOW, Affine8, Multiplier, multiplier, requantize

FRACTION = 16  # bits after the point in sums of tensors of different scales


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Operation(abc.ABC):
    """One step of a program."""

    scope: str  # the name stack in the model
    inputs: tuple[int, ...]  # tensors
    output: int
    incoming: tuple[Affine8, ...]  # of the inputs
    outgoing: Affine8

    @abc.abstractmethod
    def run(self, *tensors: Any) -> Any:
        """int8 tensors to one."""

    @abc.abstractmethod
    def real(self, *tensors: Any) -> Any:
        """The same on real numbers, before they are rounded."""

    def simulate(self, *tensors: Any) -> Any:
        """int8 tensors to one, by way of real numbers."""
        reals = [a.real(t) for a, t in zip(self.incoming, tensors, strict=True)]
        return self.clip(self.outgoing.nearest(self.real(*reals)))

    def clip(self, q: Any) -> Any:
        """The range of the output; an activation narrows it."""
        return q


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Multiply(Operation):
    """A dense layer or a convolution, its bias, and a ReLU or a capped one after it."""

    kind: str  # the primitive
    settings: Any  # its parameters
    kernel: Any  # int8
    bias: Any  # int32 [channels]
    kernel_scale: Any  # float32 [channels]
    channels: int  # the axis of the output
    kernel_channels: int
    low: int  # int8 bounds of the output
    high: Any  # int8 [channels]
    by: Multiplier  # S_x S_w / S_y a channel

    def run(self, x: Any) -> Any:
        """clip(round(M (sum (q_x - Z_x) q_w + q_b)) + Z_y)."""
        acc = self._product(x.astype(jnp.int32) - self.incoming[0].zero, self.kernel.astype(jnp.int32))
        last = jnp.moveaxis(acc, self.channels, -1)
        whole = last + jnp.broadcast_to(self.bias, last.shape)
        moved = jnp.moveaxis(requantize(whole, self.by), -1, self.channels)
        return self.clip(jnp.clip(moved + self.outgoing.zero, LOW, HIGH))

    def real(self, x: Any) -> Any:
        """The product with what kernel and bias stand for."""
        shape = [-1 if i == self.kernel_channels else 1 for i in range(self.kernel.ndim)]
        kernel = self.kernel.astype(jnp.float32) * self.kernel_scale.reshape(shape)
        bias = self.bias.astype(jnp.float32) * (self.kernel_scale * self.incoming[0].scale)
        last = jnp.moveaxis(self._product(x, kernel), self.channels, -1)
        return jnp.moveaxis(last + jnp.broadcast_to(bias, last.shape), -1, self.channels)

    def clip(self, q: Any) -> Any:
        """Bounds of the activation."""
        last = jnp.moveaxis(q, self.channels, -1)
        capped = jnp.minimum(last, jnp.broadcast_to(self.high, last.shape).astype(q.dtype))
        return jnp.moveaxis(jnp.maximum(capped, jnp.asarray(self.low, q.dtype)), -1, self.channels).astype(
            jnp.int8
        )

    def _product(self, x: Any, kernel: Any) -> Any:
        p = self.settings
        if self.kind == "dot_general":
            return jax.lax.dot_general(x, kernel, p["dimension_numbers"], precision=_exact(x))
        return jax.lax.conv_general_dilated(
            x,
            kernel,
            p["window_strides"],
            p["padding"],
            lhs_dilation=p["lhs_dilation"],
            rhs_dilation=p["rhs_dilation"],
            dimension_numbers=p["dimension_numbers"],
            feature_group_count=p["feature_group_count"],
            batch_group_count=p["batch_group_count"],
            precision=_exact(x),
        )


def _exact(x: Any) -> Any:
    """Floating products are not to be shortened."""
    return jax.lax.Precision.HIGHEST if jnp.issubdtype(x.dtype, jnp.floating) else None


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Add(Operation):
    """The sum of two tensors, and a ReLU after it."""

    low: int

    def run(self, a: Any, b: Any) -> Any:
        """Both in steps of 2^-16 of the output's, then rounded."""
        factors = [round(one.scale / self.outgoing.scale * 2**FRACTION) for one in self.incoming]
        terms = [
            (t.astype(jnp.int32) - one.zero) * f
            for t, one, f in zip((a, b), self.incoming, factors, strict=True)
        ]
        total = jnp.right_shift(terms[0] + terms[1] + 2 ** (FRACTION - 1), FRACTION)
        return self.clip(jnp.clip(total + self.outgoing.zero, LOW, HIGH))

    def real(self, a: Any, b: Any) -> Any:
        """The sum."""
        return a + b

    def clip(self, q: Any) -> Any:
        """Bounds of the activation."""
        return jnp.maximum(q, jnp.asarray(self.low, q.dtype)).astype(jnp.int8)


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Sum(Operation):
    """A sum over places times a constant: average pooling, a mean."""

    add: Callable[[Any], Any]  # of int32, or float32
    factor: float
    by: Multiplier  # factor S_x / S_y

    def run(self, x: Any) -> Any:
        """round(M sum (q_x - Z_x)) + Z_y."""
        total = requantize(self.add(x.astype(jnp.int32) - self.incoming[0].zero), self.by)
        return jnp.clip(total + self.outgoing.zero, LOW, HIGH).astype(jnp.int8)

    def real(self, x: Any) -> Any:
        """The sum, scaled."""
        return self.add(x) * jnp.float32(self.factor)


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Move(Operation):
    """What only moves or chooses elements: reshape, transpose, maximum pooling, padding by zero."""

    move: Callable[[Any, Any], Any]  # (tensor, what stands for zero) -> tensor

    def run(self, x: Any) -> Any:
        """The scale stays."""
        return self.move(x, jnp.asarray(self.incoming[0].zero, x.dtype))

    def real(self, x: Any) -> Any:
        """The same."""
        return self.move(x, jnp.zeros((), x.dtype))


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Concatenate(Operation):
    """Tensors side by side, each brought to the output's scale."""

    axis: int

    def run(self, *tensors: Any) -> Any:
        """round(S_i / S_y (q_i - Z_i)) + Z_y."""
        parts = [
            jnp.clip(
                requantize(t.astype(jnp.int32) - one.zero, multiplier(one.scale / self.outgoing.scale))
                + self.outgoing.zero,
                LOW,
                HIGH,
            )
            for t, one in zip(tensors, self.incoming, strict=True)
        ]
        return jnp.concatenate(parts, self.axis).astype(jnp.int8)

    def real(self, *tensors: Any) -> Any:
        """Side by side."""
        return jnp.concatenate(tensors, self.axis)


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class IntegerProgram:
    """A model in integers, for one example at a time; tensor 0 is the input."""

    incoming: Affine8
    operations: tuple[Operation, ...]
    output: int
    shape: tuple[int, ...]  # of an example

    @property
    def outgoing(self) -> Affine8:
        """What the output's numbers stand for."""
        by_output = {one.output: one.outgoing for one in self.operations}
        return by_output.get(self.output, self.incoming)

    @property
    def weight_bytes(self) -> int:
        """Bytes of kernels, biases and multipliers (four and one a channel)."""
        products = [one for one in self.operations if isinstance(one, Multiply)]
        return sum(p.kernel.size + 9 * p.bias.size for p in products)

    @property
    def macs(self) -> int:
        """Multiplications of an example."""
        return sum(
            math.prod(one.settings["out_shape"]) * one.kernel.size // one.bias.size
            for one in self.operations
            if isinstance(one, Multiply)
        )

    def tensors(self, x: Any, *, simulated: bool = False) -> dict[int, Any]:
        """All int8 tensors of a batch of real inputs.

        Args:
          x: float32 [batch, *shape].
          simulated: each operation on real numbers, rounded, in place of integers.
        """

        def one(example: Any) -> dict[int, Any]:
            known = {0: self.incoming.nearest(example[None])}
            for step in self.operations:
                call = step.simulate if simulated else step.run
                known[step.output] = call(*(known[i] for i in step.inputs))
            return {name: value[0] for name, value in known.items()}

        return jax.vmap(one)(x)

    def __call__(self, x: Any, *, simulated: bool = False) -> Any:
        """Real inputs [batch, *shape] to real outputs, through integers alone in between."""
        return self.outgoing.real(self.tensors(x, simulated=simulated)[self.output])

    def differences(self, x: Any) -> list[tuple[str, int]]:
        """By operation, by how many steps integers and real numbers differ at most, given the same inputs."""
        known = self.tensors(x)
        made = []
        for step in self.operations:

            def both(*tensors: Any, step: Operation = step) -> Any:
                whole = [t[None] for t in tensors]
                return step.run(*whole)[0], step.simulate(*whole)[0]

            a, b = jax.vmap(both)(*(known[i] for i in step.inputs))
            made.append(
                (step.scope, int(jnp.max(jnp.abs(a.astype(jnp.int32) - b.astype(jnp.int32)), initial=0)))
            )
        return made
