"""Bench: an image classifier on a data set, trained and measured under any transform.

    bench = Bench.make("lenet5", "mnist5k", batch_size=64)
    train = bench.trainer(magnitude(0.9), optax.adam(1e-3))
    weights = train(bench.start(seed), seed, epochs)
    bench.accuracy(weights.params, weights.model_state)

What is compiled is compiled once for each transform, and serves every seed.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from efficient import Transform, lift
from efficient.core.paths import flatten
from efficient.core.transform import State
from efficient.data import NAMES, Batches, Dataset, evaluation_batches, load
from efficient.models import zoo
from efficient.train import Chunks, Classifier, classifier, create, evaluate, fit, make_epoch, make_step
from efficient.train.classify import pixels
from efficient.train.restart import Restarted
from efficient.train.step import Loss


class Weights(NamedTuple):
    """What is trained, and what it carries along."""

    params: Any
    model_state: Any = {}  # noqa: RUF012 - never written to; running statistics of batch normalization
    compress: State = State()


Trainer = Callable[[Weights, int, int], Weights]
"""`(weights, seed, epochs) -> weights`."""


def penalized(loss: Loss, penalty: Callable[[Any], jax.Array]) -> Loss:
    """A loss to which a penalty on the weights is added."""

    def total(weights: Any, model_state: Any, batch: Any, key: Any) -> tuple[Any, Any]:
        value, rest = loss(weights, model_state, batch, key)
        return value + penalty(weights), rest

    return total


def require_data(name: str) -> None:
    """Refuses a data set that `load` does not know, before anything is loaded.

    Raises:
        ValueError: there is no such data set.
    """
    if name.partition(":")[0] not in NAMES:
        raise ValueError(
            f"data must be digits, mnist5k, fashion_mnist, idx:FOLDER or folder:FOLDER, got {name!r}; "
            "choose one."
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bench:
    """A model, its data, and its loss and scores."""

    model: nn.Module
    data: Dataset
    batch_size: int  # images a step
    classifier: Classifier
    forward: Callable[[Any, Any], jax.Array]  # the model on packed weights, jitted

    @classmethod
    def make(cls, name: str, data: str, *, batch_size: int, train: int = 0, **options: Any) -> "Bench":
        """The bench of a model of the zoo.

        Args:
            name: of the model; `options` are those of `zoo.get`.
            data: as `load` takes it.
            batch_size: images a step.
            train: training images used, and at most as many test images; 0 is all.
            **options: of the model.
        """
        images = load(data)
        if train:
            images = images.subset(train=train, test=min(train, len(images.test_labels)), seed=0)
        model, _ = zoo.get(name, **options)
        forward = jax.jit(lift(model.apply))
        return cls(
            model=model,
            data=images,
            batch_size=batch_size,
            classifier=classifier(model),
            forward=forward,
        )

    def start(self, seed: int) -> Weights:
        """The weights before training."""
        image = jnp.zeros((1, *self.data.image_shape))
        variables: Any = dict(self._init(jax.random.key(seed), image))
        return Weights(variables.pop("params"), variables)

    @functools.cached_property
    def _init(self) -> Callable[..., Any]:
        """The model's `init`, compiled once for all seeds."""
        return jax.jit(self.model.init)

    @property
    def steps_per_epoch(self) -> int:
        """Steps of an epoch; a last batch that is not full is left out."""
        return self._batches(seed=0, epochs=1).steps_per_epoch

    @property
    def _scans(self) -> bool:
        """Whether an epoch is one call; not for convolutions, which XLA runs slowly inside a loop on CPU."""
        shapes = jax.eval_shape(self.start, 0).params
        return not any(path.endswith("kernel") and v.ndim > 2 for path, v in flatten(shapes)[0].items())

    def _batches(self, *, seed: int, epochs: int) -> Batches:
        return Batches(
            images=self.data.train_images,
            labels=self.data.train_labels,
            batch_size=self.batch_size,
            seed=seed,
            epochs=epochs,
            drop_last=True,
        )

    def trainer(
        self,
        transform: Transform,
        optimizer: optax.GradientTransformation,
        *,
        restarted: Restarted | None = None,
        penalty: Callable[[Any], jax.Array] | None = None,
        loss: Loss | None = None,
    ) -> Trainer:
        """Trains weights whose `compress` is a state of `transform`, from a fresh state of `optimizer`.

        `restarted` is `make_step`'s: `regrown`, where sparse training moves masks. `penalty`, of the weights
        that the model sees, is added to the loss, which is the mean cross-entropy unless another is given.
        """
        own = self.classifier.loss if loss is None else loss
        loss = own if penalty is None else penalized(own, penalty)
        step = make_step(loss, optimizer, transform, restarted=restarted)
        scans = self._scans
        call = make_epoch(step) if scans else step

        def train(weights: Weights, seed: int, epochs: int) -> Weights:
            state = create(
                weights.params,
                transform,
                optimizer,
                key=jax.random.key(seed),
                model_state=weights.model_state,
                compress=weights.compress,
            )
            batches = self._batches(seed=seed, epochs=epochs)
            parts = Chunks(batches=batches, size=batches.steps_per_epoch) if scans else batches
            state, _ = fit(state, call, parts, progress=False, every=10**9)
            return Weights(state.params, state.model_state, state.compress)

        return train

    def accuracy(self, params: Any, model_state: Any = None) -> float:
        """Percent of the test set that the model gets right with these weights, dense or packed."""
        rows = evaluation_batches(self.data.test_images, self.data.test_labels, batch_size=500)
        return 100 * evaluate(self.classifier.score, params, model_state or {}, rows)["accuracy"]

    def logits(self, params: Any) -> bytes:
        """The logits of the test set's first 500 images, for a comparison bit by bit."""
        images = pixels(jnp.asarray(self.data.test_images[:500]))
        return np.asarray(self.forward({"params": params}, images)).tobytes()
