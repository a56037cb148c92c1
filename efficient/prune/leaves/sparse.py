"""Sparse leaf: what the leaves of this folder have in common.

A zero of either sign is absent (`weight * mask` leaves -0.0), and `dense` has +0 there; all else is stored,
NaN and numbers too small to be normal among it, and comes back to the last bit. So does a -0.0 that is stored
with its neighbours, in a block or to fill a group.

A leaf stands for one weight of `weight_shape`; leading axes that its arrays have beyond their own are layers,
as `vmap` adds them and `scan` slices them. Most formats see the weight as a matrix: all axes but the last
are its rows, the last is its columns. Stored arrays may end in padding, which `dense` drops.
"""

import abc
import dataclasses
import math
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Int, Shaped

from efficient.core.leaf import Leaf

S = TypeVar("S", bound="SparseLeaf")
SIGN_FIRST = tuple(jnp.dtype(name) for name in ("float16", "bfloat16", "float32", "float64"))


class SparseLeaf(Leaf):
    """A weight of which only a part is stored: `values`, and where they stand."""

    values: Any
    weight_shape: Any

    @property
    @abc.abstractmethod
    def layers(self) -> tuple[int, ...]:
        """The leading axes that every stored array has."""

    @abc.abstractmethod
    def one(self) -> jax.Array:
        """The weight, where there are no leading axes."""

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the weight, after the layers."""
        return (*self.layers, *self.weight_shape)

    @property
    def dtype(self) -> Any:
        """That of the values."""
        return jnp.dtype(self.values.dtype)

    def dense(self) -> jax.Array:
        """The array, bit for bit; layers are mapped over."""
        return _dense(self)

    def astype(self: S, dtype: Any) -> Any:
        """The same leaf with its values in `dtype`."""
        return dataclasses.replace(self, values=self.values.astype(dtype))  # type: ignore[type-var]

    def stack(self, length: int) -> Any:
        """Sliceable where it has layers."""
        return self if self.layers[:1] == (length,) else NotImplemented


@jax.jit
def _dense(leaf: SparseLeaf) -> jax.Array:
    """The array of a leaf, as one program."""
    return jax.vmap(_dense)(leaf) if leaf.layers else leaf.one()


def matrix_shape(shape: tuple[int, ...], path: str) -> tuple[int, int]:
    """Rows and columns of a weight.

    Raises:
      ValueError: it has no axis.
    """
    if not shape:
        raise ValueError(f"shape of {path!r} must have an axis, got (); exclude the leaf.")
    return math.prod(shape[:-1]), shape[-1]


def is_present(array: Shaped[np.ndarray, "*shape"]) -> Bool[np.ndarray, "*shape"]:
    """True where an element is no zero, by its bits: a thread of XLA may take tiny numbers for zeros."""
    bits = np.ascontiguousarray(array).view(f"u{array.dtype.itemsize}").reshape(array.shape)
    return (bits << 1 if array.dtype in SIGN_FIRST else bits) != 0


def index_dtype(largest: int) -> Any:
    """The smallest unsigned dtype that holds 0 to `largest`.

    Raises:
      ValueError: 32 bits do not.
    """
    found = np.min_scalar_type(max(largest, 0))
    if found.itemsize > 4:
        raise ValueError(f"indices must be below 2**32, got {largest}; split the array.")
    return found


def pointers_of(counts: Int[np.ndarray, " lines"]) -> Shaped[np.ndarray, " lines1"]:
    """Where the entries of each line begin, and where the last ends."""
    ends = np.concatenate([[0], np.cumsum(counts)])
    return ends.astype(index_dtype(int(ends[-1])))


def shaped(*shape: int, dtype: Any) -> jax.ShapeDtypeStruct:
    """The shape of an array that is stored."""
    return jax.ShapeDtypeStruct(shape, dtype)


def padded(leaf: S, room: S, path: str) -> S:
    """`leaf`, made on the host, with its arrays padded to the shapes of `room`.

    Raises:
      ValueError: it does not fit: the weight has more to store than was said.
    """

    def fit(have: Any, want: Any) -> Any:
        if have.shape[0] > want.shape[0]:
            raise ValueError(
                f"{path!r} must have at most {want.shape[0]} entries to store, as its sparsity says, got "
                f"{have.shape[0]}; prune it further, or lower sparsity."
            )
        rest = [(0, want.shape[0] - have.shape[0])] + [(0, 0)] * (have.ndim - 1)
        return np.pad(have, rest).astype(want.dtype)

    return jax.tree.map(fit, leaf, room)
