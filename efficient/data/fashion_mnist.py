"""Fashion-MNIST: 70,000 images of clothes, 28x28 pixels, ten classes.

Source: Xiao, Rasul and Vollgraf, 2017, arXiv:1708.07747.
"""

import importlib.util
from pathlib import Path

import numpy as np

from efficient.data.dataset import Dataset, verified
from efficient.data.errors import MissingDataError
from efficient.data.idx import idx_folder

SHA256 = ""
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

    Looks in `folder` alone if there is one; else in the folder of Debian's package; else in TensorFlow
    Datasets, if it is installed and has them prepared. IDX files are checked against the known hash; TFDS has
    the same images in another order, so its `sha256` differs and is not checked.

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
    """Reads what TensorFlow Datasets has prepared on this machine; never downloads."""
    if importlib.util.find_spec("tensorflow_datasets") is None:
        raise MissingDataError("Fashion-MNIST is not on this machine", WAYS)
    import tensorflow_datasets as tfds

    builder = tfds.builder("fashion_mnist")
    if not builder.is_prepared():
        raise MissingDataError("TensorFlow Datasets is installed but has no fashion_mnist prepared", WAYS)
    parts = {
        part: tfds.as_numpy(builder.as_dataset(split=part, batch_size=-1, shuffle_files=False))
        for part in ("train", "test")
    }
    return Dataset(
        name="fashion_mnist",
        train_images=parts["train"]["image"],
        train_labels=parts["train"]["label"].astype(np.int32),
        test_images=parts["test"]["image"],
        test_labels=parts["test"]["label"].astype(np.int32),
        classes=CLASSES,
        source=f"TensorFlow Datasets {tfds.__version__}, {builder.info.full_name}, in its order",
    )
