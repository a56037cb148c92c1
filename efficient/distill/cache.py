"""Cache: a teacher's largest logits, kept once and used many times.

Source: the k largest and what the others hold together: Busbridge et al., 2025, arXiv:2502.08606, appendix;
Tan et al., 2018, arXiv:1902.10461 (top-k distillation).
"""

import os
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from efficient.coding import CorruptFileError
from efficient.distill.logits import _kl
from efficient.distill.mean import mean_over, only


class TopK(NamedTuple):
    """A teacher's distribution: the k largest classes, and all others as one."""

    logits: Any  # float16 [*lead, k], less the log of the sum over all: log probabilities
    classes: Any  # int32 [*lead, k]
    rest: Any  # float32 [*lead], the log probability of all others, -inf where there are none


def top_k(teacher: Float[Array, "*lead classes"], k: int, *, temperature: float = 1.0) -> TopK:
    """The k most likely classes at a temperature, with their log probabilities.

    Args:
      teacher: logits.
      k: from 1 to the number of classes.
      temperature: that of the loss; it cannot be changed afterwards.

    Raises:
      ValueError: k out of range.
    """
    if not 1 <= k <= teacher.shape[-1]:
        raise ValueError(f"k must be from 1 to the {teacher.shape[-1]} classes, got {k!r}; 32 is usual.")
    logs = jax.nn.log_softmax(teacher.astype(jnp.float32) / temperature)
    best, classes = jax.lax.top_k(logs, k)
    kept = best.astype(jnp.float16)
    held = jnp.sum(jnp.exp(kept.astype(jnp.float32)), -1)
    return TopK(kept, classes.astype(jnp.int32), jnp.log(jnp.maximum(1 - held, 0.0)))


def cached_kl(
    student: Float[Array, "*lead classes"],
    teacher: TopK,
    *,
    temperature: float = 1.0,
    mask: Bool[Array, "*lead"] | None = None,
    count: Any = None,
) -> Float[Array, ""]:
    """T^2 KL between the teacher's k + 1 probabilities and the student's, its other classes summed alike.

    With k = classes it is `forward_kl`, to the 2^-11 of float16.

    Args:
      student: logits.
      teacher: of `top_k` at the same temperature.
      temperature: T.
      mask: which positions count.
      count: see `mean_over`.
    """
    logs = jax.nn.log_softmax(only(student.astype(jnp.float32), mask) / temperature)
    own = jnp.take_along_axis(logs, teacher.classes, -1)
    others = jnp.log(jnp.maximum(1 - jnp.sum(jnp.exp(own), -1), 1e-7))
    log_p = jnp.concatenate([teacher.logits.astype(jnp.float32), teacher.rest[..., None]], -1)
    log_q = jnp.concatenate([own, others[..., None]], -1)
    return temperature**2 * mean_over(_kl(jnp.exp(log_p), log_p, log_q), mask, count=count)


def save_top_k(path: str | os.PathLike[str], cached: TopK) -> None:
    """Writes a cache as .npz, without pickles."""
    with open(path, "wb") as file:
        logits, classes, rest = map(np.asarray, cached)
        np.savez(file, logits=logits, classes=classes, rest=rest)


def load_top_k(path: str | os.PathLike[str], *, classes: int) -> TopK:
    """Reads a cache; nothing in it is run, and every index is checked.

    Args:
      path: of `save_top_k`.
      classes: of the teacher.

    Raises:
      FileNotFoundError: there is no file.
      CorruptFileError: it holds no cache, or one of another shape, or a class out of range.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"path must be a file of save_top_k, got {os.fspath(path)!r}; write it first."
        )
    try:
        with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as file:
            logits, indices, rest = (file[name] for name in TopK._fields)
    except (KeyError, ValueError, OSError, EOFError, zipfile.BadZipFile, MemoryError) as error:
        raise CorruptFileError(
            f"{os.fspath(path)!r} must hold {TopK._fields}, got {error}; write it anew."
        ) from error
    is_whole = logits.dtype == np.float16 and indices.dtype == np.int32 and rest.dtype == np.float32
    if not is_whole or logits.ndim < 1 or logits.shape != indices.shape or rest.shape != logits.shape[:-1]:
        raise CorruptFileError(
            f"{os.fspath(path)!r} must hold float16 and int32 of one shape, and float32 of all but its last "
            f"axis, got {[(a.dtype.name, a.shape) for a in (logits, indices, rest)]}; write it anew."
        )
    if indices.size and not (indices.min() >= 0 and indices.max() < classes):
        raise CorruptFileError(
            f"classes of {os.fspath(path)!r} must be from 0 to {classes - 1}, got {indices.min()} to "
            f"{indices.max()}; is it another teacher's?"
        )
    return TopK(jnp.asarray(logits), jnp.asarray(indices), jnp.asarray(rest))
