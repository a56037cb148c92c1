"""IDX, the file format of MNIST: a big-endian header (type, sizes), then the values, plain or gzip.

A file is hostile until parsed: every size is checked against a bound and against the bytes that are there
before anything of that size is made.

Source: LeCun, Cortes and Burges, "The MNIST database of handwritten digits", section "File formats".
"""

import math
from pathlib import Path

import numpy as np

from efficient.data.dataset import Dataset
from efficient.data.errors import DataFormatError, MissingDataError
from efficient.data.gzipped import expand, is_gzip

MAX_BYTES = 1 << 30
_MAX_AXES = 32
_DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_STEMS = {
    "train_images": ("train-images-idx3-ubyte", "train-images.idx3-ubyte"),
    "train_labels": ("train-labels-idx1-ubyte", "train-labels.idx1-ubyte"),
    "test_images": ("t10k-images-idx3-ubyte", "t10k-images.idx3-ubyte"),
    "test_labels": ("t10k-labels-idx1-ubyte", "t10k-labels.idx1-ubyte"),
}


def parse_idx(data: bytes, *, max_bytes: int = MAX_BYTES) -> np.ndarray:
    """The array that IDX `data` holds.

    Header: two zero bytes, one byte for the type (0x08 uint8, 0x09 int8, 0x0B int16, 0x0C int32, 0x0D
    float32, 0x0E float64), one byte for the number of axes, then each axis as a big-endian uint32.

    Args:
      data: a whole file, plain or gzip.
      max_bytes: the largest array accepted, in bytes.

    Returns:
      A new array of the header's shape, of its type in this machine's byte order.

    Raises:
      DataFormatError: magic, type or number of axes is none of the format's; the array would pass
        `max_bytes`; there are fewer or more bytes than the sizes say; or the gzip stream is damaged.

    *Differs:* the format allows 255 axes, NumPy 64, this parser 32; an array with an axis of size 0 is read
    as long as its other sizes stay within the bound.
    """
    packed = is_gzip(data)
    head = expand(data, limit=4 + 4 * _MAX_AXES) if packed else data[: 4 + 4 * _MAX_AXES]
    dtype, shape = _parse_header(head)
    start = 4 + 4 * len(shape)
    # An empty axis counts as one, so that the other axes are bounded too.
    if math.prod(max(axis, 1) for axis in shape) * dtype.itemsize > max_bytes:
        raise DataFormatError(
            f"IDX sizes must make an array of at most {max_bytes} bytes, got {dtype.name} {shape!r}; "
            "raise max_bytes if the file is honest."
        )
    wanted = start + math.prod(shape) * dtype.itemsize
    body = expand(data, limit=wanted) if packed else data
    if len(body) != wanted:
        found = "more" if len(body) > wanted else len(body)
        raise DataFormatError(
            f"IDX data of shape {shape} must be {wanted} bytes with its header, got {found}; copy it again."
        )
    values = np.frombuffer(body, dtype=dtype, offset=start, count=math.prod(shape))
    return values.astype(dtype.newbyteorder("=")).reshape(shape)


def _parse_header(head: bytes) -> tuple[np.dtype, tuple[int, ...]]:
    """The type and the sizes, from the first bytes of the (expanded) file."""
    if len(head) < 4 or head[:2] != b"\x00\x00":
        raise DataFormatError(
            f"IDX magic must start with two zero bytes, got {head[:4]!r}; is it an IDX file?"
        )
    code, axes = head[2], head[3]
    if code not in _DTYPES:
        raise DataFormatError(
            f"IDX type must be one of {sorted(map(hex, _DTYPES))}, got {hex(code)}; is it an IDX file?"
        )
    if not 1 <= axes <= _MAX_AXES:
        raise DataFormatError(
            f"IDX number of axes must be in [1, {_MAX_AXES}], got {axes!r}; is it an IDX file?"
        )
    if len(head) < 4 + 4 * axes:
        raise DataFormatError(
            f"IDX header must be {4 + 4 * axes} bytes for {axes} axes, got {len(head)}; copy the file again."
        )
    return np.dtype(_DTYPES[code]), tuple(np.frombuffer(head, ">u4", count=axes, offset=4).tolist())


def read_idx(path: str | Path, *, max_bytes: int = MAX_BYTES) -> np.ndarray:
    """`parse_idx` of the file at `path`; its errors name the file.

    Raises:
      DataFormatError: the file is larger than `max_bytes` and a header, or `parse_idx` refuses it.
      FileNotFoundError: there is no such file.
    """
    path = Path(path)
    with path.open("rb") as file:
        data = file.read(max_bytes + 4 + 4 * _MAX_AXES + 1)
    if len(data) > max_bytes + 4 + 4 * _MAX_AXES:
        raise DataFormatError(
            f"{path} must be at most {max_bytes} bytes and a header, got more; raise max_bytes if honest."
        )
    try:
        return parse_idx(data, max_bytes=max_bytes)
    except DataFormatError as error:
        raise DataFormatError(f"{path}: {error}") from error


def idx_folder(folder: str | Path, *, name: str = "idx", classes: tuple[str, ...] | None = None) -> Dataset:
    """The four IDX files of MNIST's layout in one folder, each plain or `.gz`.

    The files are `train-images-idx3-ubyte`, `train-labels-idx1-ubyte`, `t10k-images-idx3-ubyte` and
    `t10k-labels-idx1-ubyte` (`.idx3-` and `.idx1-` are read too). Images are uint8 [n, h, w] (one channel is
    added) or [n, h, w, c]; labels are integers [n].

    Args:
      folder: where they are.
      name: of the Dataset.
      classes: names of the classes; None names them "0", "1", ... up to the largest label.

    Raises:
      MissingDataError: a file is not there.
      DataFormatError: a file is not IDX, or not of these types and sizes.
      ValueError: images and labels disagree (see `Dataset`).
    """
    folder = Path(folder).expanduser()
    paths = {part: _find(folder, stems) for part, stems in _STEMS.items()}
    images = {part: _as_images(paths[part]) for part in ("train_images", "test_images")}
    labels = {part: _as_labels(paths[part]) for part in ("train_labels", "test_labels")}
    if classes is None:
        top = max((int(values.max()) for values in labels.values() if values.size), default=0)
        classes = tuple(str(label) for label in range(top + 1))
    files = ", ".join(path.name for path in paths.values())
    return Dataset(
        name=name, **images, **labels, classes=classes, source=f"IDX files of {folder.resolve()}: {files}"
    )


def _find(folder: Path, stems: tuple[str, ...]) -> Path:
    """The first of the names that exists, plain before gzip."""
    names = [stem + ending for stem in stems for ending in ("", ".gz")]
    for candidate in names:
        if (folder / candidate).is_file():
            return folder / candidate
    raise MissingDataError(f"{folder} has no {stems[0]}", [f"put {' or '.join(names)} into {folder}"])


def _as_images(path: Path) -> np.ndarray:
    """uint8 [n, h, w, c]."""
    images = read_idx(path)
    if images.dtype != np.uint8 or images.ndim not in (3, 4):
        raise DataFormatError(
            f"{path}: images must be uint8 [n, h, w] or [n, h, w, c], got {images.dtype}{images.shape!r}; "
            "write them again."
        )
    return images if images.ndim == 4 else images[..., None]


def _as_labels(path: Path) -> np.ndarray:
    """int32 [n], from any integer type of the format."""
    labels = read_idx(path)
    if labels.dtype.kind not in "iu" or labels.ndim != 1:
        raise DataFormatError(
            f"{path}: labels must be integers [n], got {labels.dtype}{labels.shape!r}; write them again."
        )
    if labels.size and not 0 <= labels.min() <= labels.max() < 2**16:
        raise DataFormatError(
            f"{path}: labels must be in [0, 65536), got [{labels.min()}, {labels.max()}]; write them again."
        )
    return labels.astype(np.int32)
