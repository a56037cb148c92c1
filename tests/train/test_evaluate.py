from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from efficient.data import evaluation_batches
from efficient.train import create, evaluate, evaluator
from tests.train import tiny

IMAGES = np.random.default_rng(0).normal(size=(10, 3)).astype(np.float32)
LABELS = (IMAGES[:, 0] > 0).astype(np.int32)
BATCHES = evaluation_batches(IMAGES, LABELS, batch_size=4)  # 4, 4 and 2 with two rows of padding


def score(weights: Any, model_state: Any, batch: Any) -> dict[str, jax.Array]:
    out = batch.images @ weights["w"] + weights["b"]
    return {"accuracy": (out > 0) == (batch.labels == 1), "out": out}


def test_padded_batches_give_the_means_of_the_whole_in_one_compile():
    chex.clear_trace_counter()
    got = evaluate(chex.assert_max_traces(score, 1), tiny.params(), {}, BATCHES)
    out = np.float64(IMAGES) @ [0.5, -1.0, 2.0] + 0.25
    assert got["accuracy"] == np.mean((out > 0) == (LABELS == 1))  # a count over a count: exact
    np.testing.assert_allclose(got["out"], out.mean(), rtol=1e-5)


def test_padding_may_be_nan():
    class Batch(NamedTuple):
        images: Any
        labels: Any
        mask: Any

    images = np.float32([[1, 0, 0], [np.nan] * 3])
    got = evaluate(score, tiny.params(), {}, [Batch(images, np.int32([1, 1]), np.array([True, False]))])
    assert got == {"accuracy": 1.0, "out": 0.75}


def test_batches_without_a_mask_count_whole():
    batches = [tiny.Batch(*pair) for pair in [(np.float32([1, 2]), 0), (np.float32([6, 7]), 0)]]
    assert evaluate(lambda w, s, b: {"x": b.x}, {}, {}, batches) == {"x": 4.0}


def test_an_evaluator_sees_what_the_model_sees():
    transform = tiny.mask(1)
    state = create(tiny.params(), transform, optax.sgd(0.1), key=jax.random.key(0))
    got = evaluator(score, transform, BATCHES)(state)
    np.testing.assert_allclose(got["out"], np.mean(-np.float64(IMAGES[:, 1]) + 0.25), rtol=1e-5)
    assert evaluator(score, transform, BATCHES)(state) == got


def test_leaves_may_stand_in_the_weights():
    transform = tiny.scaled()
    weights = transform.apply(tiny.params(), transform.init(tiny.params()))
    got = evaluate(lambda w, s, b: {"w": b.x * w["w"].dense()[2]}, weights, {}, [tiny.Batch(jnp.ones(2), 0)])
    assert got == {"w": 2.0}


def test_what_cannot_be_a_mean_is_refused():
    with pytest.raises(
        ValueError, match=r"accuracy must be one number an example, \[4\], got \(\); do not average"
    ):
        evaluate(lambda w, s, b: {"accuracy": jnp.zeros(())}, {}, {}, BATCHES)
    with pytest.raises(
        ValueError, match="batches must hold at least one example, got none; is the iterator used up"
    ):
        evaluate(score, tiny.params(), {}, [])
