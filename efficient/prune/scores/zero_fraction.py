"""Zero fraction: output channels that are zero least often stay (APoZ, the average percentage of zeros).

Source: Hu et al., 2016, arXiv:1607.03250, section 3.
Differs: zeros are counted where the next weight takes the channel in, after any pooling in between.
"""

from collections.abc import Mapping

from efficient.core.statistics import Statistics
from efficient.core.transform import recipe
from efficient.prune.score import Score
from efficient.prune.scores.outputs import entering, of_outputs


@recipe
def zero_fraction(consumers: Mapping[str, Statistics]) -> Score:
    """1 - APoZ: the share of an output channel's activations that are not exactly zero.

    Args:
      consumers: by path of the weight that is pruned, the statistics of the weight that takes its outputs in:
        `{"Conv_0/kernel": stats["Conv_1/kernel"]}` with `stats = observe(..., statistics="zeros")`. Where a
        flattened image enters (channels last), a channel's share is the mean over its places.

    Raises:
      ValueError: at once, statistics without zeros; at `init`, a weight without a consumer, or whose outputs
        its consumer does not take in.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from efficient.core.observe import observe
      >>> weights = {"up": jnp.array([[1.0, -1.0]]), "down": jnp.ones((2, 1))}
      >>> model = lambda w, x: jax.nn.relu(x @ w["up"]) @ w["down"]
      >>> x = jnp.array([[1.0], [2.0], [3.0], [-1.0]])  # up's first output is zero once, its second thrice
      >>> stats = observe(model, weights, [x], statistics="zeros")
      >>> score = zero_fraction({"up": stats["down"]})
      >>> score.of(score.start(weights["up"], path="up", stats=None, key=None), weights["up"]).tolist()
      [[0.75, 0.25]]

    Source: module docstring.
    """
    shares = entering(consumers, "zero_fraction", how="call observe(..., statistics='zeros')")
    return of_outputs({path: 1.0 - share for path, share in shares.items()}, name="consumers")
