"""Tree values: arrays, PRNG keys, Python scalars and static fields as JSON says them.

Of an array the record holds the shape and the dtype, its elements stand elsewhere; a float is its
hexadecimal digits, which lose nothing.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from efficient.coding import CorruptFileError
from efficient.core.constant import Constant, class_name, constant_fields, subclasses

Record = dict[str, Any]

_NAMES = (
    *("bool", "int2", "int4", "int8", "int16", "int32", "int64"),
    *("uint2", "uint4", "uint8", "uint16", "uint32", "uint64"),
    *(
        "float4_e2m1fn",
        "float8_e3m4",
        "float8_e4m3",
        "float8_e4m3b11fnuz",
        "float8_e4m3fn",
        "float8_e4m3fnuz",
    ),
    *("float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu", "bfloat16", "float16", "float32", "float64"),
    *("complex64", "complex128"),
)
DTYPES = {name: jnp.dtype(getattr(jnp, name)) for name in _NAMES if hasattr(jnp, name)}
_SCALARS = {"bool": bool, "int": int, "float": float, "str": str}
_MAX_RANK = 64  # NumPy's


class Entry(NamedTuple):
    """What a record says of an array."""

    path: str  # as messages name it
    shape: tuple[int, ...]  # of the array; of PRNG keys, that of their data
    dtype: jnp.dtype  # likewise
    impl: str | None  # the generator of an array of PRNG keys; None for other arrays
    on_host: bool  # a NumPy array

    @property
    def size(self) -> int:
        """Number of elements that are stored."""
        return math.prod(self.shape)


def is_key(value: Any) -> bool:
    """True of typed PRNG keys and of their shapes."""
    return hasattr(value, "dtype") and jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key)


def named(path: str) -> str:
    """A path as messages name it; the root has none."""
    return path or "the tree"


def value_record(value: Any, path: str) -> Record:
    """The record of an array or a scalar.

    Raises:
      ValueError: `value` is a tracer, a masked array, of a dtype that JAX does not have, or neither of them.
    """
    name = named(path)
    if isinstance(value, jax.core.Tracer):
        raise ValueError(f"{name} must be an array, got a tracer; call this outside of jit.")
    if is_key(value):
        found: Record = {"is": "key", "shape": list(value.shape), "dtype": str(value.dtype)}
        if isinstance(value, jax.Array):
            data = jax.random.key_data(value)
            found["data"] = {"shape": list(data.shape), "dtype": data.dtype.name}
            found["impl"] = str(jax.random.key_impl(value))
        return found
    if isinstance(value, np.ma.MaskedArray):
        raise ValueError(f"{name} must be an array without a mask, got MaskedArray; save its data and mask.")
    if isinstance(value, jax.Array | np.ndarray | np.generic | jax.ShapeDtypeStruct):
        if DTYPES.get(value.dtype.name) != value.dtype:
            raise ValueError(f"{name} must be of a dtype of JAX, got {value.dtype}; convert it.")
        on_host = isinstance(value, np.ndarray | np.generic)
        return {"is": "array", "shape": list(value.shape), "dtype": value.dtype.name, "on_host": on_host}
    if type(value) in _SCALARS.values():
        return {"is": "scalar", "type": type(value).__name__, "value": encoded(value, name)}
    raise ValueError(
        f"{name} must be an array, bool, int, float or str, got {type(value).__name__}; make it an array."
    )


def entry(recorded: Any, impl: str | None, on_host: bool, path: str) -> Entry:
    """What the record of an array says, if NumPy can have such an array.

    Raises:
      CorruptFileError: it cannot, or this is no such record.
    """
    match recorded:
        case {"shape": [*shape], "dtype": str(name)} if name in DTYPES and _is_shape(shape, DTYPES[name]):
            return Entry(named(path), tuple(shape), DTYPES[name], impl, on_host)
    raise no_record(path)


def _is_shape(shape: list[Any], dtype: jnp.dtype) -> bool:
    """True of a shape that NumPy takes: it counts the bytes as if no size were 0."""
    if len(shape) > _MAX_RANK or not all(type(size) is int and size >= 0 for size in shape):
        return False
    return math.prod(size or 1 for size in shape) * dtype.itemsize < 2**63


def scalar(recorded: Record, path: str) -> Any:
    """The Python scalar of a record.

    Raises:
      CorruptFileError: this is no record of one.
    """
    value = decoded(recorded.get("value"), path)
    if recorded.get("type") != type(value).__name__ or type(value) not in _SCALARS.values():
        raise no_record(path)
    return value


def encoded(value: Any, name: str) -> Any:
    """A scalar, a dtype, a constant, or a tuple or list of these, as JSON says it.

    Raises:
      ValueError: `value` is none of them; the message calls it `name`.
    """
    if isinstance(value, np.dtype) and DTYPES.get(value.name) == value:
        return {"dtype": value.name}
    if type(value) is float:
        return {"float": value.hex()}
    if value is None or type(value) in (bool, int, str):
        return value
    if type(value) in (tuple, list):
        return {type(value).__name__: [encoded(one, name) for one in value]}
    if isinstance(value, Constant):
        fields = {key: encoded(one, name) for key, one in constant_fields(value).items()}
        return {"constant": class_name(type(value)), "fields": fields}
    raise ValueError(
        f"{name} must be None, a bool, int, float, str or dtype, or a tuple or list of these, got {value!r}; "
        "make it one of them, a core.constant.Constant, or a field of arrays."
    )


def decoded(coded: Any, path: str) -> Any:
    """What `encoded` made JSON of.

    Raises:
      CorruptFileError: it made no such JSON.
      ValueError: a constant is of a class that is not imported.
    """
    match coded:
        case None | bool() | int() | str():
            return coded
        case {"dtype": str(name)} if name in DTYPES:
            return DTYPES[name]
        case {"float": str(digits)}:
            try:
                return float.fromhex(digits)
            except (ValueError, OverflowError) as error:
                raise no_record(path) from error
        case {"tuple": [*items]}:
            return tuple(decoded(item, path) for item in items)
        case {"list": [*items]}:
            return [decoded(item, path) for item in items]
        case {"constant": str(name), "fields": dict(fields)}:
            return _constant(name, {key: decoded(value, path) for key, value in fields.items()}, path)
    raise no_record(path)


def _constant(name: str, fields: dict[str, Any], path: str) -> Any:
    """A constant of a class among those that are imported."""
    known = subclasses(Constant)
    if name not in known:
        raise ValueError(
            f"{named(path)} must be of a class that is imported, got {name!r}; "
            f"import {name.partition(':')[0]} first."
        )
    try:
        return known[name](**fields)
    except (TypeError, ValueError, OverflowError) as error:
        raise no_record(path) from error


def no_record(path: str) -> CorruptFileError:
    """The error for a manifest that is well sealed and says what no tree is."""
    return CorruptFileError(
        f"manifest.json must describe {path or 'a tree'}, got no description of one; save it anew."
    )
