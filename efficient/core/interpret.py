"""Evaluates a jaxpr in which some values are leaves.

An equation that meets no leaf is bound again as it is. One that meets a leaf asks the leaf: the method
of the primitive's name is the rule. Where there is none, or it declines, the leaf is made dense, which is
written down, or refused when the frame is strict. Equations with programs inside (scan, cond, jit, ...)
are rebuilt by `control`, and only when a leaf enters them.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from efficient.core import control
from efficient.core.leaf import Leaf
from efficient.core.versions import bind_params, equation_context, is_dropped, is_literal


class DenseError(ValueError):
    """A leaf would have been made dense, and `strict=True` forbids that."""


class Consumption(NamedTuple):
    """One equation that met a leaf."""

    path: str  # of the leaf in the arguments
    leaf: str  # the leaf's class
    primitive: str
    how: str  # "rule": the leaf's own; "layout": still a leaf afterwards; "dense": made an array
    where: str  # the name stack, as Flax writes module names there
    reason: str  # why dense; else empty
    kernel: str = ""  # the kernel that computed it, and its tier, where there was one


class Tracked(NamedTuple):
    """A leaf on its way through the program, with the path that it came from."""

    leaf: Any
    path: str

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the array that the leaf stands for."""
        return self.leaf.shape

    @property
    def dtype(self) -> Any:
        """The dtype of the array that the leaf stands for."""
        return self.leaf.dtype


@dataclasses.dataclass(frozen=True)
class Site:
    """One equation that met a leaf, as the leaf's rule sees it.

    `operands[index]` is the leaf, `Tracked`; the others are arrays.
    """

    eqn: Any
    operands: tuple[Any, ...]
    index: int
    frame: "Frame"

    @property
    def params(self) -> Mapping[str, Any]:
        """The equation's parameters, as `jax.lax` documents them."""
        return self.eqn.params

    @property
    def path(self) -> str:
        """The path of the leaf in the arguments."""
        return self.operands[self.index].path

    @property
    def other(self) -> Any:
        """The other operand of an equation of two."""
        return self.operands[1 - self.index]

    @property
    def out_shape(self) -> tuple[int, ...]:
        """The shape that the result must have."""
        return tuple(self.eqn.outvars[0].aval.shape)

    @property
    def out_dtype(self) -> Any:
        """The dtype that the result must have."""
        return self.eqn.outvars[0].aval.dtype

    def bind(self, value: Any, *, other: Any = None) -> Any:
        """The same equation with `value`, an array or another leaf, in place of the leaf: an array or a leaf.

        `other` stands in for the other operand of an equation of two, if given.
        """
        operands = list(self.operands)
        if other is not None:
            operands[1 - self.index] = other
        operands[self.index] = Tracked(value, self.path) if isinstance(value, Leaf) else value
        (out,) = self.frame.equation(self.eqn, operands)
        return out.leaf if isinstance(out, Tracked) else out

    def computed_by(self, kernel: str) -> None:
        """Writes down which kernel a rule hands this equation to."""
        self.frame.kernel = kernel

    def emit(self, statistic: Any) -> None:
        """Hands a statistic of this leaf out of the program: see `observe`."""
        self.frame.emit(self.path, statistic)


@dataclasses.dataclass
class Frame:
    """One program under evaluation: its policy, its log, and what it hands out besides its results."""

    strict: bool = False
    observing: bool = False  # statistics are handed out: nothing may hide a program from us
    log: list[Consumption] = dataclasses.field(default_factory=list)
    emitted: dict[str, Any] = dataclasses.field(default_factory=dict)
    kernel: str = ""  # that the rule now asked has named

    def child(self) -> "Frame":
        """A frame for a program inside this one: the same policy and log, its own statistics."""
        return Frame(self.strict, self.observing, self.log)

    def emit(self, path: str, statistic: Any) -> None:
        """Adds a statistic to those of the leaf at `path`."""
        self.emitted[path] = self.emitted[path].merge(statistic) if path in self.emitted else statistic

    def note(self, value: Tracked, eqn: Any, how: str, reason: str = "") -> None:
        """Writes down that `eqn` met a leaf."""
        name, kernel = type(value.leaf).__name__, self.kernel
        where = str(eqn.source_info.name_stack)
        self.kernel = ""
        self.log.append(Consumption(value.path, name, eqn.primitive.name, how, where, reason, kernel))

    def as_dense(self, value: Any, eqn: Any, reason: str) -> Any:
        """The array behind `value`; written down, or refused when strict."""
        if not isinstance(value, Tracked):
            return value
        if self.strict:
            raise DenseError(
                f"leaf {value.path!r} ({type(value.leaf).__name__}) must stay packed under strict=True, got "
                f"{eqn.primitive.name!r} at {str(eqn.source_info.name_stack)!r} that would make it dense "
                f"({reason}); change the model there, or lift without strict."
            )
        self.note(value, eqn, "dense", reason)
        return value.leaf.dense()

    def run(self, jaxpr: Any, consts: Sequence[Any], args: Sequence[Any]) -> list[Any]:
        """Evaluates `jaxpr`; arguments and results may be `Tracked` leaves."""
        env: dict[Any, Any] = {}
        last = _last_uses(jaxpr)

        def read(atom: Any) -> Any:
            return atom.val if is_literal(atom) else env[atom]

        env.update(zip(jaxpr.constvars, consts, strict=True))
        env.update(zip(jaxpr.invars, args, strict=True))
        for i, eqn in enumerate(jaxpr.eqns):
            outs = self.equation(eqn, [read(atom) for atom in eqn.invars])
            for var, out in zip(eqn.outvars, outs, strict=True):
                if not is_dropped(var):
                    env[var] = out
            for var in last.get(i, ()):
                env.pop(var, None)
        return [read(atom) for atom in jaxpr.outvars]

    def equation(self, eqn: Any, operands: list[Any]) -> list[Any]:
        """Evaluates one equation."""
        met = [i for i, value in enumerate(operands) if isinstance(value, Tracked)]
        if not met:
            return bind(eqn, operands)
        if eqn.primitive.name in control.RULES:
            return control.RULES[eqn.primitive.name](self, eqn, operands)
        return self._meet(eqn, operands, met)

    def _meet(self, eqn: Any, operands: list[Any], met: list[int]) -> list[Any]:
        """Asks the first leaf that has a rule for it; makes all of them dense where none has one.

        When observing, the other leaves are asked too, so that each can hand out its statistics.
        """
        name, reason, result = eqn.primitive.name, "its leaf has no such rule", None
        for index in (i for i in met if hasattr(operands[i].leaf, name)):
            tracked = operands[index]
            others = [
                v if i == index else self.as_dense(v, eqn, "two leaves meet") for i, v in enumerate(operands)
            ]
            out = getattr(tracked.leaf, name)(Site(eqn, tuple(others), index, self))
            if out is NotImplemented:
                reason = "its rule declined these axes: out_ndim= or axis= of its transform may fit them"
                continue
            result = result or [self._checked(out, eqn, tracked)]
            if not self.observing:
                break
        return result or bind(eqn, [self.as_dense(value, eqn, reason) for value in operands])

    def _checked(self, out: Any, eqn: Any, tracked: Tracked) -> Any:
        """A rule's result: of the shape and dtype that the equation promised, and still tracked if a leaf."""
        promised = eqn.outvars[0].aval
        if tuple(out.shape) != tuple(promised.shape) or out.dtype != promised.dtype:
            raise TypeError(
                f"rule {type(tracked.leaf).__name__}.{eqn.primitive.name} must return "
                f"{promised.str_short()}, got {out.dtype}{list(out.shape)}; this is a bug in that leaf."
            )
        self.note(tracked, eqn, "layout" if isinstance(out, Leaf) else "rule")
        return Tracked(out, tracked.path) if isinstance(out, Leaf) else out


def bind(eqn: Any, operands: Sequence[Any]) -> list[Any]:
    """Evaluates an equation on arrays."""
    functions, params = bind_params(eqn)
    with equation_context(eqn):
        out = eqn.primitive.bind(*functions, *operands, **params)
    return list(out) if eqn.primitive.multiple_results else [out]


def _last_uses(jaxpr: Any) -> dict[int, list[Any]]:
    """By equation, the values that nobody reads after it."""
    kept = {atom for atom in jaxpr.outvars if not is_literal(atom)}
    seen: set[Any] = set()
    last: dict[int, list[Any]] = {}
    for i in reversed(range(len(jaxpr.eqns))):
        for atom in jaxpr.eqns[i].invars:
            if not is_literal(atom) and atom not in seen and atom not in kept:
                seen.add(atom)
                last.setdefault(i, []).append(atom)
    return last
