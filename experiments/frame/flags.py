"""A frozen config dataclass as absl flags: names, types, defaults and comments come from its fields."""

import ast
import dataclasses
import difflib
import inspect
import io
import textwrap
import tokenize
import types
import typing
from collections.abc import Sequence
from typing import Any, TypeVar

from absl import flags

C = TypeVar("C")

_SCALARS: dict[type, str] = {int: "an integer", float: "a number", str: "a text", bool: "true or false"}
_TRUTHS = {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}


class _Scalar(flags.ArgumentParser):
    """Parses `int`, `float`, `str` or `bool`; a default passes through as it is."""

    def __init__(self, kind: type) -> None:
        self.kind = kind
        self.syntactic_help = _SCALARS[kind]

    def parse(self, argument: Any) -> Any:
        if not isinstance(argument, str):
            return argument
        try:
            return _TRUTHS[argument.lower()] if self.kind is bool else self.kind(argument)
        except (ValueError, KeyError):
            raise ValueError(f"must be {self.syntactic_help}, got {argument!r}; see --help.") from None


class _Choice(flags.ArgumentParser):
    """Parses one of the values of a `Literal`."""

    def __init__(self, *choices: Any) -> None:
        self.choices = {str(choice): choice for choice in choices}
        self.syntactic_help = "one of " + ", ".join(self.choices)

    def parse(self, argument: Any) -> Any:
        if not isinstance(argument, str):
            return argument
        if argument in self.choices:
            return self.choices[argument]
        near = difflib.get_close_matches(argument, self.choices, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "see --help."
        raise ValueError(f"must be {self.syntactic_help}, got {argument!r}; {hint}")


class _Items(flags.ArgumentParser):
    """Parses values with commas between them into a tuple; an empty text is the empty tuple."""

    def __init__(self, item: flags.ArgumentParser, length: int | None) -> None:
        self.item, self.length = item, length
        count = "" if length is None else f"{length} values, "
        self.syntactic_help = f"{count}each {item.syntactic_help}, commas between"

    def parse(self, argument: Any) -> Any:
        if not isinstance(argument, str):
            return tuple(argument)
        values = (
            tuple(self.item.parse(part.strip()) for part in argument.split(",")) if argument.strip() else ()
        )
        if self.length is not None and len(values) != self.length:
            raise ValueError(f"must be {self.syntactic_help}, got {argument!r}; see --help.")
        return values


class _Commas(flags.ArgumentSerializer):
    """Writes a tuple as the command line has it."""

    def serialize(self, value: Any) -> str:
        return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _parser(name: str, hint: Any) -> flags.ArgumentParser:
    """The parser for a field's annotation."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint in _SCALARS:
        return _Scalar(hint)
    if origin is typing.Literal:
        return _Choice(*args)
    if origin is tuple and args[-1] is Ellipsis:
        return _Items(_parser(name, args[0]), None)
    if origin is tuple and args and len(set(args)) == 1:
        return _Items(_parser(name, args[0]), len(args))
    raise ValueError(
        f"{name} must be int, float, bool, str, Literal or a tuple of one of them, got {hint!r}; "
        "change the field's annotation, or it cannot be a flag."
    )


def _comments(config_type: type) -> dict[str, str]:
    """Each field's comment: on its line or, where that has none, on the lines above it."""
    try:
        source = textwrap.dedent(inspect.getsource(config_type))
    except (OSError, TypeError):  # no source at hand, such as a class typed at a prompt
        return {}
    found: dict[int, tuple[bool, str]] = {}  # line -> (alone on its line, text)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            found[token.start[0]] = (not token.line[: token.start[1]].strip(), token.string.lstrip("#: "))
    comments = {}
    for node in ast.parse(source).body[0].body:  # type: ignore[attr-defined]
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        last, above = node.end_lineno or node.lineno, node.lineno - 1
        lines = [found[last][1]] if last in found else []
        while last not in found and above in found and found[above][0]:
            lines.insert(0, found[above][1])
            above -= 1
        comments[node.target.id] = " ".join(lines)
    return comments


def define(config_type: type, values: flags.FlagValues, *, group: str = "flags") -> None:
    """Defines one flag a field of `config_type` in `values`.

    Args:
        config_type: a dataclass whose fields all have defaults; `metadata={"help": ...}` precedes a comment.
        values: where the flags go; it may hold others already.
        group: the heading of these flags in `--help`.

    Raises:
        ValueError: a field has no default, an annotation that no flag can carry, or the name of another flag.
    """
    hints, comments = typing.get_type_hints(config_type), _comments(config_type)
    default = config_type()
    for field in dataclasses.fields(config_type):
        if field.name in values:
            raise ValueError(
                f"{config_type.__name__}.{field.name} must not be named as a flag of every experiment, "
                f"got {field.name!r}; rename the field."
            )
        text = field.metadata.get("help") or comments.get(field.name) or field.name.replace("_", " ")
        flags.DEFINE(
            _parser(field.name, hints[field.name]),
            field.name,
            getattr(default, field.name),
            text,
            flag_values=values,
            serializer=_Commas(),
            module_name=group,
            boolean=hints[field.name] is bool,
            allow_using_method_names=True,
        )


def parse(values: flags.FlagValues, argv: Sequence[str]) -> None:
    """Parses `argv` (program name first) into `values`.

    Raises:
        ValueError: an unknown flag (with the nearest known one), a value that cannot be parsed, or an
            argument that belongs to no flag.
    """
    try:
        rest = values(list(argv))[1:]
    except flags.UnrecognizedFlagError as error:
        near = difflib.get_close_matches(error.flagname, list(values), n=1)
        hint = f"did you mean --{near[0]}?" if near else "see --help."
        raise ValueError(f"flag must be a known one, got --{error.flagname}; {hint}") from None
    except flags.Error as error:
        raise ValueError(str(error)) from None
    if rest:
        raise ValueError(f"arguments must be flags (--name=value), got {rest[0]!r}; see --help.")


def config_from_flags(config_type: type[C], values: flags.FlagValues, *, base: C | None = None) -> C:
    """The config that the command line asks for: `base` (default: `config_type()`) with what was given.

    Raises:
        ValueError: what the dataclass itself says of the values.
    """
    base = config_type() if base is None else base
    names = [field.name for field in dataclasses.fields(config_type)]  # type: ignore[arg-type]
    given = {name: values[name].value for name in names if values[name].present}
    return dataclasses.replace(base, **given)  # type: ignore[type-var]


def help_text(module: types.ModuleType, values: flags.FlagValues) -> str:
    """The module's docstring and every flag with its default."""
    listed = values.get_help(include_special_flags=False)
    return f"{inspect.getdoc(module) or module.__name__}\n{listed}\n"
