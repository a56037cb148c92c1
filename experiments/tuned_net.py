"""An image classifier trained dense, then on under any transform: what training in few bits shares."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import optax

from efficient import Transform, identity, observe
from efficient.core.layer_shapes import layer_uses
from efficient.core.transform import State
from efficient.train.classify import pixels
from experiments.frame.bench import Bench, Trainer, Weights, require_data


@dataclasses.dataclass(frozen=True, kw_only=True)
class TuneConfig:
    """What is trained."""

    model: str = "lab_vgg"  # an image classifier of efficient.models.zoo
    width: float = 0.125  # multiplies its channels; 0: the model's own
    data: str = "fashion_mnist"  # mnist5k, fashion_mnist, digits, idx:FOLDER or folder:FOLDER
    train: int = 3200  # training images used, and at most as many test images; 0 is all
    epochs: int = 10  # of dense training, > 0
    tune: int = 4  # epochs of training on, > 0
    rate: float = 1e-3  # Adam's when training on, falling to 0 on a cosine, > 0
    batch_size: int = 32  # images a step, > 0
    calibration: int = 256  # training images that ranges and statistics are taken of, > 0
    seeds: tuple[int, ...] = (0, 1, 2)  # one whole run each

    def __post_init__(self) -> None:
        for name in ("epochs", "tune", "rate", "batch_size", "calibration"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)!r}; leave it out.")
        require_data(self.data)


SMOKE: Mapping[str, Any] = {
    "model": "lenet5", "width": 0, "data": "mnist5k", "train": 64, "epochs": 1, "tune": 1, "calibration": 32,
    "seeds": (0,),
}  # fmt: skip


class TunedNet:
    """The network, its training, and what enters its kernels."""

    def __init__(self, config: TuneConfig) -> None:
        self.config = config
        options = {"width": config.width} if config.width else {}
        self.bench = Bench.make(
            config.model, config.data, batch_size=config.batch_size, train=config.train, **options
        )
        self.train_dense = self.trainer(identity(), 2e-3, config.epochs)
        self.tune_dense = self.trainer(identity(), config.rate, config.tune)
        self.images = pixels(self.bench.data.train_images[: config.calibration])

    def trainer(self, transform: Transform, rate: float, epochs: int, **options: Any) -> Trainer:
        """Adam, its rate falling to 0 on a cosine over so many epochs."""
        schedule = optax.cosine_decay_schedule(rate, epochs * self.bench.steps_per_epoch)
        return self.bench.trainer(transform, optax.adam(schedule), **options)

    def dense(self, seed: int) -> tuple[Weights, float]:
        """Trained dense, and the better of its accuracies now and after as much more training."""
        weights = self.train_dense(self.bench.start(seed), seed, self.config.epochs)
        later = self.tune_dense(weights, seed + 1000, self.config.tune)
        return weights, max(self.accuracy(weights), self.accuracy(later))

    def statistics(self, weights: Weights, *names: str) -> Any:
        """What enters each kernel, over the calibration images."""
        batches = np.array_split(np.asarray(self.images), max(1, len(self.images) // 64))

        def forward(params: Any, x: Any) -> Any:
            return self.bench.model.apply({"params": params, **weights.model_state}, x)

        return observe(forward, weights.params, batches, where="**/kernel", statistics=names)

    def started(self, transform: Transform, weights: Weights, seed: int, stats: Any = None) -> Weights:
        """The weights, with a fresh state of the transform."""
        state = transform.init(weights.params, stats=stats, key=jax.random.key(seed))
        return Weights(weights.params, weights.model_state, state)

    def accuracy(self, weights: Weights, transform: Transform | None = None) -> float:
        """Percent of the test set, under the transform."""
        state: State = weights.compress
        shown = weights.params if transform is None else transform.apply(weights.params, state)
        return self.bench.accuracy(shown, weights.model_state)

    def middle(self) -> tuple[str, ...]:
        """Paths of all kernels but the first and the last: those that papers quantize."""
        weights = jax.eval_shape(self.bench.start, 0)
        variables = {"params": weights.params, **weights.model_state}
        uses = layer_uses(self.bench.model.apply, variables, self.images[:1])
        return tuple(use.path.removeprefix("params/") for use in uses)[1:-1]
