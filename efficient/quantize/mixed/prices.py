"""Prices: what each layer costs at each pair of widths. The price of a choice is the sum over its layers.

layers = layer_uses(model.apply, variables, x)
prices = bit_ops(layers, widths)               # or weight_bytes, looked_up, or measured ms by `priced`
total(prices, {path: Widths(4, 8) for path in prices})
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from efficient.core.layer_shapes import LayerUse


class Widths(NamedTuple):
    """Bits of a weight and of what it is multiplied with."""

    weights: int
    inputs: int


Choice = Mapping[str, Widths]
"""By path of a layer's weight."""

Prices = Mapping[str, Mapping[Widths, float]]
"""By path, what the layer costs at each pair that it may have."""


def total(prices: Prices, choice: Choice) -> float:
    """What a choice costs.

    Raises:
      ValueError: it leaves a layer out, or gives it a pair without a price.
    """
    if wrong := [path for path in prices if choice.get(path) not in prices[path]]:
        raise ValueError(
            f"choice must give each layer a priced pair, got {choice.get(wrong[0])!r} for {wrong[0]!r}; "
            f"choose of {list(prices[wrong[0]])!r}."
        )
    return math.fsum(prices[path][choice[path]] for path in prices)


def priced(
    paths: Iterable[str], widths: Sequence[Widths], price: Callable[[str, Widths], float]
) -> dict[str, dict[Widths, float]]:
    """The price of every layer at every pair, such as the median milliseconds that `measure` gives.

    Args:
      paths: of the layers' weights; in the order in which a search walks.
      widths: the pairs that each may have.
      price: of a layer at a pair, finite and from 0.

    Raises:
      ValueError: no layers, no pairs, or a price out of range.
    """
    table = {path: {pair: float(price(path, pair)) for pair in widths} for path in paths}
    if not table or not widths:
        raise ValueError(f"there must be a layer and a pair, got {len(table)} and {len(widths)}; name some.")
    for path, row in table.items():
        if wrong := [pair for pair, value in row.items() if not 0 <= value < math.inf]:
            raise ValueError(
                f"price must be finite and from 0, got {row[wrong[0]]!r} for {path!r} at {wrong[0]}; "
                "leave the pair out."
            )
    return table


def weight_bytes(layers: Iterable[LayerUse], widths: Sequence[Widths]) -> dict[str, dict[Widths, float]]:
    """Bytes of each layer's weights, scales left out: size * bits / 8. A weight met twice counts once."""
    sizes = {use.path: math.prod(use.shape) for use in layers}
    return priced(sizes, widths, lambda path, pair: sizes[path] * pair.weights / 8)


def bit_ops(layers: Iterable[LayerUse], widths: Sequence[Widths]) -> dict[str, dict[Widths, float]]:
    """BitOps of each layer: MACs * weight bits * input bits (Wang et al., 2020, arXiv:2006.08509)."""
    macs: dict[str, int] = {}
    for use in layers:
        macs[use.path] = macs.get(use.path, 0) + use.macs
    return priced(macs, widths, lambda path, pair: macs[path] * pair.weights * pair.inputs)


def looked_up(
    table: np.ndarray, paths: Sequence[str], widths: Sequence[Widths]
) -> dict[str, dict[Widths, float]]:
    """Prices of a lookup table [layers, weight bits - 1, input bits - 1], its rows in the order of `paths`.

    Raises:
      ValueError: a table of another shape, or a pair outside it.
    """
    table = np.asarray(table)
    if table.ndim != 3 or len(table) != len(paths):
        raise ValueError(
            f"table must be [{len(paths)} layers, weight bits, input bits], got shape {table.shape}; "
            "give a row for each path."
        )
    top = Widths(*table.shape[1:])
    for pair in widths:
        if not (1 <= pair.weights <= top.weights and 1 <= pair.inputs <= top.inputs):
            raise ValueError(f"widths must be from 1 to {tuple(top)}, got {tuple(pair)}; leave it out.")
    row = {path: i for i, path in enumerate(paths)}
    return priced(paths, widths, lambda path, w: table[row[path], w.weights - 1, w.inputs - 1])
