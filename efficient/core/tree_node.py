"""Tree nodes: what holds the values of a tree, how JSON says it, and how it is built from its children.

Dicts, lists, tuples, `State`, None and leaves are built by their names. Other nodes (NNX states, optax
states, ...) are recorded by the names of their children, and built only from a node that is like them.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from efficient.core.constant import class_name, subclasses
from efficient.core.leaf import Leaf, is_leaf
from efficient.core.paths import path_string
from efficient.core.transform import State
from efficient.core.tree_value import Record, decoded, encoded, named, no_record


class Node(NamedTuple):
    """One node of a tree: what the record says of it, its children, how it is built from them."""

    header: Record
    children: list[Any]
    build: Callable[[list[Any]], Any]


def open_node(value: Any, path: str) -> Node | None:
    """The node that `value` is, or None where it is no node.

    Raises:
      ValueError: a key of a dict is neither str nor int, or a static field is nothing that JSON can say.
    """
    if value is None:
        return Node({"is": "none"}, [], lambda _: None)
    if is_leaf(value):
        return _open_leaf(value, path)
    if type(value) is State:
        return Node({"is": "State"}, list(value), lambda parts: State(*parts))
    if type(value) in (list, tuple):
        return Node({"is": type(value).__name__}, list(value), type(value))
    pairs, treedef = jax.tree_util.tree_flatten_with_path(value, is_leaf=lambda v: v is not value)
    children = [child for _, child in pairs]
    if len(children) == 1 and children[0] is value:
        return None
    if type(value) is dict:
        keys = [keys[0].key for keys, _ in pairs]  # in the order of JAX, which sorts them
        for key in keys:
            if type(key) not in (str, int):
                raise ValueError(f"keys of {named(path)} must be str or int, got {key!r}; rename it.")
        header = {"is": "dict", "keys": keys}
        return Node(header, children, lambda parts: dict(zip(keys, parts, strict=True)))
    names = [path_string(keys) for keys, _ in pairs]
    return Node(
        {"is": "node", "class": class_name(type(value)), "names": names},
        children,
        lambda parts: jax.tree.unflatten(treedef, parts),
    )


def _open_leaf(leaf: Leaf, path: str) -> Node:
    """The node of a leaf: static fields are in the header, the others are children."""
    fields = dataclasses.fields(leaf)  # type: ignore[arg-type]
    kept = {f.name: getattr(leaf, f.name) for f in fields if f.metadata.get("static")}
    names = [f.name for f in fields if f.name not in kept]
    static = {name: encoded(value, f"{name} of {named(path)!r}") for name, value in kept.items()}
    header = {"is": "leaf", "class": class_name(type(leaf)), "static": static, "fields": names}
    children = [getattr(leaf, name) for name in names]
    return Node(header, children, lambda parts: type(leaf)(**dict(zip(names, parts, strict=True)), **kept))


def child_names(recorded: Record, children: list[Any]) -> list[str]:
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


def check_header(recorded: Record, path: str) -> None:
    """Refuses what is no record of a node.

    Raises:
      CorruptFileError: `recorded`, which has a list of children, is none.
    """
    match recorded:
        case {"is": "none", "children": []} | {"is": "State", "children": [_, _]} | {"is": "list" | "tuple"}:
            return
        case {"is": "dict", "keys": [*names]} if all(type(name) in (str, int) for name in names):
            count = len(set(names))
        case {"is": "node", "class": str(), "names": [*names]}:
            count = len(names)
        case {"is": "leaf", "class": str(), "static": dict(static), "fields": [*names]}:
            for value in static.values():
                decoded(value, path)
            count = len(names)
        case _:
            raise no_record(path)
    if count != len(recorded["children"]) or not all(isinstance(name, str | int) for name in names):
        raise no_record(path)


def maker(recorded: Record, path: str) -> Callable[[list[Any]], Any]:
    """How the node of a record is built from its children, by its name.

    Args:
      recorded: what `check_header` has passed, and not of a node that only another like it can make.
      path: where it stands.

    Raises:
      ValueError: a leaf class is not imported, or has other fields.
    """
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
    return _leaf_maker(recorded, path)


def _leaf_maker(recorded: Record, path: str) -> Callable[[list[Any]], Any]:
    """How a leaf is built from its arrays."""
    name, fields, static = recorded["class"], recorded["fields"], recorded["static"]
    cls = _leaf_class(name, path)
    given = sorted([*static, *fields], key=str)
    expected = sorted(field.name for field in dataclasses.fields(cls))  # type: ignore[arg-type]
    if given != expected:
        raise ValueError(
            f"{named(path)} must have the fields {expected} of {name}, got {given}; "
            "another version of that class was saved."
        )
    kept = {key: decoded(value, path) for key, value in static.items()}

    def make(parts: list[Any]) -> Any:
        try:
            return cls(**dict(zip(fields, parts, strict=True)), **kept)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"{named(path)} must be a {name}, got fields that it refuses; save the tree anew ({error})."
            ) from error

    return make


def _leaf_class(name: str, path: str) -> type[Leaf]:
    """The leaf class of a name, among those that are imported; of two of one name, the newest."""
    found = subclasses(Leaf)
    if name not in found:
        module = name.partition(":")[0]
        raise ValueError(
            f"{named(path)} must be of a leaf class that is imported, got {name!r}; import {module} first."
        )
    return found[name]
