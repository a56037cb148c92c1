"""Attention of one new token over a cache: the entry point, which picks the tier."""

import functools
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from efficient.kernels.attention.masks import Mask, checked_mask
from efficient.kernels.attention.reference import decode_reference
from efficient.kernels.derivative import derived_from
from efficient.kernels.quantize_pack import Packed
from efficient.kernels.quantize_pack.reference import bits_of
from efficient.kernels.tiers import PALLAS, Native, by_tier
from jaxtyping import Array, Float, Int

NATIVE = Native(
    name="decode_attention",
    source=Path(__file__).parent / "decode.cc",
    symbol="EfficientDecodeAttention",
    tiers={"cpu": 0, "cpu_portable": 1},
    others=("pallas_tpu", "pallas_gpu"),
)
FLOATS = (jnp.float32, jnp.bfloat16, jnp.float16)


def decode_attention(
    q: Float[Array, "b h d"],
    keys: Packed | Float[Array, "..."],
    values: Packed | Float[Array, "..."],
    lengths: Int[Array, " sequences"],
    *,
    pages: Int[Array, "..."] | None = None,
    window: int = 0,
    sinks: int = 0,
    scale: float | None = None,
    implementation: str | None = None,
) -> Float[Array, "b h d"]:
    """Softmax(scale q K^T) V of each sequence's last token, K and V read as they are kept.

    The token is the last of `lengths` keys. A sequence of none gives 0. What lies beyond a sequence's end is
    not read, so it may be anything.

    Source: Kwon et al., 2023, arXiv:2309.06180 (pages); Xiao et al., 2023, arXiv:2309.17453 (window, sinks);
    integers for keys and values as in Liu et al., KIVI, 2024, arXiv:2402.02750. *Differs:* keys too have a
    scale for each token and head, or for runs of `d`, where KIVI has it for each channel.

    Args:
      q: any float; scores and sums are float32, the result has q's dtype.
      keys: [b, s, g, d], float32, bfloat16 or float16, g a divisor of h; or `Packed` of such, by
        `quantize_pack(keys, bits=, group=)`. With pages, [n pages, p tokens, g, d].
      values: the same; it may be of another dtype.
      lengths: int32, keys of each sequence, 0 to s.
      pages: int32, the page of each p tokens of a sequence in turn; from 0 to n - 1 where `lengths` reaches.
      window: how many keys the token sees, itself the last; 0 is all.
      sinks: first keys that are seen from beyond the window too.
      scale: of scores; None is 1 / sqrt(d).
      implementation: None picks, of the reference and C++; "cpu" wants the C++ kernel, "cpu_portable"
        those without AVX-512; "pallas_tpu" and "pallas_gpu" want those kernels, interpreted off
        their platform.

    Raises:
      ValueError: shapes that do not go together, or a mask that is none.
      NotImplementedError: an implementation that is not to be had here, or keys of another dtype.
    """
    mask = checked_mask(is_causal=True, window=window, sinks=sinks)
    b, h, d = q.shape
    for name, cache in (("keys", keys), ("values", values)):
        _check(name, cache, d)
    shape = [a.codes.shape[:3] if isinstance(a, Packed) else a.shape[:3] for a in (keys, values)]
    rows = shape[0][0]
    if shape[0] != shape[1] or lengths.shape != (b,) or not shape[0][2] or h % shape[0][2]:
        raise ValueError(
            f"keys and values must be [n, p, g, ...], g a divisor of h, and lengths [b], got {shape[0]}, "
            f"{shape[1]} and {lengths.shape} for q {q.shape}."
        )
    if (rows != b) if pages is None else (pages.ndim != 2 or pages.shape[0] != b):
        raise ValueError(
            f"pages must be [{b} sequences, pages], or left out where keys have {b} rows, got "
            f"{None if pages is None else pages.shape} and {rows} rows."
        )
    if not q.size or not math.prod(shape[0]):
        return jnp.zeros_like(q)
    tier = NATIVE.picked(implementation)
    if tier in PALLAS:
        from efficient.kernels.attention.decode_pallas import check

        check(tier, d, keys, values)
    table = jnp.arange(b, dtype=jnp.int32)[:, None] if pages is None else pages.astype(jnp.int32)
    most = table.shape[1] * shape[0][1]
    out = _run(
        q,
        keys,
        values,
        jnp.clip(lengths.astype(jnp.int32), 0, most),
        table,
        mask=mask,
        scale=float(1 / math.sqrt(d) if scale is None else scale),
        tier=tier,
    )
    return out.astype(q.dtype)


def _check(name: str, cache: Any, size: int) -> None:
    """Refuses what is no cache.

    Raises:
      ValueError: shapes that do not go together.
      NotImplementedError: a dtype that kernels do not read.
    """
    if not isinstance(cache, Packed):
        if cache.ndim != 4 or cache.shape[3] != size:
            raise ValueError(f"{name} must be [n, p, g, {size}], got {cache.shape}.")
        if cache.dtype not in FLOATS:
            raise NotImplementedError(
                f"{name} must be float32, bfloat16 or float16, got {cache.dtype}; cast them."
            )
        return
    if cache.codes.ndim != 4:
        raise ValueError(
            f"codes of {name} must be [n, p, g, bytes], got {cache.codes.shape}; see quantize_pack."
        )
    bits_of(cache, size)
    runs = cache.scale.shape[-1] if cache.scale.ndim == 4 else 0
    for values in (cache.scale, cache.shift):
        if values is not None and (not runs or size % runs or values.shape != (*cache.codes.shape[:3], runs)):
            raise ValueError(
                f"scale and shift of {name} must be [n, p, g, runs], runs a divisor of {size}, "
                f"got {values.shape}."
            )


@functools.partial(jax.jit, static_argnames=("mask", "scale", "tier"))  # traced once for layers of one shape
def _run(
    q: Any, keys: Any, values: Any, lengths: Any, pages: Any, *, mask: Mask, scale: float, tier: str
) -> Any:
    """By a tier, float32; derivatives in q and what is float of the cache."""
    caches, tree = jax.tree.flatten((keys, values))

    def apart(run: Any) -> Any:
        def of_leaves(q: Any, lengths: Any, pages: Any, *caches: Any) -> Any:
            return run(q, *jax.tree.unflatten(tree, caches), lengths, pages)

        return of_leaves

    plain = apart(functools.partial(decode_reference, mask=mask, scale=scale))
    native = apart(functools.partial(_native, mask=mask, scale=scale, tier=tier))
    pallas = None
    if tier in PALLAS:
        from efficient.kernels.attention import decode_pallas

        own = decode_pallas.on_tpu if tier == "pallas_tpu" else decode_pallas.on_gpu

        def pallas(*args: Any, interpret: bool = False) -> Any:
            return apart(functools.partial(own, mask=mask, scale=scale, interpret=interpret))(*args)

    kernel = functools.partial(by_tier, tier, plain, native, pallas=pallas)
    return derived_from(plain, kernel)(q, lengths, pages, *caches)


def _native(
    q: Any, keys: Any, values: Any, lengths: Any, pages: Any, *, mask: Mask, scale: float, tier: str
) -> Any:
    """The C++ kernel."""
    none = jnp.zeros((0, 0, 0, 0), jnp.float32)

    def arrays(cache: Any) -> tuple[Any, Any, Any]:
        if not isinstance(cache, Packed):
            return cache, none, none
        steps = (none if a is None else a.astype(jnp.float32) for a in (cache.scale, cache.shift))
        return cache.codes.view(jnp.uint8), *steps

    args = (q.astype(jnp.float32), *arrays(keys), *arrays(values), lengths, pages)
    options = {"window": mask.window, "sinks": mask.sinks, "scale": np.float32(scale)}
    return NATIVE.call(tier, q.shape, *args, **options)
