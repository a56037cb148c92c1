"""Labelled images in memory, with where they came from and a hash of what they are."""

import dataclasses
import functools
import hashlib
import json

import numpy as np
from jaxtyping import Float32, Integer, UInt8

from efficient.data.errors import DataFormatError
from efficient.data.sampling import HoldOut, stratified

_ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Dataset:
    """Training and test images with their labels.

    Images are **uint8 in [0, 255]** (what the files hold: a quarter of the memory of float32);
    `as_float` makes them float32 in [0, 1]. The arrays held are read-only views of those given. Dtypes and
    shapes are checked here, with or without a type checker.

    Raises:
      ValueError: an array has the wrong dtype or shape, a part is empty, the parts disagree, or a label is
        not in [0, len(classes)).
    """

    name: str  # of the data set, as in `load`
    train_images: np.ndarray  # uint8 [train, h, w, c], 0 .. 255
    train_labels: np.ndarray  # int32 [train], indices into classes
    test_images: np.ndarray  # uint8 [test, h, w, c], 0 .. 255
    test_labels: np.ndarray  # int32 [test], indices into classes
    classes: tuple[str, ...]  # what label k means, for k = 0, 1, ...
    source: str  # exactly where it came from, and what was done to it since

    def __post_init__(self) -> None:
        for field in _ARRAYS:
            view = np.asarray(getattr(self, field)).view()
            view.flags.writeable = False
            object.__setattr__(self, field, view)
        for part in ("train", "test"):
            images, labels = getattr(self, f"{part}_images"), getattr(self, f"{part}_labels")
            _require_images(f"{part}_images", images)
            _require_labels(f"{part}_labels", labels, len(images), len(self.classes))
        if self.train_images.shape[1:] != self.test_images.shape[1:]:
            raise ValueError(
                f"test_images must have (h, w, c) = {self.train_images.shape[1:]} as those of training, "
                f"got {self.test_images.shape[1:]!r}; resize one of them."
            )

    def __repr__(self) -> str:
        return (
            f"Dataset({self.name!r}, train {self.train_images.shape}, test {self.test_images.shape}, "
            f"{len(self.classes)} classes, from {self.source!r})"
        )

    @functools.cached_property
    def sha256(self) -> str:
        """Hash of the content: dtype, shape and bytes of the four arrays in order, then the class names."""
        digest = hashlib.sha256()
        for field in _ARRAYS:
            array = getattr(self, field)
            digest.update(f"{field} {array.dtype.str} {array.shape}\n".encode())
            digest.update(np.ascontiguousarray(array).data)
        digest.update(json.dumps(self.classes).encode())
        return digest.hexdigest()

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of one image."""
        _, h, w, c = self.train_images.shape
        return h, w, c

    def subset(self, *, train: int, test: int, seed: int) -> "Dataset":
        """A stratified random part of it: `train` and `test` images.

        Raises:
          ValueError: a count is not in [1, what there is], or `seed` is not in [0, 2**64).
        """
        _require_count("train", train, len(self.train_labels))
        _require_count("test", test, len(self.test_labels))
        of_train, _ = stratified(self.train_labels, count=train, seed=seed)
        of_test, _ = stratified(self.test_labels, count=test, seed=seed)
        return dataclasses.replace(
            self,
            train_images=self.train_images[of_train],
            train_labels=self.train_labels[of_train],
            test_images=self.test_images[of_test],
            test_labels=self.test_labels[of_test],
            source=f"{self.source}; subset(train={train}, test={test}, seed={seed})",
        )

    def split(self, *, fraction: float, seed: int) -> "Dataset":
        """For choosing hyperparameters: holds out part of *training* and puts it where the test set was.

        The true test set is not in the result, so a search that runs on it cannot have seen one.

        Args:
          fraction: share of the training images to hold out, in (0, 1), stratified by class.
          seed: of the draw.

        Raises:
          ValueError: `fraction` or `seed` is out of range, or a part would be empty.
        """
        kept, held = HoldOut(fraction=fraction, seed=seed).cut(self.train_labels)
        return from_pool(
            self.train_images,
            self.train_labels,
            kept,
            held,
            name=self.name,
            classes=self.classes,
            source=f"{self.source}; split(fraction={fraction}, seed={seed}) of training",
        )


def from_pool(
    images: UInt8[np.ndarray, "n h w c"],
    labels: Integer[np.ndarray, " n"],
    train: Integer[np.ndarray, " train"],
    test: Integer[np.ndarray, " test"],
    *,
    name: str,
    classes: tuple[str, ...],
    source: str,
) -> Dataset:
    """A Dataset of one pool of images and the indices of its two parts."""
    return Dataset(
        name=name,
        train_images=images[train],
        train_labels=labels[train].astype(np.int32),
        test_images=images[test],
        test_labels=labels[test].astype(np.int32),
        classes=classes,
        source=source,
    )


def verified(dataset: Dataset, *, sha256: str) -> Dataset:
    """The same `dataset`, once its content is seen to be the one whose hash is known.

    Raises:
      DataFormatError: it is another.
    """
    if dataset.sha256 != sha256:
        raise DataFormatError(
            f"sha256 of {dataset.name} must be {sha256}, got {dataset.sha256!r} from {dataset.source}; "
            "the files are damaged or are another data set (load those by 'idx:FOLDER' or 'folder:FOLDER')."
        )
    return dataset


def as_float(images: UInt8[np.ndarray, "*shape"]) -> Float32[np.ndarray, "*shape"]:
    """float32 in [0, 1]: x / 255."""
    return images.astype(np.float32) / np.float32(255)


def _require_images(name: str, images: np.ndarray) -> None:
    """Refuses what is not a non-empty uint8 [n, h, w, c]."""
    if images.dtype != np.uint8 or images.ndim != 4 or images.size == 0:
        raise ValueError(
            f"{name} must be uint8 [n, h, w, c], each size at least 1, got {images.dtype}{images.shape!r}; "
            "scale to 0 .. 255 and add the channel axis."
        )


def _require_labels(name: str, labels: np.ndarray, count: int, classes: int) -> None:
    """Refuses what is not int32 [count] in [0, classes)."""
    if labels.dtype != np.int32 or labels.shape != (count,):
        raise ValueError(
            f"{name} must be int32 [{count}], one for each image, got {labels.dtype}{labels.shape!r}; "
            "convert with astype(np.int32)."
        )
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(
            f"{name} must be in [0, {classes}), the number of classes, got [{labels.min()}, {labels.max()}]; "
            "name every class in `classes`."
        )


def _require_count(name: str, value: int, most: int) -> None:
    """Refuses a count outside [1, most]."""
    if not 1 <= value <= most:
        raise ValueError(
            f"{name} must be in [1, {most}], the images there are, got {value!r}; ask for fewer."
        )
