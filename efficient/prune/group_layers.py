"""Group layers: which layer takes the channels of each group in, and what it looks like.

A search that walks over the groups of a model tells them apart by these numbers.
"""

from collections.abc import Callable, Mapping
from typing import Any

from efficient.core.dependencies import Dependencies, Group, Member
from efficient.core.layer_shapes import LayerShape, LayerUse, layer_uses


def group_layers(
    found: Dependencies, fn: Callable[..., Any], params: Any, *args: Any
) -> dict[str, LayerShape]:
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
      {'a:1': LayerShape(outputs=3, inputs=5, height=1, width=1, stride=1, kernel=1)}
    """
    uses = list(layer_uses(fn, params, *args))
    return {name: _of_group(group, uses, found.shapes) for name, group in found.free.items()}


def _of_group(group: Group, uses: list[LayerUse], shapes: Mapping[str, tuple[int, ...]]) -> LayerShape:
    """The layer of a group; the axes of a weight that was reshaped on its way are not known."""
    paths = {member.path for member in group.members}
    own = [use for use in uses if use.path in paths]

    def takes(use: LayerUse) -> bool:
        is_as_stored = use.shape == shapes[use.path]
        return is_as_stored and any(Member(use.path, axis) in group.members for axis in use.taken)

    found = [use.layer for use in own if takes(use)] or [use.layer for use in own]
    return found[0] if found else LayerShape(group.size, group.size, 1, 1, 1, 1)
