"""The Dataset value."""

import dataclasses
import hashlib

import numpy as np
import pytest

from efficient.data import Dataset, as_float


def tiny(**changes) -> Dataset:
    fields = {
        "name": "tiny",
        "train_images": np.arange(12 * 2 * 3, dtype=np.uint8).reshape(12, 2, 3, 1),
        "train_labels": np.arange(12, dtype=np.int32) % 3,
        "test_images": np.arange(6 * 2 * 3, dtype=np.uint8).reshape(6, 2, 3, 1) + 100,
        "test_labels": np.arange(6, dtype=np.int32) % 3,
        "classes": ("a", "b", "c"),
        "source": "arange",
    }
    return Dataset(**(fields | changes))


def test_sha256_is_of_the_bytes_in_the_stated_order():
    dataset = tiny()
    parts = b""
    for field, kind, shape in (
        ("train_images", "|u1", "(12, 2, 3, 1)"),
        ("train_labels", "<i4", "(12,)"),
        ("test_images", "|u1", "(6, 2, 3, 1)"),
        ("test_labels", "<i4", "(6,)"),
    ):
        parts += f"{field} {kind} {shape}\n".encode() + getattr(dataset, field).tobytes()
    assert dataset.sha256 == hashlib.sha256(parts + b'["a", "b", "c"]').hexdigest()


def test_sha256_sees_content_and_not_memory_layout():
    other = np.asfortranarray(tiny().train_images)
    assert tiny(train_images=other, name="x", source="y").sha256 == tiny().sha256
    changed = other.copy()
    changed[3, 1, 1, 0] += 1
    assert tiny(train_images=changed).sha256 != tiny().sha256
    assert tiny(classes=("a", "b", "d")).sha256 != tiny().sha256


def test_arrays_are_read_only_and_the_callers_stay_as_they_were():
    images = tiny().train_images.copy()
    dataset = tiny(train_images=images)
    with pytest.raises(ValueError, match="read-only"):
        dataset.train_images[0] = 0
    images[0] = 0  # the caller's array is still writeable
    with pytest.raises(dataclasses.FrozenInstanceError):
        dataset.name = "other"


def test_repr_is_short_and_says_the_source():
    assert repr(tiny()) == "Dataset('tiny', train (12, 2, 3, 1), test (6, 2, 3, 1), 3 classes, from 'arange')"
    assert tiny().image_shape == (2, 3, 1)


def test_subset_is_stratified_seeded_and_said_in_the_source():
    part = tiny().subset(train=6, test=3, seed=4)
    assert np.bincount(part.train_labels).tolist() == [2, 2, 2]
    assert np.bincount(part.test_labels).tolist() == [1, 1, 1]
    assert part.source == "arange; subset(train=6, test=3, seed=4)"
    assert part.sha256 == tiny().subset(train=6, test=3, seed=4).sha256
    assert part.sha256 != tiny().subset(train=6, test=3, seed=5).sha256
    whole = {
        image.tobytes(): label for image, label in zip(tiny().train_images, tiny().train_labels, strict=True)
    }
    assert all(whole[i.tobytes()] == lab for i, lab in zip(part.train_images, part.train_labels, strict=True))


def test_split_holds_out_of_training_and_never_shows_the_test_set():
    whole = tiny()
    part = whole.split(fraction=0.25, seed=9)
    assert len(part.train_labels) == 9
    assert np.bincount(part.test_labels).tolist() == [1, 1, 1]
    seen = {image.tobytes() for image in (*part.train_images, *part.test_images)}
    assert seen == {image.tobytes() for image in whole.train_images}
    assert seen.isdisjoint(image.tobytes() for image in whole.test_images)
    assert part.source == "arange; split(fraction=0.25, seed=9) of training"


def test_as_float_is_x_over_255():
    images = np.array([[0, 51, 255]], dtype=np.uint8)
    assert as_float(images).dtype == np.float32
    np.testing.assert_array_equal(as_float(images), np.array([[0, np.float32(0.2), 1]], dtype=np.float32))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"train_images": np.zeros((12, 2, 3, 1), np.float32)},
            r"train_images must be uint8 \[n, h, w, c\], each size .* got float32\(12, 2, 3, 1\); scale",
        ),
        (
            {"test_images": np.zeros((6, 2, 3), np.uint8)},
            r"test_images must be uint8 .*got uint8\(6, 2, 3\);",
        ),
        (
            {"test_images": np.zeros((0, 2, 3, 1), np.uint8)},
            r"test_images must be .*got uint8\(0, 2, 3, 1\);",
        ),
        ({"train_labels": np.zeros(12, np.int64)}, r"train_labels must be int32 \[12\].*got int64\(12,\);"),
        ({"train_labels": np.zeros(11, np.int32)}, r"train_labels must be int32 \[12\].*got int32\(11,\);"),
        (
            {"test_labels": np.full(6, 3, np.int32)},
            r"test_labels must be in \[0, 3\).*got \[3, 3\]; name every",
        ),
        ({"test_labels": np.full(6, -1, np.int32)}, r"test_labels must be in \[0, 3\).*got \[-1, -1\];"),
        (
            {"test_images": np.zeros((6, 3, 2, 1), np.uint8)},
            r"test_images must have \(h, w, c\) = \(2, 3, 1\) as those of training, got \(3, 2, 1\); resize",
        ),
    ],
)
def test_refuses(changes, message):
    with pytest.raises(ValueError, match=message):
        tiny(**changes)


@pytest.mark.parametrize(("train", "test", "name"), [(0, 1, "train"), (13, 1, "train"), (1, 7, "test")])
def test_subset_refuses_more_than_there_is(train, test, name):
    with pytest.raises(
        ValueError, match=rf"{name} must be in \[1, \d+\], the images there are, got \d+; ask"
    ):
        tiny().subset(train=train, test=test, seed=0)


def test_split_refuses_an_empty_part():
    with pytest.raises(ValueError, match=r"fraction must be in \(0, 1\), got 1\.5;"):
        tiny().split(fraction=1.5, seed=0)
    with pytest.raises(ValueError, match=r"test_images must be uint8 .*got uint8\(0, 2, 3, 1\);"):
        tiny().split(fraction=0.01, seed=0)
