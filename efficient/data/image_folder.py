"""Images in one subfolder a class, read through Pillow.

Every file is hostile until decoded: only five plain formats are tried, the pixel count is checked before the
pixels are made, and whatever the decoder says of a damaged file becomes one error that names the file.
"""

from pathlib import Path
from typing import Any

import numpy as np

from efficient.data.dataset import Dataset, from_pool
from efficient.data.errors import DataFormatError, MissingDataError
from efficient.data.sampling import HoldOut

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".webp")
_FORMATS = ("BMP", "JPEG", "PNG", "PPM", "WEBP")
_EIGHT_BIT = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
WAYS = (
    "FOLDER/train/CLASS/IMAGE and FOLDER/test/CLASS/IMAGE, the same classes in both",
    "FOLDER/CLASS/IMAGE, with a share held out for testing",
)


def image_folder(
    folder: str | Path,
    *,
    size: tuple[int, int] | None = None,
    mode: str = "RGB",
    hold_out: HoldOut | None = None,
    max_images: int = 200_000,
    max_pixels: int = 2**25,
    max_bytes: int = 2**32,
) -> Dataset:
    """Reads FOLDER/train/CLASS/IMAGE and FOLDER/test/CLASS/IMAGE; or FOLDER/CLASS/IMAGE, holding out a share.

    Classes and images are taken in the order of their names; names that begin with a dot are skipped. The
    orientation that a camera noted (EXIF) is applied, transparency is dropped, an animation gives its first
    image.

    Args:
      folder: the folder.
      size: (height, width) to resize to, bilinear with antialiasing, aspect not kept; None asks that all
        images have one size already.
      mode: "L", one channel of luma, or "RGB".
      hold_out: the share for testing where there are no `train` and `test`; None where there are.
      max_images: the most files accepted.
      max_pixels: the most pixels accepted in one file, checked before it is decoded.
      max_bytes: the most bytes accepted in the arrays.

    Raises:
      MissingDataError: the folder is not there, or has no class, or a class has no image.
      DataFormatError: a file is damaged, too large, of more than 8 bits, or no image; the message names it.
      ValueError: an option is out of range, `hold_out` is missing or not wanted, or the classes of `train`
        and `test` differ.
      ImportError: Pillow is not installed.
    """
    folder = Path(folder).expanduser()
    _require_options(size, mode)
    if has_parts(folder) == (hold_out is not None):
        raise ValueError(
            f"hold_out must be given exactly where {folder} has no subfolders 'train' and 'test', got "
            f"{hold_out!r}; a split is either in the folders or drawn."
        )
    tops = [folder] if hold_out else [folder / "train", folder / "test"]
    listings = [_list_classes(top) for top in tops]
    classes = tuple(listings[0])
    if tuple(listings[-1]) != classes:
        raise ValueError(
            f"classes of 'test' must be those of 'train', {classes}, got {tuple(listings[-1])!r}; rename the "
            "subfolders."
        )
    files = [
        (path, label)
        for listing in listings
        for label, paths in enumerate(listing.values())
        for path in paths
    ]
    if len(files) > max_images:
        raise ValueError(
            f"{folder} must have at most {max_images} images, got {len(files)!r}; raise max_images."
        )
    images = _read_all([path for path, _ in files], size, mode, max_pixels, max_bytes)
    labels = np.array([label for _, label in files], dtype=np.int32)
    count = sum(len(paths) for paths in listings[0].values())
    train, test = hold_out.cut(labels) if hold_out else np.split(np.arange(len(labels)), [count])
    split = f"stratified {hold_out}" if hold_out else "split by its folders 'train' and 'test'"
    source = f"image files of {folder.resolve()}, size {images.shape[1:3]}, mode {mode}, {split}"
    return from_pool(images, labels, train, test, name=folder.name, classes=classes, source=source)


def has_parts(folder: str | Path) -> bool:
    """True when `folder` comes split, with a subfolder `train` and a subfolder `test`."""
    return all((Path(folder).expanduser() / part).is_dir() for part in ("train", "test"))


def _require_options(size: tuple[int, int] | None, mode: str) -> None:
    """Refuses sizes below one and colour modes that are not offered."""
    if size is not None and not (len(size) == 2 and min(size) >= 1):
        raise ValueError(
            f"size must be (height, width), each at least 1, got {size!r}; or None to keep the size."
        )
    if mode not in ("L", "RGB"):
        raise ValueError(f"mode must be 'L' or 'RGB', got {mode!r}; choose one or three channels.")


def _list_classes(top: Path) -> dict[str, list[Path]]:
    """The image files of each class, by name; refuses what is neither class nor image."""
    if not top.is_dir():
        raise MissingDataError(f"There is no folder {top}", WAYS)
    listing = {entry.name: _list_images(entry) for entry in _visible(top)}
    if not listing:
        raise MissingDataError(f"{top} has no class", WAYS)
    return listing


def _list_images(top: Path) -> list[Path]:
    """The image files of one class."""
    if not top.is_dir():
        raise DataFormatError(f"{top} must be a folder of one class, got a file; move it away.")
    paths = _visible(top)
    for path in paths:
        if not path.is_file() or path.suffix.lower() not in SUFFIXES:
            raise DataFormatError(f"{path} must be a file ending in {SUFFIXES}, got another; move it away.")
    if not paths:
        raise MissingDataError(f"{top} has no image", WAYS)
    return paths


def _visible(top: Path) -> list[Path]:
    """What is in a folder, by name, without what begins with a dot."""
    return sorted(path for path in top.iterdir() if not path.name.startswith("."))


def _read_all(
    paths: list[Path], size: tuple[int, int] | None, mode: str, max_pixels: int, max_bytes: int
) -> np.ndarray:
    """uint8 [n, h, w, c], made once the first file has told the size."""
    h, w = size or _read_image(paths[0], None, mode, max_pixels).shape[:2]
    shape = (len(paths), h, w, len(mode))  # "L" has one channel, "RGB" three
    if (needed := np.prod(shape, dtype=object)) > max_bytes:
        raise ValueError(
            f"images must take at most {max_bytes} bytes, got {needed!r}; choose a smaller size."
        )
    images = np.empty(shape, dtype=np.uint8)
    for row, path in enumerate(paths):
        image = _read_image(path, size, mode, max_pixels)
        if image.shape != shape[1:]:
            raise DataFormatError(
                f"{path} must be (height, width) = {(h, w)} as {paths[0].name} is, got {image.shape[:2]!r}; "
                "give size."
            )
        images[row] = image
    return images


def _read_image(path: Path, size: tuple[int, int] | None, mode: str, max_pixels: int) -> np.ndarray:
    """uint8 [h, w, c] of one file."""
    pillow, ops = _pillow()
    try:
        with pillow.open(path, formats=_FORMATS) as image:
            if image.width * image.height > max_pixels:
                raise DataFormatError(
                    f"{path} must have at most {max_pixels} pixels, got {image.size!r}; raise max_pixels."
                )
            if image.mode not in _EIGHT_BIT:
                raise DataFormatError(
                    f"{path} must have 8 bits a channel, got mode {image.mode!r}; convert it yourself."
                )
            plain = ops.exif_transpose(image).convert(mode)
            if size is not None:
                plain = plain.resize((size[1], size[0]), resample=pillow.Resampling.BILINEAR)
            return np.asarray(plain).reshape(plain.height, plain.width, len(mode))
    except DataFormatError:
        raise
    except Exception as error:  # decoders raise of every kind: OSError, SyntaxError, struct.error, ...
        raise DataFormatError(
            f"{path} must be a whole image of {_FORMATS}, got {error!r}; copy the file again or move it away."
        ) from error


def _pillow() -> tuple[Any, Any]:
    """Pillow's modules `Image` and `ImageOps`, or an error that says how to get them."""
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise ImportError(
            "Pillow must be installed to read images; pip install 'efficient[data]'."
        ) from error
    return Image, ImageOps
