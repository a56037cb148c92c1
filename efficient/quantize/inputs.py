"""Inputs: what enters each weight, quantized: by ranges known before, or by those of the array at hand.

    stats = observe(model.apply, params, batches, where="**/kernel", statistics=("min", "max"))
    t = at("**/kernel", chain(linear(8), quantize_inputs(Affine(8))))         # W8A8
    lift(model.apply)(t.apply(params, t.init(params, stats=stats)), x)

Source: Jacob et al., 2018, arXiv:1712.05877, section 3.1.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from efficient.core.per_leaf import per_leaf
from efficient.core.statistics import bin_edges, known
from efficient.core.transform import Key, State, Transform, recipe
from efficient.quantize.codes import Step
from efficient.quantize.format import Format, round_to, safe
from efficient.quantize.formats.integer import Integer
from efficient.quantize.product_leaf import ProductLeaf, ProductRule
from efficient.quantize.range import Range

ASK = "pass stats=observe(..., statistics=('min', 'max', 'histogram'))"


class Reach(NamedTuple):
    """The range of what enters a weight."""

    low: Any  # float32, of the axes that lead in the statistics
    high: Any


def on_grid(x: Float[Array, "*shape"], low: Any, high: Any, grid: Format) -> Float[Array, "*shape"]:
    """`x` rounded to the grid that covers low..high, which broadcast against it; straight through."""
    scale, zero = grid.scaled(low, high)
    shift = 0.0 if zero is None else zero
    return (round_to(grid, x.astype(jnp.float32) / safe(scale) + shift) - shift) * scale


def whole_step(low: Any, high: Any, grid: Format) -> Step | None:
    """The step of `on_grid`, where the grid is that of 8-bit integers and one range serves all."""
    if not isinstance(grid, Integer) or grid.bits != 8 or jnp.size(low) != 1:
        return None
    return Step(safe(grid.scaled(low, high)[0]).reshape(()))


@dataclasses.dataclass(frozen=True)
class KnownReach(ProductRule):
    """Inputs on a grid that covers a range. `args`: (low, high)."""

    format: Format

    def before(self, x: Any, args: Any, axes: tuple[int, ...]) -> Any:
        """Rounded; what is beyond is clipped."""
        del axes
        low, high = args
        return on_grid(x, low, high, self.format)

    def step(self, x: Any, args: Any) -> Step | None:
        """That of the range."""
        del x
        low, high = args
        return whole_step(low, high, self.format)


@dataclasses.dataclass(frozen=True)
class OwnReach(ProductRule):
    """Inputs on a grid that covers their own range: of the array, or of each sum's terms (a token's)."""

    format: Format
    per_token: bool

    def before(self, x: Any, args: Any, axes: tuple[int, ...]) -> Any:
        """Rounded; nothing is clipped."""
        del args
        over = axes if self.per_token else None
        still = jax.lax.stop_gradient(x).astype(jnp.float32)
        low, high = (f(still, axis=over, keepdims=True) for f in (jnp.min, jnp.max))
        return on_grid(x, low, high, self.format)

    def step(self, x: Any, args: Any) -> Step | None:
        """Each row's own, or that of the largest magnitude."""
        del x, args
        is_whole = isinstance(self.format, Integer) and self.format.bits == 8
        return Step(per_row=self.per_token) if is_whole else None


@recipe
def quantize_inputs(
    format: Format, *, range: Range | None = None, is_dynamic: bool = False, per_token: bool = False
) -> Transform:
    """Quantizes what every weight is multiplied with; straight through, with no gradient where it is clipped.

    Static ranges are found once, from statistics of what enters each weight, `State.fixed` by path (`Reach`);
    `moving` follows them while training. Dynamic ones are of the array at hand, and need no state.

    Args:
      format: of the inputs; one with a zero point serves inputs of one sign.
      range: of static ranges, found from the statistics `min`, `max` and `histogram`; None is from the least
        to the largest, and needs no histogram.
      is_dynamic: ranges are those of the array at hand.
      per_token: with dynamic ranges, one for each sum (each row of a batch of tokens), not one for all.

    Raises:
      ValueError: at once, `per_token` or a range with the other kind; at `init`, no statistics for a leaf.

    Source: module docstring; for dynamic ranges a token, Yao et al., 2022, arXiv:2206.01861, section 4.1.
    """
    if (per_token and not is_dynamic) or (range is not None and is_dynamic):
        raise ValueError(
            f"range must go with static ranges and per_token with dynamic ones, got range={range!r}, "
            f"is_dynamic={is_dynamic!r}, per_token={per_token!r}; leave one out."
        )
    rule = OwnReach(format, per_token) if is_dynamic else KnownReach(format)

    def init(value: jax.Array, *, path: str, stats: Any, key: Key | None) -> State:
        del value, key
        return State() if is_dynamic else State(fixed=reach(stats, range, format, path=path))

    def apply(value: Any, state: State) -> ProductLeaf:
        return ProductLeaf(weight=value, args=tuple(state.fixed), rule=rule, axis=-2)

    return per_leaf(init=init, apply=apply, nests=True)


def reach(stats: Any, chosen: Range | None, grid: Format, *, path: str) -> Reach:
    """The range of what entered a weight, from its `Statistics`; see `quantize_inputs`.

    Raises:
      ValueError: `min` and `max` were not taken, or, where a range is chosen, `histogram`.
    """
    low, high = _ends(stats, path)
    if chosen is None:
        return Reach(low, high)
    counts = known(stats, "histogram", path=path, how=ASK)
    edges = bin_edges()
    middles = jnp.where(jnp.isfinite(edges[1:]), (edges[:-1] + edges[1:]) / 2, edges[:-1])
    values = jnp.concatenate([middles, -middles])  # bins of positive numbers come first
    values = jnp.clip(values, low[..., None], high[..., None])
    weights = counts.reshape(*counts.shape[:-2], -1)
    return Reach(*chosen.of(values, weights, grid))


def _ends(stats: Any, path: str) -> Reach:
    """The least and the largest that entered a weight."""
    low, high = (known(stats, name, path=path, how=ASK) for name in ("min", "max"))
    return Reach(jnp.min(low, -1), jnp.max(high, -1))


def moving(state: State, stats: Any, *, decay: float = 0.99) -> State:
    """The state of `quantize_inputs` with ranges moved towards those just observed (EMA).

    r <- decay r + (1 - decay) r'. Call it with what `observed` returned beside the model's output.

    Args:
      state: of `quantize_inputs` with static ranges.
      stats: by path, with `min` and `max`; paths that are missing keep their ranges.
      decay: in [0, 1).

    Raises:
      ValueError: a decay out of range, or a path without `min` and `max`.

    Source: arXiv:1712.05877, section 3.1. *Differs:* the decay is a factor a step, not a count of steps.
    """
    if not 0 <= decay < 1:
        raise ValueError(f"decay must be in [0, 1), got {decay!r}; 0.99 is usual.")
    fixed = dict(state.fixed)
    for path in fixed.keys() & stats.keys():
        new = _ends(stats[path], path)
        fixed[path] = jax.tree.map(lambda old, now: decay * old + (1 - decay) * now, fixed[path], new)
    return State(state.train, fixed)
