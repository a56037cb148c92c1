"""Layer: a weight of any shape as least-squares problems, each a matrix and the Gram matrix of its inputs."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from efficient.core.statistics import known


class Layer(NamedTuple):
    """A weight as problems that do not know of each other: layers of a stack, experts, groups of channels.

    Inputs stand in the order of the Gram matrix, the weight's own.
    """

    weights: Any  # float32 [problems, inputs, outputs]
    gram: Any  # float32 [problems, inputs, inputs]
    channel: np.ndarray  # [inputs], the input channel of each input: several inputs of a kernel share one
    cut: Callable[[Any], Any]  # an array of the weight's shape to [problems, inputs, outputs]
    back: Callable[[Any], Any]  # [problems, inputs, outputs] to the weight's shape

    def solved(self, solve: Callable[..., Any], *others: Any) -> Any:
        """`solve(weights, gram, *others)` of every problem, its arrays put back in the weight's shape.

        Args:
          solve: traceable; what it returns is a pytree of arrays of the shape of `weights`.
          others: arrays of the weight's shape, cut as it is.
        """
        found = jax.vmap(solve)(self.weights, self.gram, *map(self.cut, others))
        return jax.tree.map(self.back, found)


def layer(value: jax.Array, *, path: str, stats: Any) -> Layer:
    """The problems of a weight, from what `observe` saw enter it.

    Args:
      value: the weight; its axes are those that lead in the statistics, those that the product contracts, and
        outputs.
      path: of the weight.
      stats: its `Statistics`, with `gram`.

    Raises:
      ValueError: there is no Gram matrix; it is of other inputs than the weight has; or an axis that the
        product keeps apart does not come first.
    """
    gram = known(stats, "gram", path=path, how="pass stats=observe(..., statistics='gram')")
    ndim, lead = value.ndim, jnp.ndim(stats.count)
    inputs = tuple(axis + ndim for axis in stats.contracted)
    outputs = tuple(axis for axis in range(lead, ndim) if axis not in inputs)
    if min(inputs) < lead or value.shape[:lead] != jnp.shape(stats.count):
        raise ValueError(
            f"stats of {path!r} must lead with the first axes of {tuple(value.shape)}, got "
            f"{tuple(jnp.shape(stats.count))}; exclude the leaf."
        )
    sizes = tuple(value.shape[axis] for axis in inputs)
    if gram.shape[-1] != math.prod(sizes):
        raise ValueError(
            f"gram of {path!r} must be of the weight's {math.prod(sizes)} inputs, got {gram.shape[-1]}; "
            "observe these params."
        )
    groups = gram.shape[lead] if gram.ndim == lead + 3 else 1
    order = (*range(lead), *inputs, *outputs)
    shape = tuple(value.shape[axis] for axis in order)
    n_in, problems = math.prod(sizes), math.prod(value.shape[:lead])
    n_out = math.prod(value.shape[axis] for axis in outputs) // groups

    def back(solved: jax.Array) -> jax.Array:
        whole = jnp.moveaxis(solved.reshape(problems, groups, n_in, n_out), 1, 2)
        return jnp.transpose(whole.reshape(shape), tuple(np.argsort(order).tolist()))

    def cut(whole: jax.Array) -> jax.Array:
        matrices = jnp.transpose(whole.astype(jnp.float32), order).reshape(problems, n_in, groups, n_out)
        return jnp.moveaxis(matrices, 2, 1).reshape(problems * groups, n_in, n_out)

    whole_gram = gram.reshape(problems * groups, n_in, n_in)
    return Layer(cut(value), whole_gram, _channels(sizes, stats), cut, back)


def _channels(sizes: tuple[int, ...], stats: Any) -> np.ndarray:
    """The channel of each input: its place along those contracted axes that `features` runs over."""
    is_feature = [axis in stats.features for axis in stats.contracted]
    along = [size if own else 1 for size, own in zip(sizes, is_feature, strict=True)]
    places = np.arange(math.prod(along)).reshape(along)
    return np.broadcast_to(places, sizes).ravel()
