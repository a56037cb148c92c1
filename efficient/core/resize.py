"""Resize: runs a function, unedited, on weights out of which `dependencies` has cut channels.

    small = found.shrink(variables, keep)
    logits = resized(model.apply, found, keep)(small, x)

The function is traced on the shapes that it was written for, its axes are followed again, and the program is
evaluated with every shape that an equation states (of a reshape, a broadcast, a slice, the groups of a
convolution) made that of what is left. Numbers in the program, such as the size that a mean divides by, stay:
the result is that of the function on masked weights. It composes with `jit`, `grad`, `vmap` and training.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from efficient.core.axes import Atom, Axis, Spaces, size_of
from efficient.core.axis_rules import Label
from efficient.core.dependencies import Dependencies, Followed, Row, indices_kept, inner_program, trace
from efficient.core.paths import path_string
from efficient.core.program import program
from efficient.core.versions import (
    bind_params,
    equation_context,
    is_dropped,
    is_literal,
    open_jaxpr,
    scan_counts,
)


def resized(fn: Callable[..., Any], found: Dependencies, keep: Mapping[str, Any]) -> Callable[..., Any]:
    """`fn`, for weights that `found.shrink(params, keep)` made.

    Args:
      fn: the function that was traced, or another of the same weights, such as one for training.
      found: the groups of its weights.
      keep: as in `Dependencies.shrink`.

    Returns:
      `(small params, *args) -> what fn returns`; results that have an axis of channels have the small one.

    Raises:
      ValueError: at once, as `Dependencies.axis_masks`; at the call, when `fn` groups the channels of a
        weight in another way than the function that was traced: the message names the weight.
    """
    masks = found.axis_masks(keep)

    @functools.wraps(fn)
    def small(params: Any, *args: Any) -> Any:
        def full(keys: Any, value: Any) -> Any:
            path = path_string(keys)
            return jax.ShapeDtypeStruct(found.shapes.get(path, np.shape(value)), jnp.result_type(value))

        traced = trace(fn, jax.tree_util.tree_map_with_path(full, params), args, locks_results=False)
        chosen: dict[Atom, np.ndarray] = {}
        for path, axes in traced.weights.items():
            for axis, mask in zip(axes, masks.get(path, ()), strict=False):
                _decompose(traced.spaces.resolve(axis), mask, chosen, path)
        resize = _Resize(traced.spaces, chosen)
        values = [*jax.tree.leaves(params), *jax.tree.leaves(args)]
        outs = resize.program(traced.jaxpr, traced.followed, values)
        return jax.tree.unflatten(jax.tree.structure(traced.out_shape), outs)

    return small


def _decompose(axis: Axis, mask: np.ndarray, chosen: dict[Atom, np.ndarray], path: str) -> None:
    """Which indices of each atom stay, given which of the axis do."""
    table = mask.reshape([factor.size for factor in axis])
    found: dict[Atom, np.ndarray] = {}
    for i, factor in enumerate(axis):
        own: Any = table.any(axis=tuple(j for j in range(len(axis)) if j != i))
        if isinstance(factor, Atom):
            found[factor] = own
            continue
        start = 0
        for part in factor.parts:
            stop = start + size_of(part)
            if stop - start > 1 or part:
                _decompose(part, own[start:stop], found, path)
            start = stop
    clash = any(one in chosen and not np.array_equal(chosen[one], own) for one, own in found.items())
    if clash or not np.array_equal(indices_kept(axis, found), mask):
        raise ValueError(
            f"fn must use {path!r} as the function that was traced, got other groups along an axis; "
            "take its dependencies from this function."
        )
    chosen.update(found)


class _Resize:
    """Evaluates a followed program on what is left."""

    def __init__(self, spaces: Spaces, chosen: Mapping[Atom, np.ndarray]) -> None:
        self.spaces, self.chosen = spaces, chosen

    def kept(self, axis: Axis) -> np.ndarray:
        """Bool [size of the axis]."""
        return indices_kept(self.spaces.resolve(axis), self.chosen)

    def shape(self, one: Label) -> tuple[int, ...]:
        """What is left of a value's shape."""
        return tuple(int(self.kept(axis).sum()) for axis in one.axes)

    def changes(self, labels: Sequence[Label]) -> bool:
        """True where any of the values is smaller than it was."""
        return any(not self.kept(axis).all() for one in labels for axis in one.axes)

    def program(self, closed: Any, followed: Followed, operands: Sequence[Any]) -> list[Any]:
        """Evaluates a closed jaxpr."""
        jaxpr, consts = open_jaxpr(closed)
        held = [self._cut(const, one) for const, one in zip(consts, followed.consts, strict=True)]
        env: dict[Any, Any] = dict(zip(jaxpr.constvars, held, strict=True))
        env.update(zip(jaxpr.invars, operands, strict=True))

        def read(one: Any) -> Any:
            return one.val if is_literal(one) else env[one]

        for eqn, row in zip(jaxpr.eqns, followed.rows, strict=True):
            outs = self.equation(eqn, row, list(map(read, eqn.invars)))
            for var, out in zip(eqn.outvars, outs, strict=True):
                if not is_dropped(var):
                    env[var] = out
        return list(map(read, jaxpr.outvars))

    def equation(self, eqn: Any, row: Row, operands: list[Any]) -> list[Any]:
        """Evaluates one equation."""
        name = eqn.primitive.name
        inside = [one for followed in row.inside for one in _labels(followed)]
        if not self.changes([*row.operands, *row.results, *inside]):
            return _bind(eqn, operands, {})
        if name in _LOOPS:
            return _LOOPS[name](self, eqn, row, operands)
        if (inner := inner_program(eqn)) is not None:
            return self._inline(eqn, inner, row, operands)
        changed = _STATED[name](self, eqn, row) if name in _STATED else {}
        return _bind(eqn, operands, changed)

    def _inline(self, eqn: Any, inner: Any, row: Row, operands: list[Any]) -> list[Any]:
        """A function that is called: opened, rematerialised, or with its own derivative."""
        name, (followed,) = eqn.primitive.name, row.inside
        run = lambda *values: self.program(inner, followed, values)  # noqa: E731
        if name in ("remat", "remat2", "checkpoint"):
            policy, prevents = eqn.params["policy"], eqn.params["prevent_cse"]
            return jax.checkpoint(run, policy=policy, prevent_cse=prevents)(*operands)
        if name.startswith("custom_"):
            if _is_relu(inner):
                return [jax.nn.relu(operands[0])]
            return self._custom(eqn, run, row, operands)
        return run(*operands)

    def _custom(self, eqn: Any, run: Callable[..., Any], row: Row, operands: list[Any]) -> list[Any]:
        """The function on what is left; its derivative by its own rule, on zeros where something is cut."""

        def full(values: Sequence[Any]) -> list[Any]:
            pairs = zip(row.operands, values, strict=True)
            return _bind(eqn, [self._expanded(value, one) for one, value in pairs], {})

        def cut(values: Sequence[Any]) -> list[Any]:
            return [self._cut(value, one) for one, value in zip(row.results, values, strict=True)]

        @jax.custom_jvp
        def call(values: Sequence[Any]) -> list[Any]:
            return run(*values)

        @call.defjvp
        def call_jvp(primals: Any, tangents: Any) -> Any:
            return jax.jvp(lambda values: cut(full(values)), primals, tangents)

        return list(call(operands))

    def _expanded(self, value: Any, one: Label) -> Any:
        """A value of the size that it had, zero where something was cut."""
        for i, axis in enumerate(one.axes):
            mask = self.kept(axis)
            if not mask.all():
                place = np.where(mask, np.cumsum(mask) - 1, mask.size)
                value = jnp.take(value, place, axis=i, mode="fill", fill_value=0)
        return value

    def _cut(self, value: Any, one: Label) -> Any:
        """A value without what was cut."""
        for i, axis in enumerate(one.axes):
            mask = self.kept(axis)
            if not mask.all():
                value = jnp.take(value, np.flatnonzero(mask), axis=i)
        return value

    def scan(self, eqn: Any, row: Row, operands: list[Any]) -> list[Any]:
        """`lax.scan` over what is left of the body, and of the layers."""
        n_consts, n_carry = scan_counts(eqn.params)
        held, carry, xs = (
            operands[:n_consts],
            operands[n_consts : n_consts + n_carry],
            operands[n_consts + n_carry :],
        )
        (followed,) = row.inside
        length = len(xs[0]) if xs else eqn.params["length"]

        def body(values: Any, sliced: Any) -> Any:
            outs = self.program(eqn.params["jaxpr"], followed, [*held, *values, *sliced])
            return outs[:n_carry], outs[n_carry:]

        options = {key: eqn.params[key] for key in ("reverse", "unroll")}
        last, ys = jax.lax.scan(body, carry, xs, length=length, **options)
        return [*last, *ys]

    def while_loop(self, eqn: Any, row: Row, operands: list[Any]) -> list[Any]:
        """`lax.while_loop` over what is left."""
        p, (test, body) = eqn.params, row.inside
        n_test, n_body = p["cond_nconsts"], p["body_nconsts"]
        for_test, for_body, carry = (
            operands[:n_test],
            operands[n_test : n_test + n_body],
            operands[n_test + n_body :],
        )
        return jax.lax.while_loop(
            lambda values: self.program(p["cond_jaxpr"], test, [*for_test, *values])[0],
            lambda values: self.program(p["body_jaxpr"], body, [*for_body, *values]),
            carry,
        )

    def cond(self, eqn: Any, row: Row, operands: list[Any]) -> list[Any]:
        """`lax.switch` over what is left of the branches."""
        branches = [
            functools.partial(lambda branch, followed, *values: self.program(branch, followed, values), *pair)
            for pair in zip(eqn.params["branches"], row.inside, strict=True)
        ]
        return jax.lax.switch(operands[0], branches, *operands[1:])


def _labels(followed: Followed) -> list[Label]:
    """Every label of a program and of those inside it."""
    found = [*followed.results]
    for row in followed.rows:
        found += [*row.operands, *row.results]
        for inner in row.inside:
            found += _labels(inner)
    return found


def _bind(eqn: Any, operands: Sequence[Any], changed: Mapping[str, Any]) -> list[Any]:
    """An equation with some of its parameters changed."""
    functions, params = bind_params(eqn)
    with equation_context(eqn):
        out = eqn.primitive.bind(*functions, *operands, **{**params, **changed})
    return list(out) if eqn.primitive.multiple_results else [out]


def _is_relu(inner: Any) -> bool:
    """True of max(x, 0)."""
    steps = program(inner).steps
    if len(steps) != 1 or steps[0].primitive != "max":
        return False
    return bool(steps[0].operands[1].constant and steps[0].operands[1].scalar == 0)


def _shape(resize: _Resize, eqn: Any, row: Row) -> dict[str, Any]:
    return {"shape": resize.shape(row.results[0])}


def _new_sizes(resize: _Resize, eqn: Any, row: Row) -> dict[str, Any]:
    return {"new_sizes": resize.shape(row.results[0])}


def _bounds(resize: _Resize, eqn: Any, row: Row) -> dict[str, Any]:
    """A bound becomes the number of indices that stay below it."""
    masks = [resize.kept(axis) for axis in row.operands[0].axes]
    return {
        name: tuple(int(mask[:bound].sum()) for mask, bound in zip(masks, eqn.params[name], strict=True))
        for name in ("start_indices", "limit_indices")
    }


def _sizes(resize: _Resize, eqn: Any, row: Row) -> dict[str, Any]:
    axis = eqn.params["axis"]
    return {"sizes": tuple(resize.shape(one)[axis] for one in row.results)}


def _groups(resize: _Resize, eqn: Any, row: Row) -> dict[str, Any]:
    numbers, (lhs, rhs) = eqn.params["dimension_numbers"], map(resize.shape, row.operands)
    return {"feature_group_count": lhs[numbers.lhs_spec[1]] // rhs[numbers.rhs_spec[1]]}


def _padding(resize: _Resize, eqn: Any, row: Row) -> dict[str, Any]:
    config = []
    for (low, high, inside), axis in zip(eqn.params["padding_config"], row.results[0].axes, strict=True):
        mask = resize.kept(axis)
        if inside or min(low, high) < 0:
            config.append((low, high, inside))
        else:
            config.append((int(mask[:low].sum()), int(mask[mask.size - high :].sum()), 0))
    return {"padding_config": tuple(config)}


def _slice_sizes(resize: _Resize, eqn: Any, row: Row) -> dict[str, Any]:
    table = row.operands[0]
    sizes = [
        left if size == size_of(axis) else size
        for size, axis, left in zip(eqn.params["slice_sizes"], table.axes, resize.shape(table), strict=True)
    ]
    return {"slice_sizes": tuple(sizes)}


_LOOPS: Mapping[str, Callable[[_Resize, Any, Row, list[Any]], list[Any]]] = MappingProxyType(
    {"scan": _Resize.scan, "while": _Resize.while_loop, "cond": _Resize.cond}
)
_STATED: Mapping[str, Callable[[_Resize, Any, Row], dict[str, Any]]] = MappingProxyType(
    {
        "broadcast_in_dim": _shape,
        "iota": _shape,
        "random_bits": _shape,
        "reshape": _new_sizes,
        "slice": _bounds,
        "split": _sizes,
        "conv_general_dilated": _groups,
        "pad": _padding,
        "gather": _slice_sizes,
        "dynamic_slice": _slice_sizes,
    }
)
"""Primitives whose parameters state sizes."""
