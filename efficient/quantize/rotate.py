"""Rotate: weights and inputs turned by a random Hadamard matrix, which leaves no channel an outlier.

Source: Ashkboos et al., 2024, arXiv:2404.00456 (QuaRot); Chee et al., 2023, arXiv:2307.13304 (incoherence).
"""

from typing import Any

import jax
import jax.numpy as jnp

from efficient.core.transform import Key, Transform, recipe
from efficient.quantize.basis import INPUTS, Rotation, in_basis


@recipe
def rotate(inner: Transform) -> Transform:
    """Runs `inner` on Q^T W, for inputs x Q: the function is the same, and outliers are spread.

    Q is diag(random signs) (H (x) R): Hadamard's matrix of the largest power of two that divides the number
    of channels, by a random rotation of the rest. Give it a `key`.

    Args:
      inner: what quantizes weights, and inputs; ranges of inputs must be dynamic, as only the Gram matrix of
        the statistics is known after the turn.

    Raises:
      ValueError: at `init`, no key.

    Source: module docstring. *Differs:* the turn stays at the product, in n log n; the paper merges most into
    the layers before.
    """

    def choose(value: jax.Array, *, path: str, stats: Any, key: Key | None) -> Any:
        del stats
        if key is None:
            raise ValueError(f"key must be given to rotate {path!r}, got None; call init(params, key=...).")
        n = value.shape[INPUTS]
        rest = n // (n & -n)
        first, second = jax.random.split(key)
        signs = jnp.where(jax.random.bernoulli(first, shape=(n,)), 1.0, -1.0)
        turn = jnp.linalg.qr(jax.random.normal(second, (rest, rest)))[0] if rest > 1 else jnp.ones((1, 1))
        return signs, turn

    return in_basis(Rotation(), choose, inner)
