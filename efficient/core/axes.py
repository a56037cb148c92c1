"""Axes: what the indices of an array's axis stand for, as an expression that can be solved.

    axis   = factor x factor x ...      row-major, as a reshape splits or merges axes
    factor = atom | axis + axis + ...   a sum is a concatenation

An atom is a set of indices that live or die one by one: the channels of a layer, its heads. Programs say that
axes are equal (`unify`); an atom is then bound to the expression that it turned out to be. Atoms that nothing
has bound, and nothing has locked, are what can be pruned.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Union

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Atom:
    """Indices 0 .. size - 1; two are the same only if they are the same object."""

    size: int


@dataclasses.dataclass(frozen=True, eq=False)
class Sum:
    """Axes one after another."""

    parts: tuple["Axis", ...]

    @property
    def size(self) -> int:
        """Of all parts."""
        return sum(map(size_of, self.parts))


Factor = Union[Atom, Sum]  # noqa: UP007 - names what stands above
Axis = tuple[Factor, ...]
Axes = tuple[Axis, ...]


def size_of(axis: Axis) -> int:
    """Its number of indices; 1 of no factors."""
    return math.prod(factor.size for factor in axis)


def size_left(axis: Axis, counts: Mapping[Atom, int]) -> int:
    """Its number of indices where atoms keep so many; those left out are whole."""
    return math.prod(
        counts.get(factor, factor.size)
        if isinstance(factor, Atom)
        else sum(size_left(part, counts) for part in factor.parts)
        for factor in axis
    )


def terms_of(axis: Axis, names: Mapping[Atom, str]) -> dict[tuple[str, ...], int]:
    """Its number of indices as a polynomial: by sorted names of atoms that are multiplied, the coefficient.

    Atoms without a name are constants.
    """
    product: dict[tuple[str, ...], int] = {(): 1}
    for factor in axis:
        own: dict[tuple[str, ...], int] = {}
        if isinstance(factor, Atom):
            own = {(names[factor],): 1} if factor in names else {(): factor.size}
        else:
            for term, coefficient in (
                item for part in factor.parts for item in terms_of(part, names).items()
            ):
                own[term] = own.get(term, 0) + coefficient
        longer: dict[tuple[str, ...], int] = {}
        for (first, one), (second, other) in itertools.product(product.items(), own.items()):
            both = tuple(sorted((*first, *second)))
            longer[both] = longer.get(both, 0) + one * other
        product = longer
    return product


def atom(size: int) -> Axis:
    """A new axis of this size, of which nothing is known."""
    return () if size == 1 else (Atom(int(size)),)


class Spaces:
    """What is known of atoms: which are bound to what, and which are locked, and why."""

    def __init__(self) -> None:
        self._bound: dict[Atom, Axis] = {}
        self._locked: dict[Atom, str] = {}

    def resolve(self, axis: Axis) -> Axis:
        """The axis with every bound atom written out."""
        found: list[Factor] = []
        for factor in axis:
            if isinstance(factor, Atom):
                bound = self._bound.get(factor)
                found.extend([factor] if bound is None else self.resolve(bound))
            else:
                parts = tuple(map(self.resolve, factor.parts))
                found.extend(parts[0] if len(parts) == 1 else [Sum(_flat(parts))])
        return tuple(factor for factor in found if factor.size != 1)

    def atoms(self, axis: Axis) -> Iterator[Atom]:
        """The free atoms of an axis, in order."""
        for factor in self.resolve(axis):
            if isinstance(factor, Atom):
                yield factor
            else:
                for part in factor.parts:
                    yield from self.atoms(part)

    def lock(self, axis: Axis, reason: str) -> None:
        """Every atom of the axis must stay whole; the first reason is kept."""
        for one in self.atoms(axis):
            self._locked.setdefault(one, reason)

    def why_locked(self, one: Atom) -> str | None:
        """Why a free atom must stay whole; None where it need not."""
        return self._locked.get(one)

    def is_locked(self, axis: Axis) -> bool:
        """True where no atom of the axis may be pruned."""
        return all(one in self._locked for one in self.atoms(axis))

    def unify(self, one: Axis, other: Axis, where: str) -> None:
        """Two axes are the same; where that cannot be said of their atoms, both are locked."""
        one, other = self.resolve(one), self.resolve(other)
        if size_of(one) != size_of(other):
            raise AssertionError(f"axes of {size_of(one)} and {size_of(other)} indices meet {where}")
        while one and other:
            if len(one) == 1 and len(other) == 1:
                self._same(one[0], other[0], where)
                return
            if len(one) == 1 and isinstance(one[0], Atom):
                self._bind(one[0], other, where)
                return
            if len(other) == 1 and isinstance(other[0], Atom):
                self._bind(other[0], one, where)
                return
            matched = self._heads(one, other)
            if matched is None:
                break
            first, second, one, other = matched
            self._same(first, second, where)
            one, other = self.resolve(one), self.resolve(other)
        else:
            return
        self.lock((*one, *other), f"its axes are cut in two ways {where}")

    def _same(self, one: Factor, other: Factor, where: str) -> None:
        """Two factors of one size are the same."""
        if one is other:
            return
        if isinstance(one, Atom):
            self._bind(one, (other,), where)
        elif isinstance(other, Atom):
            self._bind(other, (one,), where)
        else:
            self._same_sums(one, other, where)

    def _same_sums(self, one: Sum, other: Sum, where: str) -> None:
        """Two concatenations are the same: cut where the other is cut, then part by part."""
        ends = sorted({*_ends(one), *_ends(other)})
        pieces = [self.cut((side,), ends) for side in (one, other)]
        if pieces[0] is None or pieces[1] is None:
            self.lock((one, other), f"it is concatenated in two ways {where}")
            return
        for mine, theirs in zip(*pieces, strict=True):
            self.unify(mine, theirs, where)

    def _bind(self, one: Atom, axis: Axis, where: str) -> None:
        """An atom turns out to be an expression; its lock becomes that of the expression's atoms."""
        axis = self.resolve(axis)
        if axis == (one,):
            return
        if one in set(self.atoms(axis)):
            self.lock(axis, f"it is a part of itself {where}")
            return
        self._bound[one] = axis
        if one in self._locked:
            self.lock(axis, self._locked.pop(one))

    def _heads(self, one: Axis, other: Axis) -> tuple[Factor, Factor, Axis, Axis] | None:
        """The leading factors, made of one size by splitting an atom, and what follows them; None: cannot."""
        first, second = one[0], other[0]
        if first.size == second.size:
            return first, second, one[1:], other[1:]
        if first.size < second.size:
            swapped = self._heads(other, one)
            return None if swapped is None else (swapped[1], swapped[0], swapped[3], swapped[2])
        if not isinstance(first, Atom) or first.size % second.size:
            return None
        head, rest = Atom(second.size), Atom(first.size // second.size)
        self._bind(first, (head, rest), "")
        return head, second, (rest, *one[1:]), other[1:]

    def regroup(self, axes: Axes, sizes: tuple[int, ...], where: str) -> Axes:
        """The axes of a reshape to `sizes`."""
        flat = self.resolve(tuple(factor for axis in axes for factor in axis))
        made: list[Axis] = []
        for size in sizes:
            taken: list[Factor] = []
            while math.prod(f.size for f in taken) < size and flat:
                factor, needed = flat[0], size // math.prod(f.size for f in taken)
                if factor.size > needed:
                    if not isinstance(factor, Atom) or factor.size % needed:
                        break
                    self._bind(factor, (Atom(needed), Atom(factor.size // needed)), where)
                    flat = self.resolve(flat)
                    continue
                taken.append(factor)
                flat = flat[1:]
            if math.prod(f.size for f in taken) != size:
                for axis in axes:
                    self.lock(axis, f"a reshape cuts through it {where}")
                locked = tuple(atom(n) for n in sizes)
                for axis in locked:
                    self.lock(axis, f"it comes from a reshape that cuts through an axis {where}")
                return locked
            made.append(tuple(taken))
        return tuple(made)

    def cut(self, axis: Axis, ends: list[int]) -> list[Axis] | None:
        """The pieces up to each of `ends` (ascending, the last is its size); None where it cannot be cut."""
        axis = self.resolve(axis)
        if list(ends) == [size_of(axis)]:
            return [axis]
        if not axis:
            return None
        head, rest = axis[0], axis[1:]
        if rest:
            step = size_of(rest)
            if any(end % step for end in ends):
                return None
            pieces = self.cut((head,), [end // step for end in ends])
            return None if pieces is None else [(*piece, *rest) for piece in pieces]
        if isinstance(head, Atom):
            sizes = np.diff([0, *ends]).tolist()
            parts = tuple(atom(n) for n in sizes)
            self._bind(head, (Sum(parts),), "")
            return list(parts)
        return self._cut_sum(head, ends)

    def _cut_sum(self, head: Sum, ends: list[int]) -> list[Axis] | None:
        """The pieces of a concatenation: whole parts, or parts cut in their turn."""
        pieces: list[list[Axis]] = [[]]
        start = 0
        for part in head.parts:
            stop = start + size_of(part)
            inside = [end - start for end in ends if start < end < stop]
            cut = self.cut(part, [*inside, stop - start]) if inside else [part]
            if cut is None:
                return None
            for i, piece in enumerate(cut):
                if i:
                    pieces.append([])
                pieces[-1].append(piece)
            if stop in ends and stop != ends[-1]:
                pieces.append([])
            start = stop
        return [piece[0] if len(piece) == 1 else (Sum(tuple(piece)),) for piece in pieces]


def _flat(parts: tuple[Axis, ...]) -> tuple[Axis, ...]:
    """Parts without sums directly inside."""
    found: list[Axis] = []
    for part in parts:
        inner = part[0] if len(part) == 1 else None
        found.extend(_flat(inner.parts) if isinstance(inner, Sum) else [part])
    return tuple(found)


def _ends(one: Sum) -> list[int]:
    """Where each part ends."""
    return np.cumsum([size_of(part) for part in one.parts]).tolist()
