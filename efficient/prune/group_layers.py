"""Group layers: which layer takes the channels of each group in, and what it looks like.

A search that walks over the groups of a model tells them apart by these numbers.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax

from efficient.core.attribution import Attribution, Tag
from efficient.core.dependencies import Dependencies, Group, Member
from efficient.core.paths import flatten
from efficient.core.program import Program, Step, Value, program


class GroupLayer(NamedTuple):
    """A layer whose kernel is [outputs, inputs, kernel, kernel]; of a dense one, height is the positions."""

    outputs: int  # n
    inputs: int  # c
    height: int  # h of what enters, pixels
    width: int  # w
    stride: int  # pixels
    kernel: int  # k, pixels


class _Use(NamedTuple):
    """A weight met by a layer."""

    path: str
    shape: tuple[int, ...]  # of the weight as the layer sees it
    taken: tuple[int, ...]  # its axes that are summed over
    layer: GroupLayer


def group_layers(
    found: Dependencies, fn: Callable[..., Any], params: Any, *args: Any
) -> dict[str, GroupLayer]:
    """By name of each free group, the first layer that sums over its channels, as `fn` runs.

    Where there is none, it is the first layer with a weight of the group; a group of no layer gets ones, and
    its own size as outputs and inputs. Depthwise layers sum over none of their channels.

    Args:
      found: the groups of `params` in `fn(params, *args)`.
      fn: the function; nothing is computed.
      params: arrays or shapes.
      *args: arrays or shapes.

    Example:
      >>> import jax.numpy as jnp
      >>> from efficient.core.dependencies import dependencies
      >>> p, x = {"a": jnp.ones((2, 5)), "b": jnp.ones((5, 3))}, jnp.ones((1, 2))
      >>> fn = lambda p, x: x @ p["a"] @ p["b"]
      >>> group_layers(dependencies(fn, p, x), fn, p, x)
      {'a:1': GroupLayer(outputs=3, inputs=5, height=1, width=1, stride=1, kernel=1)}
    """
    uses = list(_uses(fn, params, args))
    return {name: _of_group(group, uses, found.shapes) for name, group in found.free.items()}


def _of_group(group: Group, uses: list[_Use], shapes: Mapping[str, tuple[int, ...]]) -> GroupLayer:
    """The layer of a group; the axes of a weight that was reshaped on its way are not known."""
    paths = {member.path for member in group.members}
    own = [use for use in uses if use.path in paths]

    def takes(use: _Use) -> bool:
        is_as_stored = use.shape == shapes[use.path]
        return is_as_stored and any(Member(use.path, axis) in group.members for axis in use.taken)

    found = [use.layer for use in own if takes(use)] or [use.layer for use in own]
    return found[0] if found else GroupLayer(group.size, group.size, 1, 1, 1, 1)


def _uses(fn: Callable[..., Any], params: Any, args: Any) -> Iterator[_Use]:
    """Every weight that a convolution or a matrix product meets, in the order of the program."""
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


def _use(step: Step, side: int, path: str) -> _Use | None:
    """What this layer does with the weight that is its operand `side`; None of any other step."""
    if step.primitive == "conv_general_dilated" and side == 1:
        return _convolution(step, step.operands[1], step.operands[0], path)
    if step.primitive == "dot_general":
        return _product(step, side, step.operands[side], step.operands[1 - side], path)
    return None


def _convolution(step: Step, weight: Value, images: Value, path: str) -> _Use:
    """A convolution of any number of spatial axes."""
    numbers = step.params["dimension_numbers"]
    (_, features, *spatial), (out, into, *window) = numbers.lhs_spec, numbers.rhs_spec
    sides = [images.shape[axis] for axis in spatial]
    layer = GroupLayer(
        outputs=weight.shape[out],
        inputs=images.shape[features],
        height=sides[0] if sides else 1,
        width=math.prod(sides[1:]),
        stride=max(step.params["window_strides"], default=1),
        kernel=max((weight.shape[axis] for axis in window), default=1),
    )
    taken = (into,) if step.params["feature_group_count"] == 1 else ()
    return _Use(path, weight.shape, taken, layer)


def _product(step: Step, side: int, weight: Value, other: Value, path: str) -> _Use:
    """A matrix product."""
    contract, batch = step.params["dimension_numbers"]
    taken, shared = tuple(contract[side]), tuple(batch[side])
    free = [n for axis, n in enumerate(weight.shape) if axis not in (*taken, *shared)]
    rows = [n for i, n in enumerate(other.shape) if i not in (*contract[1 - side], *batch[1 - side])]
    layer = GroupLayer(
        outputs=math.prod(free),
        inputs=math.prod(weight.shape[axis] for axis in taken),
        height=math.prod(rows[1:]),
        width=1,
        stride=1,
        kernel=1,
    )
    return _Use(path, weight.shape, taken, layer)
