"""Classify: the loss and the scores of any Linen image classifier, on batches of `efficient.data`."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

from efficient.core.lift import lift
from efficient.train import losses
from efficient.train.step import Loss


class Classifier(NamedTuple):
    """What training and evaluation ask of a model."""

    loss: Loss  # for `make_step`: the mean cross-entropy; its metric is `accuracy`
    score: Callable[
        [Any, Any, Any], Mapping[str, Array]
    ]  # for `evaluate`: `accuracy`, `loss` of each example


def classifier(model: nn.Module) -> Classifier:
    """The loss and the scores of `model`.

    Args:
      model: called as `model(images, train=...)`, gives logits [batch, classes]. Its `params` are the
        weights; its other collections (`batch_stats`) are `model_state`. It may ask for the PRNG stream
        `dropout`. Batches have `images`, `labels` and `mask`, as `efficient.data.Batch`.
    """
    apply: Any = lift(model.apply)

    def loss(weights: Any, model_state: Any, batch: Any, key: Any) -> tuple[Any, Any]:
        logits, new_state = apply(
            {"params": weights, **model_state},
            pixels(batch.images),
            train=True,
            mutable=list(model_state),
            rngs={"dropout": key},
        )
        accuracy = losses.mean(losses.is_correct(logits, batch.labels), batch.mask)
        value = losses.mean(losses.cross_entropy(logits, batch.labels), batch.mask)
        return value, (new_state, {"accuracy": accuracy})

    def score(weights: Any, model_state: Any, batch: Any) -> dict[str, Array]:
        logits = apply({"params": weights, **model_state}, pixels(batch.images), train=False)
        return {
            "accuracy": losses.is_correct(logits, batch.labels),
            "loss": losses.cross_entropy(logits, batch.labels),
        }

    return Classifier(loss, score)


def pixels(images: Shaped[Array | np.ndarray, "*shape"]) -> Float[Array, "*shape"]:
    """Images for a model: uint8 becomes float32 in [0, 1]; floating values stay."""
    return jnp.asarray(images, jnp.float32) / 255 if images.dtype == jnp.uint8 else jnp.asarray(images)
