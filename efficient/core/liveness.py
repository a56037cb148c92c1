"""Liveness: the most bytes of activations that a program holds at one time.

Equations run in the order of the program. One that contracts, reduces, gathers or joins writes its result
to a buffer of its own, while its operands still stand in theirs. An elementwise or layout equation writes
over an operand that dies there and is large enough; where none does, it has no buffer, and keeps its
operands' alive until something consumes it (it is *fused* with that consumer, padding and broadcasts
included). An update of a slice writes over the array that it updates, if that dies. What enters is freed
after its last use; what leaves stays to the end. Weights, and what is made of weights alone, stand apart
and count nothing.

A loop holds, beside what lives around it, its stacked outputs and the peak of one execution of its body; a
`cond`, the largest peak of its branches.
"""

import dataclasses
from collections.abc import Callable, Iterable, Sequence

from efficient.core.program import UPDATES, Program, Step, Value
from efficient.core.versions import scan_counts


@dataclasses.dataclass(frozen=True, eq=False)
class _Buffer:
    """A stretch of memory of so many bytes."""

    size: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Liveness:
    """How to count."""

    nbytes: Callable[[Value], int]  # bytes of a value; 0 for a weight
    in_place_depthwise: bool = False  # a depthwise convolution may overwrite its input

    def peak(self, program: Program, *, owned: Sequence[bool] | None = None) -> int:
        """Peak bytes of `program`; inputs that it does not own are someone else's, and count nothing."""
        heap = _Heap(program)
        for i, value in enumerate(program.inputs):
            if owned is None or owned[i]:
                heap.allocate(value, self.nbytes(value))
        heap.reach(0)
        for i, step in enumerate(program.steps):
            self._execute(heap, step, i)
            heap.release((*step.operands, *step.results), i)
        written = {value for value in program.outputs if not heap.has_own_buffer(value)}
        heap.reach(sum(self.nbytes(value) for value in written))
        return heap.peak

    def _execute(self, heap: "_Heap", step: Step, at: int) -> None:
        """Gives the results of `step` their buffers, and reaches for the memory that it needs meanwhile."""
        need = [self.nbytes(value) for value in step.results]
        if step.bodies:
            self._control(heap, step, at)
        elif self._may_overwrite(step) and heap.overwrite(step, need[0], at):
            return
        elif step.is_fused:
            for value in step.results:
                heap.alias(value, step.operands)
            return
        else:
            heap.reach(sum(need))
        for value, size in zip(step.results, need, strict=True):
            heap.allocate(value, size)

    def _may_overwrite(self, step: Step) -> bool:
        """True where the one result may take an operand's place."""
        if len(step.results) != 1:
            return False
        return step.is_fused or step.primitive in UPDATES or (self.in_place_depthwise and is_depthwise(step))

    def _control(self, heap: "_Heap", step: Step, at: int) -> None:
        """Reaches for what the programs inside a step need."""
        operands, stacked, taken = step.operands, 0, step.operands
        if step.primitive == "scan":
            consts, carry = scan_counts(dict(step.params))
            taken = operands[consts : consts + carry]
            stacked = sum(self.nbytes(value) for value in step.results[carry:])
            owned = [consts <= i < consts + carry for i in range(len(operands))]
            inner = self.peak(step.bodies[0], owned=owned)
        elif step.primitive == "while":
            split, first = step.params["cond_nconsts"], step.params["body_nconsts"]
            taken = operands[split + first :]
            test, body = step.bodies
            inner = max(
                self.peak(test, owned=[i >= split for i in range(len(test.inputs))]),
                self.peak(body, owned=[i >= first for i in range(len(body.inputs))]),
            )
        else:
            passed = operands[1:] if step.primitive == "cond" else operands
            owned = [heap.dies(value, at) for value in passed]
            taken = tuple(value for value, own in zip(passed, owned, strict=True) if own)
            inner = max(self.peak(body, owned=owned) for body in step.bodies)
        heap.reach(stacked + inner - sum(buffer.size for buffer in heap.dying(taken, at)))


def is_depthwise(step: Step) -> bool:
    """True of a convolution that makes one output channel of each input channel alone."""
    if step.primitive != "conv_general_dilated":
        return False
    layout, groups = step.params["dimension_numbers"], step.params["feature_group_count"]
    inputs, outputs = step.operands[0].shape[layout.lhs_spec[1]], step.results[0].shape[layout.out_spec[1]]
    return 1 < groups == inputs == outputs


class _Heap:
    """Buffers, the values that stand in them, and the most bytes ever reached."""

    def __init__(self, program: Program) -> None:
        self.peak, self._live = 0, 0
        self._buffers: dict[Value, frozenset[_Buffer]] = {}
        self._holders: dict[_Buffer, set[Value]] = {}
        self._owned: set[Value] = set()
        self._last = {
            value: i for i, step in enumerate(program.steps) for value in (*step.results, *step.operands)
        }
        self._last.update(dict.fromkeys(program.outputs, len(program.steps)))

    def reach(self, extra: int) -> None:
        """Memory stands at what lives and `extra` bytes."""
        self.peak = max(self.peak, self._live + extra)

    def allocate(self, value: Value, size: int) -> None:
        """Gives `value` a buffer of its own."""
        buffer = _Buffer(size)
        self._buffers[value], self._holders[buffer] = frozenset({buffer}), {value}
        self._live += size
        self._owned.add(value)

    def alias(self, value: Value, operands: Iterable[Value]) -> None:
        """Lets `value` stand in the buffers of `operands`."""
        self._buffers[value] = frozenset().union(*(self._buffers.get(one, frozenset()) for one in operands))
        for buffer in self._buffers[value]:
            self._holders[buffer].add(value)

    def overwrite(self, step: Step, size: int, at: int) -> bool:
        """Lets the result of `step` take the place of an operand that dies, if one is large enough."""
        dying = self.dying(step.operands if step.primitive not in UPDATES else step.operands[:1], at)
        if not size or max((buffer.size for buffer in dying), default=0) < size:
            return False
        self.release(step.operands, at)
        self.allocate(step.results[0], size)
        return True

    def dies(self, value: Value, at: int) -> bool:
        """True where `value` has buffers and nothing needs any of them after step `at`."""
        buffers = self._buffers.get(value, frozenset())
        return bool(buffers) and buffers <= self.dying((value,), at)

    def dying(self, values: Iterable[Value], at: int) -> set[_Buffer]:
        """The buffers of `values` that nothing needs after step `at`."""
        buffers = set().union(*(self._buffers.get(value, frozenset()) for value in values))
        return {b for b in buffers if all(self._last.get(holder, at) <= at for holder in self._holders[b])}

    def has_own_buffer(self, value: Value) -> bool:
        """True where `value` was written somewhere."""
        return value in self._owned

    def release(self, values: Iterable[Value], at: int) -> None:
        """Frees what `values` held, where `at` is their last use."""
        for value in {value for value in values if self._last.get(value, at) <= at}:
            for buffer in self._buffers.pop(value, frozenset()):
                self._holders[buffer].discard(value)
                if not self._holders[buffer]:
                    del self._holders[buffer]
                    self._live -= buffer.size
