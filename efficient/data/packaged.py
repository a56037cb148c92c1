"""Tables that ship inside a Python package, read without importing the package.

Importing scikit-learn to read a file of 57 kB takes seconds; finding the file takes none.
"""

import importlib.metadata
import importlib.util
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from efficient.data.errors import DataFormatError, MissingDataError
from efficient.data.gzipped import expand


def packaged_table(
    package: str, path: str, *, distribution: str, shape: tuple[int, int], ways: Sequence[str]
) -> tuple[UInt8[np.ndarray, "rows columns"], str]:
    """The gzipped CSV of integers in [0, 255] at `path` inside `package`, and a line saying where it is from.

    Args:
      package: import name of an installed package; it is found, not imported.
      path: of the file in it, with forward slashes.
      distribution: name under which it is installed, for its version.
      shape: (rows, columns) that the table must have.
      ways: every way to get it, for the error.

    Raises:
      MissingDataError: the package, or the file in it, is not here.
      DataFormatError: the file is not such a table.
    """
    spec = importlib.util.find_spec(package)
    folders = list(spec.submodule_search_locations or []) if spec else []
    if not folders:
        raise MissingDataError(f"The package {distribution} is not installed", ways)
    file = Path(folders[0]) / path
    if not file.is_file():
        raise MissingDataError(f"The installed {distribution} has no {path}", ways)
    version = importlib.metadata.version(distribution)
    try:
        table = parse_table(file.read_bytes(), shape=shape)
    except DataFormatError as error:
        raise DataFormatError(f"{file}: {error}") from error
    return table, f"{path} in the PyPI package {distribution} {version}"


def parse_table(data: bytes, *, shape: tuple[int, int]) -> UInt8[np.ndarray, "rows columns"]:
    """The gzipped CSV `data` as uint8.

    Raises:
      DataFormatError: it is damaged, longer than 8 bytes a number, not of this shape, or not of integers in
        [0, 255].
    """
    limit = 8 * shape[0] * shape[1]
    text = expand(data, limit=limit)
    if len(text) > limit:
        raise DataFormatError(f"table must be at most {limit} bytes, got more; reinstall the package.")
    lines = [line for line in text.decode("ascii", errors="replace").splitlines() if line.strip()]
    if len(lines) != shape[0]:
        raise DataFormatError(f"table must have {shape[0]} lines, got {len(lines)!r}; reinstall the package.")
    try:
        table = np.loadtxt(lines, dtype=np.uint8, delimiter=",", ndmin=2, comments=None)
    except ValueError as error:
        raise DataFormatError(
            f"table must be of integers in [0, 255], got {error!s}; reinstall the package."
        ) from error
    if table.shape != shape:
        raise DataFormatError(f"table must be of shape {shape}, got {table.shape!r}; reinstall the package.")
    return table
