"""Losses and scores of a classifier, one number an example; `mean` leaves out the rows that only fill up."""

import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int


def cross_entropy(
    logits: Float[Array, "batch classes"], labels: Int[Array | np.ndarray, " batch"]
) -> Float[Array, " batch"]:
    """-log softmax(logits)[label], in nats."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def is_correct(
    logits: Float[Array, "batch classes"], labels: Int[Array | np.ndarray, " batch"]
) -> Bool[Array, " batch"]:
    """True where the largest logit is the label's; a tie goes to the lower class."""
    return jnp.argmax(logits, axis=-1) == labels


def mean(
    values: Float[Array, " batch"] | Bool[Array, " batch"], mask: Bool[Array | np.ndarray, " batch"] | None
) -> Float[Array, ""]:
    """The mean of `values` where `mask` is True (None: everywhere); 0 where it is True nowhere."""
    if mask is None:
        return jnp.mean(values, dtype=jnp.float32)
    total = jnp.sum(jnp.where(mask, values, 0), dtype=jnp.float32)
    return total / jnp.maximum(jnp.sum(mask), 1)
