"""Hadamard transform: an orthogonal change of basis that spreads every outlier over all channels, in n log n.

Source: Ashkboos et al., 2024, arXiv:2404.00456, section 3.1.
"""

import math

import jax.numpy as jnp
from jaxtyping import Array, Float


def hadamard(x: Float[Array, "*lead n"]) -> Float[Array, "*lead n"]:
    """X H / sqrt(n), H the Walsh-Hadamard matrix in natural order: symmetric and its own inverse.

    Raises:
      ValueError: n is no power of two.
    """
    *lead, n = x.shape
    if n < 1 or n & (n - 1):
        raise ValueError(f"n must be a power of two, got {n}; split it, as rotate does.")
    for step in range(n.bit_length() - 1):
        pairs = x.reshape(*lead, -1, 2, 2**step)
        a, b = pairs[..., 0, :], pairs[..., 1, :]
        x = jnp.stack([a + b, a - b], axis=-2).reshape(*lead, n)
    return x / jnp.asarray(math.sqrt(n), x.dtype)
