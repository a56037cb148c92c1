"""Real images with labels, from this machine: nothing is downloaded and nothing is made up.

- `load(name, folder=...)`: "digits", "mnist5k", "fashion_mnist", "idx:FOLDER", "folder:FOLDER" (`NAMES`); by
  themselves: `digits`, `mnist5k`, `fashion_mnist`, `idx_folder`, `image_folder`.
- `Dataset`: uint8 images [n, h, w, c] and int32 labels of two parts, with `source`, `sha256`, `subset` and
  `split`; `as_float` makes float32 in [0, 1]; `HoldOut` is a stratified share.
- `Batches`, `evaluation_batches`: seeded, resumable at a `Position`, every `Batch` of one size with a mask.
- `as_grain_source`: a part of a Dataset for grain's loaders.
- `parse_idx`, `read_idx`: the IDX format by itself.
- `permutation`, `stratified`: seeded orders and draws.
- `MissingDataError` (a FileNotFoundError) lists every way to get what is not here; `DataFormatError` (a
  ValueError) names the file whose bytes are not what they must be.
"""

from efficient.data.batches import Batch, Batches, Position, evaluation_batches
from efficient.data.catalog import NAMES, load
from efficient.data.dataset import Dataset, as_float
from efficient.data.digits import digits
from efficient.data.errors import DataFormatError, MissingDataError
from efficient.data.fashion_mnist import fashion_mnist
from efficient.data.grain_source import GrainSource, as_grain_source
from efficient.data.idx import idx_folder, parse_idx, read_idx
from efficient.data.image_folder import image_folder
from efficient.data.mnist5k import mnist5k
from efficient.data.sampling import HoldOut, permutation, stratified

__all__ = [
    "NAMES",
    "Batch",
    "Batches",
    "DataFormatError",
    "Dataset",
    "GrainSource",
    "HoldOut",
    "MissingDataError",
    "Position",
    "as_float",
    "as_grain_source",
    "digits",
    "evaluation_batches",
    "fashion_mnist",
    "idx_folder",
    "image_folder",
    "load",
    "mnist5k",
    "parse_idx",
    "permutation",
    "read_idx",
    "stratified",
]
