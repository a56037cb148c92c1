"""Mutual learning: networks that train together, each taught by all others.

Source: Zhang et al., 2018, arXiv:1706.00384, equations 5 to 8 (DML).
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from efficient.distill.logits import Mask, forward_kl


def mutual(
    peers: Sequence[Any], *, temperature: float = 1.0, mask: Mask = None, count: Any = None
) -> Float[Array, " peers"]:
    """Each network's mean of KL(p_other || p_own) over the others; add it to its own loss.

    Args:
      peers: logits of two networks or more, on the same batch.
      temperature: T > 0.
      mask: which positions count.
      count: see `mean_over`.

    Raises:
      ValueError: fewer than two networks.
    """
    if len(peers) < 2:
        raise ValueError(f"peers must be two or more, got {len(peers)}; one alone has nobody to learn from.")
    losses = []
    for i, own in enumerate(peers):
        others = [p for j, p in enumerate(peers) if j != i]
        each = [forward_kl(own, p, temperature=temperature, mask=mask, count=count) for p in others]
        losses.append(sum(each) / len(each))
    return jnp.stack(losses)
