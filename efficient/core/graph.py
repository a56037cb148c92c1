"""Graph: a traced model as a list of nodes, calls written out and all that params alone decide computed.

    g = graph(model.apply, variables, x)       # variables are constants from here on; x is the input
    g.run((x,))                                 # what model.apply(variables, x) returns

Unlike `program`, which needs shapes alone, a graph holds numbers, so that rewriting it can look at them:
folding of normalizations, equalization, integer-only programs.
"""

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax

from efficient.core.interpret import bind
from efficient.core.paths import path_string
from efficient.core.versions import is_literal, open_jaxpr

_CALLS = {"jit": "jaxpr", "pjit": "jaxpr", "closed_call": "call_jaxpr", "core_call": "call_jaxpr",
          "remat": "jaxpr", "remat2": "jaxpr", "checkpoint": "jaxpr", "custom_jvp_call": "call_jaxpr",
          "custom_vjp_call": "call_jaxpr", "custom_vjp_call_jaxpr": "fun_jaxpr"}  # fmt: skip
# A constant is still the param of its path after these.
_STILL = ("convert_element_type", "copy", "copy_p", "stop_gradient", "optimization_barrier")


class Ref(NamedTuple):
    """A result that depends on the inputs: output `place` of node `node`; inputs are nodes -1, -2, ..."""

    node: int
    place: int = 0


class Held(NamedTuple):
    """A constant, and the path of the param that it is, where it is one as it stands."""

    value: Any
    path: str | None = None


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Node:
    """One equation that depends on the inputs."""

    eqn: Any
    operands: tuple[Ref | Held, ...]
    scope: str  # the name stack

    @property
    def kind(self) -> str:
        """The primitive."""
        return str(self.eqn.primitive.name)

    @property
    def refs(self) -> tuple[Ref, ...]:
        """Operands that depend on the inputs."""
        return tuple(one for one in self.operands if isinstance(one, Ref))

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the first result."""
        return tuple(self.eqn.outvars[0].aval.shape)

    def run(self, operands: Sequence[Any]) -> list[Any]:
        """The equation on arrays, results always a list."""
        return bind(self.eqn, operands)


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Graph:
    """Nodes in order of execution."""

    inputs: tuple[Any, ...]  # shapes and dtypes
    nodes: tuple[Node, ...]
    outputs: tuple[Ref | Held, ...]
    build: Callable[[Sequence[Any]], Any]  # the results as the function returns them

    def run(self, args: Sequence[Any], *, each: Callable[..., Any] | None = None) -> Any:
        """Evaluates it.

        Args:
          args: arrays of the shapes of `inputs`.
          each: `(index, node, operands) -> results`, in place of `node.run(operands)`.
        """
        known: dict[Ref, Any] = {Ref(-1 - i): value for i, value in enumerate(args)}

        def read(one: Ref | Held) -> Any:
            return known[one] if isinstance(one, Ref) else one.value

        for i, node in enumerate(self.nodes):
            operands = [read(one) for one in node.operands]
            outs = node.run(operands) if each is None else each(i, node, operands)
            known.update({Ref(i, place): out for place, out in enumerate(outs)})
        return self.build([read(one) for one in self.outputs])

    def uses(self) -> Counter[Ref]:
        """How often each result is read; the graph's outputs count."""
        reads = [one for node in self.nodes for one in node.refs]
        return Counter([*reads, *(one for one in self.outputs if isinstance(one, Ref))])

    def shape(self, one: Ref) -> tuple[int, ...]:
        """Of a result."""
        if one.node < 0:
            return tuple(self.inputs[-1 - one.node].shape)
        return tuple(self.nodes[one.node].eqn.outvars[one.place].aval.shape)


def graph(fn: Callable[..., Any], params: Any, *args: Any) -> Graph:
    """The graph of `fn(params, *args)`, `params` held constant.

    Args:
      fn: any JAX function. Programs with loops inside (scan, while, cond) are one node each.
      params: concrete arrays.
      args: arrays or their shapes; pytrees are flattened.

    Raises:
      ValueError: `fn` returns nothing that depends on `args`.
    """
    pairs, params_def = jax.tree_util.tree_flatten_with_path(params)
    given, args_def = jax.tree.flatten(args)
    shapes = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in given]

    def flat(values: Sequence[Any], inputs: Sequence[Any]) -> Any:
        return fn(jax.tree.unflatten(params_def, values), *jax.tree.unflatten(args_def, inputs))

    closed, out_shape = jax.make_jaxpr(flat, return_shape=True)([v for _, v in pairs], shapes)
    jaxpr, consts = open_jaxpr(closed)
    held = [Held(value, path_string(keys)) for keys, value in pairs]
    nodes: list[Node] = []
    inputs = [Ref(-1 - i) for i in range(len(shapes))]
    with jax.ensure_compile_time_eval():  # numbers, even where the caller is being traced
        outs = _run(jaxpr, consts, [*held, *inputs], "", nodes)
    if not any(isinstance(one, Ref) for one in outs):
        raise ValueError(
            "fn must return something that depends on its inputs, got constants; pass the inputs."
        )
    treedef = jax.tree.structure(out_shape)
    return Graph(
        inputs=tuple(shapes),
        nodes=tuple(nodes),
        outputs=tuple(outs),
        build=lambda values: jax.tree.unflatten(treedef, values),
    )


def _run(
    jaxpr: Any, consts: Sequence[Any], args: Sequence[Ref | Held], scope: str, nodes: list[Node]
) -> list[Ref | Held]:
    """Evaluates what is constant, and appends the rest to `nodes`."""
    env: dict[Any, Ref | Held] = dict(zip(jaxpr.invars, args, strict=True))
    env.update({var: Held(value) for var, value in zip(jaxpr.constvars, consts, strict=True)})
    for eqn in jaxpr.eqns:
        operands = [Held(atom.val) if is_literal(atom) else env[atom] for atom in eqn.invars]
        here = "/".join(filter(None, (scope, str(eqn.source_info.name_stack))))
        inner = eqn.params.get(_CALLS.get(eqn.primitive.name, ""))
        results: Sequence[Ref | Held]
        if inner is not None:
            results = _run(*open_jaxpr(inner), operands, here, nodes)
        elif all(isinstance(one, Held) for one in operands):
            kept = operands[0].path if eqn.primitive.name in _STILL else None  # type: ignore[union-attr]
            results = [Held(v, kept) for v in bind(eqn, [one.value for one in operands])]  # type: ignore[union-attr]
        else:
            nodes.append(Node(eqn=eqn, operands=tuple(operands), scope=here))
            results = [Ref(len(nodes) - 1, place) for place in range(len(eqn.outvars))]
        env.update(zip(eqn.outvars, results, strict=True))
    return [Held(atom.val) if is_literal(atom) else env[atom] for atom in jaxpr.outvars]
