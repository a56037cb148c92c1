import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from efficient.core.freeze import Trainable, freeze, trainable
from tests.train.tiny import ScaledLeaf

TREE = Trainable(
    params={"dense": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}, "norm": {"scale": jnp.ones(3)}},
    train={"dense/kernel": jnp.ones(2)},
)


def test_paths_say_which_of_the_pair():
    found = trainable(TREE, frozen="params/**/kernel")
    assert found == Trainable(
        {"dense": {"kernel": False, "bias": True}, "norm": {"scale": True}}, {"dense/kernel": True}
    )
    found = trainable(TREE, frozen=("params/norm/*", "train/**"))
    assert found == Trainable(
        {"dense": {"kernel": True, "bias": True}, "norm": {"scale": False}}, {"dense/kernel": False}
    )


def test_a_frozen_value_has_no_update_no_decay_and_no_memory():
    # Adam keeps two moments a free weight: 2 * (3 + 3 + 2) numbers and its step count.
    optimizer = freeze("params/dense/kernel", optax.adamw(0.1, weight_decay=0.5))
    state = optimizer.init(TREE)
    assert sum(np.size(v) for v in jax.tree.leaves(state)) == 2 * 8 + 1
    updates, _ = optimizer.update(jax.tree.map(jnp.ones_like, TREE), state, TREE)
    np.testing.assert_array_equal(updates.params["dense"]["kernel"], np.zeros((2, 3), np.float32))
    # Adam's first step is 1 per weight, decay adds 0.5 * 1: -0.1 * 1.5.
    np.testing.assert_allclose(updates.params["dense"]["bias"], -0.15, rtol=1e-5)
    np.testing.assert_allclose(updates.train["dense/kernel"], -0.15, rtol=1e-5)


def test_a_leaf_is_frozen_whole_and_a_predicate_sees_it():
    tree = {
        "a": ScaledLeaf(codes=jnp.ones(2), scale=jnp.ones(()), out_dtype=jnp.dtype("float32")),
        "b": jnp.ones(2),
    }
    optimizer = freeze(lambda path, value: isinstance(value, ScaledLeaf), optax.sgd(1.0))
    updates, _ = optimizer.update(tree, optimizer.init(tree), tree)
    assert [float(jnp.sum(v)) for v in jax.tree.leaves(updates)] == [0, 0, -2]


def test_freezing_nothing_is_refused():
    with pytest.raises(
        ValueError, match=r"pattern must match .* got 'params/\*\*/kernels' .*'params/dense/kernel'"
    ):
        freeze("params/**/kernels", optax.sgd(1.0)).init(TREE)
