"""Reference: shifted images times weights, summed, in plain jnp. The oracle of every tier."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class Window(NamedTuple):
    """How a window moves, by axis of an image. A value: it hashes."""

    strides: tuple[int, int]
    padding: tuple[tuple[int, int], tuple[int, int]]  # zeros before and after
    dilation: tuple[int, int]  # places from one weight to the next

    def sizes(self, image: tuple[int, ...], window: tuple[int, ...]) -> tuple[int, int]:
        """Of the result; 0 or less where the window is larger than the padded image."""
        padded = [n + sum(p) for n, p in zip(image, self.padding, strict=True)]
        spans = [(k - 1) * d + 1 for k, d in zip(window, self.dilation, strict=True)]
        down, across = ((n - k) // s + 1 for n, k, s in zip(padded, spans, self.strides, strict=True))
        return down, across


def reference(x: Float[Array, "b h w c"], weights: Float[Array, "i j c"], *, window: Window) -> Any:
    """See `depthwise_conv`; float32 [b, h', w', c]."""
    x, weights = x.astype(jnp.float32), weights.astype(jnp.float32)
    padded = jnp.pad(x, [(0, 0), *window.padding, (0, 0)])
    (b, _, _, c), (tall, wide, _) = x.shape, weights.shape
    down, across = window.sizes(x.shape[1:3], (tall, wide))
    (up, left), (dy, dx) = window.strides, window.dilation
    total = jnp.zeros((b, down, across, c), jnp.float32)
    for i in range(tall):
        for j in range(wide):
            stop = (b, i * dy + (down - 1) * up + 1, j * dx + (across - 1) * left + 1, c)
            part = jax.lax.slice(padded, (0, i * dy, j * dx, 0), stop, (1, up, left, 1))
            total = total + part * weights[i, j][None, None, None]
    return total
