"""Leaf: shape, dtype and bytes of what stands where an array stood."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from efficient import Leaf, dense, stored_bytes
from efficient.core.leaf import is_leaf, leaf, static
from efficient.quantize import QuantizedLeaf

F32, BF16 = jnp.dtype("float32"), jnp.dtype("bfloat16")


@leaf
class Doubled(Leaf):
    """A weight that is stored as its half, and knows no other dtype."""

    half: jax.Array
    note: str = static(default="")

    @property
    def shape(self):
        return tuple(self.half.shape)

    @property
    def dtype(self):
        return self.half.dtype

    def dense(self):
        return 2 * self.half


def packed():
    # [2, 3] int8 and a scale a column: 6 + 3 * 4 = 18 bytes for 24.
    values = jnp.array([[1, -2, 3], [0, 5, -6]], jnp.int8)
    return QuantizedLeaf(values=values, scale=jnp.array([[0.5, 1.0, 2.0]]), out_dtype=F32)


def test_by_hand():
    w = packed()
    np.testing.assert_array_equal(w.dense(), [[0.5, -2, 6], [0, 5, -12]])
    assert (w.shape, w.dtype, w.ndim, w.size, w.nbytes) == ((2, 3), F32, 2, 6, 18)
    # A tree: 18 packed, 4 * 5 float32, 2 * 7 bfloat16.
    tree = {"w": w, "b": jnp.ones(5), "h": [jnp.ones(7, BF16)]}
    assert stored_bytes(tree) == 18 + 20 + 14
    assert stored_bytes(jax.eval_shape(lambda: tree)) == 18 + 20 + 14
    assert stored_bytes({}) == 0


def test_nested_leaves_count_once():
    @leaf
    class Pair(Doubled):
        base: Leaf

    assert Pair(half=jnp.ones((2, 3)), base=packed()).nbytes == 24 + 18


def test_a_leaf_is_a_frozen_pytree():
    w = Doubled(half=jnp.ones((2, 3)), note="structure")
    assert is_leaf(w)
    assert not is_leaf(w.half)
    assert len(jax.tree.leaves(w)) == 1
    assert jax.tree.structure(w) != jax.tree.structure(dataclasses.replace(w, note="other"))
    again = jax.jit(lambda w: jax.tree.map(lambda a: a + 1, w))(w)
    assert type(again) is Doubled
    assert again.note == "structure"
    np.testing.assert_array_equal(again.dense(), np.full((2, 3), 4))
    with pytest.raises(dataclasses.FrozenInstanceError, match="cannot assign to field 'half'"):
        w.half = 0
    with pytest.raises(TypeError, match="takes 1 positional argument"):
        Doubled(jnp.ones(2))


def test_an_abstract_leaf_cannot_be_made():
    class Nothing(Leaf):
        pass

    with pytest.raises(TypeError, match="abstract"):
        Nothing()


def test_dense_of_a_tree():
    tree = dense({"w": packed(), "b": jnp.ones(2), "n": [Doubled(half=jnp.ones(3))]})
    np.testing.assert_array_equal(tree["w"], packed().dense())
    np.testing.assert_array_equal(tree["n"][0], [2, 2, 2])
    assert not any(map(is_leaf, jax.tree.leaves(tree, is_leaf=is_leaf)))


def test_astype():
    cast = packed().astype("bfloat16")
    assert (cast.dtype, cast.dense().dtype) == (BF16, BF16)
    assert packed().values.dtype == cast.values.dtype
    assert Doubled(half=jnp.ones(2)).astype(BF16) is NotImplemented


def test_stack_only_what_can_be_sliced():
    three = Doubled(half=jnp.ones((3, 2)))
    assert three.stack(3) is three
    assert three.stack(2) is NotImplemented
    assert Doubled(half=jnp.ones(())).stack(1) is NotImplemented


def test_shapes_are_those_of_a_slice_under_vmap():
    seen = []
    jax.vmap(lambda w: seen.append(w.shape) or w.dense())(Doubled(half=jnp.ones((4, 2, 3))))
    assert seen == [(2, 3)]
