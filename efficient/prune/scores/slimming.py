"""Slimming: output channels that the following normalization scales most stay.

Source: Liu et al., 2017, arXiv:1708.06519, section 3.
Differs: the scales are those given, when the score is made: train with an L1 penalty on them first, as the
paper does. What stays of a channel without its weights is the normalization's bias: prune that too, or
let the channel be removed.
"""

from collections.abc import Mapping

import jax.numpy as jnp
from jaxtyping import Array, Float

from efficient.core.transform import recipe
from efficient.prune.score import Score
from efficient.prune.scores.outputs import of_outputs


@recipe
def slimming(scales: Mapping[str, Float[Array, "..."]]) -> Score:
    """|gamma| of the channel, for all weights of an output channel.

    Args:
      scales: by path of the weight that is pruned, the scale of the normalization after it,
        [*lead, channels]: `{"Conv_0/kernel": params["BatchNorm_0"]["scale"]}`.

    Raises:
      ValueError: at `init`, a weight without a scale, or whose outputs are not the scale's.

    Example:
      >>> score, kernel = slimming({"conv": jnp.array([0.5, -2.0])}), jnp.ones((1, 3, 2))
      >>> score.of(score.start(kernel, path="conv", stats=None, key=None), kernel)[0, 0].tolist()
      [0.5, 2.0]

    Source: module docstring.
    """
    return of_outputs({path: jnp.abs(scale) for path, scale in scales.items()}, name="scales")
