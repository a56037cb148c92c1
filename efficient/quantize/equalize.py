"""Equalize: channels rescaled between products, so that no channel of a weight is much larger than another.

Source: Nagel et al., 2019, arXiv:1906.04721, section 4.1 (cross-layer equalization of DFQ).
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from efficient.core.graph import Graph, Held, Ref
from efficient.quantize.fold import Folded, Product, spread


class Pair(NamedTuple):
    """Two products; the second takes in the first's channels, through nothing but positive factors."""

    first: str
    second: str
    axis: int  # of the second's kernel, whose places belong to channels of the first
    channel: np.ndarray  # [places along that axis], the channel


def equalize(
    folded: Folded, params: Mapping[str, Mapping[str, Any]], *args: Any, iterations: int = 50
) -> dict[str, dict[str, Any]]:
    """Kernels of the same function, their channels' ranges equal in every pair of products.

    With r1 the largest magnitude of a channel in the first kernel and r2 in the second, s = sqrt(r1 / r2):
    the first is divided by s, the second multiplied by it (equation 11), pair after pair until nothing moves.
    A ReLU lets s through; the cap of a ReLU6 is divided by it, one cap a channel.

    Args:
      folded: the model.
      params: its kernels and biases.
      args: example inputs, or their shapes.
      iterations: over all pairs, at most.

    Returns:
      Params like those given. What `folded.apply` makes of them is the same, up to rounding.

    Raises:
      ValueError: the model has no pair: every product's channels meet in sums, or are taken in by several.

    *Differs:* the paper puts a ReLU in the place of each ReLU6.
    """
    found = pairs(folded, folded.graph(*args))
    if not found:
        raise ValueError(
            f"folded must have products that follow each other, got {len(folded.products)} that do not; "
            "leave equalization out."
        )
    products = {p.name: p for p in folded.products}
    made = {name: dict(own) for name, own in params.items()}
    for _ in range(iterations):
        furthest = 0.0
        for pair in found:
            s = _factors(made, pair, products[pair.first])
            _rescale(made, pair, products[pair.first], s)
            furthest = max(furthest, float(jnp.max(jnp.abs(jnp.log(s)))))
        if furthest < 1e-4:
            break
    return made


def pairs(folded: Folded, graph: Graph) -> list[Pair]:
    """The pairs of a model, in order."""
    uses, readers = graph.uses(), _readers(graph)
    made = []
    for product in folded.products:
        at, axis, ids = product.last, product.channels, None
        while uses[at] == 1 and at in readers:
            index = readers[at]
            node = graph.nodes[index]
            second = next((p for p in folded.products if p.index == index), None)
            if second is not None:
                met = _meets(second, node, graph.shape(at), axis, ids)
                made += [] if met is None else [Pair(product.name, second.name, *met)]
                break
            moved = _through(node, index, product, graph.shape(at), axis, ids)
            if moved is None:
                break
            at, (axis, ids) = Ref(index), moved
    return made


def _readers(graph: Graph) -> dict[Ref, int]:
    """By result, a node that reads it."""
    return {ref: i for i, node in enumerate(graph.nodes) for ref in node.refs}


def _through(
    node: Any, index: int, product: Product, shape: tuple[int, ...], axis: int, ids: Any
) -> tuple[int, Any] | None:
    """Where the channels are after a node that positive factors pass through; None after another."""
    held = [np.asarray(one.value) for one in node.operands if isinstance(one, Held)]
    if node.kind == "max" and len(held) == 1 and not held[0].any():
        return axis, ids
    if node.kind == "min" and index == product.cap:
        return axis, ids
    if node.kind in ("mul", "div") and len(held) == 1 and held[0].size and (held[0] == held[0].flat[0]).all():
        is_left = isinstance(node.operands[0], Ref)
        return (axis, ids) if held[0].flat[0] > 0 and (is_left or node.kind == "mul") else None
    if node.kind in ("reduce_window_max", "reduce_window_sum") and ids is None:
        return (axis, None) if node.eqn.params["window_dimensions"][axis] == 1 else None
    if node.kind in ("reduce_sum", "reduce_max") and ids is None:
        gone = node.eqn.params["axes"]
        return None if axis in gone or 0 in gone else (axis - sum(a < axis for a in gone), None)
    if node.kind == "reshape" and ids is None and node.shape == (shape[0], math.prod(shape[1:])):
        places = np.arange(shape[axis]).reshape([-1 if i == axis else 1 for i in range(1, len(shape))])
        return 1, np.broadcast_to(places, shape[1:]).ravel()
    return None


def _meets(
    second: Product, node: Any, shape: tuple[int, ...], axis: int, ids: Any
) -> tuple[int, np.ndarray] | None:
    """The axis of the second kernel along which the channels stand, and whose each place is."""
    if node.kind == "dot_general":
        ((summed,), (kernel_axis,)), _ = node.eqn.params["dimension_numbers"]
        if summed != (axis if ids is None else len(shape) - 1):
            return None
        return kernel_axis, np.arange(shape[axis]) if ids is None else ids
    numbers, groups = node.eqn.params["dimension_numbers"], node.eqn.params["feature_group_count"]
    if ids is not None or numbers.lhs_spec[1] != axis:
        return None
    if groups == 1:
        return numbers.rhs_spec[1], np.arange(shape[axis])
    if groups == shape[axis]:  # depthwise: each output channel has one input channel
        many = node.shape[second.channels]
        return second.kernel_channels, np.arange(many) // (many // groups)
    return None


def _factors(params: Mapping[str, Mapping[str, Any]], pair: Pair, first: Product) -> Any:
    """The s of every channel; 1 where either kernel has nothing of it."""
    one, two = params[first.name]["kernel"], params[pair.second]["kernel"]
    r1 = jnp.max(
        jnp.abs(jnp.moveaxis(one, first.kernel_channels, -1)).reshape(-1, one.shape[first.kernel_channels]), 0
    )
    rows = jnp.max(jnp.abs(jnp.moveaxis(two, pair.axis, -1)).reshape(-1, pair.channel.size), 0)
    r2 = jnp.zeros_like(r1).at[pair.channel].max(rows)
    return jnp.where((r1 > 0) & (r2 > 0), jnp.sqrt(r1 / jnp.where(r2 > 0, r2, 1.0)), 1.0)


def _rescale(params: dict[str, dict[str, Any]], pair: Pair, first: Product, s: Any) -> None:
    """Moves the factors from the first product to the second."""
    own = params[first.name]
    own["kernel"] = own["kernel"] / spread(s, first.kernel_channels, own["kernel"].ndim)
    own.update({name: own[name] / s for name in ("bias", "cap") if name in own})
    second = params[pair.second]
    second["kernel"] = second["kernel"] * spread(s[pair.channel], pair.axis, second["kernel"].ndim)
