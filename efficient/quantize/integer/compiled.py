"""Compiled: from a folded model and the ranges of its tensors to an integer program.

    folded = fold(model.apply, variables, x[:1])
    ranges = calibrate(folded, folded.params, batches)
    program = compile_integers(folded, folded.params, ranges)
    program(x)                                           # int8 in, int32 sums, shifts

Source: Jacob et al., 2018, arXiv:1712.05877, section 2.
"""

import functools
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from efficient.core.graph import Graph, Held, Node, Ref
from efficient.quantize.fold import Folded, Product
from efficient.quantize.integer.arithmetic import Affine8, affine_of, multiplier
from efficient.quantize.integer.program import (
    Add,
    Concatenate,
    IntegerProgram,
    Move,
    Multiply,
    Operation,
    Sum,
)

_LAYOUT = ("reshape", "transpose", "squeeze", "rev", "slice", "reduce_window_max", "reduce_max", "copy")
_STILL = ("stop_gradient", "convert_element_type", "copy_p", "optimization_barrier")


class Ends(NamedTuple):
    """The least and the largest number of a tensor."""

    low: float
    high: float


def calibrate(
    folded: Folded, params: Mapping[str, Mapping[str, Any]], batches: Iterable[Any]
) -> dict[Ref, Ends]:
    """The range of every tensor of a model, over batches of its one input: from the least to the largest.

    Raises:
      ValueError: there is no batch.
    """

    @jax.jit
    def ends(x: Any) -> dict[Ref, tuple[Any, Any]]:
        seen = {Ref(-1): x}

        def each(index: int, node: Node, operands: Any) -> list[Any]:
            outs = folded.step(params, index, node, operands)
            seen.update({Ref(index, place): out for place, out in enumerate(outs)})
            return outs

        folded.graph(x).run((x,), each=each)
        return {ref: (jnp.min(value), jnp.max(value)) for ref, value in seen.items()}

    found: dict[Ref, Ends] = {}
    for batch in batches:
        for ref, (low, high) in ends(jnp.asarray(batch)).items():
            old = found.get(ref, Ends(math.inf, -math.inf))
            found[ref] = Ends(min(old.low, float(low)), max(old.high, float(high)))
    if not found:
        raise ValueError(f"batches must hold at least one batch, got {batches!r}; is it used up?")
    return found


def compile_integers(
    folded: Folded,
    params: Mapping[str, Mapping[str, Any]],
    ranges: Mapping[Ref, Ends],
    *,
    per_channel: bool = True,
    bits: int = 8,
) -> IntegerProgram:
    """The integer program of a model with one input and one output.

    Weights are symmetric, -q..q, one scale an output channel; biases are int32 in steps of S_x S_w; other
    tensors int8 with a zero point. A ReLU after a product or a sum becomes the bounds of its output.

    Args:
      folded: the model; its example has a batch of one or more.
      params: its kernels, arrays.
      ranges: of all tensors, as `calibrate` found them.
      per_channel: False: one scale a kernel.
      bits: of the weights, 2 to 8.

    Raises:
      ValueError: more than one input or output.
      NotImplementedError: the model computes what an integer program has no operation for; the message names
        the primitive and the module.
    """
    if not 2 <= bits <= 8:
        raise ValueError(f"bits must be from 2 to 8, got {bits!r}; 8 is usual.")
    (shape,) = {tuple(folded_input.shape) for folded_input in jax.tree.leaves(folded.example)}
    found = folded.graph(jax.ShapeDtypeStruct((1, *shape[1:]), jnp.float32))
    outputs = [one for one in found.outputs if isinstance(one, Ref)]
    if len(found.inputs) != 1 or len(outputs) != 1 or len(found.outputs) != 1:
        raise ValueError(
            f"the model must have one input and one output, got {len(found.inputs)} and "
            f"{len(found.outputs)}; compile its parts."
        )
    made = _Compiler(folded, params, ranges, found, per_channel, 2 ** (bits - 1) - 1)
    for index, node in enumerate(found.nodes):
        made.add(index, node)
    return IntegerProgram(
        incoming=made.affine[0],
        operations=tuple(made.operations),
        output=made.tensor[outputs[0]],
        shape=shape[1:],
    )


class _Compiler:
    """The program so far: by result, the tensor that holds it."""

    def __init__(
        self,
        folded: Folded,
        params: Mapping[str, Mapping[str, Any]],
        ranges: Mapping[Ref, Ends],
        graph: Graph,
        per_channel: bool,
        largest: int,
    ) -> None:
        self.params, self.ranges, self.graph, self.uses = params, ranges, graph, graph.uses()
        self.per_channel, self.largest = per_channel, largest
        self.products: dict[int, Product] = {p.index: p for p in folded.products}
        self.absorbed = {i for p in folded.products for i in p.absorbed}
        self.readers = {ref: i for i, node in enumerate(graph.nodes) for ref in node.refs}
        self.tensor: dict[Ref, int] = {Ref(-1): 0}
        self.affine: dict[int, Affine8] = {0: affine_of(*ranges[Ref(-1)])}
        self.operations: list[Operation] = []
        self.done: set[int] = set()

    def add(self, index: int, node: Node) -> None:
        """Appends what a node does, unless an earlier operation has taken it in."""
        here = Ref(index)
        if index in self.done:
            return
        if index in self.products:
            return self.multiply(self.products[index], node)
        if node.kind in _STILL:
            self.tensor[here] = self.tensor[node.refs[0]]
            return None
        if node.kind == "add" and len(node.refs) == 2:
            return self.sum_of_two(index, node)
        if node.kind in ("reduce_sum", "reduce_window_sum"):
            return self.sum_of_places(index, node)
        if node.kind == "concatenate":
            return self.append(
                here, node.refs, node, self.of(here), Concatenate, axis=node.eqn.params["dimension"]
            )
        if node.kind == "pad" and len(node.refs) == 1 and not np.asarray(node.operands[1].value).any():  # type: ignore[union-attr]
            return self.append(
                here, node.refs, node, self.held(node), Move, move=lambda x, zero: node.run([x, zero])[0]
            )
        if node.kind in _LAYOUT and len(node.refs) == 1:
            return self.append(
                here, node.refs, node, self.held(node), Move, move=lambda x, _: node.run([x])[0]
            )
        raise NotImplementedError(
            f"an integer program has no operation for {node.kind!r} at {node.scope!r}; keep that part in "
            "floating point, or write the model with convolutions, dense layers, ReLU, sums, pooling and "
            "concatenation."
        )

    def of(self, ref: Ref) -> Affine8:
        """The scale and zero point that the range of a result asks for."""
        return affine_of(*self.ranges[ref])

    def held(self, node: Node) -> Affine8:
        """Those of a node's input, which its result keeps."""
        return self.affine[self.tensor[node.refs[0]]]

    def append(
        self,
        ref: Ref,
        refs: tuple[Ref, ...],
        node: Node,
        outgoing: Affine8,
        make: Callable[..., Operation],
        **own: Any,
    ) -> None:
        """One operation more, whose result is `ref`."""
        inputs = tuple(self.tensor[one] for one in refs)
        number = len(self.affine)
        self.tensor[ref], self.affine[number] = number, outgoing
        incoming = tuple(self.affine[i] for i in inputs)
        self.operations.append(
            make(
                scope=node.scope or node.kind,
                inputs=inputs,
                output=number,
                incoming=incoming,
                outgoing=outgoing,
                **own,
            )
        )

    def following(self, ref: Ref) -> Node | None:
        """The node that alone reads a result."""
        return self.graph.nodes[self.readers[ref]] if self.uses[ref] == 1 and ref in self.readers else None

    def rectified(self, last: Ref, cap: int | None = None) -> tuple[Ref, bool]:
        """The result after a ReLU and a cap that alone read it, now done; and whether there was one."""
        bent, node = last, self.following(last)
        while node is not None and node.kind in _STILL:
            bent = Ref(self.readers[bent])
            self.done.add(bent.node)
            node = self.following(bent)
        if node is None or node.kind != "max" or not _is_zero(node):
            return bent, False
        bent = Ref(self.readers[bent])
        self.done.add(bent.node)
        if cap is not None and self.following(bent) is self.graph.nodes[cap]:
            bent = Ref(cap)
            self.done.add(cap)
        return bent, True

    def multiply(self, product: Product, node: Node) -> None:
        """A product with its bias and activation."""
        self.done.update(product.absorbed)
        result, is_bent = self.rectified(product.last, product.cap)
        own, outgoing = self.params[product.name], self.of(result)
        kernel = np.asarray(own["kernel"], np.float32)
        rows = np.abs(np.moveaxis(kernel, product.kernel_channels, 0)).reshape(
            kernel.shape[product.kernel_channels], -1
        )
        largest = rows.max(1) if self.per_channel else np.full(len(rows), rows.max())
        scale = np.where(largest > 0, largest / self.largest, 1.0).astype(np.float32)
        along = [-1 if i == product.kernel_channels else 1 for i in range(kernel.ndim)]
        numbers = np.clip(np.round(kernel / scale.reshape(along)), -self.largest, self.largest)
        (source,) = node.refs
        incoming = self.affine[self.tensor[source]]
        unit = scale.astype(np.float64) * incoming.scale
        bias = np.clip(np.round(np.asarray(own["bias"], np.float64) / unit), -(2**31), 2**31 - 1)
        capped = product.cap is not None and result == Ref(product.cap) and "cap" in own
        high = (
            np.full(len(rows), 127) if not capped else np.asarray(outgoing.nearest(jnp.asarray(own["cap"])))
        )
        self.append(
            result, (source,), node, outgoing, Multiply,
            kind=node.kind,
            settings={**node.eqn.params, "out_shape": node.shape},
            kernel=jnp.asarray(numbers.astype(np.int8)),
            bias=jnp.asarray(bias.astype(np.int32)),
            kernel_scale=jnp.asarray(scale),
            channels=product.channels,
            kernel_channels=product.kernel_channels,
            low=outgoing.zero if is_bent else -128,
            high=jnp.asarray(high.astype(np.int8)),
            by=multiplier(unit / outgoing.scale),
        )  # fmt: skip

    def sum_of_two(self, index: int, node: Node) -> None:
        """A residual connection."""
        result, is_bent = self.rectified(Ref(index))
        outgoing = self.of(result)
        self.append(result, node.refs, node, outgoing, Add, low=outgoing.zero if is_bent else -128)

    def sum_of_places(self, index: int, node: Node) -> None:
        """Pooling by sums, and the constant that follows."""
        result, factor, after = Ref(index), 1.0, self.following(Ref(index))
        if after is not None and after.kind in ("div", "mul") and (number := _scalar(after)) is not None:
            result, factor = Ref(self.readers[result]), number if after.kind == "mul" else 1 / number
            self.done.add(result.node)
        outgoing, incoming = self.of(result), self.held(node)
        add = functools.partial(_summed, node)
        by = multiplier(factor * incoming.scale / outgoing.scale)
        self.append(result, node.refs, node, outgoing, Sum, add=add, factor=factor, by=by)


def _summed(node: Node, x: Any) -> Any:
    """The node's sum, in the dtype of `x`."""
    p = node.eqn.params
    if node.kind == "reduce_sum":
        return jnp.sum(x, axis=p["axes"])
    zero = jnp.zeros((), x.dtype)
    return jax.lax.reduce_window(
        x,
        zero,
        jax.lax.add,
        p["window_dimensions"],
        p["window_strides"],
        p["padding"],
        base_dilation=p["base_dilation"],
        window_dilation=p["window_dilation"],
    )


def _is_zero(node: Node) -> bool:
    """Whether the other operand is zero everywhere."""
    return any(isinstance(one, Held) and not np.asarray(one.value).any() for one in node.operands)


def _scalar(node: Node) -> float | None:
    """The positive constant that a node multiplies or divides by, if it is the same everywhere."""
    held = [np.asarray(one.value) for one in node.operands if isinstance(one, Held)]
    if len(held) != 1 or (not isinstance(node.operands[0], Ref) and node.kind == "div"):
        return None
    first = float(held[0].flat[0]) if held[0].size else 0.0
    return first if first > 0 and (held[0] == first).all() else None
