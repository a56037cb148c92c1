"""Logits: losses between two distributions over the last axis.

With p = softmax(teacher / T) and q = softmax(student / T), each loss is a mean over positions, times T^2: so
its gradient keeps its size as T grows (Hinton et al., 2015, arXiv:1503.02531, section 2.1). Every loss takes
a `mask` of the positions and a `count` for gradient accumulation (`mean_over`).
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from efficient.distill.mean import mean_over, only, require_temperature

Logits = Float[Array, "*lead classes"]
Mask = Bool[Array, "*lead"] | None


def forward_kl(
    student: Logits, teacher: Logits, *, temperature: float = 1.0, mask: Mask = None, count: Any = None
) -> Float[Array, ""]:
    """T^2 KL(p || q), in nats. As T grows its gradient tends to (student - teacher) / classes, both centred.

    Args:
      student: any dtype of floats; computed in float32.
      teacher: the same shape; has no gradient.
      temperature: T > 0.
      mask: which positions count; None: all.
      count: see `mean_over`.

    Raises:
      ValueError: a temperature out of range.

    Source: arXiv:1503.02531, section 2.
    """
    p, log_p, _, log_q = _both(student, teacher, temperature, mask)
    return temperature**2 * mean_over(_kl(p, log_p, log_q), mask, count=count)


def reverse_kl(
    student: Logits, teacher: Logits, *, temperature: float = 1.0, mask: Mask = None, count: Any = None
) -> Float[Array, ""]:
    """T^2 KL(q || p): the student keeps to what the teacher thinks likely. Arguments as `forward_kl`.

    Source: Gu et al., 2023, arXiv:2306.08543 (MiniLLM), of one step.
    """
    _, log_p, q, log_q = _both(student, teacher, temperature, mask)
    return temperature**2 * mean_over(_kl(q, log_q, log_p), mask, count=count)


def jensen_shannon(
    student: Logits,
    teacher: Logits,
    *,
    beta: float = 0.5,
    temperature: float = 1.0,
    mask: Mask = None,
    count: Any = None,
) -> Float[Array, ""]:
    """T^2 (beta KL(p || m) + (1 - beta) KL(q || m)), m = beta p + (1 - beta) q. Arguments as `forward_kl`.

    Args:
      student: see `forward_kl`.
      teacher: the same shape.
      beta: in (0, 1); 1/2 is symmetric, and at most log 2.
      temperature: T > 0.
      mask: which positions count.
      count: see `mean_over`.

    Raises:
      ValueError: `beta` or a temperature out of range.

    Source: Agarwal et al., 2023, arXiv:2306.13649, section 3 (generalized JSD).
    """
    if not 0 < beta < 1:
        raise ValueError(f"beta must be in (0, 1), got {beta!r}; 0 and 1 are the two KL divergences.")
    p, log_p, q, log_q = _both(student, teacher, temperature, mask)
    log_m = jnp.logaddexp(log_p + jnp.log(beta), log_q + jnp.log1p(-beta))
    both = beta * _kl(p, log_p, log_m) + (1 - beta) * _kl(q, log_q, log_m)
    return temperature**2 * mean_over(both, mask, count=count)


def skewed_kl(
    student: Logits,
    teacher: Logits,
    *,
    alpha: float = 0.1,
    temperature: float = 1.0,
    mask: Mask = None,
    count: Any = None,
) -> Float[Array, ""]:
    """T^2 KL(p || alpha p + (1 - alpha) q): finite where the student gives nothing. Otherwise `forward_kl`.

    Args:
      student: see `forward_kl`.
      teacher: the same shape.
      alpha: in [0, 1); 0 is `forward_kl`.
      temperature: T > 0.
      mask: which positions count.
      count: see `mean_over`.

    Raises:
      ValueError: `alpha` or a temperature out of range.

    Source: Ko et al., 2024, arXiv:2402.03898, equation 3 (DistiLLM).
    """
    if not 0 <= alpha < 1:
        raise ValueError(f"alpha must be in [0, 1), got {alpha!r}; 0.1 is usual.")
    p, log_p, _, log_q = _both(student, teacher, temperature, mask)
    mixed = log_q if alpha == 0 else jnp.logaddexp(log_p + jnp.log(alpha), log_q + jnp.log1p(-alpha))
    return temperature**2 * mean_over(_kl(p, log_p, mixed), mask, count=count)


def squared_logits(
    student: Logits, teacher: Logits, *, mask: Mask = None, count: Any = None
) -> Float[Array, ""]:
    """The mean over classes of (student - teacher)^2 / 2, logits as they are.

    Source: Ba and Caruana, 2014, arXiv:1312.6184, equation 1; Hinton et al., section 2.1: where T is large.
    """
    apart = only(student.astype(jnp.float32) - _still(teacher), mask)
    return mean_over(jnp.mean(jnp.square(apart), -1) / 2, mask, count=count)


def _still(x: Any) -> Any:
    """A teacher has no gradient."""
    return jax.lax.stop_gradient(x).astype(jnp.float32)


def _both(student: Any, teacher: Any, temperature: float, mask: Any) -> tuple[Any, Any, Any, Any]:
    """p, log p, q, log q; even where masked."""
    require_temperature(temperature)
    log_p = jax.nn.log_softmax(only(_still(teacher), mask) / temperature)
    log_q = jax.nn.log_softmax(only(student.astype(jnp.float32), mask) / temperature)
    return jnp.exp(log_p), log_p, jnp.exp(log_q), log_q


def _kl(p: Any, log_p: Any, log_q: Any) -> Any:
    """KL(p || q) of the last axis; a class that p gives nothing counts nothing."""
    return jnp.sum(jnp.where(p > 0, p * (jnp.where(p > 0, log_p, 0.0) - log_q), 0.0), -1)
