"""AdaRound: learns, weight by weight, whether to round up or down, from what enters the layer.

Source: Nagel et al., 2020, arXiv:2004.10568, section 3.3.
"""

import functools

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from efficient.core.transform import Transform, recipe
from efficient.quantize.format import Format
from efficient.quantize.quantizer import Quantizer
from efficient.quantize.solved import Places, solving

STRETCH = (-0.1, 1.1)  # gamma and zeta of the paper
BETA = (20.0, 2.0)  # from, to
WARMUP = 0.2  # of the steps, without the regularizer
EXACT = jax.lax.Precision.HIGHEST


@recipe
def adaround(
    quantizer: Quantizer, *, steps: int = 1000, rate: float = 1e-2, strength: float = 3.0
) -> Transform:
    """Rounds so that the layer's output, not the weight, errs least.

    With h = clip(sigmoid(V) (zeta - gamma) + gamma, 0, 1) and W' = s (floor(W / s) + h), on the grid, Adam
    minimises |X (W' - W)|^2 + strength * sum(1 - |2 h - 1|^beta), beta falling from 20 to 2, so that every h
    ends at 0 or 1. X are the inputs that `observe(..., statistics="gram")` saw, and only X^T X is needed.
    An output that ends with a larger error than the nearest rounding has is rounded to the nearest.

    Args:
      quantizer: how; evenly spaced formats only.
      steps: of Adam, from 1.
      rate: its learning rate, > 0.
      strength: of the regularizer, >= 0.

    Raises:
      ValueError: at once, an argument out of range or a format that is not evenly spaced; at `init`, as
        `solved.solving`.

    Source: module docstring, equations 21 to 25. *Differs:* the first term is divided by the mean over
    weights of its value at the nearest rounding, so that one strength serves every layer; each layer is
    solved by itself, without the errors of those before it and without the activation function.
    """
    if steps < 1 or rate <= 0 or strength < 0:
        raise ValueError(
            f"steps must be from 1, rate above 0 and strength from 0, got {steps!r}, {rate!r} and "
            f"{strength!r}; leave them out."
        )
    if not quantizer.format.is_even:
        raise ValueError(f"format must be evenly spaced for adaround, got {quantizer.format!r}; use gptq.")

    def solve(
        weights: Float[Array, "inputs outputs"], gram: Float[Array, "inputs inputs"], places: Places
    ) -> Float[Array, "inputs outputs"]:
        return learned(weights, gram, places, rate, strength, grid=quantizer.format, steps=steps)

    return solving(quantizer, solve)


def up_share(v: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """H of V, the rectified sigmoid."""
    low, high = STRETCH
    return jnp.clip(jax.nn.sigmoid(v) * (high - low) + low, 0.0, 1.0)


def output_error(
    change: Float[Array, "inputs outputs"], gram: Float[Array, "inputs inputs"]
) -> Float[Array, " outputs"]:
    """|X change|^2 of each output."""
    return jnp.sum(change * jnp.matmul(gram, change, precision=EXACT), 0)


@functools.partial(jax.jit, static_argnames=("grid", "steps"))
def learned(
    weights: Float[Array, "inputs outputs"],
    gram: Float[Array, "inputs inputs"],
    places: Places,
    rate: float | Float[Array, ""],
    strength: float | Float[Array, ""],
    *,
    grid: Format,
    steps: int,
) -> Float[Array, "inputs outputs"]:
    """One layer of `adaround`."""
    scaled = weights / places.scale + places.zero
    below = jnp.floor(scaled)
    nearest = places.nearest(weights, grid)
    at_nearest = output_error(nearest - weights, gram)
    unit = jnp.maximum(jnp.mean(at_nearest) / weights.shape[0], 1e-30)

    def shown(share: jax.Array) -> jax.Array:
        return (jnp.clip(below + share, grid.low, grid.high) - places.zero) * places.scale

    def loss(v: jax.Array, step: jax.Array) -> jax.Array:
        share = up_share(v)
        done = jnp.clip((step / steps - WARMUP) / (1 - WARMUP), 0.0, 1.0)
        beta = BETA[1] + (BETA[0] - BETA[1]) * (1 - done)
        open_ = jnp.sum(1 - jnp.power(jnp.abs(2 * share - 1) + 1e-12, beta))
        weight = jnp.where(step < WARMUP * steps, 0.0, strength)
        return jnp.sum(output_error(shown(share) - weights, gram)) / unit + weight * open_

    low, high = STRETCH
    start = jnp.clip((scaled - below - low) / (high - low), 1e-4, 1 - 1e-4)
    adam = optax.adam(rate)

    def one_step(carry: tuple[jax.Array, optax.OptState], step: jax.Array) -> tuple[tuple, None]:
        v, moments = carry
        updates, moments = adam.update(jax.grad(loss)(v, step), moments)
        return (optax.apply_updates(v, updates), moments), None

    v = jnp.log(start) - jnp.log1p(-start)
    (v, _), _ = jax.lax.scan(one_step, (v, adam.init(v)), jnp.arange(steps))
    found = shown((v > 0).astype(weights.dtype))
    is_better = output_error(found - weights, gram) < at_nearest
    return jnp.where(is_better, found, nearest)
