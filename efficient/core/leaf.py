"""Leaf: what may stand where an array stood.

A leaf is a frozen dataclass, registered as a pytree, that stores a weight in some smaller form. It
has the `shape` and `dtype` of the array that it replaces, so that a model can be traced as if nothing
had happened; `lift` then runs the model, and asks the leaf what to do at each equation that it meets.

The rule for a primitive is the leaf's method of the primitive's name: `dot_general`,
`conv_general_dilated`, `gather`, `transpose`, ... It gets a `Site` (see `lift`) and returns the result,
as an array or as another leaf, or `NotImplemented`; there is no registry. A leaf without the method is
made dense at that equation.

Shapes are derived from the stored arrays, counted from the *last* axis, and never stored: then `vmap`
and `scan`, which add and remove leading axes of every stored array, leave the leaf true.
"""

import abc
import dataclasses
import math
from typing import Any, TypeVar, dataclass_transform

import jax
import jax.numpy as jnp

L = TypeVar("L", bound="Leaf")


def static(**kwargs: Any) -> Any:
    """A field that is part of the structure and not an array."""
    return dataclasses.field(metadata={"static": True}, **kwargs)


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(static,))
def leaf(cls: type[L]) -> type[L]:
    """Makes a class a frozen keyword-only dataclass and a pytree. Fields made by `static()` are structure."""
    made = dataclasses.dataclass(frozen=True, kw_only=True, eq=False)(cls)
    return jax.tree_util.register_dataclass(made)


class Leaf(abc.ABC):
    """What stands where an array stood. Subclasses are made by `@leaf`; every array field is data."""

    @property
    @abc.abstractmethod
    def shape(self) -> tuple[int, ...]:
        """The shape of the array that this leaf stands for."""

    @property
    @abc.abstractmethod
    def dtype(self) -> jnp.dtype:
        """The dtype of the array that this leaf stands for."""

    @abc.abstractmethod
    def dense(self) -> jax.Array:
        """The array that this leaf stands for; differentiable in the leaf's float fields."""

    def astype(self: L, dtype: Any) -> "L | Any":
        """The same leaf for an array of `dtype`; `NotImplemented` where it has no `out_dtype` field."""
        if not hasattr(self, "out_dtype"):
            return NotImplemented
        return dataclasses.replace(self, out_dtype=jnp.dtype(dtype))  # type: ignore[type-var]

    def convert_element_type(self, site: Any) -> "Leaf | Any":
        """Rule: the leaf of the other dtype."""
        return self.astype(site.params["new_dtype"])

    def copy(self, site: Any) -> "Leaf":
        """Rule: a copy of a leaf is the leaf."""
        return self

    copy_p = name = copy

    def stack(self: L, length: int) -> "L | Any":
        """A leaf like this, with a leading axis of `length` on every stored array, for `scan` to slice.

        `NotImplemented` where the leaf cannot be sliced along its first axis. The default serves leaves
        all of whose arrays have that axis already, such as those that `stacked` transforms make.
        """
        arrays = jax.tree.leaves(self)
        return self if all(jnp.ndim(a) and a.shape[0] == length for a in arrays) else NotImplemented

    def __jax_array__(self) -> jax.Array:
        """A leaf is no array: a model that meets one must be lifted.

        Raises:
          TypeError: always.
        """
        raise TypeError(
            f"{type(self).__name__} must meet a model through lift, got used as an array; call "
            "lift(fn)(params, ...), or make it one with .dense()."
        )

    def _refuse(self, *_: Any) -> Any:
        return self.__jax_array__()

    __array__ = __getitem__ = __matmul__ = __rmatmul__ = __mul__ = __rmul__ = _refuse
    __add__ = __radd__ = __sub__ = __rsub__ = __truediv__ = __neg__ = _refuse

    @property
    def ndim(self) -> int:
        """Number of axes of the array that this leaf stands for."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of elements of the array that this leaf stands for."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes that are really stored, scales and codebooks and nested leaves included."""
        return sum(int(a.size) * jnp.dtype(a.dtype).itemsize for a in jax.tree.leaves(self))


def is_leaf(value: Any) -> bool:
    """True of a `Leaf`; made for `jax.tree.map(..., is_leaf=is_leaf)`."""
    return isinstance(value, Leaf)


def dense(tree: Any) -> Any:
    """`tree` with every leaf made the array that it stands for."""
    return jax.tree.map(lambda v: v.dense() if is_leaf(v) else v, tree, is_leaf=is_leaf)


def stored_bytes(tree: Any) -> int:
    """Bytes that `tree` stores: arrays as they are, leaves as they are packed."""
    return sum(
        v.nbytes if is_leaf(v) else math.prod(jnp.shape(v)) * jnp.result_type(v).itemsize
        for v in jax.tree.leaves(tree, is_leaf=is_leaf)
    )
