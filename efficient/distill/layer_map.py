"""Layer map: which of the student's layers learns from which of the teacher's, checked before any compute."""

from collections.abc import Callable, Mapping
from typing import Any

from jaxtyping import Array, Float


def by_layers(
    loss: Callable[[Any, Any], Any],
    layers: Mapping[str, str],
    student: Mapping[str, Any],
    teacher: Mapping[str, Any],
    *,
    weights: Mapping[str, float] | None = None,
) -> Float[Array, ""]:
    """The weighted sum of `loss(student[a], teacher[b])` over the pairs a -> b.

    Args:
      loss: of two features, such as `attention`, or `hint` with its regressor bound.
      layers: by path of the student's feature, the path of the teacher's.
      student: features by path, as `features` returns them.
      teacher: likewise.
      weights: by path of the student's; 1 where it is missing.

    Raises:
      ValueError: no pair, a path that is not there (the message names those that are), or a weight of no
        pair.
    """
    if not layers:
        raise ValueError("layers must map one path or more, got none; e.g. {'conv1/kernel': 'conv3/kernel'}.")
    for name, wanted, known in (("student", layers.keys(), student), ("teacher", layers.values(), teacher)):
        if missing := sorted(set(wanted) - known.keys()):
            raise ValueError(
                f"layers must name {name} features, got {missing!r}; there are {sorted(known)!r}."
            )
    if odd := sorted((weights or {}).keys() - layers.keys()):
        raise ValueError(f"weights must be of mapped layers, got {odd!r}; there are {sorted(layers)!r}.")
    terms = [(weights or {}).get(a, 1.0) * loss(student[a], teacher[b]) for a, b in layers.items()]
    return sum(terms[1:], terms[0])
