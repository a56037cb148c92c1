"""Lift: runs any JAX function on params that contain leaves, unedited.

    logits = lift(model.apply)(packed_params, x)

`lift(fn)` traces `fn` on the shapes that the leaves stand for, and evaluates the program equation by
equation (see `interpret`). It composes with `jit`, `grad`, `vmap`, `scan` and `remat`, patches nothing
and keeps nothing between calls: a model that was never given a leaf cannot be changed by it.
"""

import dataclasses
import functools
from collections import Counter
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from efficient.core.interpret import Consumption, Frame, Tracked
from efficient.core.leaf import is_leaf
from efficient.core.paths import path_string
from efficient.core.versions import open_jaxpr
from efficient.core.words import as_text

F = TypeVar("F", bound=Callable[..., Any])


def lift(fn: F, *, strict: bool = False) -> F:
    """`fn`, able to take arguments in which leaves stand for arrays.

    Arrays in the arguments are traced; all else (booleans, Python numbers, strings) stays as it is.

    Args:
      fn: any JAX function, such as `model.apply`.
      strict: refuse to make a leaf dense, where no rule keeps it packed.

    Returns:
      A function with the signature of `fn`. It returns arrays: a leaf that `fn` returns comes out dense.

    Raises:
      DenseError: at the call, under `strict`, naming the leaf, the primitive and the module.

    Example:
      >>> import jax.numpy as jnp
      >>> from efficient.quantize import linear
      >>> params = {"kernel": jnp.array([[1.0, -2.0], [0.0, 2.0]])}
      >>> packed = linear(8).pack(params, linear(8).init(params))
      >>> lift(lambda params, x: x @ params["kernel"])(packed, jnp.ones((1, 2))).tolist()
      [[1.0, 0.0]]
    """

    @functools.wraps(fn)
    def lifted(*args: Any, **kwargs: Any) -> Any:
        return evaluate(fn, args, kwargs, Frame(strict=strict))

    return lifted  # type: ignore[return-value]


def evaluate(fn: Callable[..., Any], args: Any, kwargs: Any, frame: Frame) -> Any:
    """`fn(*args, **kwargs)` in `frame`, whose log and statistics are then filled."""
    pairs, treedef = jax.tree_util.tree_flatten_with_path((args, kwargs), is_leaf=is_leaf)
    values = [value for _, value in pairs]
    if not any(map(is_leaf, values)):
        return fn(*args, **kwargs)
    traced = [i for i, value in enumerate(values) if is_leaf(value) or _is_array(value)]

    def on_traced(*given: Any) -> Any:
        full = list(values)
        for i, value in zip(traced, given, strict=True):
            full[i] = value
        inner_args, inner_kwargs = jax.tree.unflatten(treedef, full)
        return fn(*inner_args, **inner_kwargs)

    shapes = [
        jax.ShapeDtypeStruct(v.shape, v.dtype) if is_leaf(v) else v for v in (values[i] for i in traced)
    ]
    closed, out_shape = jax.make_jaxpr(on_traced, return_shape=True)(*shapes)
    jaxpr, consts = open_jaxpr(closed)
    operands = [
        Tracked(values[i], path_string(pairs[i][0][2:]) or "the argument")
        if is_leaf(values[i])
        else values[i]
        for i in traced
    ]
    outs = frame.run(jaxpr, consts, operands)
    outs = [v.leaf.dense() if isinstance(v, Tracked) else v for v in outs]
    return jax.tree.unflatten(jax.tree.structure(out_shape), outs)


def _is_array(value: Any) -> bool:
    """True of what JAX traces: arrays of JAX and NumPy."""
    return isinstance(value, jax.Array | np.ndarray | np.generic)


@dataclasses.dataclass(frozen=True)
class Explanation:
    """Where a program consumed each leaf, and what it made dense."""

    consumptions: tuple[Consumption, ...]
    unused: tuple[str, ...]  # leaves that no equation met

    @property
    def kernels(self) -> dict[str, str]:
        """By path of the leaf, the kernels that its products were computed by, and their tiers."""
        found: dict[str, list[str]] = {}
        for c in self.consumptions:
            if c.kernel and c.kernel not in found.setdefault(c.path, []):
                found[c.path].append(c.kernel)
        return {path: ", ".join(names) for path, names in found.items()}

    @property
    def dense(self) -> tuple[str, ...]:
        """Paths of the leaves that some equation made dense."""
        return tuple(dict.fromkeys(c.path for c in self.consumptions if c.how == "dense"))

    def __repr__(self) -> str:
        made = f"made dense: {', '.join(self.dense)}" if self.dense else "nothing made dense"
        return f"<{len(self.consumptions)} equations met a leaf, {made}, {len(self.unused)} leaves unused>"

    def __rich__(self) -> Table:
        table = Table(title="Where each leaf was consumed")
        has_where = any(c.where for c in self.consumptions)
        for name in ("leaf", "consumed by", *(["in"] if has_where else []), "how"):
            table.add_column(name, overflow="fold")
        words = {"rule": "packed", "layout": "packed, moved"}
        for c, times in Counter(self.consumptions).items():
            how = f"[red]dense[/red]: {c.reason}" if c.how == "dense" else words[c.how]
            how += f", by {c.kernel}" if c.kernel else ""
            by = c.primitive + (f" x{times}" if times > 1 else "")
            table.add_row(f"{c.path}\n{c.leaf}", by, *([c.where] if has_where else []), how)
        for path in self.unused:
            table.add_row(path, "[red]nothing[/red]", *([""] if has_where else []), "unused")
        return table

    def __str__(self) -> str:
        return as_text(self)


def explain(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Explanation:
    """Prints, and returns, where `fn` consumes each leaf of its arguments, by which kernel, what dense.

    Nothing is computed: the program is run on shapes.
    """
    explanation = explained(fn, *args, **kwargs)
    Console().print(explanation)
    return explanation


def explained(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Explanation:
    """What `explain` returns, without printing it."""
    frame = Frame()
    pairs, _ = jax.tree_util.tree_flatten_with_path((args, kwargs), is_leaf=is_leaf)
    paths = [path_string(keys[2:]) or "the argument" for keys, value in pairs if is_leaf(value)]

    def abstract(*inner: Any) -> Any:
        rebuilt_args, rebuilt_kwargs = jax.tree.unflatten(treedef, _filled(flat, arrays, inner))
        return evaluate(fn, rebuilt_args, rebuilt_kwargs, frame)

    flat, treedef = jax.tree.flatten((args, kwargs))
    arrays = [
        i for i, value in enumerate(flat) if _is_array(value) or isinstance(value, jax.ShapeDtypeStruct)
    ]
    jax.eval_shape(abstract, *(flat[i] for i in arrays))
    met = {c.path for c in frame.log}
    return Explanation(tuple(frame.log), tuple(p for p in paths if p not in met))


def _filled(flat: list[Any], where: list[int], new: Any) -> list[Any]:
    """`flat` with `new` at the places `where`."""
    full = list(flat)
    for i, value in zip(where, new, strict=True):
        full[i] = value
    return full
