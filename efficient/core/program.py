"""Program: a jaxpr as a flat list of steps, so that an analysis needs to know no call primitive.

Calls (jit, remat, custom_jvp, custom_vjp) are written out in place. `scan`, `while`, `cond` and `shard_map`
stay one step each, with the programs inside them in `bodies`.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from efficient.core.versions import is_literal, open_jaxpr


def words(text: str) -> frozenset[str]:
    """The words of a text."""
    return frozenset(text.split())


# One output element from one element of each operand: a compiler fuses these into their neighbours.
ELEMENTWISE = words(
    """
    abs acos acosh add add_any and asin asinh atan atan2 atanh bessel_i0e bessel_i1e cbrt ceil clamp clz
    complex conj cos cosh digamma div eq eq_to erf erf_inv erfc exp exp2 expm1 floor ge gt imag
    integer_pow is_finite le le_to lgamma log log1p logistic lt lt_to max min mul mulhi ne neg nextafter
    not or population_count pow real rem round rsqrt select_n shift_left shift_right_arithmetic
    shift_right_logical sign sin sinh sqrt square sub tan tanh xor
    """
)
# The same elements, elsewhere or of another type. Operand 0 is the array; others are indices or fill values.
LAYOUT = words(
    """
    bitcast_convert_type broadcast_in_dim convert_element_type copy copy_p device_put dynamic_slice
    expand_dims mesh_cast name optimization_barrier pad pcast pvary reduce_precision reshape reshard rev
    sharding_constraint slice split squeeze stop_gradient tile transpose unstack
    """
)
# Operand 0 with a part written over.
UPDATES = words("dynamic_update_slice scatter scatter_add scatter_sub scatter_mul scatter_min scatter_max")
_CALLS = words(
    """
    jit pjit closed_call core_call remat remat2 checkpoint custom_jvp_call custom_vjp_call
    custom_vjp_call_jaxpr
    """
)
_BODIES = {"scan": ("jaxpr",), "while": ("cond_jaxpr", "body_jaxpr"), "shard_map": ("jaxpr",)}


@dataclasses.dataclass(frozen=True, eq=False)
class Value:
    """One array of the program; two are the same only if they are the same object."""

    shape: tuple[int, ...]
    dtype: Any
    constant: bool = False
    scalar: Any = None  # what a constant of no axes holds

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Step:
    """One equation."""

    primitive: str
    params: Mapping[str, Any]
    operands: tuple[Value, ...]
    results: tuple[Value, ...]
    scope: str  # the name stack, as Flax writes module names there
    bodies: tuple["Program", ...] = ()

    @property
    def is_fused(self) -> bool:
        """True where a compiler is expected to write no result of its own to memory."""
        return self.primitive in ELEMENTWISE or self.primitive in LAYOUT


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
    """Steps in order of execution, what enters and what leaves."""

    inputs: tuple[Value, ...]
    steps: tuple[Step, ...]
    outputs: tuple[Value, ...]


def program(jaxpr: Any, *, scope: str = "") -> Program:
    """The program of a closed (or, with no constants, an open) jaxpr; names inside start with `scope`."""
    inner, consts = open_jaxpr(jaxpr)
    inputs = [_value(var.aval) for var in inner.invars]
    steps: list[Step] = []
    outputs = _write_out(inner, consts, inputs, scope, steps)
    return Program(tuple(inputs), tuple(steps), tuple(outputs))


def _value(aval: Any, **kwargs: Any) -> Value:
    """A value of an abstract value's shape; tokens and the like are empty."""
    return Value(tuple(getattr(aval, "shape", (0,))), getattr(aval, "dtype", None), **kwargs)


def _write_out(
    jaxpr: Any, consts: Sequence[Any], args: Sequence[Value], scope: str, steps: list[Step]
) -> list[Value]:
    """Appends the steps of `jaxpr` on `args` to `steps`; returns its outputs."""
    env = dict(zip(jaxpr.invars, args, strict=True))
    env.update({var: _value(var.aval, constant=True) for var, _ in zip(jaxpr.constvars, consts, strict=True)})

    def read(atom: Any) -> Value:
        if not is_literal(atom):
            return env[atom]
        return _value(atom.aval, constant=True, scalar=atom.val if atom.aval.shape == () else None)

    for eqn in jaxpr.eqns:
        operands = [read(atom) for atom in eqn.invars]
        name, here = eqn.primitive.name, _joined(scope, str(eqn.source_info.name_stack))
        called = _called(eqn) if name in _CALLS else None
        if called is not None:
            results = _write_out(*open_jaxpr(called), operands, here, steps)
        else:
            results = [_value(var.aval) for var in eqn.outvars]
            steps.append(_step(eqn, operands, results, here))
        env.update(zip(eqn.outvars, results, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _called(eqn: Any) -> Any | None:
    """The jaxpr that a call equation runs on its operands."""
    found = [eqn.params[key] for key in ("jaxpr", "call_jaxpr", "fun_jaxpr") if key in eqn.params]
    fits = [jaxpr for jaxpr in found if len(open_jaxpr(jaxpr)[0].invars) == len(eqn.invars)]
    return fits[0] if fits else None


def _step(eqn: Any, operands: list[Value], results: list[Value], scope: str) -> Step:
    """The step of one equation that is no call."""
    name = eqn.primitive.name
    jaxprs = eqn.params["branches"] if name == "cond" else [eqn.params[key] for key in _BODIES.get(name, ())]
    return Step(
        primitive=name,
        params=eqn.params,
        operands=tuple(operands),
        results=tuple(results),
        scope=scope,
        bodies=tuple(program(jaxpr, scope=scope) for jaxpr in jaxprs),
    )


def _joined(outer: str, inner: str) -> str:
    """A name stack inside another."""
    return f"{outer}/{inner}" if outer and inner else outer or inner
