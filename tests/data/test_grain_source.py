"""A Dataset as grain reads it."""

import numpy as np
import pytest

from efficient.data import Dataset, as_grain_source


@pytest.fixture
def dataset() -> Dataset:
    return Dataset(
        name="tiny",
        train_images=np.arange(7, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 1), np.uint8),
        train_labels=np.arange(7, dtype=np.int32),
        test_images=np.zeros((2, 2, 2, 1), np.uint8),
        test_labels=np.array([6, 5], dtype=np.int32),
        classes=tuple("0123456"),
        source="arange",
    )


def test_length_and_items(dataset):
    source = as_grain_source(dataset, part="test")
    assert len(source) == 2
    assert source[1]["label"] == 5
    assert source[1]["label"].dtype == np.int32
    assert source[np.int64(0)]["image"].shape == (2, 2, 1)
    with pytest.raises(IndexError):
        source[2]


def test_grain_loads_every_row_once_in_batches(dataset):
    grain = pytest.importorskip("grain")
    pipeline = grain.MapDataset.source(as_grain_source(dataset, part="train")).shuffle(seed=3).batch(3)
    batches = list(pipeline)
    assert [len(batch["label"]) for batch in batches] == [3, 3, 1]
    labels = np.concatenate([batch["label"] for batch in batches])
    images = np.concatenate([batch["image"] for batch in batches])
    assert sorted(labels.tolist()) == list(range(7))
    np.testing.assert_array_equal(images[:, 0, 0, 0], labels)


def test_grains_data_loader_takes_it(dataset):
    grain = pytest.importorskip("grain")
    source = as_grain_source(dataset, part="train")
    sampler = grain.samplers.IndexSampler(num_records=len(source), shuffle=True, seed=1, num_epochs=1)
    loader = grain.DataLoader(data_source=source, sampler=sampler, worker_count=0)
    assert sorted(int(row["label"]) for row in loader) == list(range(7))


def test_refuses_another_part(dataset):
    with pytest.raises(ValueError, match=r"part must be 'train' or 'test', got 'val'; choose one\."):
        as_grain_source(dataset, part="val")
