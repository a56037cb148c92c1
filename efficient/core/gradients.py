"""Gradients: how a loss depends on each weight, at first and at second order, by path.

    stats = observe_gradients(loss, params, batches, where="**/kernel", statistics="gradient")
    stats["params/Dense_0/kernel"].mean_gradient

What it finds merges with what `observe` finds: `combined(observe(...), observe_gradients(...))`.
"""

import zlib
from collections.abc import Callable, Iterable
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from rich.progress import track

from efficient.core.leaf import is_leaf
from efficient.core.paths import Where, flatten, select, unflatten
from efficient.core.statistics import Statistics
from efficient.core.transform import Key, is_float
from efficient.core.words import array_words

GradientStatistic = Literal["gradient", "gradient_squares", "hessian_gradient", "hessian_diagonal"]


def observe_gradients(
    loss: Callable[..., Any],
    params: Any,
    batches: Iterable[Any],
    *,
    where: Where = "**",
    statistics: Iterable[str] | str = ("gradient",),
    key: Key | None = None,
    progress: bool = False,
) -> dict[str, Statistics]:
    """Derivatives of `loss(params, *batch)` with respect to each chosen weight w, summed over batches.

    With g = dL/dw and H = d2L/dw2 of one batch, H over all chosen weights together:

        gradient          g
        gradient_squares  g * g: over the count, the diagonal of the empirical Fisher matrix
        hessian_gradient  H g, forward over reverse: no Hessian is made
        hessian_diagonal  z * (H z), with z signs drawn at random: its mean is diag(H), its variance in place
                          i is the sum of H_ij ** 2 over j != i; more batches, less of it

    One batch is held at a time; beside it, a float32 array of the weight's shape for each statistic. `loss`
    is compiled once for each shape of a batch. A batch counts as one, whatever its size.

    Args:
      loss: `(params, *batch) -> scalar`; for the Hessian, twice differentiable, forward over reverse (a
        `custom_vjp` inside is not).
      params: chosen weights are floating arrays.
      batches: a tuple is the arguments after `params`; anything else is the one argument.
      where: which weights, as `paths.matches` takes it; values of other dtypes are left out.
      statistics: names of `GradientStatistic`.
      key: a typed key, which `hessian_diagonal` needs.
      progress: show a progress bar.

    Returns:
      `{path: Statistics}`, with the fields named, and `gradient_count`, the number of batches.

    Raises:
      ValueError: an unknown statistic; `hessian_diagonal` without a key; `where` chooses nothing, nothing
        floating, or a packed leaf; there is no batch; the loss is no scalar.

    Example:
      >>> loss = lambda w, x: 0.5 * jnp.sum((x @ w["a"]) ** 2)
      >>> stats = observe_gradients(loss, {"a": jnp.array([[1.0], [2.0]])}, [jnp.array([[1.0, -1.0]])])
      >>> stats["a"].mean_gradient.tolist()  # x^T x w with x w = -1
      [[-1.0], [1.0]]

    Source: H g: Pearlmutter, 1994, "Fast exact multiplication by the Hessian"; z * (H z): Bekas et al., 2007,
    "An estimator for the diagonal of a matrix".
    """
    asked = _asked(statistics)
    if "hessian_diagonal" in asked and key is None:
        raise ValueError("key must be given for 'hessian_diagonal', got None; pass jax.random.key(seed).")
    paths = _floating(params, where)
    measured = jax.jit(lambda params, key, batch: _derivatives(loss, params, paths, batch, asked, key))
    merged = jax.jit(lambda total, new: {p: total[p].merge(new[p]) for p in total}, donate_argnums=0)
    total: dict[str, Statistics] | None = None
    for i, batch in enumerate(track(batches, description="gradients") if progress else batches):
        own_key = None if key is None else jax.random.fold_in(key, i)
        new = measured(params, own_key, batch if type(batch) is tuple else (batch,))
        total = new if total is None else merged(total, new)
    if total is None:
        raise ValueError(f"batches must hold at least one batch, got {batches!r}; is it used up?")
    return total


def _asked(statistics: Iterable[str] | str) -> tuple[str, ...]:
    """`statistics` as a tuple, each known."""
    names = (statistics,) if isinstance(statistics, str) else tuple(statistics)
    if not names or any(name not in get_args(GradientStatistic) for name in names):
        known = ", ".join(get_args(GradientStatistic))
        raise ValueError(f"statistics must be one or more of {known}, got {statistics!r}; name those.")
    return names


def _floating(params: Any, where: Where) -> tuple[str, ...]:
    """The paths of the chosen weights."""
    chosen = {path: value for path, value in select(params, where).items() if is_float(value)}
    if not chosen:
        raise ValueError(f"where must choose a floating weight, got {where!r}; choose others.")
    for path, value in chosen.items():
        if is_leaf(value):
            raise ValueError(
                f"params must have an array at {path!r}, got {type(value).__name__}; call dense(params), or "
                "leave it out by `where`."
            )
    return tuple(chosen)


def _derivatives(
    loss: Callable[..., Any],
    params: Any,
    paths: tuple[str, ...],
    batch: tuple[Any, ...],
    asked: tuple[str, ...],
    key: Key | None,
) -> dict[str, Statistics]:
    """The statistics of one batch."""
    by_path, treedef = flatten(params)
    chosen = {path: by_path[path] for path in paths}

    def scalar(weights: dict[str, Any]) -> Any:
        value = loss(unflatten(treedef, {**by_path, **weights}), *batch)
        if not is_float(value) or value.shape != ():
            raise ValueError(f"loss must return a floating scalar, got {array_words(value)}; take its mean.")
        return value

    slope = jax.grad(scalar)
    found: dict[str, dict[str, Any]] = {}
    if set(asked) != {"hessian_diagonal"}:
        gradient = slope(chosen)
    if "gradient" in asked:
        found["gradient"] = gradient
    if "gradient_squares" in asked:
        found["gradient_squares"] = {p: jnp.square(g.astype(jnp.float32)) for p, g in gradient.items()}
    if "hessian_gradient" in asked:
        found["hessian_gradient"] = jax.jvp(slope, (chosen,), (gradient,))[1]
    if "hessian_diagonal" in asked:
        signs = {p: _signs(key, p, value) for p, value in chosen.items()}
        products = jax.jvp(slope, (chosen,), (signs,))[1]
        found["hessian_diagonal"] = {p: signs[p] * products[p] for p in paths}
    return {
        path: Statistics(
            path=path,
            gradient_count=jnp.ones(()),
            **{name: values[path].astype(jnp.float32) for name, values in found.items()},
        )
        for path in paths
    }


def _signs(key: Any, path: str, value: Any) -> jax.Array:
    """-1 or 1 in each place, the same whatever else is chosen."""
    return jax.random.rademacher(jax.random.fold_in(key, zlib.crc32(path.encode())), value.shape, value.dtype)
