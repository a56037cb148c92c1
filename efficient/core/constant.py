"""Constant: a frozen dataclass that may be part of a leaf's structure; stored by its name and fields."""

import dataclasses
from typing import Any


class Constant:
    """Base of frozen dataclasses whose fields are scalars, dtypes, tuples of these, or other constants.

    A subclass may be the value of a leaf's `static()` field: `save` writes its name and fields, and `load`
    builds it anew from those, if its class is imported. Its `__post_init__` must refuse, by a `ValueError`,
    whatever it cannot be: a file may say anything.
    """


def constant_fields(value: Constant) -> dict[str, Any]:
    """The fields of a constant, by name."""
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}  # type: ignore[arg-type]


def class_name(cls: type) -> str:
    """`module:Name`."""
    return f"{cls.__module__}:{cls.__qualname__}"


def subclasses(base: type) -> dict[str, type]:
    """By name, every imported class below `base`; of two of one name, the newest."""
    classes: list[type] = base.__subclasses__()
    for cls in classes:  # grows while it is walked
        classes.extend(cls.__subclasses__())
    return {class_name(cls): cls for cls in classes}
