"""Attention of sequences: the entry point, which picks the tier, and its derivative."""

import functools
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from efficient.kernels.attention.masks import Mask, checked_mask
from efficient.kernels.attention.reference import reference, reference_and_sums
from efficient.kernels.tiers import PALLAS, Native, by_tier
from jaxtyping import Array, Float, Int

FORWARD = Native(
    name="attention",
    source=Path(__file__).parent / "attention.cc",
    symbol="EfficientAttention",
    tiers={"cpu": 0, "cpu_portable": 1},
    others=("pallas_tpu", "pallas_gpu"),
)
BACKWARD = Native(
    name="attention_backward",
    source=FORWARD.source,
    symbol="EfficientAttentionBackward",
    tiers=FORWARD.tiers,
    others=FORWARD.others,
)


def attention(
    q: Float[Array, "b t h d"],
    k: Float[Array, "..."],
    v: Float[Array, "..."],
    *,
    lengths: Int[Array, " sequences"] | None = None,
    is_causal: bool = False,
    window: int = 0,
    sinks: int = 0,
    scale: float | None = None,
    implementation: str | None = None,
) -> Float[Array, "b t h d"]:
    """softmax(scale q k^T) v of each head, in blocks of keys: no [t, s] array is kept, backward either.

    Queries are the last t of a sequence of `lengths` keys: query i stands at place lengths - t + i. One that
    sees no key gives 0. The axes are those of `jax.nn.dot_product_attention`.

    Source: Dao et al., 2022, arXiv:2205.14135, algorithms 1 and 4; the window with sinks, Xiao et al., 2023,
    arXiv:2309.17453. *Differs:* the order of the loops is each tier's own.

    Args:
      q: any float; scores and sums are float32, the result has q's dtype.
      k: g heads, which divide h: head i of q reads head i // (h / g) (grouped queries).
      v: of k's shape.
      lengths: int32, keys of each sequence, from 0 to s; None is s.
      is_causal: a query sees no key after itself.
      window: how many keys a query sees, its own the last (causal); 0 is all.
      sinks: first keys that are seen from beyond the window too.
      scale: of scores; None is 1 / sqrt(d).
      implementation: None picks, of the reference and C++; "cpu" wants the C++ kernels, "cpu_portable"
        those without AVX-512; "pallas_tpu" and "pallas_gpu" want those kernels, interpreted off
        their platform.
        "reference" alone has derivatives of every order and mode; the others have the gradient.

    Raises:
      ValueError: shapes that do not go together, or a mask that is none.
      NotImplementedError: an implementation that is not to be had here.
    """
    mask = checked_mask(is_causal=is_causal, window=window, sinks=sinks)
    (b, _, h, d), (_, s, g, _) = q.shape, k.shape
    if k.shape != v.shape or k.shape[0] != b or k.shape[3] != d or not g or h % g or not d:
        raise ValueError(
            f"q must be [b, t, h, d], k and v [b, s, g, d], g a divisor of h, got {q.shape}, {k.shape} and "
            f"{v.shape}; see the axes of jax.nn.dot_product_attention."
        )
    if lengths is not None and lengths.shape != (b,):
        raise ValueError(
            f"lengths must be one for each of {b} sequences, got {lengths.shape}; or leave them out."
        )
    lengths = jnp.full(b, s, jnp.int32) if lengths is None else jnp.clip(lengths.astype(jnp.int32), 0, s)
    tier = FORWARD.picked(implementation)
    options = {"mask": mask, "scale": float(1 / math.sqrt(d) if scale is None else scale)}
    if not q.size or not k.size:
        return jnp.zeros_like(q)
    if tier == "reference":
        return reference(q, k, v, lengths, **options).astype(q.dtype)
    if tier in PALLAS:
        from efficient.kernels.attention.attention_pallas import check

        check(tier, q, k)
    return _run(q, k, v, lengths, tier=tier, **options)


@functools.partial(jax.jit, static_argnames=("mask", "scale", "tier"))  # traced once for layers of one shape
def _run(q: Any, k: Any, v: Any, lengths: Any, *, mask: Mask, scale: float, tier: str) -> Any:
    """By a tier, with its own gradient."""
    options = {"mask": mask, "scale": scale}
    forward_of, backward_of = _pallas(tier, options)

    def forward(q: Any, k: Any, v: Any, lengths: Any) -> tuple[Any, Any]:
        plain = functools.partial(reference_and_sums, **options)
        native = functools.partial(_forward, tier=tier, **options)
        out, sums = by_tier(tier, plain, native, q, k, v, lengths, pallas=forward_of)
        return out.astype(q.dtype), sums

    def backward(kept: Any, slope: Any) -> Any:
        q, k, v, *_ = kept
        native = functools.partial(_backward, tier=tier, **options)
        plain = functools.partial(_plain_backward, **options)
        found = by_tier(tier, plain, native, *kept, slope, pallas=backward_of)
        return *(own.astype(a.dtype) for own, a in zip(found, (q, k, v), strict=True)), None

    @jax.custom_vjp
    def run(q: Any, k: Any, v: Any, lengths: Any) -> Any:
        return forward(q, k, v, lengths)[0]

    def kept(q: Any, k: Any, v: Any, lengths: Any) -> Any:
        out, sums = forward(q, k, v, lengths)
        return out, (q, k, v, lengths, out, sums)

    run.defvjp(kept, backward)
    return run(q, k, v, lengths)


def _plain_backward(
    q: Any, k: Any, v: Any, lengths: Any, out: Any, sums: Any, slope: Any, **options: Any
) -> Any:
    """The reference's gradient."""
    del out, sums
    run = functools.partial(reference, lengths=lengths, **options)
    rows = (a.astype(jnp.float32) for a in (q, k, v))
    return jax.vjp(run, *rows)[1](slope.astype(jnp.float32))


def _forward(q: Any, k: Any, v: Any, lengths: Any, *, tier: str, **options: Any) -> Any:
    """The C++ kernel."""
    b, t, h, _ = q.shape
    results = (jax.ShapeDtypeStruct(q.shape, jnp.float32), jax.ShapeDtypeStruct((b, h, t), jnp.float32))
    rows = (a.astype(jnp.float32) for a in (q, k, v))
    return FORWARD.calls(tier, results, *rows, lengths, **_attributes(**options))


def _backward(
    q: Any, k: Any, v: Any, lengths: Any, out: Any, sums: Any, slope: Any, *, tier: str, **options: Any
) -> Any:
    """The C++ kernel."""
    if not BACKWARD.is_ready:  # it lies in the library of the other, which is there
        raise NotImplementedError(
            f"{BACKWARD.name} must be in {BACKWARD.source.name}; install efficient anew."
        )
    results = tuple(jax.ShapeDtypeStruct(a.shape, jnp.float32) for a in (q, k, v))
    q, k, v, out, slope = (a.astype(jnp.float32) for a in (q, k, v, out, slope))
    return BACKWARD.calls(tier, results, q, k, v, lengths, out, sums, slope, **_attributes(**options))


def _attributes(*, mask: Mask, scale: float) -> dict[str, Any]:
    """A mask's and the scale, as C++ takes them."""
    return {**mask._asdict(), "scale": np.float32(scale)}


def _pallas(tier: str, options: dict[str, Any]) -> tuple[Any, Any]:
    """The kernels of a Pallas tier, or None."""
    if tier not in PALLAS:
        return None, None
    from efficient.kernels.attention.attention_pallas import backward, forward

    return functools.partial(forward, tier=tier, **options), functools.partial(backward, tier=tier, **options)
