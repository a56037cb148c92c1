"""Dependencies: which channels of which weights live or die together, for any JAX function.

    found = dependencies(model.apply, variables, x)
    print(found)                               # groups: their size, and the axes of weights they run over
    keep = {"params/Conv_0/kernel:3": mask}    # bool [size], one for each group that shrinks
    small = found.shrink(variables, keep)      # smaller arrays; `resized` makes the function to run on them

The function is traced, and the axes of every value are followed through the program (`axis_rules`): a
residual add makes the axes of its operands one, a concatenation makes an axis a sum, a flatten a product.
Axes of inputs and results stay whole. An axis that an equation without a rule meets is locked, and a request
to prune it names that equation.

Source: Fang et al., 2023, arXiv:2301.12900 (DepGraph), for the question. *Differs:* there a graph of modules
with a rule for each kind of layer; here an algebra of axes on the traced program, so that no layer is known.
"""

import dataclasses
import operator
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from efficient.core.axes import Atom, Axis, Spaces, Sum, atom, size_left, size_of, terms_of
from efficient.core.axis_rules import Label, Rules, label, new
from efficient.core.paths import path_string
from efficient.core.versions import is_dropped, is_literal, open_jaxpr, scan_counts
from efficient.core.words import as_text

INLINED = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "remat": "jaxpr",
    "remat2": "jaxpr",
    "checkpoint": "jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "custom_vjp_call_jaxpr": "fun_jaxpr",
}


def inner_program(eqn: Any) -> Any:
    """The program that an inlined equation holds; None of any other."""
    name = eqn.primitive.name
    if name not in INLINED:
        return None
    return eqn.params.get(INLINED[name], eqn.params.get("call_jaxpr", eqn.params.get("jaxpr")))


class Row(NamedTuple):
    """One equation as it was followed."""

    operands: tuple[Label, ...]
    results: tuple[Label, ...]
    inside: tuple["Followed", ...]  # one for each program that the equation holds


class Followed(NamedTuple):
    """A program whose axes have been followed, equation by equation."""

    consts: tuple[Label, ...]
    rows: tuple[Row, ...]
    results: tuple[Label, ...]


class Follow:
    """Follows the axes of programs; what is found is in `spaces`."""

    def __init__(self, spaces: Spaces) -> None:
        self.spaces, self.rules = spaces, Rules(spaces)

    def program(self, closed: Any, operands: Sequence[Label], scope: str = "") -> Followed:
        """A closed jaxpr, or an open one without constants, on operands of these labels."""
        jaxpr, consts = open_jaxpr(closed)
        held = tuple(new(np.shape(const)) for const in consts)
        env: dict[Any, Label] = dict(zip(jaxpr.constvars, held, strict=True))
        env.update(zip(jaxpr.invars, operands, strict=True))

        def read(one: Any) -> Label:
            return Label((), (), one.val) if is_literal(one) else env[one]

        rows = []
        for eqn in jaxpr.eqns:
            given = tuple(map(read, eqn.invars))
            results, inside = self.equation(eqn, given, scope)
            rows.append(Row(given, tuple(results), inside))
            for var, result in zip(eqn.outvars, results, strict=True):
                if not is_dropped(var):
                    env[var] = result
        return Followed(held, tuple(rows), tuple(map(read, jaxpr.outvars)))

    def equation(
        self, eqn: Any, given: Sequence[Label], scope: str
    ) -> tuple[Sequence[Label], tuple[Followed, ...]]:
        """The labels of the results, and what was followed inside."""
        stack = str(eqn.source_info.name_stack)
        scope = "/".join(filter(None, (scope, stack)))
        name = eqn.primitive.name
        if (inner := inner_program(eqn)) is not None:
            followed = self.program(inner, given, scope)
            return followed.results, (followed,)
        if name == "scan":
            return self._scan(eqn, given, scope)
        if name == "while":
            return self._while(eqn, given, scope)
        if name == "cond":
            return self._cond(eqn, given, scope)
        where = f"at {name!r}" + (f" in {scope}" if scope else "")
        return self.rules.results(eqn, given, where), ()

    def _carried(self, before: Sequence[Label], after: Sequence[Label], scope: str) -> list[Label]:
        """What goes round a loop has the same axes before and after, and is zero where it is both times."""
        for one, other in zip(before, after, strict=True):
            for mine, theirs in zip(one.axes, other.axes, strict=True):
                self.spaces.unify(mine, theirs, f"where a loop is carried round in {scope}")
        return [
            label(one.axes, [a and b for a, b in zip(one.zero, other.zero, strict=True)])
            for one, other in zip(before, after, strict=True)
        ]

    def _scan(self, eqn: Any, given: Sequence[Label], scope: str) -> tuple[list[Label], tuple[Followed, ...]]:
        """The axis that is scanned over is one for all; it may be pruned: layers."""
        n_consts, n_carry = scan_counts(eqn.params)
        held, carry, xs = (
            given[:n_consts],
            list(given[n_consts : n_consts + n_carry]),
            given[n_consts + n_carry :],
        )
        length = atom(eqn.params["length"])
        for one in xs:
            self.spaces.unify(length, one.axes[0], f"where layers are scanned in {scope}")
        slices = [Label(one.axes[1:], one.zero[1:]) for one in xs]
        for _ in range(2):  # once to learn what stays zero, once with that
            followed = self.program(eqn.params["jaxpr"], [*held, *carry, *slices], scope)
            carry = self._carried(carry, followed.results[:n_carry], scope)
        ys = [Label((length, *one.axes), (False, *one.zero)) for one in followed.results[n_carry:]]
        return [*carry, *ys], (followed,)

    def _while(
        self, eqn: Any, given: Sequence[Label], scope: str
    ) -> tuple[list[Label], tuple[Followed, ...]]:
        n_test, n_body = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
        test, body, carry = given[:n_test], given[n_test : n_test + n_body], list(given[n_test + n_body :])
        for _ in range(2):
            inside = self.program(eqn.params["body_jaxpr"], [*body, *carry], scope)
            carry = self._carried(carry, inside.results, scope)
        return carry, (self.program(eqn.params["cond_jaxpr"], [*test, *carry], scope), inside)

    def _cond(self, eqn: Any, given: Sequence[Label], scope: str) -> tuple[list[Label], tuple[Followed, ...]]:
        followed = [self.program(branch, given[1:], scope) for branch in eqn.params["branches"]]
        results = list(followed[0].results)
        for other in followed[1:]:
            results = self._carried(results, other.results, scope)
        return results, tuple(followed)


class Traced(NamedTuple):
    """A function traced on shapes, its axes followed."""

    jaxpr: Any
    followed: Followed
    spaces: Spaces
    weights: Mapping[str, Axis | Any]  # path -> axes of a weight
    out_shape: Any


def trace(fn: Any, params: Any, args: Sequence[Any], *, locks_results: bool) -> Traced:
    """Traces `fn(params, *args)` and follows its axes."""
    pairs, _ = jax.tree_util.tree_flatten_with_path(params)
    shapes = jax.tree.map(lambda v: jax.ShapeDtypeStruct(np.shape(v), jax.numpy.result_type(v)), params)
    closed, out_shape = jax.make_jaxpr(fn, return_shape=True)(shapes, *args)
    spaces = Spaces()
    weights = {path_string(keys): tuple(map(atom, np.shape(v))) for keys, v in pairs}
    own = [label(axes, True) for axes in weights.values()]
    inputs = [new(np.shape(v)) for v in jax.tree.leaves(tuple(args))]
    for one in inputs:
        for axis in one.axes:
            spaces.lock(axis, "it is an axis of the input")
    followed = Follow(spaces).program(closed, [*own, *inputs])
    if locks_results:
        for one in followed.results:
            for axis in one.axes:
                spaces.lock(axis, "it is an axis of the result")
    return Traced(closed, followed, spaces, weights, out_shape)


class Member(NamedTuple):
    """An axis of a weight that a group runs over."""

    path: str
    axis: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Group:
    """Channels (heads, layers) that live or die one by one, each with all its weights."""

    name: (
        str  # of the member that makes its values, "path:axis"; with "#k" where the axis holds several groups
    )
    size: int
    members: tuple[Member, ...]
    locked: str  # why it must stay whole; empty where it need not


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dependencies:
    """The groups of a function's weights."""

    groups: Mapping[str, Group]  # by name
    shapes: Mapping[str, tuple[int, ...]]  # of the weights, by path
    _atoms: Mapping[str, Atom]
    _axes: Mapping[str, tuple[Axis, ...]]  # solved, by path of the weight

    @property
    def free(self) -> dict[str, Group]:
        """The groups that can shrink."""
        return {name: group for name, group in self.groups.items() if not group.locked}

    def axis_masks(self, keep: Mapping[str, Any]) -> dict[str, tuple[np.ndarray, ...]]:
        """By path, for each axis of the weight, which indices stay: bool [size of the axis].

        Args:
          keep: by name of a group, bool [size]; groups that it leaves out stay whole.

        Raises:
          ValueError: there is no such group, it is locked, or the mask has another size or keeps nothing.
        """
        checked = {name: self._mask(name, mask) for name, mask in keep.items()}
        chosen = {self._atoms[name]: mask for name, mask in checked.items()}
        return {path: tuple(indices_kept(axis, chosen) for axis in axes) for path, axes in self._axes.items()}

    def _shrinkable(self, name: str, given: str, what: str) -> Group:
        """The group of this name, of which `given` has `what`."""
        if name not in self.groups:
            near = ", ".join(list(self.free)[:3])
            raise ValueError(f"{given} must name groups, got {name!r}; print the dependencies: {near}, ...")
        group = self.groups[name]
        if group.locked:
            raise ValueError(
                f"group {name!r} must stay whole, got {what} of it: {group.locked}; leave it out."
            )
        return group

    def _mask(self, name: str, mask: Any) -> np.ndarray:
        """A mask that a group can have."""
        group, kept = self._shrinkable(name, "keep", "a mask"), np.asarray(mask)
        if kept.shape != (group.size,) or kept.dtype != bool or not kept.any():
            raise ValueError(
                f"keep[{name!r}] must be bool [{group.size}] with a True, got {kept.dtype}{list(kept.shape)} "
                f"with {int(kept.astype(bool).sum())}; keep one index at least."
            )
        return kept

    def sizes_left(self, counts: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
        """By path, the shape of each weight once each group keeps so many indices, whichever they are.

        Args:
          counts: by name of a group, from 1 to its size; groups that it leaves out stay whole.

        Raises:
          ValueError: there is no such group, it is locked, or the count is out of range.
        """
        left = {self._atoms[name]: count for name, count in self.counted(counts).items()}
        return {path: tuple(size_left(axis, left) for axis in axes) for path, axes in self._axes.items()}

    def counted(self, counts: Mapping[str, int]) -> dict[str, int]:
        """By name of each free group, how many of its indices stay; arguments and errors as `sizes_left`."""
        given = {name: self._count(name, count) for name, count in counts.items()}
        return {name: given.get(name, group.size) for name, group in self.free.items()}

    def _count(self, name: str, count: Any) -> int:
        """A count that a group can have."""
        size = self._shrinkable(name, "counts", "a count").size
        if not 1 <= operator.index(count) <= size:
            raise ValueError(
                f"counts[{name!r}] must be a whole number from 1 to {size}, got {count!r}; keep one index at "
                "least."
            )
        return operator.index(count)

    def elements(self, path: str) -> dict[tuple[str, ...], int]:
        """The number of elements of a weight as a polynomial in the counts of the free groups.

        Args:
          path: of a weight.

        Returns:
          By names of groups that are multiplied, sorted, the coefficient: `{("a:1", "b:1"): 9}` is nine times
          the count of one times that of the other.
        """
        names = {self._atoms[name]: name for name in self.free}
        return terms_of(tuple(factor for axis in self._axes[path] for factor in axis), names)

    def under(self, prefix: str) -> "Dependencies":
        """The same groups for the part of the params at `prefix`: paths lose it, names of groups keep it.

        Raises:
          ValueError: no weight stands there.
        """
        inside = {
            path: path.removeprefix(f"{prefix}/") for path in self.shapes if path.startswith(f"{prefix}/")
        }
        if not inside:
            raise ValueError(f"prefix must hold weights, got {prefix!r} among {list(self.shapes)[:3]!r}.")
        groups = {
            name: dataclasses.replace(
                group,
                members=tuple(Member(inside[m.path], m.axis) for m in group.members if m.path in inside),
            )
            for name, group in self.groups.items()
        }
        return Dependencies(
            groups={name: group for name, group in groups.items() if group.members},
            shapes={short: self.shapes[path] for path, short in inside.items()},
            _atoms={name: self._atoms[name] for name, group in groups.items() if group.members},
            _axes={short: self._axes[path] for path, short in inside.items()},
        )

    def masks(self, keep: Mapping[str, Any]) -> dict[str, jax.Array]:
        """By path, bool [*shape]: the weights of what stays; those that no group runs over are left out.

        Args:
          keep: by name of a group, bool [size]; may be traced. Names are not checked: see `axis_masks`.
        """
        chosen = {self._atoms[name]: mask for name, mask in keep.items()}
        found = {}
        for path in dict.fromkeys(member.path for name in keep for member in self.groups[name].members):
            mask = jax.numpy.ones((), bool)
            for axis in self._axes[path]:
                own = indices_kept(axis, chosen, jax.numpy)
                mask = mask[..., None] & own.reshape((1,) * mask.ndim + own.shape)
            found[path] = mask
        return found

    def shapes_left(self, keep: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
        """By path, the shape of each weight once shrunk: what a configurable model is to be built with."""
        return {path: tuple(int(m.sum()) for m in axes) for path, axes in self.axis_masks(keep).items()}

    def pool(self, scores: Mapping[str, Any]) -> dict[str, jax.Array]:
        """By name of a free group, float32 [size]: the sum of the scores of each index's weights.

        Args:
          scores: by path of a weight, [*shape]; weights that it leaves out count nothing.
        """
        found: dict[str, Any] = {}
        for name, group in self.free.items():
            total = jax.numpy.zeros(group.size)
            for path, axis in group.members:
                if path in scores:
                    value = jax.numpy.moveaxis(jax.numpy.asarray(scores[path]), axis, 0)
                    rows = value.reshape(value.shape[0], -1).sum(1)
                    total = total + gathered(self._axes[path][axis], rows, self._atoms[name])
            found[name] = total
        return found

    def shrink(self, params: Any, keep: Mapping[str, Any]) -> Any:
        """`params` with what does not stay cut out: really smaller arrays.

        Args:
          params: of the tree, and shapes, that were traced; or any tree that has the paths of the weights as
            the ends of its own, such as the moments of an optimizer: arrays of other paths or shapes stay.
          keep: as in `axis_masks`.
        """
        axes = self.axis_masks(keep)

        def cut(keys: Any, value: Any) -> Any:
            path = path_string(keys)
            own = next((p for p in _ends_of(path) if p in self.shapes), None)
            if own is None or np.shape(value) != self.shapes[own]:
                return value
            for i, mask in enumerate(axes[own]):
                if not mask.all():
                    value = value.take(np.flatnonzero(mask), axis=i)
            return value

        return jax.tree_util.tree_map_with_path(cut, params)

    def __rich__(self) -> RenderableType:
        table = Table("group", "size", "weights", "", title="What lives or dies together")
        table.columns[0].overflow = table.columns[2].overflow = "fold"
        for group in self.groups.values():
            names = ", ".join(f"{path}:{axis}" for path, axis in group.members)
            table.add_row(Text(group.name), str(group.size), Text(names), Text(group.locked or "free"))
        return table

    def __str__(self) -> str:
        return as_text(self)

    def __repr__(self) -> str:
        return f"<Dependencies: {len(self.groups)} groups, {len(self.free)} of them free>"


def _ends_of(path: str) -> list[str]:
    """A path and what is left of it without its first keys, longest first."""
    keys = path.split("/")
    return ["/".join(keys[i:]) for i in range(len(keys))]


def indices_kept(axis: Axis, chosen: Mapping[Atom, Any], xp: Any = np) -> Any:
    """Bool [size of the axis]: which indices stay where atoms lose some; `xp` is numpy or jax.numpy."""
    kept = xp.ones(1, bool)
    for factor in axis:
        if isinstance(factor, Atom):
            own = chosen.get(factor, np.ones(factor.size, bool))
        else:
            own = xp.concatenate([indices_kept(part, chosen, xp) for part in factor.parts])
        kept = (kept[:, None] & own[None, :]).ravel()
    return kept


def gathered(axis: Axis, rows: Any, wanted: Atom) -> Any:
    """[size of the atom]: the sum of `rows` [size of the axis] over all but the atom."""
    if not axis:
        return jax.numpy.zeros(wanted.size)
    head, rest = axis[0], axis[1:]
    table = rows.reshape(head.size, -1)
    total = jax.numpy.zeros(wanted.size)
    if head is wanted:
        total = total + table.sum(1)
    elif isinstance(head, Sum):
        start = 0
        for part in head.parts:
            stop = start + size_of(part)
            total = total + gathered(part, table[start:stop].sum(1), wanted)
            start = stop
    return total + (gathered(rest, table.sum(0), wanted) if rest else 0.0)


def _name(one: Atom, members: Sequence[Member], axes: Mapping[str, Sequence[Axis]], spaces: Spaces) -> str:
    """Of the member that makes the group's values: the last axis of a matrix, where there is one."""

    def rank(member: Member) -> tuple[bool, bool]:
        ndim = len(axes[member.path])
        return ndim < 2, member.axis != ndim - 1

    path, axis = min(members, key=rank)
    inside = list(dict.fromkeys(spaces.atoms(axes[path][axis])))
    return f"{path}:{axis}" + (f"#{inside.index(one)}" if len(inside) > 1 else "")


def _in_order(followed: Followed, spaces: Spaces) -> dict[Atom, None]:
    """The free atoms of a program in the order in which its equations meet them."""
    met: dict[Atom, None] = {}
    for row in followed.rows:
        for inner in row.inside:
            met.update(_in_order(inner, spaces))
        for one in (*row.operands, *row.results):
            for axis in one.axes:
                met.update(dict.fromkeys(spaces.atoms(axis)))
    return met


def dependencies(fn: Any, params: Any, *args: Any) -> Dependencies:
    """The groups of `params` in `fn(params, *args)`, in the order of the program; nothing is computed.

    Args:
      fn: any function that JAX can trace, as it is used for inference; options that are no arrays belong into
        a closure.
      params: arrays or `jax.ShapeDtypeStruct`s, statistics of batch normalization among them.
      *args: arrays or shapes.

    Returns:
      `Dependencies`. Every axis of the inputs and of the result is locked: they are the function's interface.

    Source: module docstring.
    """
    traced = trace(fn, params, args, locks_results=True)
    spaces = traced.spaces
    axes = {path: tuple(map(spaces.resolve, own)) for path, own in traced.weights.items()}
    members: dict[Atom, list[Member]] = {}
    for path, own in axes.items():
        for i, axis in enumerate(own):
            for one in dict.fromkeys(spaces.atoms(axis)):
                members.setdefault(one, []).append(Member(path, i))
    ordered = [one for one in _in_order(traced.followed, spaces) if one in members]
    members = {one: members[one] for one in dict.fromkeys([*ordered, *members])}
    names = {one: _name(one, own, axes, spaces) for one, own in members.items()}
    groups = {
        names[one]: Group(
            name=names[one],
            size=one.size,
            members=tuple(own),
            locked=spaces.why_locked(one) or "",
        )
        for one, own in members.items()
    }
    return Dependencies(
        groups=groups,
        shapes={path: tuple(map(size_of, own)) for path, own in axes.items()},
        _atoms={name: one for one, name in names.items()},
        _axes=axes,
    )
