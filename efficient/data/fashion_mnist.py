"""Fashion-MNIST: 70,000 images of clothes, 28x28 pixels, ten classes.

Source: Xiao, Rasul and Vollgraf, 2017, arXiv:1708.07747.
"""

import os
from pathlib import Path

import numpy as np

from efficient.data.dataset import Dataset, verified
from efficient.data.errors import MissingDataError
from efficient.data.idx import idx_folder

SHA256 = "6ba925ed90d4634e1411f11a315b767e2f1bad7a511d74788591b79bb1b6cfd7"
DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
WAYS = (
    f"on Debian or Ubuntu: apt-get install dataset-fashion-mnist (its files are found in {DEBIAN_FOLDER})",
    "folder=FOLDER with the four IDX files of https://github.com/zalandoresearch/fashion-mnist, plain or .gz",
    "pip install tensorflow tensorflow-datasets, then once: tfds build fashion_mnist",
)


def fashion_mnist(folder: str | Path | None = None) -> Dataset:
    """60,000 training and 10,000 test images [28, 28, 1], the split of the paper.

    Looks in `folder` alone if there is one; else in the folder of Debian's package; else where TensorFlow
    Datasets keeps what it has prepared (`TFDS_DATA_DIR`, or `~/tensorflow_datasets`). IDX files are checked
    against the known hash; TFDS has the same images in another order, so its `sha256` differs and is not
    checked.

    Raises:
      MissingDataError: they are in none of these; the message lists every way to get them.
      DataFormatError: the files are damaged, or of another data set under the same file names.
    """
    if folder is None and not DEBIAN_FOLDER.is_dir():
        return _from_tfds()
    place = DEBIAN_FOLDER if folder is None else Path(folder)
    try:
        dataset = idx_folder(place, name="fashion_mnist", classes=CLASSES)
    except MissingDataError as error:
        raise MissingDataError(f"Fashion-MNIST is not whole in {place}", WAYS) from error
    return verified(dataset, sha256=SHA256)


def _from_tfds() -> Dataset:
    """Reads what TensorFlow Datasets has prepared in its own folder, which no network is needed for."""
    home = Path(os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")).expanduser() / "fashion_mnist"
    prepared = sorted(info.parent for info in home.glob("*/dataset_info.json"))
    if not prepared:
        raise MissingDataError("Fashion-MNIST is not on this machine", WAYS)
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise MissingDataError(
            f"{prepared[-1]} can not be read without TensorFlow Datasets: {error}", WAYS
        ) from error
    builder = tfds.builder_from_directory(prepared[-1])
    train, test = (tfds.as_numpy(builder.as_dataset(split=part, batch_size=-1)) for part in ("train", "test"))
    return Dataset(
        name="fashion_mnist",
        train_images=train["image"],
        train_labels=train["label"].astype(np.int32),
        test_images=test["image"],
        test_labels=test["label"].astype(np.int32),
        classes=CLASSES,
        source=f"TensorFlow Datasets {tfds.__version__}, {prepared[-1]}, in its order",
    )
