"""Features: numbers of what enters a weight, laid along the weight's own axes."""

import math

import jax.numpy as jnp
from jaxtyping import Array, Float


def along_features(
    values: Float[Array, "*lead features"], *, axes: tuple[int, ...], shape: tuple[int, ...], path: str
) -> Float[Array, "*ones"]:
    """`values` with the axes of the weight, 1 along those that they do not vary over.

    Args:
      values: one number for each feature, group after group for a grouped convolution; `lead` are the first
        of the weight's other axes (layers, experts), in order.
      axes: those of the weight that features run over, counted from its last: `Statistics.features`, or
        `Statistics.contracted`.
      shape: of the weight. Of a grouped convolution, the last axis is its outputs.
      path: of the weight.

    Raises:
      ValueError: the statistics are not those of a weight of this shape.

    Example:
      >>> along_features(jnp.array([1.0, 2.0]), axes=(-2,), shape=(3, 2, 5), path="w").shape
      (1, 2, 1)
      >>> along_features(jnp.array([1.0, 2.0]), axes=(-2,), shape=(3, 1, 4), path="depthwise").tolist()
      [[[1.0, 1.0, 2.0, 2.0]]]
    """
    lead, others = values.shape[:-1], [i for i in range(-len(shape), 0) if i not in axes]
    inside = [shape[axis] for axis in axes if -axis <= len(shape)]
    groups = values.shape[-1] // max(math.prod(inside), 1)
    if (
        len(inside) != len(axes)
        or lead != tuple(shape[i] for i in others[: len(lead)])
        or groups * math.prod(inside) != values.shape[-1]
        or (groups > 1 and (axes[-1] != -2 or shape[-1] % groups))
    ):
        raise ValueError(
            f"stats of {path!r} must be those of a weight of shape {list(shape)}, got {list(values.shape)} "
            f"over axes {axes}; observe these params."
        )
    ones = [shape[i] if i in axes or i in others[: len(lead)] else 1 for i in range(-len(shape), 0)]
    if groups <= 1:
        order = sorted([*others[: len(lead)], *axes])
        kept = values.reshape(*lead, *inside)
        now = [*others[: len(lead)], *axes]
        return jnp.transpose(kept, [now.index(axis) for axis in order]).reshape(ones)
    by_group = jnp.moveaxis(values.reshape(*lead, groups, *inside), len(lead), -1)  # [*lead, *inside, groups]
    return jnp.repeat(by_group, shape[-1] // groups, axis=-1).reshape(*ones[:-1], shape[-1])
