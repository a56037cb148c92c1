"""Reference: sums and differences of pairs in plain jnp. The oracle of every tier."""

import math

import jax.numpy as jnp
from jaxtyping import Array, Float


def reference(x: Float[Array, "m n"]) -> Float[Array, "m n"]:
    """X H / sqrt(n) in float32, n a power of two."""
    m, n = x.shape
    x = x.astype(jnp.float32)
    for step in range(n.bit_length() - 1):
        pairs = x.reshape(m, -1, 2, 2**step)
        a, b = pairs[..., 0, :], pairs[..., 1, :]
        x = jnp.stack([a + b, a - b], axis=-2).reshape(m, n)
    return x * jnp.float32(1 / math.sqrt(n))
