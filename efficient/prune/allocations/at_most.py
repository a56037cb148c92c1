"""At most: arrays have limits of their own, such as a sensitivity scan finds.

Source: Han et al., 2015, arXiv:1506.02626, figure 6 and section 5 (thresholds by each layer's
sensitivity).
"""

import math
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from efficient.core.paths import Where, matches, no_match
from efficient.core.transform import recipe
from efficient.prune.allocation import Allocation
from efficient.prune.mask import kept_of


@recipe
def at_most(limits: Mapping[Any, float]) -> Allocation:
    """Every array has the sparsity asked for, but none more than its limit.

    Along a ramp all rise together, and each stops at its own. A limit of 0 keeps an array dense. Arrays
    without a limit have the sparsity asked for.

    Args:
      limits: sparsity in [0, 1) by path or pattern (a glob, or a compiled regular expression); the first that
        matches an array is its own.

    Raises:
      ValueError: at once, a limit outside [0, 1); at `init`, a pattern that matches no array.

    Example:
      >>> import jax.numpy as jnp
      >>> scores = {"first": jnp.ones(10), "second": jnp.ones(10)}
      >>> at_most({"first": 0.2}).share(scores, {path: (10,) for path in scores}, 0.9)
      {'first': 8, 'second': 1}

    Source: module docstring.
    """
    for where, limit in limits.items():
        _require_sparsity(f"limit of {where!r}", limit)

    def share(
        pooled: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], sparsity: Any
    ) -> dict[str, Any]:
        del shapes
        for where in limits:
            if not any(matches(where, path) for path in pooled):
                raise ValueError(no_match(where, pooled))
        return {path: kept_of(s.size, _lower(_first(limits, path), sparsity)) for path, s in pooled.items()}

    return Allocation(share)


def from_sensitivity(curves: Mapping[str, Mapping[float, float]], *, most_loss: float) -> dict[str, float]:
    """The limits of `at_most` that a sensitivity scan allows.

    Args:
      curves: by path, the loss (or another number that rises with damage) when that array alone has this
        sparsity.
      most_loss: what is still borne.

    Returns:
      By path, the highest sparsity up to which no loss that was measured is above `most_loss`; 0.0 where the
      lowest already is. A loss that is NaN is above.

    Raises:
      ValueError: `most_loss` is NaN, or a sparsity is outside [0, 1).

    Example:
      >>> from_sensitivity({"conv": {0.5: 0.1, 0.7: 0.3, 0.9: 2.0}, "out": {0.5: 0.6}}, most_loss=0.5)
      {'conv': 0.7, 'out': 0.0}

    Source: module docstring.
    """
    if math.isnan(most_loss):
        raise ValueError(f"most_loss must be a number, got {most_loss!r}; it is the loss still borne.")
    limits = {}
    for path, curve in curves.items():
        limits[path] = 0.0
        for sparsity, loss in sorted(curve.items()):
            _require_sparsity(f"sparsity of {path!r}", sparsity)
            if not loss <= most_loss:
                break
            limits[path] = sparsity
    return limits


def _first(limits: Mapping[Where, float], path: str) -> float | None:
    """The limit of the first pattern that matches `path`."""
    return next((limit for where, limit in limits.items() if matches(where, path)), None)


def _lower(limit: float | None, sparsity: Any) -> Any:
    """The lower of the two; a Python number where `sparsity` is one."""
    if limit is None:
        return sparsity
    return min(limit, sparsity) if isinstance(sparsity, float | int) else jnp.minimum(limit, sparsity)


def _require_sparsity(name: str, value: float) -> None:
    """Refuses what is not in [0, 1); NaN is not."""
    if not 0 <= value < 1:
        raise ValueError(f"{name} must be in [0, 1), got {value!r}; 0.9 zeros nine weights in ten.")
