"""Activation norm: output channels of the largest activations stay.

Source: Muralidharan et al., 2024 (Minitron), arXiv:2407.14679, section 2 (importance from activations alone).
Differs: activations are taken where the next weight takes them in, after the activation function; batch and
sequence are averaged alike.
"""

from collections.abc import Mapping
from typing import Literal

import jax.numpy as jnp

from efficient.core.statistics import Statistics
from efficient.core.transform import recipe
from efficient.prune.score import Score
from efficient.prune.scores.outputs import entering, of_outputs


@recipe
def activation_norm(consumers: Mapping[str, Statistics], *, order: Literal[1, 2] = 1) -> Score:
    """The mean |x| of an output channel's activations x over all samples, or the root of the mean x^2.

    Args:
      consumers: by path of the weight that is pruned, the statistics of the weight that takes its outputs in;
        see `zero_fraction`. They are `observe(..., statistics="absmean")`, or `"second_moment"`.
      order: 1, the mean magnitude; 2, the root of the mean square.

    Raises:
      ValueError: at once, another `order`, or statistics without what it needs; at `init`, a weight without a
        consumer, or whose outputs its consumer does not take in.

    Source: module docstring.
    """
    if order not in (1, 2):
        raise ValueError(f"order must be 1 or 2, got {order!r}; 1 is the mean magnitude.")
    if order == 1:
        norms = entering(consumers, "absmean", how="call observe(..., statistics='absmean')")
    else:
        squares = entering(consumers, "second_moment", how="call observe(..., statistics='second_moment')")
        norms = {path: jnp.sqrt(square) for path, square in squares.items()}
    return of_outputs(norms, name="consumers")
