"""Reference: scores of all keys in plain jnp, then their softmax. The oracle of every tier."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from efficient.kernels.attention.masks import Mask, visible
from efficient.kernels.quantize_pack import Packed, unpack
from jaxtyping import Array, Float, Int, Num

NEVER = np.float32(-0.5 * np.finfo(np.float32).max)  # the score of a key that is not seen


def reference(
    q: Float[Array, "b t h d"],
    k: Float[Array, "b s g d"],
    v: Float[Array, "b s g d"],
    lengths: Int[Array, " b"],
    *,
    mask: Mask,
    scale: float,
) -> Float[Array, "b t h d"]:
    """In float32; see `attention`."""
    return reference_and_sums(q, k, v, lengths, mask=mask, scale=scale)[0]


def reference_and_sums(q: Any, k: Any, v: Any, lengths: Any, *, mask: Mask, scale: float) -> tuple[Any, Any]:
    """The same, and log(sum(exp(scores))) [b, h, t], `NEVER` where no key is seen."""
    (b, t, h, d), (_, s, g, _) = q.shape, k.shape
    query = lengths[:, None, None] - t + np.arange(t)[None, :, None]
    seen = visible(query, np.arange(s)[None, None], lengths[:, None, None], mask)[
        :, None, None
    ]  # [b, 1, 1, t, s]
    is_there = np.arange(s)[None, :, None, None] < lengths[:, None, None, None]
    k, v = (jnp.where(is_there, a.astype(jnp.float32), 0) for a in (k, v))
    rows = q.astype(jnp.float32).reshape(b, t, g, h // g, d)
    scores = jnp.einsum("btgid,bsgd->bgits", rows, k, precision=jax.lax.Precision.HIGHEST) * np.float32(scale)
    scores = jnp.where(seen, scores, NEVER)
    top = jax.lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True, initial=NEVER))
    weights = jnp.where(seen, jnp.exp(scores - top), 0)
    total = jnp.sum(weights, axis=-1, keepdims=True)
    shares = weights / jnp.where(total == 0, 1, total)
    out = jnp.einsum("bgits,bsgd->btgid", shares, v, precision=jax.lax.Precision.HIGHEST)
    sums = jnp.where(total == 0, NEVER, top + jnp.log(jnp.where(total == 0, 1, total)))
    return out.reshape(b, t, h, d), sums[..., 0].reshape(b, h, t)


def decode_reference(
    q: Float[Array, "b h d"],
    keys: Packed | Float[Array, "n p g d"],
    values: Packed | Float[Array, "n p g d"],
    lengths: Int[Array, " b"],
    pages: Int[Array, "b m"],
    *,
    mask: Mask,
    scale: float,
) -> Float[Array, "b h d"]:
    """In float32, the cache made dense; see `decode_attention`."""
    k, v = (of_pages(numbers_of(a, q.shape[-1]), pages) for a in (keys, values))
    return reference(q[:, None], k, v, lengths, mask=mask, scale=scale)[:, 0]


def numbers_of(cache: Packed | Num[Array, "n p g d"], size: int) -> Any:
    """A cache's numbers, float32."""
    if not isinstance(cache, Packed):
        return cache.astype(jnp.float32)
    runs = cache.scale.shape[-1]
    return unpack(cache, size, group=0 if runs == 1 else size // runs)


def of_pages(cache: Any, pages: Any) -> Any:
    """Sequences [b, m * p, g, d] of pages [n, p, g, d]; for a page out of range, the nearest."""
    own = cache[jnp.clip(pages, 0, cache.shape[0] - 1)]
    return own.reshape(own.shape[0], -1, *own.shape[3:])
