"""Attribution: which weight each equation of a program consumes, and which equations are norms and pools.

Every value carries a `Tag` that says what it was made of. A value is *pure* when only weights and constants
went into it; its `path` is that of the largest weight among them, followed through layout, arithmetic,
calls and loops (a loop's constants, its stacked inputs, and what it carries unchanged).

- A **norm** is a product of three factors, multiplied (or divided) in any order: an activation, an inverse
  root (`rsqrt`, `sqrt`, `x**-0.5`) and an affine weight. The product that completes the three is the norm,
  of as many elements as it has. So batch, layer, group and RMS norms count once each, those with no affine
  weight not at all, and a layer scale (no root) or a batch norm folded into its convolution is no norm.
- An **average pool** is a `reduce_window_sum` of an activation, or a `reduce_sum` of one of four axes or
  more over all but the first and the last. A mean that reaches a root, or is subtracted from what it is the
  mean of, through elementwise equations alone, is a norm's statistic and no pool.
- `gather` picks rows of a weight by an activation (an embedding, an expert): the path is kept, the value is
  an activation, so only a contraction that has no pure operand is attributed to it.
"""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from efficient.core.convention import Kind, contraction_macs
from efficient.core.program import LAYOUT, Program, Step, Value
from efficient.core.versions import scan_counts

_FACTORS = frozenset({"activation", "root", "affine"})


@dataclasses.dataclass(eq=False)
class Row:
    """One equation that is charged or that moves bytes; totals over all its executions."""

    path: str
    scope: str
    primitive: str
    kind: Kind
    units: int  # MACs of a contraction, output elements of a norm or a pool
    bytes_moved: int
    times: int
    shape: tuple[int, ...]  # of the result


class Tag(NamedTuple):
    """What a value was made of; by default of constants alone."""

    path: str = ""
    pure: bool = True
    factors: frozenset[str] = frozenset()
    affine: str = ""  # the path of the weight among the factors
    means: frozenset[tuple[Row, int]] = frozenset()  # possible pools, each with the size of what it averages


_ACTIVATION = Tag(pure=False, factors=frozenset({"activation"}))


class Attribution:
    """The walk over a program: `rows` in order, `tags` of every value, `notes` on what had to be assumed."""

    def __init__(self, nbytes: Callable[[Value, Tag], int]) -> None:
        """`nbytes` gives the bytes of a value that has a tag."""
        self.nbytes = nbytes
        self.rows: list[Row] = []
        self.tags: dict[Value, Tag] = {}
        self.notes: dict[str, None] = {}  # a set that keeps its order

    def run(self, program: Program, inputs: Sequence[Tag], *, times: int = 1) -> list[Tag]:
        """Walks `program`, executed `times` times, on inputs of these tags; returns those of its outputs."""
        self.tags.update(zip(program.inputs, inputs, strict=True))
        for step in program.steps:
            tags = [self.tag(value) for value in step.operands]
            walk = self._control if step.bodies else self._equation
            results = walk(step, tags, times)
            self.tags.update(zip(step.results, results, strict=True))
        return [self.tag(value) for value in program.outputs]

    def tag(self, value: Value) -> Tag:
        """The tag of a value that has been reached."""
        return self.tags.get(value, Tag())

    def _equation(self, step: Step, tags: list[Tag], times: int) -> list[Tag]:
        """Tags of the results of a step with no program inside."""
        name = step.primitive
        if name in LAYOUT:
            follow = tags if len(tags) == len(step.results) else tags[:1] * len(step.results)
            return list(follow)
        if not step.is_fused:
            return self._materialised(step, tags, times)
        out = _combined(step, tags)
        known = [tag for tag in tags if tag != Tag()]
        if name in ("add", "max") and len(known) == 1:  # an epsilon or an offset of a root or a weight
            return known
        if name in ("mul", "div"):
            factors = frozenset[str]().union(*(tag.factors for tag in tags))
            affine = next((tag.affine for tag in tags if tag.affine), "")
            if factors == _FACTORS:
                self._row(step, affine, "norm", step.results[0].size, 0, times)
                return [_ACTIVATION]
            out = out._replace(factors=factors, affine=affine)
        elif name in ("sqrt", "rsqrt") or (name == "pow" and step.operands[1].scalar == -0.5):
            self._no_pools(out.means)
            is_factor = bool(out.factors) or step.operands[0].size > 1
            factors = frozenset({"root"} if is_factor else ())
            return [out._replace(factors=factors, affine="", means=frozenset())]
        elif name == "sub":
            self._no_pools(mean for mean in out.means if mean[1] == step.results[0].size)
        return [out]

    def _materialised(self, step: Step, tags: list[Tag], times: int) -> list[Tag]:
        """Tags of the results of a step that writes them to memory; adds its row."""
        macs = contraction_macs(step)
        out = _combined(step, tags)._replace(means=frozenset())
        moved = sum(self.nbytes(value, tag) for value, tag in zip(step.operands, tags, strict=True))
        moved += sum(self.nbytes(value, out) for value in step.results)
        if macs is not None:
            weights = sorted((t for t in tags[:2] if t.path), key=lambda tag: not tag.pure)
            path = weights[0].path if weights else ""
            self._row(step, path, "weight" if path else "activation", macs, moved, times)
        elif not out.pure:
            is_pool = _is_average_pool(step)
            kind: Kind = "pool" if is_pool else "move"
            row = self._row(step, "", kind, step.results[0].size if is_pool else 0, moved, times)
            if is_pool:
                out = out._replace(means=frozenset({(row, step.operands[0].size)}))
            if step.primitive == "gather":
                out = out._replace(path=tags[0].path)
            if step.primitive in ("pallas_call", "pure_callback", "io_callback", "ffi_call"):
                self.notes[
                    f"{step.primitive} at {step.scope or 'the top'}: opaque, its MACs are not counted"
                ] = None
        return [out] * len(step.results)

    def _row(self, step: Step, path: str, kind: Kind, units: int, moved: int, times: int) -> Row:
        """Adds a row for `step`."""
        shape = step.results[0].shape if step.results else ()
        self.rows.append(
            Row(path, step.scope, step.primitive, kind, units * times, moved * times, times, shape)
        )
        return self.rows[-1]

    def _no_pools(self, means: Iterable[tuple[Row, int]]) -> None:
        """These were no pools after all."""
        for row, _ in means:
            row.kind, row.units = "move", 0

    def _control(self, step: Step, tags: list[Tag], times: int) -> list[Tag]:
        """Tags of the results of a step with programs inside."""
        where = f"at {step.scope or 'the top'}"
        if step.primitive == "scan":
            consts, carry = scan_counts(dict(step.params))
            return self._loop(step.bodies[0], tags, consts, carry, times * step.params["length"])
        if step.primitive == "while":
            self.notes[f"while {where}: trip count unknown, counted once"] = None
            test, body = step.bodies
            split, first = step.params["cond_nconsts"], step.params["body_nconsts"]
            carry = len(tags) - split - first
            carried = [tag._replace(means=frozenset()) for tag in tags[split + first :]]
            self.run(test, tags[:split] + [_ACTIVATION for _ in carried], times=times)
            return self._loop(body, tags[split:], first, carry, times)
        if step.primitive == "cond":
            self.notes[f"cond {where}: the branch of most MACs is counted"] = None
            return self._branches(step, tags[1:], times)
        devices = getattr(step.params.get("mesh"), "size", 1)
        self.notes[f"{step.primitive} {where}: MACs of all {devices} devices, activation bytes of one"] = None
        return self.run(step.bodies[0], tags, times=times * devices)

    def _loop(self, body: Program, tags: list[Tag], consts: int, carry: int, times: int) -> list[Tag]:
        """A loop's body, walked once: what is carried and changes is an activation."""
        inputs = [tag._replace(means=frozenset()) for tag in tags]
        for i in range(carry):
            if body.outputs[i] is not body.inputs[consts + i]:
                inputs[consts + i] = _ACTIVATION
        outputs = self.run(body, inputs, times=times)
        return inputs[consts : consts + carry] + [tag._replace(means=frozenset()) for tag in outputs[carry:]]

    def _branches(self, step: Step, tags: list[Tag], times: int) -> list[Tag]:
        """All branches, of which the rows of the dearest stay."""
        before, tried = self.rows, []
        for body in step.bodies:
            self.rows = []
            outputs = self.run(body, tags, times=times)
            macs = sum(row.units for row in self.rows if row.kind in ("weight", "activation"))
            tried.append(((macs, sum(row.bytes_moved for row in self.rows)), self.rows, outputs))
        _, rows, _ = max(tried, key=lambda one: one[0])
        self.rows = before + rows
        return [_joined(one) for one in zip(*(outputs for _, _, outputs in tried), strict=True)]


def _combined(step: Step, tags: Sequence[Tag]) -> Tag:
    """The tag of what an equation makes of values of these tags, where it has no rule of its own."""
    means = frozenset().union(*(tag.means for tag in tags)) if tags else frozenset()
    if not all(tag.pure for tag in tags):
        return _ACTIVATION._replace(means=means)
    weights = [(value.size, tag.path) for value, tag in zip(step.operands, tags, strict=True) if tag.path]
    path = max(weights, key=lambda one: one[0])[1] if weights else ""
    return Tag(path=path, factors=frozenset({"affine"} if path else ()), affine=path, means=means)


def _joined(tags: Sequence[Tag]) -> Tag:
    """The tag of a value that may be any of several."""
    if all(tag == tags[0] for tag in tags):
        return tags[0]
    if all(tag.pure for tag in tags):
        return next((tag for tag in tags if tag.path), Tag())
    return _ACTIVATION


def _is_average_pool(step: Step) -> bool:
    """True of a sum over windows, or over all spatial axes of an array of four axes or more."""
    if step.primitive == "reduce_window_sum":
        return True
    if step.primitive != "reduce_sum":
        return False
    ndim = len(step.operands[0].shape)
    return ndim >= 4 and tuple(sorted(step.params["axes"])) == tuple(range(1, ndim - 1))
