"""Tree record: what JSON can say of a pytree, so that it can be built again with nothing unpickled.

Dicts, lists, tuples, `State`, None, leaves (by the name of their class), Python scalars, and of every
array its shape and dtype; the arrays stand elsewhere, in the order of the record. Other nodes (NNX
states, optax states, ...) are recorded by the names of their children; they are built again only into a
tree that is `like` them.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from efficient.coding import CorruptFileError
from efficient.core.leaf import Leaf, is_leaf
from efficient.core.paths import path_string
from efficient.core.transform import State

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
_CONTENT = ("children", "on_host", "impl", "data", "value")  # what may differ between two trees of one form


class Entry(NamedTuple):
    """What a record says of an array."""

    path: str
    shape: tuple[int, ...]  # of the array; of PRNG keys, that of their data
    dtype: jnp.dtype  # likewise
    impl: str | None  # the generator of an array of PRNG keys; None for other arrays
    on_host: bool  # a NumPy array


class _Node(NamedTuple):
    """One node of a tree: what the record says of it, its children, how it is built from them."""

    header: Record
    children: list[Any]
    build: Callable[[list[Any]], Any]


def record(tree: Any, *, shapes: bool = False) -> tuple[Record, list[Any]]:
    """The record of `tree`, and its arrays in the order of the record.

    Args:
      tree: any pytree of arrays and Python scalars.
      shapes: let `jax.ShapeDtypeStruct`s stand for arrays.

    Raises:
      ValueError: a value is no array and no Python scalar, or a static field is nothing that JSON can say.
    """
    arrays: list[Any] = []

    def of(value: Any, path: str) -> Record:
        node = _open(value, path)
        if node is not None:
            pairs = zip(_names(node.header, node.children), node.children, strict=True)
            return {**node.header, "children": [of(child, _join(path, name)) for name, child in pairs]}
        if isinstance(value, jax.ShapeDtypeStruct) and not shapes:
            raise ValueError(f"{path} must be an array, got {value}; save what it is the shape of.")
        made = _value(value, path)
        if made["is"] != "scalar":
            arrays.append(value)
        return made

    return of(tree, ""), arrays


def check_form(saved: Record, wanted: Record, path: str = "") -> None:
    """Compares structure, static fields, shapes and dtypes of two records, the first as `entries` passed it.

    Raises:
      ValueError: they differ; the message names the first path where they do and both sides.
    """
    children, wanted_children = saved.get("children") or [], wanted.get("children") or []
    if _form(saved) != _form(wanted) or len(children) != len(wanted_children):
        theirs, ours = _words(saved, wanted), _words(wanted, saved)
        raise ValueError(
            f"{path or 'the tree'} must be {theirs}, as it was saved, got {ours} in like; make like so."
        )
    for name, child, wanted_child in zip(_names(wanted, children), children, wanted_children, strict=True):
        check_form(child, wanted_child, _join(path, name))


def entries(recorded: Any, path: str = "") -> Iterator[Entry]:
    """The arrays of a record, in its order.

    Raises:
      CorruptFileError: `recorded` is no record.
    """
    match recorded:
        case {"is": "scalar"}:
            _scalar(recorded, path)
        case {"is": "array"}:
            yield _entry(recorded, None, recorded.get("on_host") is True, path)
        case {"is": "key", "impl": str(impl), "data": data}:
            yield _entry(data, impl, False, path)
        case {"is": str(), "children": [*children]}:
            _check_header(recorded, path)
            for name, child in zip(_names(recorded, children), children, strict=True):
                yield from entries(child, _join(path, name))
        case _:
            raise _no_record(path)


def build(recorded: Record, arrays: Iterator[Any], like: Any = None, path: str = "") -> Any:
    """The tree of a record.

    Args:
      recorded: what `entries` and, where there is a `like`, `check_form` have passed.
      arrays: as `entries` lists them.
      like: the tree whose nodes are copied; without it they are made by their names.
      path: where the record stands in the whole.

    Raises:
      ValueError: without `like`, a node is of a class that only `like` can make, or of a leaf class that
        is not imported.
    """
    if recorded["is"] == "scalar":
        return _scalar(recorded, path)
    if recorded["is"] in ("array", "key"):
        return next(arrays)
    node = None if like is None else _open(like, path)
    make = node.build if node else _maker(recorded, path)
    likes = node.children if node else [None] * len(recorded["children"])
    triples = zip(_names(recorded, recorded["children"]), recorded["children"], likes, strict=True)
    return make([build(child, arrays, one, _join(path, name)) for name, child, one in triples])


def is_key(value: Any) -> bool:
    """True of typed PRNG keys and of their shapes."""
    return hasattr(value, "dtype") and jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key)


def _open(value: Any, path: str) -> _Node | None:
    """The node that `value` is, or None where it is no node."""
    if value is None:
        return _Node({"is": "none"}, [], lambda _: None)
    if is_leaf(value):
        return _open_leaf(value, path)
    if type(value) is State:
        return _Node({"is": "State"}, list(value), lambda parts: State(*parts))
    if type(value) in (list, tuple):
        return _Node({"is": type(value).__name__}, list(value), type(value))
    pairs, treedef = jax.tree_util.tree_flatten_with_path(value, is_leaf=lambda v: v is not value)
    children = [child for _, child in pairs]
    if len(children) == 1 and children[0] is value:
        return None
    if type(value) is dict:
        keys = [keys[0].key for keys, _ in pairs]  # in the order of JAX, which sorts them
        for key in keys:
            if type(key) not in (str, int):
                raise ValueError(f"keys of {path or 'the tree'} must be str or int, got {key!r}; rename it.")
        header = {"is": "dict", "keys": keys}
        return _Node(header, children, lambda parts: dict(zip(keys, parts, strict=True)))
    names = [path_string(keys) for keys, _ in pairs]
    return _Node(
        {"is": "node", "class": _class_name(type(value)), "names": names},
        children,
        lambda parts: jax.tree.unflatten(treedef, parts),
    )


def _open_leaf(leaf: Leaf, path: str) -> _Node:
    """The node of a leaf: static fields are in the header, the others are children."""
    fields = dataclasses.fields(leaf)  # type: ignore[arg-type]
    kept = {f.name: getattr(leaf, f.name) for f in fields if f.metadata.get("static")}
    names = [f.name for f in fields if f.name not in kept]
    static = {name: _encoded(value, f"{name} of {path!r}") for name, value in kept.items()}
    header = {"is": "leaf", "class": _class_name(type(leaf)), "static": static, "fields": names}
    children = [getattr(leaf, name) for name in names]
    return _Node(header, children, lambda parts: type(leaf)(**dict(zip(names, parts, strict=True)), **kept))


def _value(value: Any, path: str) -> Record:
    """The record of an array or a scalar."""
    if isinstance(value, jax.core.Tracer):
        raise ValueError(f"{path} must be an array, got a tracer; call this outside of jit.")
    if is_key(value):
        found: Record = {"is": "key", "shape": list(value.shape), "dtype": str(value.dtype)}
        if isinstance(value, jax.Array):
            data = jax.random.key_data(value)
            found["data"] = {"shape": list(data.shape), "dtype": data.dtype.name}
            found["impl"] = str(jax.random.key_impl(value))
        return found
    if isinstance(value, jax.Array | np.ndarray | np.generic | jax.ShapeDtypeStruct):
        if DTYPES.get(value.dtype.name) != value.dtype:
            raise ValueError(f"{path} must be of a dtype of JAX, got {value.dtype}; convert it.")
        on_host = isinstance(value, np.ndarray | np.generic)
        return {"is": "array", "shape": list(value.shape), "dtype": value.dtype.name, "on_host": on_host}
    if type(value) in _SCALARS.values():
        return {"is": "scalar", "type": type(value).__name__, "value": _encoded(value, path)}
    raise ValueError(
        f"{path} must be an array, bool, int, float or str, got {type(value).__name__}; make it an array."
    )


def _entry(recorded: Any, impl: str | None, on_host: bool, path: str) -> Entry:
    """The shape and dtype of a record."""
    match recorded:
        case {"shape": [*shape], "dtype": str(name)} if name in DTYPES and all(
            type(size) is int and size >= 0 for size in shape
        ):
            return Entry(path, tuple(shape), DTYPES[name], impl, on_host)
    raise _no_record(path)


def _maker(recorded: Record, path: str) -> Callable[[list[Any]], Any]:
    """How the node of a record is built from its children, without a `like`."""
    match recorded["is"]:
        case "none":
            return lambda _: None
        case "list":
            return list
        case "tuple":
            return tuple
        case "State":
            return lambda parts: State(*parts)
        case "dict":
            return lambda parts: dict(zip(recorded["keys"], parts, strict=True))
        case "leaf":
            return _leaf_maker(recorded, path)
    name = recorded["class"]
    raise ValueError(f"like must be a tree to restore into, got None for {path!r}, a {name}; pass like.")


def _leaf_maker(recorded: Record, path: str) -> Callable[[list[Any]], Any]:
    """How a leaf is built from its arrays."""
    name, fields, static = recorded["class"], recorded["fields"], recorded["static"]
    cls = _leaf_class(name, path)
    given, expected = {*static, *fields}, {field.name for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    if given != expected:
        raise ValueError(
            f"{path} must have the fields {sorted(expected)} of {name}, got {sorted(given, key=str)}; "
            "another version of that class was saved."
        )
    kept = {key: _decoded(value, path) for key, value in static.items()}
    return lambda parts: cls(**dict(zip(fields, parts, strict=True)), **kept)


def _leaf_class(name: str, path: str) -> type[Leaf]:
    """The leaf class of a name, among those that are imported; of two of one name, the newest."""
    classes: list[type[Leaf]] = Leaf.__subclasses__()
    for cls in classes:  # grows while it is walked
        classes.extend(cls.__subclasses__())
    found = {_class_name(cls): cls for cls in classes}
    if name not in found:
        module = name.partition(":")[0]
        raise ValueError(
            f"{path} must be of a leaf class that is imported, got {name!r}; import {module} first."
        )
    return found[name]


def _class_name(cls: type) -> str:
    """`module:Name`."""
    return f"{cls.__module__}:{cls.__qualname__}"


def _check_header(recorded: Record, path: str) -> None:
    """Refuses what is no record of a node."""
    match recorded:
        case {"is": "none", "children": []} | {"is": "State", "children": [_, _]} | {"is": "list" | "tuple"}:
            return
        case {"is": "dict", "keys": [*names]} if all(type(name) in (str, int) for name in names):
            count = len(set(names))
        case {"is": "node", "class": str(), "names": [*names]}:
            count = len(names)
        case {"is": "leaf", "class": str(), "static": dict(static), "fields": [*names]}:
            for value in static.values():
                _decoded(value, path)
            count = len(names)
        case _:
            raise _no_record(path)
    if count != len(recorded["children"]) or not all(isinstance(name, str | int) for name in names):
        raise _no_record(path)


def _names(recorded: Record, children: list[Any]) -> list[str]:
    """What the children of a record are called in paths."""
    match recorded["is"]:
        case "dict":
            return [str(key) for key in recorded["keys"]]
        case "node":
            return [str(name) for name in recorded["names"]]
        case "leaf":
            return [str(name) for name in recorded["fields"]]
        case "State":
            return list(State._fields)
    return [str(i) for i in range(len(children))]


def _encoded(value: Any, name: str) -> Any:
    """A scalar, a dtype, or a tuple or list of these, as JSON says it."""
    if isinstance(value, np.dtype) and DTYPES.get(value.name) == value:
        return {"dtype": value.name}
    if type(value) is float:
        return {"float": value.hex()}
    if value is None or type(value) in (bool, int, str):
        return value
    if type(value) in (tuple, list):
        return {type(value).__name__: [_encoded(one, name) for one in value]}
    raise ValueError(
        f"{name} must be None, a bool, int, float, str or dtype, or a tuple or list of these, got {value!r}; "
        "make it one of them, or a field of arrays."
    )


def _decoded(coded: Any, path: str) -> Any:
    """What `_encoded` made JSON of."""
    match coded:
        case None | bool() | int() | str():
            return coded
        case {"dtype": str(name)} if name in DTYPES:
            return DTYPES[name]
        case {"float": str(digits)}:
            return float.fromhex(digits)
        case {"tuple": [*items]}:
            return tuple(_decoded(item, path) for item in items)
        case {"list": [*items]}:
            return [_decoded(item, path) for item in items]
    raise _no_record(path)


def _scalar(recorded: Record, path: str) -> Any:
    """The Python scalar of a record."""
    value = _decoded(recorded.get("value"), path)
    if recorded.get("type") != type(value).__name__ or type(value) not in _SCALARS.values():
        raise _no_record(path)
    return value


def _form(recorded: Record) -> Record:
    """What two trees of one form have in common here."""
    return {name: value for name, value in recorded.items() if name not in _CONTENT}


def _words(one: Record, other: Record) -> str:
    """What `one` is, to be told from `other`."""
    names = _names(one, one["children"]) if "children" in one else []
    match one["is"]:
        case "array" | "key":
            return f"{one.get('dtype')}{one.get('shape')}"
        case "scalar":
            return f"a Python {one['type']}"
        case "leaf":
            return f"a {one['class']} of { {key: _decoded(v, key) for key, v in one['static'].items()} }"
        case "dict" if other["is"] == "dict" and (more := sorted({*names} - {*_names(other, [])})):
            return f"a dict with {', '.join(map(repr, more))}"
        case "node":
            return f"a {one['class']} of {len(names)} children"
        case "list" | "tuple" as kind:
            return f"a {kind} of {len(names)}"
        case kind:
            return {"none": "None", "dict": "a dict"}.get(kind, f"a {kind}")


def _no_record(path: str) -> CorruptFileError:
    """The error for a manifest that is well sealed and says what no tree is."""
    return CorruptFileError(
        f"manifest.json must describe {path or 'a tree'}, got no description of one; save it anew."
    )


def _join(path: str, name: str) -> str:
    """The path of a child."""
    return f"{path}/{name}" if path else name
