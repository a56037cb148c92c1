"""Cost: MACs, parameters, stored bytes, activation bytes and traffic of any JAX function, by tracing alone.

`cost(fn, params, *args)` traces `fn` on shapes alone and reads the program that comes out: no module needs
to know. `convention` says what is counted (see there), `attribution` says which weight an equation is
counted to, and `liveness` says how activations are held. Under the chosen convention `flops = 2 * macs`.

Traffic is that of a machine that fuses every elementwise and layout equation into a neighbour: each other
equation reads its operands once and writes its results once, weights at their *stored* size. Then

    intensity = flops / bytes_moved        [FLOPs a byte]

Source: Williams et al., 2009, doi:10.1145/1498765.1498785, for arithmetic (operational) intensity.
"""

import dataclasses
import functools
import math
import sys
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from efficient.core.attribution import Attribution, Tag
from efficient.core.convention import Kind, charges
from efficient.core.liveness import Liveness
from efficient.core.paths import flatten, path_string
from efficient.core.program import Value, program
from efficient.core.words import as_text


@dataclasses.dataclass(frozen=True, kw_only=True)
class Equation:
    """One equation of the program that is charged or that moves bytes; totals over all `times` executions."""

    path: str  # of the weight that it consumes; empty where it consumes none
    scope: str  # the name stack, as Flax writes module names there
    primitive: str
    kind: Kind
    macs: int  # under the report's convention
    products: (
        int  # multiply-accumulates that the hardware does, whatever the convention; 0 for norms and pools
    )
    bytes_moved: int
    times: int
    shape: tuple[int, ...]  # of the result

    @property
    def layer(self) -> str:
        """The module: the weight's path without its last key, or the name stack, or the primitive."""
        return self.path.rpartition("/")[0] or self.path or self.scope or self.primitive


@dataclasses.dataclass(frozen=True, kw_only=True)
class Weight:
    """One parameter: how many numbers it stands for and how many bytes it is stored in."""

    size: int
    nbytes: int

    @property
    def element_bytes(self) -> float:
        """Stored bytes a number."""
        return self.nbytes / self.size if self.size else 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layer:
    """What one module costs."""

    macs: int
    params: int
    stored_bytes: int
    bytes_moved: int
    shape: tuple[int, ...]  # of its last contraction's result; empty where it has none


@dataclasses.dataclass(frozen=True, kw_only=True)
class CostReport:
    """What `fn` costs, in the order of execution."""

    convention: str
    equations: tuple[Equation, ...]
    weights: Mapping[str, Weight]  # by path; other collections than `params` are not among them
    peak_activation_bytes: int
    notes: tuple[str, ...]  # what had to be assumed: trip counts, branches, opaque kernels

    @property
    def macs(self) -> int:
        """Multiply-accumulates under the convention."""
        return sum(equation.macs for equation in self.equations)

    @property
    def flops(self) -> int:
        """Two a MAC."""
        return 2 * self.macs

    @property
    def params(self) -> int:
        """Numbers that the parameters stand for."""
        return sum(weight.size for weight in self.weights.values())

    @property
    def stored_bytes(self) -> int:
        """Bytes that the parameters are stored in."""
        return sum(weight.nbytes for weight in self.weights.values())

    @property
    def bytes_moved(self) -> int:
        """Traffic, as the module's docstring defines it."""
        return sum(equation.bytes_moved for equation in self.equations)

    @property
    def intensity(self) -> float:
        """FLOPs a byte moved; 0 where nothing moves."""
        return self.flops / self.bytes_moved if self.bytes_moved else 0.0

    def __rich__(self) -> Table:
        table = Table(title=f"Cost, convention {self.convention}")
        table.add_column("module", overflow="fold")
        for name in ("MACs", "params", "stored"):
            table.add_column(name, justify="right", no_wrap=True)
        for name, layer in self.layers.items():
            table.add_row(Text(name), f"{layer.macs:,}", f"{layer.params:,}", decimal(layer.stored_bytes))
        table.add_section()
        table.add_row("total", f"{self.macs:,}", f"{self.params:,}", decimal(self.stored_bytes))
        table.caption = f"peak of activations {decimal(self.peak_activation_bytes)}"
        return table

    def __str__(self) -> str:
        return as_text(self)

    def __repr__(self) -> str:
        sizes = f"{self.params:,} params, {self.stored_bytes:,} bytes"
        return f"<CostReport: {self.macs:,} MACs ({self.convention}), {sizes}>"

    @functools.cached_property
    def macs_by_path(self) -> dict[str, int]:
        """MACs of each weight's path; of what consumes no weight, by name stack."""
        found: dict[str, int] = {}
        for one in self.equations:
            if one.macs:
                name = one.path or one.scope or one.primitive
                found[name] = found.get(name, 0) + one.macs
        return found

    @functools.cached_property
    def layers(self) -> dict[str, Layer]:
        """Costs by module in order of first use; modules whose weights nothing charged consumes come last."""
        parents = {path: path.rpartition("/")[0] or path for path in self.weights}
        charged = dict.fromkeys(equation.layer for equation in self.equations if equation.macs)
        return {
            name: Layer(
                macs=sum(e.macs for e in self.equations if e.layer == name),
                params=sum(self.weights[path].size for path, parent in parents.items() if parent == name),
                stored_bytes=sum(
                    self.weights[path].nbytes for path, parent in parents.items() if parent == name
                ),
                bytes_moved=sum(e.bytes_moved for e in self.equations if e.layer == name),
                shape=next((e.shape for e in reversed(self.equations) if e.layer == name and e.products), ()),
            )
            for name in (
                *charged,
                *(parent for parent in dict.fromkeys(parents.values()) if parent not in charged),
            )
        }


def cost(
    fn: Callable[..., Any],
    params: Any,
    *args: Any,
    convention: str = "conv_fc",
    activation_dtype: Any = None,
    in_place_depthwise: bool = False,
) -> CostReport:
    """What `fn(params, *args)` costs; nothing is computed.

    Args:
      fn: any function that JAX can trace; options that are no arrays belong into a closure.
      params: the weights: arrays, `jax.ShapeDtypeStruct`s or compressed leaves (what has `shape`, `dtype`,
        `nbytes` and `dense`), which are traced at their dense shape and counted at their stored bytes. Of
        Linen variables only the collection `params` counts as parameters, of an NNX state only
        `nnx.Param`s; the rest (running statistics) stands apart from parameters and activations.
      *args: arrays or `jax.ShapeDtypeStruct`s; they and all that is computed from them are activations.
      convention: what is counted, see `convention`.
      activation_dtype: floating-point activations count as if of this dtype; None takes them as they are.
      in_place_depthwise: a depthwise convolution may overwrite its input, as microcontroller runtimes do
        (Lin et al., 2020, arXiv:2007.10319).

    Returns:
      The report.

    Raises:
      ValueError: there is no such convention.
    """
    charge = charges(convention)
    shapes, entering, states = _weights(params)
    flat = program(jax.make_jaxpr(fn)(shapes, *args))
    stored = {path: weight.element_bytes for path, weight in entering.items()}
    tags = [Tag(path, factors=frozenset({"affine"}), affine=path) for path in stored]
    tags += [Tag(pure=False, factors=frozenset({"activation"}))] * (len(flat.inputs) - len(tags))

    def nbytes(value: Value, tag: Tag) -> int:
        if tag.pure:
            return round(value.size * stored.get(tag.path, 0.0))
        return value.size * _itemsize(value.dtype, activation_dtype)

    walk = Attribution(nbytes)
    walk.run(flat, tags)
    held = Liveness(
        nbytes=lambda value: 0 if value.constant or walk.tag(value).pure else nbytes(value, walk.tag(value)),
        in_place_depthwise=in_place_depthwise,
    )
    equations = tuple(
        Equation(
            path=row.path,
            scope=row.scope,
            primitive=row.primitive,
            kind=row.kind,
            macs=row.units * charge.get(row.kind, 0),
            products=row.units if row.kind in ("weight", "activation") else 0,
            bytes_moved=row.bytes_moved,
            times=row.times,
            shape=row.shape,
        )
        for row in walk.rows
    )
    return CostReport(
        convention=convention,
        equations=equations,
        weights={path: weight for path, weight in entering.items() if path not in states},
        peak_activation_bytes=held.peak(flat),
        notes=tuple(walk.notes),
    )


def _itemsize(dtype: Any, activation_dtype: Any) -> int:
    """Bytes of one element of an activation."""
    if activation_dtype is not None and jnp.issubdtype(dtype, jnp.floating):
        return jnp.dtype(activation_dtype).itemsize
    return getattr(dtype, "itemsize", 0)


def _is_compressed(value: Any) -> bool:
    """True of what stores an array in another form."""
    return all(hasattr(value, name) for name in ("dense", "nbytes", "shape", "dtype"))


def _nnx_params(params: Any) -> dict[str, bool]:
    """By path of an NNX variable, whether it is a parameter; a tree holds one only if NNX is imported."""
    nnx = sys.modules.get("flax.nnx")
    if nnx is None:
        return {}
    variables = jax.tree_util.tree_leaves_with_path(params, is_leaf=lambda v: isinstance(v, nnx.Variable))
    return {
        path_string(keys): isinstance(v, nnx.Param) for keys, v in variables if isinstance(v, nnx.Variable)
    }


def not_parameters(params: Any) -> set[str]:
    """Paths of what is no parameter: Linen's collections beside `params`, NNX variables that are no `Param`.

    Running means and variances are such: they are computed, not trained, and compressing them breaks a model.
    """
    is_param = _nnx_params(params)
    is_linen = isinstance(params, Mapping) and "params" in params
    return {
        path
        for path in flatten(params)[0]
        if not is_param.get(path, True) or (is_linen and path != "params" and not path.startswith("params/"))
    }


def _weights(params: Any) -> tuple[Any, dict[str, Weight], set[str]]:
    """`params` as shapes, its leaves in order by path, and the paths of those that are no parameters."""
    pairs, treedef = jax.tree_util.tree_flatten_with_path(params, is_leaf=_is_compressed)
    shapes, entering = [], {}
    for keys, value in pairs:
        path = path_string(keys) or "params"
        shape, dtype = jnp.shape(value), jnp.result_type(value)
        shapes.append(jax.ShapeDtypeStruct(shape, dtype))
        size = math.prod(shape)
        nbytes = int(value.nbytes) if _is_compressed(value) else size * dtype.itemsize
        entering[path] = Weight(size=size, nbytes=nbytes)
    return jax.tree.unflatten(treedef, shapes), entering, not_parameters(params)
