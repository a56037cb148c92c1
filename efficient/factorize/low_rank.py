"""Low rank: a weight matrix as the product of two thin ones.

Source: Denton et al., 2014, arXiv:1404.0736, section 3.2 (SVD of a fully connected layer); Eckart and
Young, 1936: the truncated SVD is the nearest matrix of its rank.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from efficient.core import factored
from efficient.core.leaf import Leaf, leaf, static
from efficient.core.per_leaf import per_leaf
from efficient.core.transform import State, Transform, recipe


@leaf
class LowRankLeaf(Leaf):
    """A weight `u @ v`; matmuls and convolutions with it are two thin ones."""

    u: Any  # [*inputs, rank]
    v: Any  # [rank, *outputs]
    out_ndim: int = static()  # how many of the weight's last axes are outputs
    out_dtype: Any = static()

    @property
    def shape(self) -> tuple[int, ...]:
        """[*inputs, *outputs]."""
        return (*self.u.shape[:-1], *self.v.shape[self.v.ndim - self.out_ndim :])

    @property
    def dtype(self) -> Any:
        """What `dense` returns."""
        return self.out_dtype

    def dense(self) -> jax.Array:
        """`u @ v`."""
        return factored.multiply_out(self.u, self.v, self.out_ndim).astype(self.out_dtype)

    def stack(self, length: int) -> Any:
        """Sliceable where both factors have the leading axis; factors of the whole stack have not."""
        return NotImplemented if self.v.ndim == 1 + self.out_ndim else super().stack(length)

    def _factors(self) -> tuple[jax.Array, jax.Array, int]:
        return self.u.astype(self.out_dtype), self.v.astype(self.out_dtype), self.out_ndim

    def dot_general(self, site: Any) -> Any:
        """Rule."""
        return factored.dot(site, *self._factors())

    def conv_general_dilated(self, site: Any) -> Any:
        """Rule."""
        return factored.conv(site, *self._factors())

    def gather(self, site: Any) -> Any:
        """Rule: rows of an embedding."""
        return factored.take_rows(site, *self._factors())

    def transpose(self, site: Any) -> Any:
        """Rule: the factors swap."""
        new = factored.transpose(site, self.u, self.v, self.out_ndim)
        if new is NotImplemented:
            return new
        return dataclasses.replace(self, u=new[0], v=new[1], out_ndim=new[2])


@recipe
def low_rank(rank: int | float, *, out_ndim: int = 1) -> Transform:
    """Replaces every matrix by its best approximation of lower rank, and trains the factors.

    W ~ U_r S_r V_r^T; the factors are U_r S_r^(1/2) and S_r^(1/2) V_r^T, both in `state.train`. The weight
    itself is no longer used: freeze it. `apply` returns a `LowRankLeaf`, so run the model through `lift`.

    Args:
      rank: columns kept, from 1; or, as a float in (0, 1], the fraction of the full rank (at least 1).
      out_ndim: how many of a weight's last axes are outputs; the others are flattened to the rows, so that
        a [3, 3, cin, cout] kernel is a [9 cin, cout] matrix (a convolution of `rank` channels and a 1x1).

    Raises:
      ValueError: at once, a rank outside its range; at `init`, a leaf with too few axes, or a rank above
        the full one.

    Source: module docstring.
    """
    if isinstance(rank, bool) or not (0 < rank <= 1 if isinstance(rank, float) else rank >= 1):
        raise ValueError(f"rank must be a count from 1 or a fraction in (0, 1], got {rank!r}; choose one.")

    def columns(full: int, path: str) -> int:
        if isinstance(rank, float):
            return max(1, round(rank * full))
        if rank > full:
            raise ValueError(
                f"rank must be at most {full} for {path!r}, got {rank}; lower it or exclude the leaf."
            )
        return rank

    def init(value: jax.Array, *, path: str, stats: Any, key: Any) -> State:
        del stats, key
        n_in, n_out = factored.split_at(value.shape, out_ndim, f"leaf {path!r}")
        r = columns(min(n_in, n_out), path)
        matrix = value.astype(jnp.float32).reshape(n_in, n_out)
        u, s, vt = jnp.linalg.svd(matrix, full_matrices=False)
        root = jnp.sqrt(s[:r])
        split = value.ndim - out_ndim
        u = (u[:, :r] * root[None, :]).reshape(*value.shape[:split], r)
        v = (vt[:r] * root[:, None]).reshape(r, *value.shape[split:])
        return State(train={"u": u, "v": v})

    def apply(value: jax.Array, state: State) -> LowRankLeaf:
        return LowRankLeaf(u=state.train["u"], v=state.train["v"], out_ndim=out_ndim, out_dtype=value.dtype)

    return per_leaf(init=init, apply=apply)
