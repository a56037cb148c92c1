"""Tune: which sizes of a Pallas kernel's blocks are fastest on this device, measured once and kept on disk.

The file is `tuned.json` beside the compiled libraries: by device, operation and class of shapes, the fields
of a frozen dataclass. What is not there, or is no such dataclass's, is the default's: a file is hostile.
"""

import dataclasses
import json
import math
import os
import tempfile
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax
from efficient.kernels.native import cache_folder

MOST_BYTES = 2**20  # of the file


def shape_class(*sizes: int) -> str:
    """Sizes up to powers of two: what one measurement speaks for."""
    return "x".join(str(1 << max(0, math.ceil(math.log2(max(size, 1))))) for size in sizes)


def chosen(operation: str, shape: str, default: Any) -> Any:
    """The tuned blocks of this device's kind, or the default."""
    fields = _read().get(device_kind(), {})
    for name in (operation, shape):
        fields = fields.get(name, {}) if isinstance(fields, dict) else {}
    names = {field.name for field in dataclasses.fields(default)}
    if (
        not isinstance(fields, dict)
        or set(fields) != names
        or not all(type(v) is int for v in fields.values())
    ):
        return default
    try:
        return type(default)(**fields)
    except ValueError:
        return default


def tuned(operation: str, shape: str, candidates: Iterable[Any], seconds: Callable[[Any], float]) -> Any:
    """The candidate of fewest seconds, kept on disk.

    Args:
      operation: by which `chosen` asks.
      shape: a `shape_class`.
      candidates: frozen dataclasses of whole numbers, one class.
      seconds: measures one; a candidate that it raises for is passed over.

    Raises:
      RuntimeError: no candidate ran; the message has the last one's error.
    """
    times: dict[Any, float] = {}
    last: Exception | None = None
    for candidate in candidates:
        try:
            times[candidate] = seconds(candidate)
        except Exception as error:
            last = error
    if not times:
        raise RuntimeError(f"one candidate for {operation} must run on {device_kind()}, got none.") from last
    best = min(times, key=lambda candidate: times[candidate])
    known = _read()
    known.setdefault(device_kind(), {}).setdefault(operation, {})[shape] = dataclasses.asdict(best)
    _write(known)
    return best


def device_kind() -> str:
    """Of the default device."""
    return jax.devices()[0].device_kind


def _path() -> Path:
    """The file."""
    return cache_folder() / "tuned.json"


def _read() -> dict[str, Any]:
    """What is known, two levels of objects; nothing of a file that is none."""
    path = _path()
    try:
        if not path.is_file() or path.stat().st_size > MOST_BYTES:
            return {}
        known = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(known, dict):
        return {}
    kept = {name: own for name, own in known.items() if isinstance(own, dict)}
    return {name: {op: v for op, v in own.items() if isinstance(v, dict)} for name, own in kept.items()}


def _write(known: dict[str, Any]) -> None:
    """By a rename, so that a reader has one file or the other."""
    path = _path()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
            json.dump(known, file, indent=1)
        os.replace(file.name, path)
    except OSError as error:
        warnings.warn(
            f"{path} must be writable to keep what was tuned, got {error}.", RuntimeWarning, stacklevel=3
        )
