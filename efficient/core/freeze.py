"""Freeze: values that the optimizer may not move.

The optimizer of a compressed model moves a `Trainable`: the params, and what the transform added. A
pattern names both parts, so that what is left free is said and not guessed:

    freeze("params/**", optax.adam(1e-3))                      # LoRA: only the factors move
    freeze(("params/**/scale", "params/**/bias"), optimizer)   # leave batch normalization alone
"""

from typing import Any, NamedTuple

import jax
import optax

from efficient.core.paths import Where, map_with_path, matches, select


class Trainable(NamedTuple):
    """All that the optimizer may move; paths begin with `params/` or `train/`."""

    params: Any  # the weights that you train
    train: Any  # `State.train` of the transform: scales, factors, codebooks


def trainable(tree: Any, *, frozen: Where) -> Any:
    """True in each place of `tree` that `frozen` does not choose; leaves are chosen whole.

    Raises:
      ValueError: `frozen` chooses nothing; the message names the nearest paths.
    """
    select(tree, frozen)
    return map_with_path(lambda path, value: not matches(frozen, path, value), tree)


def freeze(frozen: Where, optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """`optimizer` on all but the values that `frozen` chooses, whose updates are exactly zero.

    A frozen value has no memory in the optimizer's state and does not decay.

    Args:
      frozen: a pattern (see `paths`) over the tree that the optimizer is given: in a training step a
        `Trainable`. A predicate sees params at `init` and their gradients later: it may ask for the path, the
        shape and the dtype only.
      optimizer: any optax transformation.

    Raises:
      ValueError: at `init`, when `frozen` chooses nothing.

    Example:
      >>> import jax.numpy as jnp
      >>> one = jnp.ones(1)
      >>> optimizer = freeze("b", optax.sgd(1.0))
      >>> optimizer.update({"a": one, "b": one}, optimizer.init({"a": one, "b": one}))[0]
      {'a': Array([-1.], dtype=float32), 'b': Array([0.], dtype=float32)}
    """

    def labels(tree: Any) -> Any:
        return jax.tree.map(lambda moves: "moves" if moves else "frozen", trainable(tree, frozen=frozen))

    return optax.partition({"moves": optimizer, "frozen": optax.set_to_zero()}, labels)
