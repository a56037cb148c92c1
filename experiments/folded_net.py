"""A trained image classifier without normalizations: what experiments on post-training quantization share."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from efficient import identity, lift, observe
from efficient.quantize import Folded, fold
from efficient.train.classify import pixels
from experiments.frame.bench import Bench, Weights, require_data


@dataclasses.dataclass(frozen=True, kw_only=True)
class NetConfig:
    """What is trained."""

    model: str = "lab_vgg"  # an image classifier of efficient.models.zoo whose normalizations fold
    width: float = 0.125  # multiplies its channels; 0: the model's own
    data: str = "fashion_mnist"  # mnist5k, fashion_mnist, digits, idx:FOLDER or folder:FOLDER
    train: int = 3200  # training images used, and at most as many test images; 0 is all
    epochs: int = 10  # of training, > 0
    batch_size: int = 32  # images a step, > 0
    calibration: int = 256  # training images that ranges and statistics are taken of, > 0
    seeds: tuple[int, ...] = (0, 1, 2)  # one whole run each

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "calibration"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)!r}; leave it out.")
        require_data(self.data)


SMOKE = {
    "model": "lenet5", "width": 0, "data": "mnist5k", "train": 64, "epochs": 1, "calibration": 32,
    "seeds": (0,),
}  # fmt: skip


class Nets:
    """Networks trained from scratch, one a seed, by one compiled program."""

    def __init__(self, config: NetConfig) -> None:
        self.config = config
        options = {"width": config.width} if config.width else {}
        self.bench = Bench.make(
            config.model, config.data, batch_size=config.batch_size, train=config.train, **options
        )
        schedule = optax.cosine_decay_schedule(2e-3, config.epochs * self.bench.steps_per_epoch)
        self.train = self.bench.trainer(identity(), optax.adam(schedule))
        self.images = pixels(self.bench.data.train_images[: config.calibration])
        self.labels = np.asarray(self.bench.data.test_labels)

    @functools.cached_property
    def test_images(self) -> Any:
        """Of the test set, as the network takes them."""
        return pixels(self.bench.data.test_images)

    def trained(self, seed: int) -> "Net":
        """A network, folded."""
        weights: Weights = self.train(self.bench.start(seed), seed, self.config.epochs)
        variables = {"params": weights.params, **weights.model_state}
        return Net(self, fold(self.bench.model.apply, variables, self.images[:1]))


class Net:
    """One of them."""

    def __init__(self, nets: Nets, folded: Folded) -> None:
        self.nets, self.folded, self.params = nets, folded, folded.params
        self.run = jax.jit(lift(folded.apply))

    def statistics(self, *names: str) -> Any:
        """What enters each kernel, over the calibration images."""
        batches = np.array_split(np.asarray(self.nets.images), max(1, len(self.nets.images) // 64))
        return observe(self.folded.apply, self.params, batches, where="**/kernel", statistics=names)

    def logits(self, run: Callable[[Any], Any]) -> np.ndarray:
        """Of the test set, 400 images at a time, the last batch filled up."""
        images, made = self.nets.test_images, []
        for first in range(0, len(images), 400):
            part = images[first : first + 400]
            whole = jnp.pad(part, ((0, 400 - len(part)), (0, 0), (0, 0), (0, 0)))
            made.append(np.asarray(run(whole))[: len(part)])
        return np.concatenate(made)

    def scored(self, logits: np.ndarray, dense: np.ndarray) -> dict[str, float]:
        """Accuracy and agreement with the dense network in percent, and SQNR of the logits in dB."""
        choice, noise = logits.argmax(-1), float(np.sum((logits - dense) ** 2))
        return {
            "accuracy": 100 * float(np.mean(choice == self.nets.labels)),
            "agreement": 100 * float(np.mean(choice == dense.argmax(-1))),
            "sqnr": 10 * float(np.log10(np.sum(dense**2) / noise)) if noise else 200.0,
        }

    def under(self, params: Any) -> np.ndarray:
        """The test set's logits with these kernels and biases, packed or not."""
        return self.logits(lambda x: self.run(params, x))
