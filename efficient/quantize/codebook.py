"""Codebook: weights share a few values; the shared values are trained.

Source: Han, Mao and Dally, 2016, arXiv:1510.00149, section 3 ("Trained quantization and weight sharing").
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from efficient.core.leaf import Leaf, leaf, static
from efficient.core.per_leaf import per_leaf
from efficient.core.rows import rows
from efficient.core.transform import State, Transform, recipe
from efficient.quantize.codes import Codes, as_matrix, product
from efficient.quantize.kmeans import Initialisation, kmeans


@leaf
class CodebookLeaf(Leaf):
    """A weight `codebook[indices]`. Stored: one uint8 a weight and the codebook."""

    codebook: Any  # float32[k]
    indices: Any  # uint8, the weight's shape
    out_dtype: Any = static()

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the weight."""
        return tuple(self.indices.shape)

    @property
    def dtype(self) -> Any:
        """What `dense` returns."""
        return self.out_dtype

    def dense(self) -> jax.Array:
        """`codebook[indices]`."""
        if self.codebook.ndim > 1:
            return jax.vmap(lambda one: one.dense())(self)
        return look_up(self.codebook, self.indices).astype(self.out_dtype)

    def stack(self, length: int) -> Any:
        """Sliceable: a codebook shared by all layers is repeated."""
        if self.codebook.ndim > 1:
            return super().stack(length)
        return dataclasses.replace(
            self, codebook=jnp.broadcast_to(self.codebook, (length, *self.codebook.shape))
        )

    def _rearranged(self, site: Any) -> Any:
        """Rule: what moves weights about moves their indices."""
        if self.codebook.ndim > 1:
            return NotImplemented
        return dataclasses.replace(self, indices=site.bind(self.indices))

    transpose = reshape = squeeze = slice = dynamic_slice = broadcast_in_dim = rev = _rearranged

    def dot_general(self, site: Any) -> Any:
        """Rule: the shared weights are looked up where they are multiplied, by a kernel if there is one."""
        out = product(site, self)
        return site.bind(self.dense()) if out is None else out

    def as_codes(self, summed: int) -> Codes | None:
        """The weight for kernels; None where each layer has a codebook of its own."""
        if self.codebook.ndim > 1 or 0 in self.shape:
            return None
        return Codes(
            codes=as_matrix(self.indices, self.shape, summed),
            scale=jnp.ones((1, 1), jnp.float32),
            shift=None,
            table=self.codebook,
            bits=8,
            group=0,
            is_signed=False,
        )

    def as_rows(self, summed: int) -> Codes | None:
        """The same, its last axes summed over."""
        return self.as_codes(len(self.shape) - summed)  # a codebook is the same along every axis

    conv_general_dilated = dot_general

    def gather(self, site: Any) -> Any:
        """Rule: only the rows asked for are looked up; one out of bounds is NaN where the mode says so."""
        found = rows(site)
        if found is None or self.codebook.ndim > 1:
            return NotImplemented
        indices = found.take(self.indices.astype(jnp.int32), fill=-1)
        values = jnp.where(indices < 0, jnp.nan, look_up(self.codebook, jnp.maximum(indices, 0)))
        return values.astype(site.out_dtype)


def look_up(codebook: jax.Array, indices: jax.Array) -> jax.Array:
    """`codebook[indices]`, out of bounds the last entry; the gradient sums over each entry's members."""
    return codebook.at[indices].get(mode="clip")


@recipe
def codebook(
    bits: int,
    *,
    initialisation: Initialisation = "linear",
    zero: bool = True,
    iterations: int = 100,
) -> Transform:
    """Shares 2^bits values among the weights of each leaf, by k-means, and trains them.

    dL/dC_k = sum over members (i, j) of k of dL/dW_ij (equation 3). Assignments stay as `init` made them;
    the weights themselves are no longer used but for where they are zero.

    Args:
      bits: 1 to 8; index bits a weight.
      initialisation: of k-means: "linear" (the paper's best), "density" or "random" (needs a key).
      zero: True: the first entry is exactly 0 and holds the weights that come in as zeros (pruned ones), so
        that 2^bits - 1 values are trained and zeros stay zero. False: all 2^bits are trained, and zeros are
        weights like others; for networks that were not pruned.
      iterations: of k-means, at most.

    Raises:
      ValueError: at once, `bits` outside 1..8; at `init`, random initialisation without a key.

    Source: module docstring. *Differs:* the paper keeps zeros in a separate sparse structure and shares
    2^bits values among the others.
    """
    if not 1 <= bits <= 8:
        raise ValueError(f"bits must be from 1 to 8, got {bits!r}; an index is stored in one byte.")
    free = 2**bits - int(zero)

    def init(value: jax.Array, *, path: str, stats: Any, key: Any) -> State:
        del path, stats
        include = (value != 0) if zero else None
        made = kmeans(
            value, free, initialisation=initialisation, include=include, iterations=iterations, key=key
        )
        return State(train=made.centroids, fixed=(made.indices + int(zero)).astype(jnp.uint8))

    def entries(state: State) -> jax.Array:
        return jnp.concatenate([jnp.zeros(1, state.train.dtype), state.train]) if zero else state.train

    def members(value: jax.Array, state: State) -> jax.Array:
        return jnp.where(value == 0, jnp.uint8(0), state.fixed) if zero else state.fixed

    def apply(value: jax.Array, state: State) -> jax.Array:
        return look_up(entries(state), members(value, state))

    def pack(value: jax.Array, state: State) -> CodebookLeaf:
        return CodebookLeaf(codebook=entries(state), indices=members(value, state), out_dtype=value.dtype)

    return per_leaf(init=init, apply=apply, pack=pack)
