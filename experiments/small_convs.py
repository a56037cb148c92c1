"""Small convolutional networks and a loop that trains them by any loss: what distillation shares."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from efficient.data import load
from efficient.train.classify import pixels
from experiments.frame.bench import require_data

Loss = Callable[[Any, Mapping[str, Any], Any], Any]
"""`(params, rows of a batch by name, key) -> scalar`."""


class Convs(nn.Module):
    """3x3 convolutions with ReLUs, the mean over places, dropout, and a dense layer."""

    widths: tuple[int, ...]
    strides: tuple[int, ...]
    classes: int = 10
    dropout: float = 0.0  # in training

    @nn.compact
    def __call__(self, x: Any, *, train: bool = False) -> Any:
        """Logits [batch, classes]."""
        for i, (width, stride) in enumerate(zip(self.widths, self.strides, strict=True)):
            x = nn.relu(nn.Conv(width, (3, 3), strides=stride, name=f"conv{i}")(x))
        x = nn.Dropout(self.dropout, deterministic=not train)(jnp.mean(x, axis=(1, 2)))
        return nn.Dense(self.classes, name="classifier")(x)


@dataclasses.dataclass(frozen=True)
class Rows:
    """Images and what belongs to each of them, on the device."""

    values: Mapping[str, Any]  # `x`, `y`, and others; each with the examples along its first axis

    def __len__(self) -> int:
        return len(self.values["y"])

    def with_(self, **more: Any) -> "Rows":
        """With further values."""
        return Rows({**self.values, **more})


def splits(data: str, train: int, test: int, seed: int = 0) -> tuple[Rows, Rows]:
    """A part of the training set and of the test set, drawn by `seed`; 0 is all of it."""
    require_data(data)
    whole = load(data)
    train, test = train or len(whole.train_labels), test or len(whole.test_labels)
    part = whole.subset(train=train, test=test, seed=seed)
    return (
        Rows({"x": pixels(part.train_images), "y": jnp.asarray(part.train_labels)}),
        Rows({"x": pixels(part.test_images), "y": jnp.asarray(part.test_labels)}),
    )


def cross_entropy(logits: Any, labels: Any) -> Any:
    """The mean over a batch."""
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))


class Fit:
    """Adam on a cosine, by a loss; compiled once for every seed."""

    def __init__(self, loss: Loss, *, epochs: int, batch: int, rows: int, rate: float = 3e-3) -> None:
        self.epochs, self.batch, self.steps = epochs, batch, rows // batch
        self.optimizer = optax.adam(optax.cosine_decay_schedule(rate, epochs * self.steps))

        @functools.partial(jax.jit, donate_argnums=(0, 1))
        def step(params: Any, moments: Any, values: Any, index: Any, key: Any) -> tuple[Any, Any]:
            rows = {name: value[index] for name, value in values.items()}
            slope = jax.grad(loss)(params, rows, key)
            change, moments = self.optimizer.update(slope, moments, params)
            return optax.apply_updates(params, change), moments

        self.step = step

    def __call__(self, params: Any, rows: Rows, seed: int) -> Any:
        """Trained params; those given are left as they are."""
        draw, key = np.random.default_rng(seed), jax.random.key(seed)
        params = jax.tree.map(jnp.copy, params)
        moments = self.optimizer.init(params)
        for epoch in range(self.epochs):
            order = draw.permutation(len(rows))
            for i in range(self.steps):
                index = jnp.asarray(order[i * self.batch : (i + 1) * self.batch])
                one = jax.random.fold_in(key, epoch * self.steps + i)
                params, moments = self.step(params, moments, dict(rows.values), index, one)
        return params


def batched(run: Callable[[Any], Any], x: Any, size: int = 500) -> Any:
    """`run` over an array, `size` rows at a time, results put together; the last part may be shorter."""
    parts = [run(x[i : i + size]) for i in range(0, len(x), size)]
    return jax.tree.map(lambda *each: jnp.concatenate(each), *parts)


def accuracy(run: Callable[[Any], Any], rows: Rows) -> float:
    """Percent right."""
    choice = batched(run, rows.values["x"]).argmax(-1)
    return 100 * float(jnp.mean(choice == rows.values["y"]))
