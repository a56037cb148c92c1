"""Relative index: the weights that stay, each with the number of zeros before it, in a few bits.

Source: Han et al., 2016, arXiv:1602.01528, section 3 (EIE: 4-bit gaps, a zero stored where one is longer than
15, a pointer to each column).
Differs: the values are stored as they are, not as 4-bit indices of a codebook; the bits of a gap are free.
The paper's W is [outputs, inputs], and its columns are the weights of one input: in Flax's [inputs, outputs]
these are rows. There is no rule for matmul: to know which weight a value is takes as long as making it dense.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from efficient.coding import encode_gaps, pack_bits
from efficient.core.leaf import leaf, static
from efficient.kernels.sparse_matmul.reference import lines_of, running, unpacked
from efficient.prune.leaves.sparse import (
    SparseLeaf,
    index_dtype,
    is_present,
    matrix_shape,
    pointers_of,
    shaped,
)
from efficient.prune.mask import kept_of


@leaf
class RelativeIndexLeaf(SparseLeaf):
    """A weight as runs along its rows: a value, and how many zeros precede it.

    Bytes: entries * one value + ceil(entries * bits / 8) + (rows + 1) pointers; an entry is a weight that
    stays, or a zero that ends each 2^bits zeros of a gap.
    """

    values: Any  # [entries]
    gaps: Any  # uint8 [ceil(entries * bits / 8)], the first in the top bits
    pointers: Any  # unsigned [rows + 1], the first entry of each row
    weight_shape: Any = static()
    bits: int = static(default=4)

    @classmethod
    def from_dense(cls, array: Any, *, bits: int = 4, path: str = "array") -> "RelativeIndexLeaf":
        """The leaf of an array of any shape with an axis, in NumPy's arrays.

        Args:
          array: seen as a matrix.
          bits: of a gap, from 1 to 8.
          path: the name of the array in messages.

        Raises:
          ValueError: the array has no axis, or `bits` is not from 1 to 8.
        """
        host = np.asarray(array)
        matrix = host.reshape(matrix_shape(host.shape, path))
        stays = is_present(matrix)
        coded = [encode_gaps(np.flatnonzero(row), span=2 ** _checked(bits)) for row in stays]
        gaps = np.concatenate([np.zeros(0, np.int64), *(own for own, _ in coded)])
        is_filler = np.concatenate([np.zeros(0, bool), *(own for _, own in coded)])
        values = np.zeros(gaps.size, host.dtype)
        values[~is_filler] = matrix[stays]
        return cls(
            values=values,
            gaps=np.frombuffer(pack_bits(gaps, bits), np.uint8),
            pointers=pointers_of(np.array([own.size for own, _ in coded], int)),
            weight_shape=host.shape,
            bits=bits,
        )

    @classmethod
    def room(
        cls, shape: tuple[int, ...], dtype: Any, *, sparsity: float, bits: int = 4, path: str = "array"
    ) -> "RelativeIndexLeaf":
        """The leaf's shapes for a weight of which a fraction `sparsity` is zero; raises as `from_dense`.

        Room for as many fillers as its zeros could need, were they in the worst order.
        """
        rows, columns = matrix_shape(shape, path)
        kept = int(kept_of(rows * columns, sparsity))
        entries = kept + max(rows * columns - kept, 0) // 2 ** _checked(bits)
        return cls(
            values=shaped(entries, dtype=dtype),
            gaps=shaped(-(-entries * bits // 8), dtype=np.uint8),
            pointers=shaped(rows + 1, dtype=index_dtype(entries)),
            weight_shape=tuple(shape),
            bits=bits,
        )

    @property
    def layers(self) -> tuple[int, ...]:
        """The leading axes that every stored array has."""
        return tuple(self.gaps.shape[:-1])

    def one(self) -> jax.Array:
        """Each value set where its row's gaps lead."""
        entries, pointers = self.values.shape[0], self.pointers.astype(jnp.int32)
        steps = unpacked(self.gaps, self.bits, entries) + 1
        walked = jnp.pad(running(steps), (1, 0))  # before each entry, over all rows
        row = lines_of(pointers, entries)
        column = walked[1:] - walked[pointers[row]] - 1
        matrix = jnp.zeros(matrix_shape(self.weight_shape, "weight"), self.dtype)
        return matrix.at[row, column].set(self.values, mode="drop").reshape(self.weight_shape)


def _checked(bits: int) -> int:
    """`bits`, if a gap can have them."""
    if not 1 <= bits <= 8:
        raise ValueError(f"bits must be from 1 to 8, got {bits!r}; the paper's gaps have 4.")
    return bits
