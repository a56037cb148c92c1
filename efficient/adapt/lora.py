"""LoRA: a frozen weight and a trained low-rank change to it.

Source: Hu et al., 2021, arXiv:2106.09685, section 4.1: h = W0 x + (alpha / r) B A x, A Gaussian, B zero.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from efficient.core import factored
from efficient.core.leaf import Leaf, dense, is_leaf, leaf, static
from efficient.core.per_leaf import per_leaf
from efficient.core.transform import State, Transform, recipe


@leaf
class LoRALeaf(Leaf):
    """A weight `base + scale * a @ b`; `base` may be a leaf itself, as in QLoRA."""

    base: Any  # [*inputs, *outputs], an array or a leaf
    a: Any  # [*inputs, rank]
    b: Any  # [rank, *outputs]
    scale: float = static()  # alpha / rank
    out_ndim: int = static()
    out_dtype: Any = static()

    @property
    def shape(self) -> tuple[int, ...]:
        """[*inputs, *outputs]."""
        return tuple(self.base.shape)

    @property
    def dtype(self) -> Any:
        """What `dense` returns."""
        return self.out_dtype

    def dense(self) -> jax.Array:
        """The merged weight."""
        change = factored.multiply_out(self.a, self.b, self.out_ndim)
        return (dense(self.base) + self.scale * change).astype(self.out_dtype)

    def _factors(self) -> tuple[jax.Array, jax.Array, int]:
        return self.a.astype(self.out_dtype), (self.scale * self.b).astype(self.out_dtype), self.out_ndim

    def _base(self) -> Any:
        return self.base if self.base.dtype == self.out_dtype else self.base.astype(self.out_dtype)

    def _both(self, site: Any, change: Any) -> Any:
        return change if change is NotImplemented else site.bind(self._base()) + change

    def dot_general(self, site: Any) -> Any:
        """Rule: the base's result and the two thin matmuls'."""
        return self._both(site, factored.dot(site, *self._factors()))

    def conv_general_dilated(self, site: Any) -> Any:
        """Rule: the base's result and a thin convolution followed by a 1x1."""
        return self._both(site, factored.conv(site, *self._factors()))

    def gather(self, site: Any) -> Any:
        """Rule: rows of an embedding."""
        return self._both(site, factored.take_rows(site, *self._factors()))

    def transpose(self, site: Any) -> Any:
        """Rule: the factors swap."""
        new = factored.transpose(site, self.a, self.b, self.out_ndim)
        if new is NotImplemented:
            return new
        return dataclasses.replace(self, base=site.bind(self._base()), a=new[0], b=new[1], out_ndim=new[2])

    def stack(self, length: int) -> Any:
        """Sliceable where the factors have the leading axis and the base can be sliced too."""
        base = self.base.stack(length) if is_leaf(self.base) else self.base
        if base is NotImplemented or self.b.ndim == 1 + self.out_ndim or self.b.shape[0] != length:
            return NotImplemented
        return dataclasses.replace(self, base=base)


@recipe
def lora(rank: int, *, alpha: float | None = None, out_ndim: int = 1, merge: bool = False) -> Transform:
    """Freezes every matrix and trains a change of low rank beside it.

    `apply` returns a `LoRALeaf`, so run the model through `lift`. All that came before in a chain is frozen:
    `chain(linear(4), lora(8))` is QLoRA's arrangement. At `init` the change is exactly zero.

    Args:
      rank: columns of the factors, from 1.
      alpha: the change is scaled by alpha / rank; default `rank`, a scale of 1.
      out_ndim: how many of a weight's last axes are outputs; the others are inputs.
      merge: whether `pack` adds the change to the weights (an array: no cost at inference, but what made
        the base small is lost) or keeps both in a `LoRALeaf`.

    Raises:
      ValueError: at once, a rank below 1; at `init`, a leaf with too few axes, or no `key`.

    Example:
      >>> params = {"kernel": jnp.ones((8, 4))}
      >>> state = lora(2).init(params, key=jax.random.key(0))
      >>> {name: factor.shape for name, factor in state.train["kernel"].items()}
      {'a': (8, 2), 'b': (2, 4)}

    Source: module docstring. *Differs:* A is drawn with variance 1 / inputs (the paper says Gaussian).
    """
    if rank < 1:
        raise ValueError(f"rank must be at least 1, got {rank}; choose how many columns the factors have.")
    scale = (rank if alpha is None else alpha) / rank

    def init(value: jax.Array, *, path: str, stats: Any, key: Any) -> State:
        del stats
        n_in, _ = factored.split_at(value.shape, out_ndim, f"leaf {path!r}")
        if key is None:
            raise ValueError(
                "key must be given to draw LoRA's factors, got None; call init(params, key=...)."
            )
        split = value.ndim - out_ndim
        a = jax.random.normal(key, (*value.shape[:split], rank), jnp.float32) / math.sqrt(n_in)
        return State(train={"a": a, "b": jnp.zeros((rank, *value.shape[split:]), jnp.float32)})

    def apply(value: Any, state: State) -> LoRALeaf:
        frozen = jax.tree.map(jax.lax.stop_gradient, value)
        return LoRALeaf(base=frozen, **state.train, scale=scale, out_ndim=out_ndim, out_dtype=value.dtype)

    def pack(value: Any, state: State) -> Any:
        both = apply(value, state)
        return both.dense() if merge else both

    return per_leaf(init=init, apply=apply, pack=pack, nests=True)
