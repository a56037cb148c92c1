"""Records: what one run measured, with which config, versions and device, as strict JSON.

NaN policy: JSON has no NaN, so a number that is not finite is written as null; the reader refuses NaN and
Infinity.
"""

import dataclasses
import json
import math
import os
import re
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experiments.frame.claim import ARM, Metrics

SCHEMA = 1
LIMIT_BYTES = 64 * 2**20
_NUMBERS = re.compile(r"\[\n([^\[\]{}\"]*)\]")  # a list of numbers; no text has a line end of its own


class RecordError(ValueError):
    """A file that is no record, with its path and what is wrong."""


def jsonable(value: Any, path: str = "value") -> Any:
    """`value` as JSON has it: arrays and tuples become lists, keys texts, what is not finite null.

    Raises:
        ValueError: something that JSON cannot carry, with its path.
    """
    if isinstance(value, np.generic) or (hasattr(value, "__array__") and hasattr(value, "tolist")):
        value = value.tolist()
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): jsonable(item, f"{path}/{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item, f"{path}/{i}") for i, item in enumerate(value)]
    raise ValueError(
        f"{path} must be a number, text, bool, list or dict, got {value!r}; convert it in `run`."
    )


def write_atomic(path: Path, text: str | bytes) -> None:
    """Writes a file whole or not at all, making its folder: a killed process leaves the old one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = text.encode() if isinstance(text, str) else text
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _refuse_constant(token: str) -> None:
    raise ValueError(f"numbers must be finite, got {token}; a diverged metric is null.")


def _finite(token: str) -> float:
    value = float(token)
    if not math.isfinite(value):
        raise ValueError(f"numbers must be finite, got {token}; a diverged metric is null.")
    return value


def _fits(token: str) -> int:
    if len(token) > 20 or abs(int(token)) >= 2**63:
        raise ValueError(f"integers must fit 64 bits, got {token[:24]}; write a float.")
    return int(token)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = next(key for i, (key, _) in enumerate(pairs) if key in dict(pairs[:i]))
        raise ValueError(f"keys must be different, got {twice!r} twice; keep one.")
    return found


def read_json(path: Path) -> Any:
    """The JSON value in a file, strictly: UTF-8, finite numbers, different keys, at most 64 MiB.

    Raises:
        RecordError: anything else, with the path.
    """
    size = path.stat().st_size
    if size > LIMIT_BYTES:
        raise RecordError(f"{path} must be at most {LIMIT_BYTES} bytes, got {size}; it is no record.")
    try:
        text = path.read_bytes().decode("utf-8")
        return json.loads(
            text,
            parse_constant=_refuse_constant,
            parse_float=_finite,
            parse_int=_fits,
            object_pairs_hook=_unique,
        )
    except RecursionError:
        raise RecordError(
            f"{path} must be JSON, got one nested too deep; run the experiment again."
        ) from None
    except ValueError as error:
        raise RecordError(f"{path} must be JSON: {error}") from None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Device:
    """The machine of a run."""

    platform: str  # jax's backend: cpu, gpu, tpu
    kind: str  # jax's name of the device
    count: int  # devices that jax saw
    cores: int  # CPU cores that the process may use
    cpu: str  # the CPU model


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record:
    """One run of one experiment."""

    schema: int = SCHEMA
    experiment: str  # the module's name
    smoke: bool  # at smoke size: never in the ledger
    config: dict[str, Any]
    seeds: tuple[int, ...]
    metrics: Metrics  # arm -> seed -> metric -> value; one arm is `baseline`
    versions: dict[str, str]
    device: Device
    date: str  # start, UTC, ISO 8601
    commit: str | None  # None: not in a git repository
    dirty: bool | None  # uncommitted changes besides the records
    wall_s: float  # seconds, with those of the parts kept from a killed run

    def to_json(self) -> str:
        """The file's text."""
        text = json.dumps(jsonable(dataclasses.asdict(self)), indent=1, allow_nan=False) + "\n"
        return _NUMBERS.sub(lambda found: "[" + " ".join(found[1].split()) + "]", text)  # a curve on one line


def write_record(path: Path, record: Record) -> Record:
    """Writes the record whole or not at all, and returns it as a reader will see it.

    Raises:
        RecordError: metrics that are not arm -> seed -> metric, or not a baseline and another arm.
    """
    checked = _from_json(json.loads(record.to_json()), str(path))
    write_atomic(path, checked.to_json())
    return checked


def read_record(path: Path) -> Record:
    """Reads a record, which may have been edited by hand.

    Raises:
        RecordError: not JSON; a field is missing, unknown or of another type; another schema; metrics that
            are not arm -> seed -> metric -> value with a `baseline` and another arm. Each names its field.
        FileNotFoundError: no such file.
    """
    return _from_json(read_json(path), str(path))


def _fail(path: str, rule: str, value: Any) -> RecordError:
    text = repr(value)
    text = text if len(text) < 80 else text[:77] + "..."
    return RecordError(
        f"{path} must be {rule}, got {text}; run the experiment again rather than edit its record."
    )


def _typed(kind: type | tuple[type, ...], rule: str) -> Callable[[Any, str], Any]:
    """A checker of a JSON value's type; a bool is no number."""
    kinds = kind if isinstance(kind, tuple) else (kind,)

    def check(value: Any, path: str) -> Any:
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise _fail(path, rule, value)
        return value

    return check


_text, _integer = _typed(str, "a text"), _typed(int, "an integer")
_object = _typed(dict, "an object")


def _texts(value: Any, path: str) -> dict[str, str]:
    return {key: _text(item, f"{path}/{key}") for key, item in _object(value, path).items()}


def _fields(value: Any, path: str, checks: Mapping[str, Callable[[Any, str], Any]]) -> dict[str, Any]:
    """An object with exactly these fields, each checked."""
    _object(value, path)
    for name in checks:
        if name not in value:
            raise _fail(f"{path}: {name}", "present", None)
    for name in value:
        if name not in checks:
            raise _fail(f"{path}: {name}", f"one of {', '.join(checks)}", name)
    return {name: check(value[name], f"{path}: {name}") for name, check in checks.items()}


_DEVICE = {"platform": _text, "kind": _text, "count": _integer, "cores": _integer, "cpu": _text}


def _device(value: Any, path: str) -> Device:
    return Device(**_fields(value, path, _DEVICE))


def _metrics(value: Any, path: str) -> Metrics:
    arms: dict[str, dict[int, Mapping[str, Any]]] = {}
    for arm, seeds in _object(value, path).items():
        if not ARM.fullmatch(arm):
            raise _fail(f"{path}/{arm}", "named by letters, digits and _.+-", arm)
        arms[arm] = {}
        for seed, values in _object(seeds, f"{path}/{arm}").items():
            if not re.fullmatch(r"-?\d{1,19}", seed):
                raise _fail(f"{path}/{arm}/{seed}", "keyed by an integer seed", seed)
            arms[arm][int(seed)] = _object(values, f"{path}/{arm}/{seed}")
        if not arms[arm]:
            raise _fail(f"{path}/{arm}", "an arm with at least one seed", seeds)
    if "baseline" not in arms or len(arms) < 2:
        raise _fail(path, "a `baseline` and at least one other arm", list(arms))
    return arms


def _seeds(value: Any, path: str) -> tuple[int, ...]:
    return tuple(_integer(seed, path) for seed in _typed(list, "a list")(value, path))


def _schema(value: Any, path: str) -> int:
    if _integer(value, path) != SCHEMA:
        raise _fail(path, f"{SCHEMA}", value)
    return value


def _date(value: Any, path: str) -> str:
    if not re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", _text(value, path)):
        raise _fail(path, "a UTC time such as 2026-01-31T12:00:00Z", value)
    return value


def _wall(value: Any, path: str) -> float:
    if _typed((int, float), "a number")(value, path) < 0:
        raise _fail(path, "at least 0", value)
    return float(value)


_RECORD: dict[str, Callable[[Any, str], Any]] = {
    "schema": _schema,
    "experiment": _text,
    "smoke": _typed(bool, "true or false"),
    "config": _object,
    "seeds": _seeds,
    "metrics": _metrics,
    "versions": _texts,
    "device": _device,
    "date": _date,
    "commit": _typed((str, type(None)), "a text or null"),
    "dirty": _typed((bool, type(None)), "true, false or null"),
    "wall_s": _wall,
}


def _from_json(value: Any, path: str) -> Record:
    """A record from its JSON value, every field checked."""
    if isinstance(value, dict) and "schema" in value:  # another schema has other fields: say that first
        _schema(value["schema"], f"{path}: schema")
    record = Record(**_fields(value, path, _RECORD))
    measured = tuple(dict.fromkeys(seed for seeds in record.metrics.values() for seed in seeds))
    if sorted(record.seeds) != sorted(measured):
        raise _fail(f"{path}: seeds", f"those of the metrics, {measured}", record.seeds)
    return record
