"""Fold: normalizations merged into the products before them, in any traced model.

    folded = fold(model.apply, variables, x)             # x: an example, or its shape
    folded.apply(folded.params, x)                        # what model.apply(variables, x) returns
    folded.params["params/layer0/conv"]                   # {"kernel": ..., "bias": ...}

A chain of sums and products by constants that vary along the output channels alone, after a product and read
by nobody else, is a x + c: the kernel takes a, a bias takes c. So batch normalization goes away, and every
product has a kernel and a bias, whatever the model called them. All transforms apply to `folded.params`.

Source: Jacob et al., 2018, arXiv:1712.05877, section 3.2; Nagel et al., 2019, arXiv:1906.04721, section 3.2.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from efficient.core.graph import Graph, Held, Node, Ref, graph
from efficient.core.leaf import dense

PRODUCTS = ("conv_general_dilated", "dot_general")
_STILL = ("convert_element_type", "copy", "copy_p", "stop_gradient")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Product:
    """A product of the graph and what was merged into it."""

    name: str
    index: int  # of its node
    channels: int  # the axis of the result that its output channels are
    kernel_channels: int  # the axis of the kernel
    absorbed: tuple[int, ...]  # nodes that are merged, in order
    cap: int | None  # the node that limits it from above by a constant, before anything else but a ReLU

    @property
    def last(self) -> Ref:
        """The result that the rest of the graph reads."""
        return Ref(self.absorbed[-1] if self.absorbed else self.index)


@dataclasses.dataclass(frozen=True, eq=False)
class Folded:
    """A model without normalizations, as a function of kernels and biases."""

    fn: Callable[..., Any]
    variables: Any
    products: tuple[Product, ...]
    params: Mapping[str, Mapping[str, Any]]
    example: Any  # shapes of the inputs that it was folded with

    def graph(self, *args: Any) -> Graph:
        """The graph for inputs of these shapes."""
        return graph(self.fn, self.variables, *args)

    def apply(self, params: Mapping[str, Mapping[str, Any]], *args: Any) -> Any:
        """The model's output; traced anew at each call, so jit it. Params may be leaves, through `lift`.

        Args:
          params: like `self.params`.
          args: inputs of any batch size.
        """
        made = self.graph(*args)
        return made.run(jax.tree.leaves(args), each=lambda *node: self.step(params, *node))

    def step(
        self, params: Mapping[str, Mapping[str, Any]], index: int, node: Node, operands: Sequence[Any]
    ) -> list[Any]:
        """One node of the graph, with these kernels and biases."""
        by_index = {p.index: p for p in self.products}
        if index in by_index:
            product = by_index[index]
            own = params[product.name]
            operands = [*operands[:1], own["kernel"]]
            (out,) = node.run(operands)
            return [out + spread(own["bias"], product.channels, out.ndim).astype(out.dtype)]
        if any(index in p.absorbed for p in self.products):
            (at,) = [i for i, one in enumerate(node.operands) if isinstance(one, Ref)]
            return [operands[at]]
        capped = [p for p in self.products if p.cap == index and "cap" in params[p.name]]
        if capped:
            (at,) = [i for i, one in enumerate(node.operands) if isinstance(one, Ref)]
            cap = spread(params[capped[0].name]["cap"], capped[0].channels, operands[at].ndim)
            return [jnp.minimum(operands[at], cap.astype(operands[at].dtype))]
        return node.run(operands)


def fold(fn: Callable[..., Any], variables: Any, *args: Any) -> Folded:
    """Merges normalizations into the products before them.

    Args:
      fn: `fn(variables, *args)`, such as `model.apply`, in its inference mode.
      variables: all that is constant, statistics of normalizations among them; leaves are made dense.
      args: example inputs, or their shapes.

    Returns:
      A `Folded`. Its output is that of `fn` up to rounding: each kernel is multiplied by one float32 number a
      channel, with a relative error of at most 2^-23 for each factor merged.

    Raises:
      ValueError: no product of `fn` has a constant kernel.
    """
    whole = dense(variables)
    found = graph(fn, whole, *args)
    uses = found.uses()
    with jax.ensure_compile_time_eval():
        open_: dict[Ref, _Open] = {}
        done: list[_Open] = []
        for i, node in enumerate(found.nodes):
            here = Ref(i)
            if node.kind in PRODUCTS and (begun := _begun(i, node, done)):
                done.append(begun)
                open_[here] = begun
            elif len(node.refs) == 1 and node.refs[0] in open_ and uses[node.refs[0]] == 1:
                begun = open_[node.refs[0]]
                if begun.absorb(i, node) or begun.limit(i, node):
                    open_[here] = begun
    if not done:
        raise ValueError(
            "fn must multiply its inputs by constant kernels, got none; pass the weights as variables."
        )
    return Folded(
        fn,
        whole,
        products=tuple(one.product() for one in done),
        params={one.name: one.params() for one in done},
        example=jax.eval_shape(lambda *given: given, *args),
    )


def spread(values: Any, axis: int, ndim: int) -> Any:
    """Values of one axis, as an array of `ndim` axes."""
    return jnp.reshape(values, [-1 if i == axis % ndim else 1 for i in range(ndim)])


class _Open:
    """A product that still takes in what follows it."""

    def __init__(self, name: str, index: int, kernel: Any, channels: int, kernel_channels: int) -> None:
        self.name, self.index, self.channels, self.kernel_channels = name, index, channels, kernel_channels
        self.kernel, self.bias = kernel, jnp.zeros(kernel.shape[kernel_channels], kernel.dtype)
        self.absorbed: list[int] = []
        self.is_bent = False  # by a ReLU: nothing more can be merged
        self.cap: int | None = None
        self.cap_value: Any = None

    def absorb(self, index: int, node: Node) -> bool:
        """Takes a node in, if it is a x + c, channel by channel."""
        if self.is_bent:
            return False
        if node.kind in _STILL:
            self.absorbed.append(index)
            return node.eqn.outvars[0].aval.dtype == self.kernel.dtype
        value = self.per_channel(node)
        if value is None or node.kind not in ("add", "sub", "mul", "div"):
            return False
        is_left = isinstance(node.operands[0], Ref)
        if node.kind == "div" and not is_left:
            return False
        if node.kind in ("mul", "div"):
            factor = value if node.kind == "mul" else 1 / value
            self.kernel, self.bias = self.kernel * self._for_kernel(factor), self.bias * factor
        else:
            sign = -1 if node.kind == "sub" and not is_left else 1
            self.kernel, self.bias = sign * self.kernel, sign * self.bias
            self.bias = self.bias + (-value if node.kind == "sub" and is_left else value)
        self.absorbed.append(index)
        return True

    def limit(self, index: int, node: Node) -> bool:
        """Notes a ReLU, and a cap after it (ReLU6), beyond which nothing is taken in."""
        value = self.per_channel(node)
        if value is None or node.kind not in ("max", "min"):
            return False
        if node.kind == "max" and not self.is_bent and bool(jnp.all(value == 0)):
            self.is_bent = True
            return True
        if node.kind == "min" and self.is_bent and self.cap is None:
            self.cap, self.cap_value = index, value
        return False

    def per_channel(self, node: Node) -> Any:
        """The constant operand, if it varies along the output channels alone."""
        held = [one for one in node.operands if isinstance(one, Held)]
        if len(held) != 1 or len(node.operands) != 2:
            return None
        value, size = np.asarray(held[0].value), self.bias.size
        if value.ndim == 0:
            return jnp.full(size, value)
        whole = np.broadcast_to(value, node.shape)
        moved = np.moveaxis(whole, self.channels, -1).reshape(-1, size)
        return jnp.asarray(moved[0]) if (moved == moved[:1]).all() else None

    def _for_kernel(self, values: Any) -> Any:
        return spread(values, self.kernel_channels, self.kernel.ndim).astype(self.kernel.dtype)

    def product(self) -> Product:
        """What is known of it in the end."""
        return Product(
            name=self.name,
            index=self.index,
            channels=self.channels,
            kernel_channels=self.kernel_channels,
            absorbed=tuple(self.absorbed),
            cap=self.cap,
        )

    def params(self) -> dict[str, Any]:
        """Its kernel and bias, and its cap."""
        own = {"kernel": self.kernel, "bias": self.bias}
        return own if self.cap is None else {**own, "cap": self.cap_value}


def _begun(index: int, node: Node, before: Sequence[_Open]) -> _Open | None:
    """A product with a constant kernel on its right, of one axis of output channels; None of any other."""
    left, right = node.operands
    if not isinstance(right, Held) or not isinstance(left, Ref):
        return None
    if node.kind == "dot_general":
        (_, summed), (_, batch) = node.eqn.params["dimension_numbers"]
        free = [axis for axis in range(right.value.ndim) if axis not in summed]
        if batch or len(free) != 1:
            return None
        channels, kernel_channels = len(node.shape) - 1, free[0]
    else:
        numbers = node.eqn.params["dimension_numbers"]
        channels, kernel_channels = numbers.out_spec[1], numbers.rhs_spec[0]
    name = (right.path or f"product{index}").removesuffix("/kernel")
    taken = sum(one.name.partition("#")[0] == name for one in before)
    return _Open(f"{name}#{taken + 1}" if taken else name, index, right.value, channels, kernel_channels)
