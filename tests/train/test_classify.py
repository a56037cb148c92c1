import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from efficient.core.scope import at
from efficient.data import Batches, digits, evaluation_batches
from efficient.train import classifier, create, evaluator, fit, losses, make_step
from efficient.train.classify import pixels
from tests.train import tiny


def test_cross_entropy_and_accuracy_by_hand():
    # softmax(0, ln 3) = (1/4, 3/4); a tie goes to the lower class.
    logits = jnp.array([[0.0, math.log(3.0)], [0.0, math.log(3.0)], [1.0, 1.0]])
    labels = jnp.array([1, 0, 0])
    got = losses.cross_entropy(logits, labels)
    np.testing.assert_allclose(got, [math.log(4 / 3), math.log(4), math.log(2)], rtol=1e-6)
    assert losses.is_correct(logits, labels).tolist() == [True, False, True]


def test_means_leave_padding_out():
    values = jnp.array([1.0, 2.0, jnp.nan])
    assert float(losses.mean(values, jnp.array([True, True, False]))) == 1.5
    assert float(losses.mean(values, jnp.zeros(3, bool))) == 0
    assert float(losses.mean(jnp.array([True, False]), None)) == 0.5


def test_pixels_are_float_in_zero_to_one():
    got = pixels(np.array([0, 51, 255], np.uint8))
    np.testing.assert_allclose(got, [0.0, 0.2, 1.0], rtol=2**-23)  # one rounding, or two by way of 1/255
    assert got.dtype == jnp.float32
    assert pixels(jnp.array([0.3, 7.0], jnp.float16)).dtype == jnp.float16


class Net(nn.Module):
    @nn.compact
    def __call__(self, x: Any, *, train: bool = False) -> Any:
        x = nn.Dense(32)(x.reshape(x.shape[0], -1))
        x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9)(x))
        return nn.Dense(10)(nn.Dropout(0.1, deterministic=not train)(x))


def test_half_of_the_weights_learn_the_digits():
    data, model = digits(), Net()
    variables = model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
    task, optimizer = classifier(model), optax.adam(3e-3)
    transform = at("Dense_0/kernel", tiny.mask(*range(0, 64, 2)))
    batches = Batches(
        images=data.train_images, labels=data.train_labels, batch_size=64, seed=0, epochs=3, drop_last=True
    )
    test = evaluation_batches(data.test_images, data.test_labels, batch_size=100)
    state = create(
        variables["params"],
        transform,
        optimizer,
        key=jax.random.key(1),
        model_state={"batch_stats": variables["batch_stats"]},
    )
    evaluate = evaluator(task.score, transform, test)
    before = evaluate(state)
    state, history = fit(state, make_step(task.loss, optimizer, transform), batches, evaluate=evaluate)
    assert before["accuracy"] < 0.3
    assert history[-1]["eval/accuracy"] > 0.8  # chance is 0.1; a linear model has 0.9
    assert set(history[-1]) == {"step", "train/loss", "train/accuracy", "eval/loss", "eval/accuracy"}


def test_a_padded_batch_trains_as_its_rows_do():
    class Batch(NamedTuple):
        images: Any
        labels: Any
        mask: Any

    class Linear(nn.Module):
        @nn.compact
        def __call__(self, x: Any, *, train: bool) -> Any:
            return nn.Dense(3)(x)

    images, labels = np.random.default_rng(0).normal(size=(4, 2)).astype(np.float32), np.int32([0, 2, 1, 0])
    weights, task = {"Dense_0": {"kernel": jnp.ones((2, 3)), "bias": jnp.arange(3.0)}}, classifier(Linear())
    key, mask = jax.random.key(0), np.array([True, True, False, False])
    loss, (_, metrics) = task.loss(weights, {}, Batch(images, labels, mask), key)
    part, (_, of_part) = task.loss(weights, {}, Batch(images[:2], labels[:2], mask[:2]), key)
    assert float(loss) == pytest.approx(float(part), rel=1e-6)
    assert float(metrics["accuracy"]) == float(of_part["accuracy"])
