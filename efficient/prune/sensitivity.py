"""Sensitivity: how much the model loses when one array, or one group of channels, is pruned alone.

    scan = sensitivity(accuracy, params, magnitude, where="**/kernel")
    print(scan)
    limits = from_sensitivity(scan.losses(), most_loss=1.0)
    t = prune(absolute(), 0.9, allocation=at_most(limits))
    scan.draw(axes)                                          # axes of matplotlib

Source: Han et al., 2015, arXiv:1506.02626, figure 6 (weights); Li et al., 2017, arXiv:1608.08710, section 3.2
(filters).
"""

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from efficient.core.dependencies import Dependencies
from efficient.core.paths import Where, map_with_path, select
from efficient.core.scope import at
from efficient.core.transform import Transform, is_float
from efficient.core.words import as_text
from efficient.prune.mask import kept_of, masked
from efficient.prune.ranking import Ranking

SPARSITIES = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9)

Track = Callable[[Sequence[Any]], Iterable[Any]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sensitivity:
    """What a scan has measured."""

    baseline: float  # of the model as it is; higher is better
    curves: Mapping[str, Mapping[float, float]]  # by path or group, by its sparsity

    def losses(self) -> dict[str, dict[float, float]]:
        """By path, by sparsity, how much was lost: what `from_sensitivity` takes."""
        return {
            path: {sparsity: self.baseline - value for sparsity, value in curve.items()}
            for path, curve in self.curves.items()
        }

    def draw(self, axes: Any, *, names: Mapping[str, str] | None = None) -> None:
        """A line for each path, from the model as it is, on axes of matplotlib.

        Args:
          axes: with the methods `plot` and `set` of `matplotlib.axes.Axes`.
          names: what a path is called in the legend, where not by itself.
        """
        for path, curve in self.curves.items():
            points = sorted({0.0: self.baseline, **curve}.items())
            label = (names or {}).get(path, path)
            axes.plot([s for s, _ in points], [value for _, value in points], "o-", label=label)
        axes.set(xlabel="sparsity of one alone")

    def __rich__(self) -> Table:
        sparsities = sorted({sparsity for curve in self.curves.values() for sparsity in curve})
        table = Table(title=f"Pruned alone; {self.baseline:.4g} as it is")
        table.add_column("pruned", overflow="fold")
        for sparsity in sparsities:
            table.add_column(f"{sparsity:g}", justify="right", no_wrap=True)
        for path, curve in self.curves.items():
            table.add_row(Text(path), *(f"{curve[s]:.4g}" if s in curve else "" for s in sparsities))
        return table

    def __str__(self) -> str:
        return as_text(self)

    def __repr__(self) -> str:
        return f"<Sensitivity: {len(self.curves)} pruned alone, {self.baseline:.4g} as it is>"


def sensitivity(
    evaluate: Callable[[Any], float],
    params: Any,
    make: Callable[[float], Transform],
    *,
    where: Where = "**/kernel",
    sparsities: Sequence[float] = SPARSITIES,
    stats: Any = None,
    track: Track = iter,
) -> Sensitivity:
    """Prunes each array that `where` chooses, alone, and measures the model.

    Args:
      evaluate: params -> accuracy, or another number of which more is better.
      params: what is scanned; it stays as it is.
      make: sparsity -> transform, such as `magnitude`; it is scoped to one path at a time.
      where: which arrays; those that are not floating are left out.
      sparsities: in [0, 1), each measured once for each array.
      stats: by path, for scores that want them.
      track: wraps the pairs (path, sparsity) that are gone through, such as a progress bar.

    Raises:
      ValueError: `where` chooses no array, or none that is floating, or sparsities are none or out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> from efficient.prune import magnitude
      >>> p = {"a": {"kernel": jnp.array([1.0, 2.0])}, "b": {"kernel": jnp.array([5.0, 0.0])}}
      >>> total = lambda p: float(p["a"]["kernel"].sum() + p["b"]["kernel"].sum())
      >>> sensitivity(total, p, magnitude, sparsities=(0.5,)).losses()
      {'a/kernel': {0.5: 1.0}, 'b/kernel': {0.5: 0.0}}

    Source: module docstring.
    """

    def alone(path: str, sparsity: float) -> Any:
        t = at(re.compile(re.escape(path)), make(sparsity))
        return t.apply(params, t.init(params, stats=stats))

    chosen = [path for path, value in select(params, where).items() if is_float(value)]
    return scan(evaluate, params, {path: _bound(alone, path) for path in chosen}, sparsities, track=track)


def scan(
    evaluate: Callable[[Any], float],
    params: Any,
    pruned: Mapping[str, Callable[[float], Any]],
    sparsities: Sequence[float] = SPARSITIES,
    *,
    track: Track = iter,
) -> Sensitivity:
    """Measures the model pruned in each of several ways; `channels_alone` makes the ways of its groups.

    Args:
      evaluate: params -> a number of which more is better.
      params: the model as it is.
      pruned: by name, sparsity -> params.
      sparsities: in [0, 1).
      track: wraps the pairs (name, sparsity) that are gone through.

    Raises:
      ValueError: nothing to prune, or sparsities are none or out of range.
    """
    if not pruned:
        raise ValueError("pruned must have one way at least, got {}; name what is pruned alone.")
    if not sparsities or not all(0 <= sparsity < 1 for sparsity in sparsities):
        raise ValueError(
            f"sparsities must be one or more in [0, 1), got {tuple(sparsities)!r}; leave them out for "
            f"{SPARSITIES}."
        )
    baseline = float(evaluate(params))
    curves: dict[str, dict[float, float]] = {name: {} for name in pruned}
    for name, sparsity in track([(name, sparsity) for name in pruned for sparsity in sparsities]):
        curves[name][sparsity] = float(evaluate(pruned[name](sparsity)))
    return Sensitivity(baseline=baseline, curves=curves)


def channels_alone(found: Dependencies, ranked: Ranking, params: Any) -> dict[str, Callable[[float], Any]]:
    """By ranked group, sparsity -> params with that fraction of its channels zero: the ways of a `scan`.

    At least one channel stays.
    """

    def alone(name: str, sparsity: float) -> Any:
        keep = ranked.keep({name: int(kept_of(ranked.sizes[name], sparsity))})
        masks = found.masks({name: keep[name]})
        return map_with_path(lambda path, v: masked(v, masks[path]) if path in masks else v, params)

    return {name: _bound(alone, name) for name in ranked.sizes}


def _bound(function: Callable[[str, float], Any], name: str) -> Callable[[float], Any]:
    """The function of a sparsity alone."""
    return lambda sparsity: function(name, sparsity)
