"""Layer shapes: what every weight that a convolution or a matrix product meets looks like.

A search that walks over the layers of a model tells them apart by these numbers.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax

from efficient.core.attribution import Attribution, Tag
from efficient.core.convention import contraction_macs
from efficient.core.paths import flatten
from efficient.core.program import Program, Step, Value, program


class LayerShape(NamedTuple):
    """A layer whose kernel is [outputs, inputs, kernel, kernel]; of a dense one, height is the positions."""

    outputs: int  # n
    inputs: int  # c
    height: int  # h of what enters, pixels
    width: int  # w
    stride: int  # pixels
    kernel: int  # k, pixels


class LayerUse(NamedTuple):
    """A weight met by a layer."""

    path: str
    shape: tuple[int, ...]  # of the weight as the layer sees it
    taken: tuple[int, ...]  # its axes that are summed over; none of a depthwise layer
    layer: LayerShape
    macs: int  # multiplications of one run of the layer


def layer_uses(fn: Callable[..., Any], params: Any, *args: Any) -> Iterator[LayerUse]:
    """Every weight that a convolution or a matrix product meets, in the order of the program.

    Args:
      fn: any function that JAX can trace; nothing is computed.
      params: arrays or shapes.
      *args: arrays or shapes.
    """
    flat = program(jax.make_jaxpr(fn)(params, *args))
    weights = [Tag(path) for path in flatten(params)[0]]
    walk = Attribution(lambda value, tag: 0)
    walk.run(flat, weights + [Tag(pure=False)] * (len(flat.inputs) - len(weights)))
    for step in _steps(flat):
        tags = [walk.tag(value) for value in step.operands[:2]]
        for side, tag in enumerate(tags):
            if tag.pure and tag.path and (use := _use(step, side, tag.path)):
                yield use


def _steps(flat: Program) -> Iterator[Step]:
    """All steps, those inside others too."""
    for step in flat.steps:
        yield step
        for body in step.bodies:
            yield from _steps(body)


def _use(step: Step, side: int, path: str) -> LayerUse | None:
    """What this layer does with the weight that is its operand `side`; None of any other step."""
    if step.primitive == "conv_general_dilated" and side == 1:
        return _convolution(step, step.operands[1], step.operands[0], path)
    if step.primitive == "dot_general":
        return _product(step, side, step.operands[side], step.operands[1 - side], path)
    return None


def _convolution(step: Step, weight: Value, images: Value, path: str) -> LayerUse:
    """A convolution of any number of spatial axes."""
    numbers = step.params["dimension_numbers"]
    (_, features, *spatial), (out, into, *window) = numbers.lhs_spec, numbers.rhs_spec
    sides = [images.shape[axis] for axis in spatial]
    layer = LayerShape(
        outputs=weight.shape[out],
        inputs=images.shape[features],
        height=sides[0] if sides else 1,
        width=math.prod(sides[1:]),
        stride=max(step.params["window_strides"], default=1),
        kernel=max((weight.shape[axis] for axis in window), default=1),
    )
    taken = (into,) if step.params["feature_group_count"] == 1 else ()
    return LayerUse(path, weight.shape, taken, layer, contraction_macs(step) or 0)


def _product(step: Step, side: int, weight: Value, other: Value, path: str) -> LayerUse:
    """A matrix product."""
    contract, batch = step.params["dimension_numbers"]
    taken, shared = tuple(contract[side]), tuple(batch[side])
    free = [n for axis, n in enumerate(weight.shape) if axis not in (*taken, *shared)]
    rows = [n for i, n in enumerate(other.shape) if i not in (*contract[1 - side], *batch[1 - side])]
    layer = LayerShape(
        outputs=math.prod(free),
        inputs=math.prod(weight.shape[axis] for axis in taken),
        height=math.prod(rows[1:]),
        width=1,
        stride=1,
        kernel=1,
    )
    return LayerUse(path, weight.shape, taken, layer, contraction_macs(step) or 0)
