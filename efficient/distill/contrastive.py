"""Contrastive distillation: the student's embedding tells its own example's teacher from those of others.

Source: Tian et al., 2020, arXiv:1910.10699, section 3.1 and equations 17 to 19 (CRD).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


class Memory(NamedTuple):
    """The last embeddings of every training example, both networks', of length 1."""

    student: Any  # float32 [examples, width]
    teacher: Any


def memory(key: Array, examples: int, width: int) -> Memory:
    """Where it starts: random directions.

    Raises:
      ValueError: fewer than 2 examples, or no width.
    """
    if examples < 2 or width < 1:
        raise ValueError(
            f"examples must be from 2 and width from 1, got {examples!r}, {width!r}; count them."
        )
    first, second = (_unit(jax.random.normal(k, (examples, width))) for k in jax.random.split(key))
    return Memory(first, second)


def remembered(
    bank: Memory,
    indices: Int[Array, " batch"],
    student: Float[Array, "batch width"],
    teacher: Float[Array, "batch width"],
    *,
    momentum: float = 0.5,
) -> Memory:
    """The memory with these examples' embeddings moved to new ones: m <- momentum m + (1 - momentum) z."""

    def moved(rows: Any, new: Any) -> Any:
        old = rows[indices]
        fresh = _unit(jax.lax.stop_gradient(new).astype(jnp.float32))
        return rows.at[indices].set(_unit(momentum * old + (1 - momentum) * fresh))

    return Memory(moved(bank.student, student), moved(bank.teacher, teacher))


def contrastive(
    student: Float[Array, "batch width"], teacher: Float[Array, "batch width"], *, temperature: float = 0.07
) -> Float[Array, ""]:
    """-log softmax of s_i . t_i / T among all t_j of the batch, both of length 1: negatives from the batch.

    Args:
      student: embeddings of the teacher's width (train a linear map to it).
      teacher: of the same examples; have no gradient.
      temperature: T > 0.

    Source: van den Oord et al., 2018, arXiv:1807.03748 (InfoNCE), between the networks as in CRD.
    """
    near = _unit(student.astype(jnp.float32)) @ _unit(jax.lax.stop_gradient(teacher).astype(jnp.float32)).T
    logs = jax.nn.log_softmax(near / temperature)
    return -jnp.mean(jnp.diagonal(logs))


def contrastive_memory(
    student: Float[Array, "batch width"],
    indices: Int[Array, " batch"],
    bank: Memory,
    negatives: Int[Array, "batch n"],
    *,
    temperature: float = 0.07,
) -> Float[Array, ""]:
    """NCE with negatives from a memory: log h(s, t+) + sum over n of log(1 - h(s, t-)), negated, a mean.

    h(s, t) = e / (e + n / examples), e = exp(s . t / T) / Z, Z the mean of the batch's times examples
    (equation 19).

    Args:
      student: embeddings of the memory's width.
      indices: of the examples in the memory: their teachers are the positives.
      bank: the memory.
      negatives: indices of others, n for each; drawn by the caller.
      temperature: T > 0.

    *Differs:* Z is taken from the batch at hand, not fixed from the first.
    """
    s = _unit(student.astype(jnp.float32))
    rows = jnp.concatenate([indices[:, None], negatives], 1)
    near = jnp.einsum("bw,bnw->bn", s, jax.lax.stop_gradient(bank.teacher)[rows]) / temperature
    examples, n = bank.teacher.shape[0], negatives.shape[1]
    log_z = jax.lax.stop_gradient(jax.nn.logsumexp(near) - jnp.log(near.size) + jnp.log(examples))
    log_e = near - log_z
    noise = jnp.log(n / examples)
    log_h = log_e - jnp.logaddexp(log_e, noise)
    log_other = noise - jnp.logaddexp(log_e, noise)
    return -jnp.mean(log_h[:, 0] + jnp.sum(log_other[:, 1:], 1))


def _unit(x: Any) -> Any:
    """Rows of length 1; zeros stay zeros."""
    squares = jnp.sum(jnp.square(x), -1, keepdims=True)
    return x / jnp.sqrt(jnp.where(squares > 0, squares, 1.0))
