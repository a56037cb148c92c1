"""Tree record: what JSON can say of a pytree, so that it can be built again with nothing unpickled.

A record has the shape of its tree: of every node (`tree_node`) its kind and its children, of every array
and Python scalar (`tree_value`) what it is. The arrays stand elsewhere, in the order of the record.
"""

import itertools
from collections.abc import Iterator
from typing import Any

import jax

from efficient.coding import CorruptFileError
from efficient.core.tree_node import check_header, child_names, maker, open_node
from efficient.core.tree_value import Entry, Record, decoded, entry, named, no_record, scalar, value_record

_CONTENT = ("children", "on_host", "impl", "data", "value")  # what may differ between two trees of one form


def record(tree: Any, *, shapes: bool = False) -> tuple[Record, list[Any]]:
    """The record of `tree`, and its arrays in the order of the record.

    Args:
      tree: any pytree of arrays and Python scalars.
      shapes: let `jax.ShapeDtypeStruct`s stand for arrays.

    Raises:
      ValueError: a value is no array and no Python scalar, or a key or static field is nothing that the
        record can say; the message names it.
    """
    arrays: list[Any] = []

    def of(value: Any, path: str) -> Record:
        node = open_node(value, path)
        if node is not None:
            pairs = zip(child_names(node.header, node.children), node.children, strict=True)
            return {**node.header, "children": [of(child, _join(path, name)) for name, child in pairs]}
        if isinstance(value, jax.ShapeDtypeStruct) and not shapes:
            raise ValueError(f"{named(path)} must be an array, got {value}; save what it is the shape of.")
        made = value_record(value, path)
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
            f"{named(path)} must be {theirs}, as it was saved, got {ours} in like; make like so."
        )
    triples = zip(child_names(wanted, children), children, wanted_children, strict=True)
    for name, child, wanted_child in triples:
        check_form(child, wanted_child, _join(path, name))


def entries(recorded: Any) -> list[Entry]:
    """The arrays of a record, in its order.

    Raises:
      CorruptFileError: `recorded` is no record, or too deep to be walked.
    """
    try:
        return list(_walked(recorded, ""))
    except RecursionError as error:
        raise CorruptFileError(
            "manifest.json must describe a tree that can be walked, got one too deep; save it anew."
        ) from error


def _walked(recorded: Any, path: str) -> Iterator[Entry]:
    """The arrays of a record, each node checked when it is reached."""
    match recorded:
        case {"is": "scalar" | "array" | "key", "children": _}:
            raise no_record(path)
        case {"is": "scalar"}:
            scalar(recorded, path)
        case {"is": "array"}:
            yield entry(recorded, None, recorded.get("on_host") is True, path)
        case {"is": "key", "impl": str(impl), "data": data}:
            yield entry(data, impl, False, path)
        case {"is": str(), "children": [*children]}:
            check_header(recorded, path)
            for name, child in zip(child_names(recorded, children), children, strict=True):
                yield from _walked(child, _join(path, name))
        case _:
            raise no_record(path)


def build(recorded: Record, arrays: Iterator[Any], like: Any = None, path: str = "") -> Any:
    """The tree of a record.

    Args:
      recorded: what `entries` and, where there is a `like`, `check_form` have passed.
      arrays: as `entries` lists them.
      like: the tree whose nodes are copied; without it they are made by their names.
      path: where the record stands in the whole.

    Raises:
      ValueError: without `like`, a node is of a class that only `like` can make (the message names the
        first place of each), or of a leaf class that is not imported or has other fields.
    """
    if recorded["is"] == "scalar":
        return scalar(recorded, path)
    if recorded["is"] in ("array", "key"):
        return next(arrays)
    if like is None and recorded["is"] == "node":
        raise ValueError(_needs_like(recorded, path))
    node = None if like is None else open_node(like, path)
    make = node.build if node else maker(recorded, path)
    likes = node.children if node else [None] * len(recorded["children"])
    triples = zip(child_names(recorded, recorded["children"]), recorded["children"], likes, strict=True)
    return make([build(child, arrays, one, _join(path, name)) for name, child, one in triples])


def _needs_like(recorded: Record, path: str) -> str:
    """What to say where only a `like` can make a node: the first place of the first classes in it."""
    first: dict[str, str] = {}
    for place, name in _foreign(recorded, path):
        first.setdefault(name, repr(place) if place else named(place))
    got = ", for ".join(f"{place}, a {name}" for name, place in itertools.islice(first.items(), 3))
    return (
        f"like must be a tree to restore into, got None for {got}; pass a tree of the same classes, such as "
        "like=nnx.state(model)."
    )


def _foreign(recorded: Record, path: str) -> Iterator[tuple[str, str]]:
    """The path and class of every node that cannot be made by its name."""
    if recorded["is"] == "node":
        yield path, recorded["class"]
    children = recorded.get("children", [])
    for name, child in zip(child_names(recorded, children), children, strict=True):
        yield from _foreign(child, _join(path, name))


def _form(recorded: Record) -> Record:
    """What two trees of one form have in common here."""
    return {name: value for name, value in recorded.items() if name not in _CONTENT}


def _words(one: Record, other: Record) -> str:
    """What `one` is, to be told from `other`."""
    names = child_names(one, one["children"]) if "children" in one else []
    match one["is"]:
        case "array" | "key":
            return f"{one.get('dtype')}{one.get('shape')}"
        case "scalar":
            return f"a Python {one['type']}"
        case "leaf":
            return f"a {one['class']} of { {key: decoded(v, key) for key, v in one['static'].items()} }"
        case "dict" if other["is"] == "dict" and (more := sorted({*names} - {*child_names(other, [])})):
            return f"a dict with {', '.join(map(repr, more))}"
        case "node":
            return f"a {one['class']} of {len(names)} children"
        case "list" | "tuple" as kind:
            return f"a {kind} of {len(names)}"
        case kind:
            return {"none": "None", "dict": "a dict"}.get(kind, f"a {kind}")


def _join(path: str, name: str) -> str:
    """The path of a child."""
    return f"{path}/{name}" if path else name
