"""Paths: names for the values of a tree, and patterns that choose among them.

A path is the keys from the root, joined by "/": `params/Dense_0/kernel`. The `value` that Flax NNX adds
behind each variable is left out, so that one pattern serves Linen dicts and NNX states alike.

A pattern is a glob: `*` stands for any part of one key, `**` for any number of whole keys. It must
match the whole path: `**/kernel` matches `params/Dense_0/kernel`, `kernel` alone does not. So must a
compiled regular expression: `re.compile(".*kernel")`.
"""

import difflib
import functools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax

from efficient.core.leaf import is_leaf

Where = str | re.Pattern[str] | Sequence["Where"] | Callable[[str, Any], bool]


def path_string(keys: tuple[Any, ...]) -> str:
    """The path of a key path of `jax.tree_util`: `(DictKey('a'), GetAttrKey('value'))` is `"a"`."""
    if (
        len(keys) > 1
        and isinstance(keys[-1], jax.tree_util.GetAttrKey)
        and keys[-1].name in ("value", "raw_value")
    ):
        keys = keys[:-1]
    return jax.tree_util.keystr(keys, simple=True, separator="/")


def flatten(tree: Any) -> tuple[dict[str, Any], Any]:
    """The values of `tree` by path, leaves whole, and the treedef that `unflatten` takes.

    A flat dict of paths flattens to itself: paths survive being taken out of their tree.

    Raises:
      ValueError: two values have the same path.
    """
    pairs, treedef = jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_leaf)
    by_path = {path_string(keys): value for keys, value in pairs}
    if len(by_path) != len(pairs):
        names = [path_string(keys) for keys, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"paths of a tree must differ, got {twice!r} twice; rename one of the two.")
    return by_path, treedef


def unflatten(treedef: Any, by_path: Mapping[str, Any]) -> Any:
    """The tree whose `flatten` is `(by_path, treedef)`; order counts."""
    return jax.tree.unflatten(treedef, list(by_path.values()))


def map_with_path(fn: Callable[[str, Any], Any], tree: Any) -> Any:
    """`tree` with `fn(path, value)` in each place; leaves are handed over whole."""
    by_path, treedef = flatten(tree)
    return unflatten(treedef, {path: fn(path, value) for path, value in by_path.items()})


@functools.lru_cache(maxsize=1024)
def _compiled(pattern: str) -> re.Pattern[str]:
    """The regular expression of a glob."""
    parts = []
    for part in pattern.split("/"):
        if part == "**":
            parts.append("(?:[^/]*/)*")
        else:
            parts.append("".join("[^/]*" if c == "*" else re.escape(c) for c in part) + "/")
    return re.compile("".join(parts))


def matches(where: Where, path: str, value: Any = None) -> bool:
    """True where `where` chooses the value at `path`.

    Args:
      where: a glob, a compiled regular expression (must match the whole path), a predicate
        `(path, value) -> bool`, or a sequence of these, any of which may choose.
      path: as `flatten` names it.
      value: what stands there; only predicates look at it.
    """
    if isinstance(where, str):
        return _compiled(where).fullmatch(path + "/") is not None
    if isinstance(where, re.Pattern):
        return where.fullmatch(path) is not None
    if callable(where):
        return bool(where(path, value))
    return any(matches(one, path, value) for one in where)


def require_where(where: Any, name: str = "where") -> None:
    """Refuses what is no pattern.

    Raises:
      ValueError: neither a string, a compiled regular expression, a predicate nor a sequence of these.
    """
    if isinstance(where, str | re.Pattern) or callable(where):
        return
    if not isinstance(where, Sequence):
        raise ValueError(
            f"{name} must be a pattern, got {where!r}; give a glob such as '**/kernel', a compiled regular "
            "expression, a predicate (path, value) -> bool, or a sequence of these."
        )
    for one in where:
        require_where(one, name)


def select(tree: Any, where: Where, *, exclude: Where = ()) -> dict[str, Any]:
    """The values of `tree` that `where` chooses and `exclude` does not, by path.

    Raises:
      ValueError: `where` chooses nothing; the message names the nearest paths.
    """
    by_path, _ = flatten(tree)
    chosen = {p: v for p, v in by_path.items() if matches(where, p, v) and not matches(exclude, p, v)}
    if not chosen:
        raise ValueError(no_match(where, by_path, exclude))
    return chosen


def no_match(where: Where, paths: Iterable[str], exclude: Where = ()) -> str:
    """What to say when `where` chooses none of `paths`."""
    paths = list(paths)
    without = f" without {exclude!r}" if exclude else ""
    near = _near_misses(where, paths)
    first = ", ".join(map(repr, paths[:3])) + (", ..." if paths[3:] else "") or "no values"
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"the tree has {first}."
    return f"pattern must match at least one path, got {where!r}{without} that matches none; {hint}"


def _near_misses(where: Where, paths: list[str], most: int = 3) -> list[str]:
    """Paths that look like a pattern that matched none."""
    if callable(where):
        return []
    if not isinstance(where, str | re.Pattern):
        return list(dict.fromkeys(near for one in where for near in _near_misses(one, paths)))[:most]
    words = re.findall(r"\w+", where if isinstance(where, str) else where.pattern)
    if not words:
        return []

    def likeness(path: str) -> float:
        return sum(
            max(difflib.SequenceMatcher(None, word.lower(), key.lower()).ratio() for key in path.split("/"))
            for word in words
        ) / len(words)

    scored = sorted(((likeness(path), path) for path in paths), key=lambda pair: -pair[0])
    return [path for score, path in scored[:most] if score >= 0.5]
