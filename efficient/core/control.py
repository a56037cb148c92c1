"""How a leaf enters the equations that hold a program: scan, while, cond, jit, remat, custom derivatives.

Each function rebuilds one equation from public JAX functions over a Python body that interprets the inner
program. Leaves are pytrees, so they pass through `lax.scan` and its kin as they are. Results are arrays:
a leaf that leaves a program, or is carried round a loop, is made dense.

Source: the JAX documentation's "Writing custom Jaxpr interpreters".
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax

from efficient.core.leaf import Leaf, is_leaf
from efficient.core.versions import open_jaxpr, scan_counts


def _split(values: Sequence[Any]) -> tuple[list[Any], list[str | None], Callable[[Sequence[Any]], list[Any]]]:
    """Values without their tracking, the paths, and what tracks them again."""
    paths = [getattr(v, "path", None) if is_tracked(v) else None for v in values]
    kinds = [type(v) for v in values]
    bare = [v.leaf if is_tracked(v) else v for v in values]

    def again(new: Sequence[Any]) -> list[Any]:
        return [
            kind(value, path) if path is not None and is_leaf(value) else value
            for kind, value, path in zip(kinds, new, paths, strict=True)
        ]

    return bare, paths, again


def is_tracked(value: Any) -> bool:
    """True of a leaf with its path (`interpret.Tracked`)."""
    return isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], Leaf)


def _dense_outs(frame: Any, eqn: Any, outs: Sequence[Any]) -> list[Any]:
    """Results of an inner program, as arrays."""
    return [frame.as_dense(v, eqn, "it leaves the program inside") for v in outs]


def inline(frame: Any, eqn: Any, operands: list[Any]) -> list[Any]:
    """A jitted function, opened; its leaves come out as leaves."""
    jaxpr, consts = open_jaxpr(eqn.params["jaxpr" if "jaxpr" in eqn.params else "call_jaxpr"])
    return frame.run(jaxpr, consts, operands)


def remat(frame: Any, eqn: Any, operands: list[Any]) -> list[Any]:
    """`jax.checkpoint` of the interpreted body."""
    jaxpr, consts = open_jaxpr(eqn.params["jaxpr"])
    bare, _, again = _split(operands)

    def body(*args: Any) -> tuple[list[Any], dict[str, Any]]:
        child = frame.child()
        outs = child.run(jaxpr, consts, again(args))
        return _dense_outs(frame, eqn, outs), child.emitted

    wrapped = jax.checkpoint(body, policy=eqn.params["policy"], prevent_cse=eqn.params["prevent_cse"])
    outs, emitted = wrapped(*bare)
    _hand_on(frame, emitted)
    return outs


def _hand_on(frame: Any, emitted: Mapping[str, Any]) -> None:
    """Statistics of an inner program become the outer one's."""
    for path, statistic in emitted.items():
        frame.emit(path, statistic)


def custom_derivative(frame: Any, eqn: Any, operands: list[Any]) -> list[Any]:
    """A `custom_jvp` or `custom_vjp` function: leaves go inside; its own derivative sees dense weights."""
    if frame.observing:
        return inline(frame, eqn, operands)
    bare, _, again = _split(operands)

    def on_dense(args: Sequence[Any]) -> list[Any]:
        from_leaves = [frame.as_dense(v, eqn, "a custom derivative takes arrays") for v in again(args)]
        return frame.equation(eqn, from_leaves)

    @jax.custom_jvp
    def call(args: Sequence[Any]) -> list[Any]:
        return _dense_outs(frame, eqn, inline(frame, eqn, again(args)))

    @call.defjvp
    def call_jvp(primals: Any, tangents: Any) -> tuple[Any, Any]:
        return jax.jvp(on_dense, primals, tangents)

    return list(call(bare))


def scan(frame: Any, eqn: Any, operands: list[Any]) -> list[Any]:
    """`lax.scan` over an interpreted body; scanned leaves are sliced a step at a time."""
    jaxpr, consts = open_jaxpr(eqn.params["jaxpr"])
    length, (n_consts, n_carry) = eqn.params["length"], scan_counts(eqn.params)
    held = operands[:n_consts]
    init = [frame.as_dense(v, eqn, "carried round a loop") for v in operands[n_consts : n_consts + n_carry]]
    xs = [_stacked(frame, eqn, v, length) for v in operands[n_consts + n_carry :]]
    bare_xs, xs_paths, again = _split(xs)

    a_layer_each = {path for path in xs_paths if path is not None}

    def one(values: Any, sliced: Any) -> tuple[Any, Any, dict[str, Any], dict[str, Any]]:
        child = frame.child()
        outs = child.run(jaxpr, consts, [*held, *values, *again(sliced)])
        outs = _dense_outs(frame, eqn, outs)
        by_layer = {p: s for p, s in child.emitted.items() if p in a_layer_each}
        shared = {p: s for p, s in child.emitted.items() if p not in a_layer_each}
        return outs[:n_carry], outs[n_carry:], by_layer, shared

    def body(carry: Any, sliced: Any) -> tuple[Any, Any]:
        values, totals = carry
        new, ys, by_layer, shared = one(values, sliced)
        return (new, {path: totals[path].merge(shared[path]) for path in totals}), (ys, by_layer)

    slices = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), bare_xs)
    shapes = jax.eval_shape(one, init, slices)[3] if frame.observing else {}
    totals = {path: shape.identity() for path, shape in shapes.items()}
    (carry, totals), (ys, by_layer) = jax.lax.scan(
        body,
        (init, totals),
        bare_xs,
        length=length,
        reverse=eqn.params["reverse"],
        unroll=eqn.params["unroll"],
    )
    _hand_on(frame, {**by_layer, **totals})
    return [*carry, *ys]


def _stacked(frame: Any, eqn: Any, value: Any, length: int) -> Any:
    """A scanned leaf with a leading axis on all of its arrays, or dense."""
    if not is_tracked(value):
        return value
    made = value.leaf.stack(length)
    if made is NotImplemented:
        return frame.as_dense(value, eqn, "it cannot be sliced by layer: make it with stacked(...)")
    return type(value)(made, value.path)


def while_loop(frame: Any, eqn: Any, operands: list[Any]) -> list[Any]:
    """`lax.while_loop` over interpreted programs; leaves may be its constants."""
    p = eqn.params
    test, test_consts = open_jaxpr(p["cond_jaxpr"])
    step, step_consts = open_jaxpr(p["body_jaxpr"])
    n_test, n_step = p["cond_nconsts"], p["body_nconsts"]
    test_held, step_held = operands[:n_test], operands[n_test : n_test + n_step]
    init = [frame.as_dense(v, eqn, "carried round a loop") for v in operands[n_test + n_step :]]

    def goes_on(carry: Any) -> Any:
        (out,) = frame.child().run(test, test_consts, [*test_held, *carry[0]])
        return out

    def one(values: Any) -> tuple[list[Any], dict[str, Any]]:
        child = frame.child()
        outs = child.run(step, step_consts, [*step_held, *values])
        return _dense_outs(frame, eqn, outs), child.emitted

    def body(carry: Any) -> Any:
        values, totals = carry
        outs, emitted = one(values)
        return outs, {path: totals[path].merge(emitted[path]) for path in totals}

    shapes = jax.eval_shape(one, init)[1] if frame.observing else {}
    totals = {path: shape.identity() for path, shape in shapes.items()}
    outs, totals = jax.lax.while_loop(goes_on, body, (init, totals))
    _hand_on(frame, totals)
    return outs


def cond(frame: Any, eqn: Any, operands: list[Any]) -> list[Any]:
    """`lax.switch` over interpreted branches."""
    which, *inputs = operands
    which = frame.as_dense(which, eqn, "it chooses a branch")
    bare, _, again = _split(inputs)

    def opened(branch: Any) -> Callable[..., tuple[list[Any], dict[str, Any]]]:
        jaxpr, consts = open_jaxpr(branch)

        def run(*args: Any) -> tuple[list[Any], dict[str, Any]]:
            child = frame.child()
            outs = child.run(jaxpr, consts, again(args))
            return _dense_outs(frame, eqn, outs), child.emitted

        return run

    branches = [opened(branch) for branch in eqn.params["branches"]]
    if frame.observing:
        branches = _same_statistics(branches, bare)
    outs, emitted = jax.lax.switch(which, branches, *bare)
    _hand_on(frame, emitted)
    return outs


def _merged(one: Any, other: Any) -> Any:
    """Two statistics as one."""
    return one.merge(other)


def _same_statistics(branches: list[Callable[..., Any]], args: Sequence[Any]) -> list[Callable[..., Any]]:
    """Branches that all hand out the statistics that any of them does; who saw nothing adds nothing."""
    shapes: dict[str, Any] = {}
    for branch in branches:
        for path, shape in jax.eval_shape(branch, *args)[1].items():
            shapes[path] = jax.eval_shape(_merged, shapes[path], shape) if path in shapes else shape

    def whole(branch: Callable[..., Any]) -> Callable[..., Any]:
        def run(*inner: Any) -> Any:
            outs, emitted = branch(*inner)
            totals = {path: shape.identity() for path, shape in shapes.items()}
            return outs, {
                p: _merged(total, emitted[p]) if p in emitted else total for p, total in totals.items()
            }

        return run

    return [whole(branch) for branch in branches]


RULES: Mapping[str, Callable[[Any, Any, list[Any]], list[Any]]] = MappingProxyType(
    {
        "jit": inline,
        "pjit": inline,
        "closed_call": inline,
        "core_call": inline,
        "remat": remat,
        "remat2": remat,
        "checkpoint": remat,
        "custom_jvp_call": custom_derivative,
        "custom_vjp_call": custom_derivative,
        "custom_vjp_call_jaxpr": custom_derivative,
        "scan": scan,
        "while": while_loop,
        "cond": cond,
    }
)
