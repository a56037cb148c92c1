"""Bitmap: one bit a weight says whether it stays, and those that stay follow one another.

There is no rule for matmul: to know which weight a value is takes as long as making it dense.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from efficient.core.leaf import leaf, static
from efficient.kernels.sparse_matmul.reference import running
from efficient.prune.leaves.sparse import SparseLeaf, is_present, matrix_shape, shaped
from efficient.prune.mask import kept_of


@leaf
class BitmapLeaf(SparseLeaf):
    """A weight as a bit for each place and the values that stay.

    Bytes: kept values + ceil(places / 8).
    """

    values: Any  # [kept]
    bits: Any  # uint8 [ceil(places / 8)], the first place in the top bit
    weight_shape: Any = static()

    @classmethod
    def from_dense(cls, array: Any, *, path: str = "array") -> "BitmapLeaf":
        """The leaf of an array of any shape with an axis, in NumPy's arrays.

        Raises:
          ValueError: the array has no axis.
        """
        host = np.asarray(array)
        matrix_shape(host.shape, path)
        stays = is_present(host)
        return cls(values=host[stays], bits=np.packbits(stays), weight_shape=host.shape)

    @classmethod
    def room(
        cls, shape: tuple[int, ...], dtype: Any, *, sparsity: float, path: str = "array"
    ) -> "BitmapLeaf":
        """The leaf's shapes for a weight of which a fraction `sparsity` is zero; raises as `from_dense`."""
        rows, columns = matrix_shape(shape, path)
        return cls(
            values=shaped(int(kept_of(rows * columns, sparsity)), dtype=dtype),
            bits=shaped(-(-rows * columns // 8), dtype=np.uint8),
            weight_shape=tuple(shape),
        )

    @property
    def layers(self) -> tuple[int, ...]:
        """The leading axes that every stored array has."""
        return tuple(self.bits.shape[:-1])

    def one(self) -> jax.Array:
        """Each place takes the value that as many bits precede."""
        rows, columns = matrix_shape(self.weight_shape, "weight")
        first_bits = self.bits[:, None] >> jnp.arange(7, -1, -1, dtype=jnp.uint8)[None]
        counts = jax.lax.population_count(first_bits).astype(jnp.int32)  # [bytes, 8], up to each bit
        ends = running(counts[:, -1])
        ranks = (ends - counts[:, -1])[:, None] + counts
        ranks = (ranks * (first_bits & 1)).ravel()[: rows * columns]  # from 1; 0 where absent
        return jnp.pad(self.values, (1, 0))[ranks].reshape(self.weight_shape)
