"""N:M: of every m neighbours n are stored, each with its place among them.

Source: Mishra et al., 2021, arXiv:2104.08378, section 2.1 (2:4, with 2-bit metadata).
Differs: any N and M, along any axis; the positions are one stream of bits, in the order of the values, not
that of a GPU's registers. Products are computed by a kernel, where there is one and groups run along the
second last axis; through XLA, looking up what each value meets is slower than making it dense.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from efficient.coding import pack_bits
from efficient.core.leaf import leaf, static
from efficient.kernels.sparse_matmul import n_m, n_m_matmul
from efficient.kernels.sparse_matmul.reference import unpacked
from efficient.prune.leaves.kernel import by_kernel
from efficient.prune.leaves.sparse import SparseLeaf, is_present, shaped
from efficient.prune.pattern import require_axis


@leaf
class NMLeaf(SparseLeaf):
    """A weight of which at most n of every m neighbours along an axis are present.

    Bytes: n values a group, and ceil(log2 m) bits for each: of float16 at 2:4, 9/16 of the dense bytes. A
    group that has fewer stores zeros; a last group that is not full is filled up.
    """

    values: Any  # [*before, groups, n, *after]
    positions: Any  # uint8: ceil(log2 m) bits for each value in turn, the first in the top bits
    weight_shape: Any = static()
    m: int = static()
    axis: int = static()  # of the weight, counted from 0

    @classmethod
    def from_dense(
        cls, array: Any, *, n: int = 2, m: int = 4, axis: int = -2, path: str = "array"
    ) -> "NMLeaf":
        """The leaf of an array, in NumPy's arrays.

        Args:
          array: any shape; at most `n` of every `m` neighbours are present.
          n: from 1 to m.
          m: from 1.
          axis: along which groups run; -2 is the inputs of Flax's kernels.
          path: the name of the array in messages.

        Raises:
          ValueError: n is not from 1 to m; the array has no such axis; a group has more than `n`.
        """
        host = np.asarray(array)
        axis = _checked(host.shape, n, m, axis, path)
        last = np.moveaxis(host, axis, -1)
        *rows, length = last.shape
        full = np.pad(last, [(0, 0)] * len(rows) + [(0, -length % m)])
        groups = full.reshape(*rows, -(-length // m), m)
        stays = is_present(groups)
        most = int(stays.sum(-1).max(initial=0))
        if most > n:
            raise ValueError(
                f"{path!r} must have at most {n} of every {m} along axis {axis}, got {most} in one group; "
                f"prune it by the pattern n_m({n}, {m}, axis={axis})."
            )
        # The present ones first, then as many absent ones as are missing; in the order of their places.
        places = np.sort(np.argsort(~stays, axis=-1, kind="stable")[..., :n], axis=-1)
        kept = np.take_along_axis(groups, places, -1)
        in_order = lambda a: np.moveaxis(a, (-2, -1), (axis, axis + 1))  # noqa: E731
        stream = pack_bits(np.ascontiguousarray(in_order(places)).ravel(), _bits(m))
        return cls(
            values=np.ascontiguousarray(in_order(kept)),
            positions=np.frombuffer(stream, np.uint8),
            weight_shape=host.shape,
            m=m,
            axis=axis,
        )

    @classmethod
    def room(
        cls,
        shape: tuple[int, ...],
        dtype: Any,
        *,
        n: int = 2,
        m: int = 4,
        axis: int = -2,
        path: str = "array",
    ) -> "NMLeaf":
        """The leaf's shapes for a weight of `shape`; raises as `from_dense`."""
        axis = _checked(tuple(shape), n, m, axis, path)
        kept = (*shape[:axis], -(-shape[axis] // m), n, *shape[axis + 1 :])
        return cls(
            values=shaped(*kept, dtype=dtype),
            positions=shaped(-(-math.prod(kept) * _bits(m) // 8), dtype=np.uint8),
            weight_shape=tuple(shape),
            m=m,
            axis=axis,
        )

    @property
    def layers(self) -> tuple[int, ...]:
        """The leading axes that every stored array has."""
        return tuple(self.positions.shape[:-1])

    def one(self) -> jax.Array:
        """Every place of a group takes the value that names it."""
        last = lambda a: jnp.moveaxis(a, (self.axis, self.axis + 1), (-2, -1))  # noqa: E731
        values, places = last(self.values), last(self.places())  # [..., groups, n]
        *rows, count, n = values.shape
        of_group = jax.lax.broadcasted_iota(jnp.int32, (*rows, count, self.m), len(rows) + 1)
        groups = jnp.zeros(of_group.shape, self.dtype)
        for i in range(n):  # no sum: -0.0 stays
            groups = jnp.where(places[..., i : i + 1] == of_group, values[..., i : i + 1], groups)
        whole = groups.reshape(*rows, count * self.m)[..., : self.weight_shape[self.axis]]
        return jnp.moveaxis(whole, -1, self.axis)

    def dot_general(self, site: Any) -> Any:
        """Rule: by a kernel."""
        columns, inputs = self.weight_shape[-1], self.weight_shape[:-1]
        is_matrix = self.axis == len(inputs) - 1 and (math.prod(inputs[:-1]) == 1 or inputs[-1] % self.m == 0)
        if self.layers or not is_matrix or 0 in self.weight_shape:
            return NotImplemented
        values, positions = jnp.asarray(self.values), jnp.asarray(self.positions)
        values = values.reshape(-1, values.shape[-2], columns)
        return by_kernel(site, self, n_m.NATIVE, lambda x: n_m_matmul(x, values, positions, m=self.m))

    conv_general_dilated = dot_general

    def places(self) -> jax.Array:
        """Of every value its place in the group."""
        return unpacked(self.positions, _bits(self.m), self.values.size).reshape(self.values.shape)


def _bits(m: int) -> int:
    """Bits of a place among m."""
    return (m - 1).bit_length()


def _checked(shape: tuple[int, ...], n: int, m: int, axis: int, path: str) -> int:
    """`axis` counted from 0, where all options are good."""
    if not 1 <= n <= m <= 256:
        raise ValueError(
            f"n must be from 1 to m, and m at most 256, got n={n!r} and m={m!r}; 2:4 is n=2, m=4."
        )
    return require_axis(axis, shape, path)
