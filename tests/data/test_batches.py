"""Batches: every image once an epoch, and the same again from any position."""

import dataclasses
import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from efficient.data import Batches, Position, evaluation_batches, permutation


def make(n=5, **changes) -> Batches:
    options = {"batch_size": 2, "seed": 0, "epochs": 1, "drop_last": False}
    images = np.arange(n * 4, dtype=np.uint8).reshape(n, 2, 2, 1)
    return Batches(images=images, labels=np.arange(n, dtype=np.int32), **(options | changes))


def rows(batches) -> list[list[int]]:
    return [batch.labels.tolist() for batch in batches]


def test_golden_in_order():
    # five in twos: 0 1 | 2 3 | 4, filled up by its own row; what follows each is the next step, then the end.
    given_batches = list(make(seed=None))
    assert rows(given_batches) == [[0, 1], [2, 3], [4, 4]]
    assert [batch.mask.tolist() for batch in given_batches] == [[True, True], [True, True], [True, False]]
    assert [batch.resume_at for batch in given_batches] == [(0, 1), (0, 2), (1, 0)]
    assert given_batches[1].images[0].ravel().tolist() == [8, 9, 10, 11]
    assert rows(make(seed=None, drop_last=True)) == [[0, 1], [2, 3]]
    assert rows(make(n=3, batch_size=8, seed=None)) == [[0, 1, 2, 0, 1, 2, 0, 1]]


def test_the_order_is_that_of_the_seed_and_the_epoch():
    batches = make(n=6, batch_size=3, seed=11, epochs=2)
    flat = np.array(rows(batches)).reshape(2, 6)
    np.testing.assert_array_equal(flat[0], permutation(6, seed=11, epoch=0))
    np.testing.assert_array_equal(flat[1], permutation(6, seed=11, epoch=1))
    assert rows(batches) == rows(batches)  # a value: iterating does not use it up
    assert rows(make(n=6, seed=12)) != rows(make(n=6, seed=11))


CONFIGURATIONS = st.fixed_dictionaries(
    {
        "n": st.sampled_from([1, 4, 7, 13]),
        "batch_size": st.integers(1, 14),
        "seed": st.none() | st.integers(0, 2**64 - 1),
        "epochs": st.integers(1, 3),
        "drop_last": st.booleans(),
    }
).filter(lambda c: not c["drop_last"] or c["batch_size"] <= c["n"])


@given(options=CONFIGURATIONS)
@settings(max_examples=100, deadline=None)
def test_each_epoch_has_each_image_once(options):
    batches = make(**options)
    given_batches = list(batches)
    assert len(given_batches) == batches.steps_per_epoch * options["epochs"]
    assert {len(batch.labels) for batch in given_batches} == {options["batch_size"]}
    for epoch in range(options["epochs"]):
        mine = given_batches[epoch * batches.steps_per_epoch : (epoch + 1) * batches.steps_per_epoch]
        seen = [label for batch in mine for label in batch.labels[batch.mask].tolist()]
        assert len(seen) == len(set(seen))
        whole = options["n"] - (options["n"] % options["batch_size"] if options["drop_last"] else 0)
        assert len(seen) == whole
        for batch in mine:  # image and label stay together
            np.testing.assert_array_equal(batch.images[:, 0, 0, 0], batch.labels * 4)


@given(options=CONFIGURATIONS, data=st.data())
@settings(max_examples=100, deadline=None)
def test_resuming_after_any_batch_gives_the_rest_bit_for_bit(options, data):
    batches = make(**options)
    given_batches = list(batches)
    done = data.draw(st.integers(1, len(given_batches)))
    stored = json.dumps(given_batches[done - 1].resume_at)
    resumed = list(dataclasses.replace(batches, start=Position(*json.loads(stored))))
    assert len(resumed) == len(given_batches) - done
    for again, first in zip(resumed, given_batches[done:], strict=True):
        assert again.images.tobytes() == first.images.tobytes()
        assert again.labels.tobytes() == first.labels.tobytes()
        assert again.mask.tobytes() == first.mask.tobytes()
        assert again.resume_at == first.resume_at


def test_without_epochs_it_never_ends_and_starts_anywhere():
    batches = make(epochs=None, start=Position(10**6, 1))
    stream = iter(batches)
    order = permutation(5, seed=0, epoch=10**6)
    assert next(stream).labels.tolist() == order[2:4].tolist()
    assert next(stream).resume_at == (10**6 + 1, 0)


def test_evaluation_is_exact_and_compiles_once():
    batches = evaluation_batches(make(n=7).images, make(n=7).labels, batch_size=3)

    @jax.jit
    @chex.assert_max_traces(n=1)
    def count(labels, mask):
        return jnp.sum((labels % 2 == 0) * mask), jnp.sum(mask)

    chex.clear_trace_counter()
    counts = np.array([count(batch.labels, batch.mask) for batch in batches]).sum(axis=0)
    assert counts.tolist() == [4, 7]  # 0, 2, 4, 6 of seven


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, r"batch_size must be at least 1, got 0; choose more\."),
        (
            {"batch_size": 6, "drop_last": True},
            r"images must fill at least one batch of 6, got 5; choose a smaller",
        ),
        ({"n": 0}, r"images must fill at least one batch of 2, got 0;"),
        ({"seed": -1}, r"seed must be None or in \[0, 2\*\*64\), got -1;"),
        ({"epochs": 0}, r"epochs must be None or at least 1, got 0; None never ends\."),
        (
            {"start": Position(0, 3)},
            r"start must have epoch at most 1 and step below 3, got \(0, 3\); was it stored",
        ),
        ({"start": Position(1, 1)}, r"start must have .*got \(1, 1\);"),
        ({"start": Position(2, 0)}, r"start must have .*got \(2, 0\);"),
        ({"start": Position(-1, 0)}, r"start must have .*got \(-1, 0\);"),
        ({"start": Position(0, -1)}, r"start must have .*got \(0, -1\);"),
    ],
)
def test_refuses(changes, message):
    with pytest.raises(ValueError, match=message):
        make(**changes)


def test_refuses_labels_of_another_part():
    with pytest.raises(
        ValueError, match=r"labels must be 5, one for each image, got 4; give both of one part\."
    ):
        dataclasses.replace(make(), labels=np.zeros(4, np.int32))
