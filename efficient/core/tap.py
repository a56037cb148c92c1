"""Tap: a weight under observation, as a leaf.

Where a product consumes a tap, the tap measures the other operand, hands the statistics out of the program
(see `control`), and lets the product run as it is. Layout equations keep the tap, and which axes of the array
are which of the weight. Any other equation makes it an array, and what follows is not observed.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from efficient.core.leaf import Leaf, leaf, static
from efficient.core.statistics import Statistic, Statistics, gram_of, measure
from efficient.core.transform import dense_value

_OTHER, _PART = 0, 1  # in place of an axis: not of the weight (broadcast); a part of one (sliced)
_GROUP = -(2**31)  # groups of a convolution: before every axis


class Atom(NamedTuple):
    """Places along one axis of the weight. An axis of an array is a tuple of atoms, the slowest first."""

    axis: int  # of the weight, counted from its last, -1; or one of the marks above
    stride: int  # places along that axis from one to the next
    size: int


Atoms = tuple[Atom, ...]


@leaf
class Tap(Leaf):
    """A weight under observation: stands for `value`, and measures what it is multiplied with."""

    value: Any
    layout: tuple[Atoms, ...] = static()  # by axis of `value`; scan slices leading axes off
    asked: tuple[Statistic, ...] = static()

    @property
    def shape(self) -> tuple[int, ...]:
        """The weight's."""
        return self.value.shape

    @property
    def dtype(self) -> jnp.dtype:
        """The weight's."""
        return self.value.dtype

    @property
    def axes(self) -> tuple[Atoms, ...]:
        """The atoms of each axis of `value`."""
        return self.layout[len(self.layout) - self.ndim :]

    def dense(self) -> jax.Array:
        """The weight itself."""
        return self.value

    # Layout: the equation runs on the array, and the tap follows.

    def _moved(self, site: Any, axes: Iterable[Atoms]) -> "Tap":
        """The tap after a layout equation that leaves `axes`."""
        return dataclasses.replace(self, value=site.bind(self.value), layout=tuple(axes))

    def _same(self, site: Any) -> "Tap":
        """Rule: every place stays where it is."""
        return self._moved(site, self.axes)

    convert_element_type = reduce_precision = sharding_constraint = _same

    def transpose(self, site: Any) -> "Tap":
        """Rule: axes change places."""
        return self._moved(site, (self.axes[i] for i in site.params["permutation"]))

    def squeeze(self, site: Any) -> "Tap":
        """Rule: axes of one place go."""
        gone = site.params["dimensions"]
        return self._moved(site, (atoms for i, atoms in enumerate(self.axes) if i not in gone))

    def broadcast_in_dim(self, site: Any) -> "Tap":
        """Rule: new axes, or axes of one place repeated, are not of the weight."""
        axes: list[Atoms] = [(Atom(_OTHER, 1, n),) for n in site.params["shape"]]
        for i, new in enumerate(site.params["broadcast_dimensions"]):
            if self.shape[i] == site.params["shape"][new]:
                axes[new] = self.axes[i]
        return self._moved(site, axes)

    def reshape(self, site: Any) -> "Tap | Any":
        """Rule: axes are joined and split."""
        axes = regrouped(tuple(itertools.chain(*self.axes)), site.params["new_sizes"])
        if axes is None or site.params.get("dimensions") is not None:
            return NotImplemented
        return self._moved(site, axes)

    def slice(self, site: Any) -> "Tap":
        """Rule: an axis cut short is a part of the weight's; `dynamic_slice` and `rev` alike."""
        sizes = site.eqn.outvars[0].aval.shape
        return self._cut(site, [n == cut for n, cut in zip(self.shape, sizes, strict=True)])

    dynamic_slice = slice

    def rev(self, site: Any) -> "Tap":
        """Rule: a reversed axis counts as a part."""
        return self._cut(site, [i not in site.params["dimensions"] for i in range(self.ndim)])

    def _cut(self, site: Any, is_kept: Iterable[bool]) -> "Tap":
        """The tap, true only along the axes that keep all their places."""
        sizes = site.eqn.outvars[0].aval.shape
        parts = [(Atom(_PART, 1, n),) for n in sizes]
        return self._moved(
            site, (a if kept else part for a, part, kept in zip(self.axes, parts, is_kept, strict=True))
        )

    # Products: the other operand is measured.

    def dot_general(self, site: Any) -> Any:
        """Rule: contracted axes are features; axes of the weight kept apart lead; the rest are samples."""
        (contract_l, contract_r), (batch_l, batch_r) = site.params["dimension_numbers"]
        mine, batch = (contract_l, batch_l) if site.index == 0 else (contract_r, batch_r)
        theirs, their_batch = (contract_r, batch_r) if site.index == 0 else (contract_l, batch_l)
        contracted = {x: self.axes[w] for x, w in zip(theirs, mine, strict=True)}
        kept = {x: self.axes[w] for x, w in zip(their_batch, batch, strict=True)}
        lead = {atom for atoms in kept.values() for atom in atoms if atom.axis != _OTHER}
        if not _is_whole(contracted) or _PART in {a.axis for a in lead} or not _is_real(site.other):
            return NotImplemented
        x = arranged(site.other, {**contracted, **kept}, lead)
        axes = _weight_axes(contracted)
        site.emit(measure(x, asked=self.asked, path=site.path, features=axes, contracted=axes))
        return site.bind(self.value)

    def conv_general_dilated(self, site: Any) -> Any:
        """Rule: features are the input channels; `gram` is that of the patches, as the kernel orders them."""
        p = site.params
        lhs_spec, (_, channel, *spatial), _ = p["dimension_numbers"]
        window = {i: self.axes[axis] for i, axis in enumerate(spatial)}
        channels = {1: self.axes[channel]}
        wants_gram = "gram" in self.asked
        if site.index != 1 or p["batch_group_count"] != 1 or not _is_real(site.other):
            return NotImplemented
        if not _is_whole(channels) or (wants_gram and not _is_whole(window)):
            return NotImplemented
        group = Atom(_GROUP, 1, p["feature_group_count"])
        x = jnp.transpose(site.other, lhs_spec).astype(jnp.float32)
        gram = None
        if wants_gram:
            atoms = (group, *channels[1], *itertools.chain(*window.values()))
            patches = jax.lax.conv_general_dilated_patches(
                x,
                [self.shape[axis] for axis in spatial],
                p["window_strides"],
                p["padding"],
                lhs_dilation=p["lhs_dilation"],
                rhs_dilation=p["rhs_dilation"],
                precision=jax.lax.Precision.HIGHEST,
            )
            products, rows = gram_of(arranged(patches, {1: atoms}, {group}))
            gram = (products if group.size > 1 else products[0], rows[0])
        site.emit(
            measure(
                arranged(x, {1: (group, *channels[1])}, set()),
                asked=self.asked,
                path=site.path,
                features=_weight_axes(channels),
                contracted=tuple(sorted({*_weight_axes(channels), *_weight_axes(window)})),
                gram=gram,
            )
        )
        return site.bind(self.value)

    def gather(self, site: Any) -> Any:
        """Rule: a look-up of rows, as of an embedding, counts them."""
        d = site.params["dimension_numbers"]
        if "rows" not in self.asked or site.index != 0 or len(d.start_index_map) != 1:
            return NotImplemented
        (axis,) = d.start_index_map
        row = (*self.shape[:axis], 1, *self.shape[axis + 1 :])
        is_row_take = not d.operand_batching_dims and site.params["slice_sizes"] == row
        if not is_row_take or not _is_whole({0: self.axes[axis]}):
            return NotImplemented
        length = self.shape[axis]
        index = site.other[..., 0].reshape(-1)
        if site.params["mode"] == jax.lax.GatherScatterMode.CLIP:
            index = jnp.clip(index, 0, length - 1)
        index = jnp.where(index < 0, length, index)  # `mode="drop"` would count a negative index from the end
        rows = jnp.zeros(length, jnp.int32).at[index].add(1, mode="drop").astype(jnp.float32)
        site.emit(Statistics(path=site.path, rows=rows))
        return site.bind(self.value)


def _is_whole(axes: Mapping[int, Atoms]) -> bool:
    """True where every place is known to be one of the weight, met once."""
    return all(atom.axis < 0 for atoms in axes.values() for atom in atoms)


def _is_real(x: Any) -> bool:
    """True of an array that has a magnitude and a sign."""
    return not jnp.issubdtype(x.dtype, jnp.complexfloating)


def _weight_axes(axes: Mapping[int, Atoms]) -> tuple[int, ...]:
    """The axes of the weight, ascending, that some atoms are of."""
    return tuple(sorted({atom.axis for atoms in axes.values() for atom in atoms}))


def regrouped(atoms: Atoms, sizes: Iterable[int]) -> list[Atoms] | None:
    """The atoms of each axis after a reshape to `sizes`; None where an atom would have to be cut unevenly.

    >>> regrouped((Atom(-2, 1, 6), Atom(-1, 1, 5)), (2, 15))
    [(Atom(axis=-2, stride=3, size=2),), (Atom(axis=-2, stride=1, size=3), Atom(axis=-1, stride=1, size=5))]
    """
    left, axes = list(atoms), []
    for size in sizes:
        axis: list[Atom] = []
        while left and (size > 1 or (left[0].size == 1 and not axis)):
            first = left.pop(0)
            outer = math.gcd(first.size, size)
            if outer < first.size and outer < size:
                return None
            if outer < first.size:
                left.insert(0, first._replace(size=first.size // outer))
            axis.append(first._replace(size=outer, stride=first.stride * (first.size // outer)))
            size //= outer
        axes.append(tuple(axis))
    return axes if all(atom.size == 1 for atom in left) else None


def arranged(x: Any, axes: Mapping[int, Atoms], lead: set[Atom]) -> Any:
    """`x` as [*lead, samples, features], leading axes and features in the weight's own order.

    Args:
      x: any array.
      axes: the atoms that axes of `x` run over; the others are samples, and so are atoms not of the weight.
      lead: the atoms that lead.
    """
    atoms = list(itertools.chain(*(axes.get(i, (Atom(_OTHER, 1, n),)) for i, n in enumerate(x.shape))))
    order = sorted(range(len(atoms)), key=lambda i: (atoms[i].axis, -atoms[i].stride, i))
    led = [i for i in order if atoms[i] in lead]
    samples = [i for i in order if atoms[i].axis == _OTHER]
    features = [i for i in order if i not in led and i not in samples]
    split = x.reshape([atom.size for atom in atoms]).transpose(*led, *samples, *features)
    count = lambda places: math.prod(atoms[i].size for i in places)  # noqa: E731
    return split.reshape(*(atoms[i].size for i in led), count(samples), count(features))


def tap(value: Any, asked: tuple[Statistic, ...]) -> Tap:
    """A tap on a weight; a packed one is observed as it stands."""
    whole = jnp.asarray(dense_value(value))
    layout = tuple((Atom(i - whole.ndim, 1, n),) for i, n in enumerate(whole.shape))
    return Tap(value=whole, layout=layout, asked=asked)
