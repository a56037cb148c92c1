"""Observe: what enters each weight of a model, by path, with no edit of the model.

    stats = observe(model.apply, params, batches, where="**/kernel", statistics=("absmax", "gram"))
    stats["params/Dense_0/kernel"].absmax

Every chosen weight is made a `Tap`, and the model is run on taps as on any leaves. Seen are the weights that
a `dot_general` or a convolution consumes, through any layout; with `rows`, tables that are looked up. Not
seen: biases and scales of norms, and a kernel with which the model computes before the product (weight norm).
"""

import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax
from rich.progress import track

from efficient.core.interpret import Frame
from efficient.core.lift import evaluate
from efficient.core.paths import Where, flatten, select, unflatten
from efficient.core.statistics import Statistic, Statistics, asked_for
from efficient.core.tap import tap
from efficient.core.transform import is_float

CHEAP: tuple[Statistic, ...] = ("absmax", "min", "max", "mean", "second_moment")


def observed(
    fn: Callable[..., Any], *, where: Where = "**", statistics: Iterable[str] | str = CHEAP
) -> Callable[..., tuple[Any, dict[str, Statistics]]]:
    """`fn`, returning also the statistics of what entered the weights of its first argument.

    Args:
      fn: any JAX function of params, such as `model.apply`.
      where: which weights, as `paths.matches` takes it.
      statistics: names of `statistics.Statistic`; `count` is always taken.

    Returns:
      `(params, *args, **kwargs) -> (out, {path: Statistics})`; it composes with `jit` and `vmap`. `out` comes
      from the equations of `fn`, as they are. A chosen value that no product consumes is left out.

    Raises:
      ValueError: an unknown statistic; at the call, when `where` chooses nothing, when no product consumes
        what it chooses, or when a weight is used in two orientations.
    """
    asked = asked_for(statistics)

    @functools.wraps(fn)
    def with_statistics(params: Any, *args: Any, **kwargs: Any) -> tuple[Any, dict[str, Statistics]]:
        by_path, treedef = flatten(params)
        taps = {path: tap(v, asked) for path, v in select(params, where).items() if is_float(v)}
        frame = Frame(observing=True)
        out = evaluate(fn, (unflatten(treedef, {**by_path, **taps}), *args), kwargs, frame)
        if not frame.emitted:
            met = dict.fromkeys(f"{c.path!r} meets {c.primitive}" for c in frame.log)
            raise ValueError(
                f"where must choose a weight that a product consumes, got {where!r}, of which "
                f"{', '.join(met) or 'none is used'}; choose others."
            )
        return out, dict(frame.emitted)

    return with_statistics


def observe(
    fn: Callable[..., Any],
    params: Any,
    batches: Iterable[Any],
    *,
    where: Where = "**",
    statistics: Iterable[str] | str = CHEAP,
    progress: bool = False,
) -> dict[str, Statistics]:
    """Statistics, over all batches, of what enters the weights of `params` in `fn(params, *batch)`.

    One batch is held at a time; beside it, the statistics. `fn` is traced once for each shape of a batch.

    Args:
      fn: any JAX function of params, such as `model.apply`.
      params: arrays, or leaves, which are observed as they stand.
      batches: a tuple is the arguments after `params`; anything else is the one argument.
      where: which weights, as `paths.matches` takes it.
      statistics: names of `statistics.Statistic`; `count` is always taken. `gram` takes features**2 floats.
      progress: show a progress bar.

    Returns:
      `{path: Statistics}`; a chosen value that no product consumes (a bias) is left out.

    Raises:
      ValueError: there is no batch; or as `observed`.

    Example:
      >>> import numpy as np
      >>> stats = observe(lambda w, x: x @ w["a"], {"a": np.ones((2, 3))}, [np.array([[1.0, -4.0]])])
      >>> stats["a"].absmax.tolist()
      [1.0, 4.0]
    """
    one_batch = observed(fn, where=where, statistics=statistics)
    measured = jax.jit(lambda params, *batch: one_batch(params, *batch)[1])
    merged = jax.jit(lambda total, new: {p: total[p].merge(new[p]) for p in total}, donate_argnums=0)
    total: dict[str, Statistics] | None = None
    for batch in track(batches, description="observe") if progress else batches:
        args = batch if type(batch) is tuple else (batch,)
        total = measured(params, *args) if total is None else merged(total, measured(params, *args))
    if total is None:
        raise ValueError(f"batches must hold at least one batch, got {batches!r}; is it used up?")
    return total
