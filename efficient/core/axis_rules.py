"""Axis rules: what an equation says of the axes of its operands and results.

A `Label` says of a value what each axis stands for, and whether the value is zero at the indices that are
pruned. A weight is, as its mask zeroes it; so is what is made of zeros by products, sums and functions with
f(0) = 0. A sum over an axis may only drop indices at which the summands are zero: else the axis is locked.
"""

import itertools
import operator
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from efficient.core.axes import Atom, Axes, Axis, Spaces, Sum, atom, size_of
from efficient.core.program import ELEMENTWISE, words

# Of one operand, zero at zero.
_UNARY = words(
    """
    abs asin asinh atan atanh cbrt ceil convert_element_type copy copy_p erf expm1 floor imag integer_pow
    log1p neg real reduce_precision round sign sin sinh sqrt square stop_gradient tan tanh
    optimization_barrier name sharding_constraint device_put
    """
)
_ALL_ZERO = words("add sub max min add_any")  # zero where all operands are
_ANY_ZERO = words("mul and")  # zero where any is
_POOLS = words("reduce_window_sum reduce_window_max reduce_window_min reduce_window")
_OTHER_REDUCTIONS = words("reduce_max reduce_min reduce_prod reduce_and reduce_or reduce_xor argmax argmin")
_ALONG = MappingProxyType(  # what mixes the indices of one axis, and the parameter that names it
    {"sort": "dimension"} | dict.fromkeys(words("cumsum cumprod cummax cummin cumlogsumexp"), "axis")
)


class Label(NamedTuple):
    """What is known of a value's axes."""

    axes: Axes
    zero: tuple[bool, ...]  # by axis: the value is 0 at the indices that are pruned
    scalar: Any = None  # what a number of the program is; None where it is computed

    @property
    def is_zero(self) -> bool:
        """True of a number that is 0."""
        return self.scalar is not None and bool(self.scalar == 0)


def label(axes: Axes, zero: bool | Sequence[bool] = False) -> Label:
    """A label; one `zero` for all axes or one each."""
    return Label(axes, (zero,) * len(axes) if isinstance(zero, bool) else tuple(zero))


def new(shape: Sequence[int], zero: bool = False) -> Label:
    """A label of which nothing is known."""
    return label(tuple(map(atom, shape)), zero)


class Rules:
    """Follows axes through equations."""

    def __init__(self, spaces: Spaces) -> None:
        self.spaces = spaces

    def results(self, eqn: Any, operands: Sequence[Label], where: str) -> list[Label]:
        """The labels of the results of an equation without programs inside."""
        name = eqn.primitive.name
        shapes = [tuple(var.aval.shape) for var in eqn.outvars]
        if name in _RULES:
            found: Label | list[Label] = _RULES[name](self, eqn, operands, where)
            return found if isinstance(found, list) else [found]
        if name in ELEMENTWISE or name in _UNARY:
            return [self.elementwise(name, eqn, operands, where)]
        if name in _ALONG and len(set(shapes)) == 1:
            axis = eqn.params[_ALONG[name]]
            for one in operands:
                self.spaces.lock(one.axes[axis], f"{name} mixes its indices {where}")
            return [label(operands[0].axes, False) for _ in shapes]
        for one in operands:
            for axis in one.axes:
                self.spaces.lock(axis, f"{name} has no rule {where}")
        made = [new(shape) for shape in shapes]
        for one in made:
            for axis in one.axes:
                self.spaces.lock(axis, f"it comes from {name}, which has no rule, {where}")
        return made

    def elementwise(self, name: str, eqn: Any, operands: Sequence[Label], where: str) -> Label:
        """Operands of one shape, scalars and axes of length 1 aside: their axes are the same."""
        shape = tuple(eqn.outvars[0].aval.shape)
        made = [
            self._same([one.axes[i] for one in operands if len(one.axes) == len(shape)], n, where)
            for i, n in enumerate(shape)
        ]
        zero = tuple(self._zero(name, eqn, operands, i) for i in range(len(shape)))
        same = name in ("convert_element_type", "copy", "stop_gradient") and not shape
        return Label(tuple(made), zero, operands[0].scalar if same else None)

    def _same(self, axes: Sequence[Axis], size: int, where: str) -> Axis:
        """The axis that all operands of this size share."""
        full = [axis for axis in axes if size_of(axis) == size]
        for other in full[1:]:
            self.spaces.unify(full[0], other, where)
        return full[0]

    def _zero(self, name: str, eqn: Any, operands: Sequence[Label], axis: int) -> bool:
        """Whether the result is zero at the pruned indices of an axis."""
        ndim, size = len(eqn.outvars[0].aval.shape), eqn.outvars[0].aval.shape[axis]

        def is_zero(i: int) -> bool:
            one = operands[i]
            if len(one.axes) == ndim and size_of(one.axes[axis]) == size:
                return one.zero[axis]
            return one.is_zero

        if name in _ANY_ZERO:
            return any(map(is_zero, range(len(operands))))
        if name in _ALL_ZERO:
            return all(map(is_zero, range(len(operands))))
        if name == "select_n":
            return all(map(is_zero, range(1, len(operands))))
        if name == "clamp":
            low, high = operands[0].scalar, operands[2].scalar
            return is_zero(1) and low is not None and high is not None and bool(low <= 0 <= high)
        return (name in _UNARY or name == "div") and is_zero(0)

    def lock_all(self, operands: Sequence[Label], reason: str) -> None:
        """Every axis of every operand must stay whole."""
        for one in operands:
            for axis in one.axes:
                self.spaces.lock(axis, reason)


def _broadcast_in_dim(rules: Rules, eqn: Any, operands: Sequence[Label], where: str) -> Label:
    """Axes go where the parameter says; what is new, or grows from one, is uniform."""
    shape, places = eqn.params["shape"], eqn.params["broadcast_dimensions"]
    made, zero = [atom(n) for n in shape], [operands[0].is_zero] * len(shape)
    for axis, place in enumerate(places):
        if size_of(operands[0].axes[axis]) == shape[place]:
            made[place], zero[place] = operands[0].axes[axis], operands[0].zero[axis]
    return label(tuple(made), zero)


def _reshape(rules: Rules, eqn: Any, operands: Sequence[Label], where: str) -> Label:
    """Axes are merged and split; an axis is zero where all that went into it are."""
    (one, *_) = operands
    axes = rules.spaces.regroup(one.axes, tuple(eqn.params["new_sizes"]), where)
    flag = {free: z for axis, z in zip(one.axes, one.zero, strict=True) for free in rules.spaces.atoms(axis)}
    zero = [all(flag.get(free, False) for free in rules.spaces.atoms(axis)) for axis in axes]
    return label(axes, zero)


def _transpose(rules: Rules, eqn: Any, operands: Sequence[Label], where: str) -> Label:
    order = eqn.params["permutation"]
    return Label(tuple(operands[0].axes[i] for i in order), tuple(operands[0].zero[i] for i in order))


def _squeeze(rules: Rules, eqn: Any, operands: Sequence[Label], where: str) -> Label:
    gone = {d % len(operands[0].axes) for d in eqn.params["dimensions"]}
    kept = [i for i in range(len(operands[0].axes)) if i not in gone]
    return Label(tuple(operands[0].axes[i] for i in kept), tuple(operands[0].zero[i] for i in kept))


def _dot_general(rules: Rules, eqn: Any, operands: Sequence[Label], where: str) -> Label:
    """Contracted and batch axes are the same on both sides; the others stay."""
    (contract, batch), (lhs, rhs) = eqn.params["dimension_numbers"], operands
    for pairs, is_sum in ((contract, True), (batch, False)):
        for i, j in zip(*pairs, strict=True):
            rules.spaces.unify(lhs.axes[i], rhs.axes[j], where)
            if is_sum and not (lhs.zero[i] or rhs.zero[j]):
                rules.spaces.lock(lhs.axes[i], f"it is summed over where it is not zero {where}")
    axes = [lhs.axes[i] for i in batch[0]]
    zero = [lhs.zero[i] or rhs.zero[j] for i, j in zip(*batch, strict=True)]
    for side, mine in ((lhs, 0), (rhs, 1)):
        free = [i for i in range(len(side.axes)) if i not in contract[mine] and i not in batch[mine]]
        axes += [side.axes[i] for i in free]
        zero += [side.zero[i] for i in free]
    return label(tuple(axes), zero)


def _conv(rules: Rules, eqn: Any, operands: Sequence[Label], where: str) -> Label:
    """Channels in are groups x channels of a group; so are channels out, with the same groups."""
    numbers, groups = eqn.params["dimension_numbers"], eqn.params["feature_group_count"]
    lhs, rhs = operands
    out_shape = tuple(eqn.outvars[0].aval.shape)
    lhs_feature, rhs_in, rhs_out = numbers.lhs_spec[1], numbers.rhs_spec[1], numbers.rhs_spec[0]
    if eqn.params["batch_group_count"] != 1:
        rules.lock_all(operands, f"conv_general_dilated groups its batch {where}")
    inside = size_of(rhs.axes[rhs_in])
    group = atom(groups)
    rules.spaces.unify(lhs.axes[lhs_feature], (*group, *_fresh(rhs.axes[rhs_in], inside)), where)
    if groups > 1:
        each = size_of(rhs.axes[rhs_out]) // groups
        rules.spaces.unify(rhs.axes[rhs_out], (*group, *atom(each)), where)
    if not (lhs.zero[lhs_feature] or rhs.zero[rhs_in]):
        rules.spaces.lock(rhs.axes[rhs_in], f"it is summed over where it is not zero {where}")
    made = list(map(atom, out_shape))
    zero = [False] * len(made)
    for i in (numbers.out_spec[0], *numbers.out_spec[2:]):
        rules.spaces.lock(made[i], f"it is a batch or a place in space {where}")
    for axis in [lhs.axes[i] for i in numbers.lhs_spec[2:]] + [rhs.axes[i] for i in numbers.rhs_spec[2:]]:
        rules.spaces.lock(axis, f"it is a place in space {where}")
    if out_shape[numbers.out_spec[0]] == size_of(lhs.axes[numbers.lhs_spec[0]]):
        made[numbers.out_spec[0]] = lhs.axes[numbers.lhs_spec[0]]
    made[numbers.out_spec[1]] = rhs.axes[rhs_out]
    zero[numbers.out_spec[1]] = rhs.zero[rhs_out]
    return label(tuple(made), zero)


def _fresh(axis: Axis, size: int) -> Axis:
    """The axis, or nothing of size 1."""
    return () if size == 1 else axis


def _reduce(rules: Rules, eqn: Any, operands: Sequence[Label], where: str) -> list[Label]:
    """Axes are summed away, or mixed in another way."""
    axes = set(eqn.params["axes"])
    name, one = eqn.primitive.name, operands[0]
    for i in axes:
        if name != "reduce_sum" or not one.zero[i]:
            reason = "mixes its indices" if name != "reduce_sum" else "sums over it where it is not zero"
            rules.spaces.lock(one.axes[i], f"{name} {reason} {where}")
    kept = [i for i in range(len(one.axes)) if i not in axes]
    zero = [name != "reduce_prod" and one.zero[i] for i in kept]
    return [label(tuple(one.axes[i] for i in kept), zero) for _ in eqn.outvars]


def _pool(rules: Rules, eqn: Any, operands: Sequence[Label], where: str) -> Label:
    """Axes with a window of one pass; the others are places in space."""
    one, window = operands[0], eqn.params["window_dimensions"]
    made = []
    for i, size in enumerate(eqn.outvars[0].aval.shape):
        if window[i] == 1 and size == size_of(one.axes[i]):
            made.append(one.axes[i])
            continue
        rules.spaces.lock(one.axes[i], f"a window slides over it {where}")
        made.append(atom(size))
        rules.spaces.lock(made[-1], f"a window slid over it {where}")
    return label(tuple(made), one.zero)


def _concatenate(rules: Rules, eqn: Any, operands: Sequence[Label], where: str) -> Label:
    """The joined axis is a sum; the others are the same."""
    axis, first = eqn.params["dimension"], operands[0]
    for other in operands[1:]:
        for i in range(len(first.axes)):
            if i != axis:
                rules.spaces.unify(first.axes[i], other.axes[i], where)
    joined: Axis = (Sum(tuple(one.axes[axis] for one in operands)),)
    axes = tuple(joined if i == axis else first.axes[i] for i in range(len(first.axes)))
    return label(axes, [all(one.zero[i] for one in operands) for i in range(len(axes))])


def _pieces(rules: Rules, axis: Axis, ends: list[int], where: str) -> list[Axis]:
    """An axis cut; where it cannot be, it and new axes are locked."""
    pieces = rules.spaces.cut(axis, ends) if not rules.spaces.is_locked(axis) else None
    if pieces is None:
        rules.spaces.lock(axis, f"it is cut {where}")
        sizes = [b - a for a, b in zip([0, *ends], ends, strict=False)]
        pieces = [atom(n) for n in sizes]
        for one in pieces:
            rules.spaces.lock(one, f"it was cut out {where}")
    return pieces


def _slice(rules: Rules, eqn: Any, operands: Sequence[Label], where: str) -> Label:
    """Whole axes pass; a part of an axis is a part of a sum."""
    p, one = eqn.params, operands[0]
    strides = p["strides"] or (1,) * len(one.axes)
    made = []
    for axis, a, b, s in zip(one.axes, p["start_indices"], p["limit_indices"], strides, strict=True):
        size = size_of(axis)
        if (a, b, s) == (0, size, 1):
            made.append(axis)
        elif s != 1:
            rules.spaces.lock(axis, f"every {s}th index is taken {where}")
            made.append(atom(len(range(a, b, s))))
            rules.spaces.lock(made[-1], f"every {s}th index was taken {where}")
        else:
            ends = sorted({a, b, size} - {0})
            made.append(_pieces(rules, axis, ends, where)[ends.index(b)])
    return label(tuple(made), one.zero)


def _split(rules: Rules, eqn: Any, operands: Sequence[Label], where: str) -> list[Label]:
    """Parts of a sum."""
    one, axis = operands[0], eqn.params["axis"]
    ends = list(itertools.accumulate(map(int, eqn.params["sizes"])))
    return [
        label(tuple(piece if i == axis else a for i, a in enumerate(one.axes)), one.zero)
        for piece in _pieces(rules, one.axes[axis], ends, where)
    ]


def _pad(rules: Rules, eqn: Any, operands: Sequence[Label], where: str) -> Label:
    """An axis that is padded is a sum with what is new; places in space must stay whole."""
    one, made, is_zero = operands[0], [], operands[1].is_zero
    for axis, (low, high, inside), size in zip(
        one.axes, eqn.params["padding_config"], eqn.outvars[0].aval.shape, strict=True
    ):
        if (low, high, inside) == (0, 0, 0):
            made.append(axis)
        elif min(low, high) < 0 or inside or not is_zero or rules.spaces.is_locked(axis):
            rules.spaces.lock(axis, f"it is padded {where}")
            made.append(atom(size))
            rules.spaces.lock(made[-1], f"it was padded {where}")
        else:
            parts = [(Atom(int(low)),) if low else None, axis, (Atom(int(high)),) if high else None]
            made.append((Sum(tuple(part for part in parts if part is not None)),))
    return label(tuple(made), one.zero)


def _gather(rules: Rules, eqn: Any, operands: Sequence[Label], where: str) -> Label:
    """Axes that are taken whole pass; those that are looked up by number must stay whole."""
    numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    table, indices = operands
    gone = {*numbers.collapsed_slice_dims, *getattr(numbers, "operand_batching_dims", ())}
    window = [i for i in range(len(table.axes)) if i not in gone]
    made, zero = [atom(n) for n in eqn.outvars[0].aval.shape], [False] * len(eqn.outvars[0].aval.shape)
    for i in range(len(table.axes)):
        if sizes[i] != size_of(table.axes[i]) or i in gone:
            rules.spaces.lock(table.axes[i], f"it is looked up by number {where}")
    for place, i in zip(numbers.offset_dims, window, strict=True):
        if sizes[i] == size_of(table.axes[i]):
            made[place], zero[place] = table.axes[i], table.zero[i]
        else:
            rules.spaces.lock(made[place], f"it was looked up by number {where}")
    batch = [i for i in range(len(made)) if i not in numbers.offset_dims]
    for place, axis in zip(batch, indices.axes[:-1], strict=True):
        made[place] = axis
    return label(tuple(made), zero)


def _dynamic_slice(rules: Rules, eqn: Any, operands: Sequence[Label], where: str) -> Label:
    one, made = operands[0], []
    for axis, size in zip(one.axes, eqn.params["slice_sizes"], strict=True):
        if size == size_of(axis):
            made.append(axis)
            continue
        rules.spaces.lock(axis, f"it is sliced at a place that is computed {where}")
        made.append(atom(size))
        rules.spaces.lock(made[-1], f"it was sliced at a place that is computed {where}")
    return label(tuple(made), one.zero)


def _dynamic_update_slice(rules: Rules, eqn: Any, operands: Sequence[Label], where: str) -> Label:
    one, update = operands[0], operands[1]
    for mine, theirs in zip(one.axes, update.axes, strict=True):
        if size_of(mine) == size_of(theirs):
            rules.spaces.unify(mine, theirs, where)
        else:
            rules.spaces.lock(mine, f"a part of it is written over {where}")
            rules.spaces.lock(theirs, f"it is written over a part {where}")
    return label(one.axes, list(map(operator.and_, one.zero, update.zero)))


def _iota(rules: Rules, eqn: Any, operands: Sequence[Label], where: str) -> Label:
    made = new(eqn.params["shape"])
    rules.spaces.lock(made.axes[eqn.params["dimension"]], f"its indices are counted {where}")
    return made


def _uniform(rules: Rules, eqn: Any, operands: Sequence[Label], where: str) -> Label:
    """Random numbers: every index is like the others."""
    return new(eqn.outvars[0].aval.shape)


_RULES: Mapping[str, Callable[[Rules, Any, Sequence[Label], str], Any]] = MappingProxyType(
    {
        "broadcast_in_dim": _broadcast_in_dim,
        "reshape": _reshape,
        "transpose": _transpose,
        "squeeze": _squeeze,
        "dot_general": _dot_general,
        "conv_general_dilated": _conv,
        "concatenate": _concatenate,
        "slice": _slice,
        "split": _split,
        "pad": _pad,
        "gather": _gather,
        "dynamic_slice": _dynamic_slice,
        "dynamic_update_slice": _dynamic_update_slice,
        "iota": _iota,
        "random_bits": _uniform,
    }
    | dict.fromkeys(_OTHER_REDUCTIONS | {"reduce_sum"}, _reduce)
    | dict.fromkeys(_POOLS, _pool)
)
