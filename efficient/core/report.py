"""Report: what packing did to a model: bytes by value, multiply-accumulates, measured time."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import jax
from rich.console import Group, RenderableType
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from efficient.core.cost import cost
from efficient.core.leaf import dense, stored_bytes
from efficient.core.lift import explained, lift
from efficient.core.measure import Race, race
from efficient.core.paths import flatten
from efficient.core.words import array_words, as_text


@dataclasses.dataclass(frozen=True, kw_only=True)
class Size:
    """Bytes of one value, before and after."""

    path: str
    dense_bytes: int
    packed_bytes: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """A packed model against the dense one; prints as a table."""

    sizes: tuple[Size, ...]  # every value of the params, in their order
    dense_macs: int  # multiply-accumulates of every product and convolution of one call
    packed_macs: int  # likewise, the leaves' own included
    times: Race  # first dense, second packed
    arguments: str  # at which it was measured: dtypes and shapes
    kernels: Mapping[str, str]  # by path, the kernel of its products, and its tier; without one, XLA did them

    @property
    def dense_bytes(self) -> int:
        """Bytes of the params as they were."""
        return sum(size.dense_bytes for size in self.sizes)

    @property
    def packed_bytes(self) -> int:
        """Bytes of the packed params."""
        return sum(size.packed_bytes for size in self.sizes)

    @property
    def slower(self) -> bool:
        """True where packed took longer, by more than the noise: in three of four turns."""
        return self.times.ratio_quartiles[1] < 1

    @property
    def verdict(self) -> str:
        """What the times say, in a sentence."""
        dense_ms, packed_ms = self.times.first.median_ms, self.times.second.median_ms
        where = self.arguments or "no arguments"
        times = f"packed takes {packed_ms:.3g} ms and dense {dense_ms:.3g} ms at {where}"
        if self.slower:
            return f"It got slower: {times}."
        if self.times.ratio_quartiles[0] > 1:
            return f"It got faster: {times}."
        return f"No difference beyond the noise: {times}."

    @property
    def by_kernel(self) -> str:
        """Which kernels ran, and for how many values."""
        counts = Counter(self.kernels.values())
        if not counts:
            return "Kernels: none; XLA computed the products of all leaves."
        return "Kernels: " + ", ".join(f"{name} for {n}" for name, n in counts.most_common()) + "."

    def __rich__(self) -> RenderableType:
        table = Table("value", "dense", "packed", "ratio", title="What packing did")
        kept = [size for size in self.sizes if size.dense_bytes == size.packed_bytes]
        rows = [size for size in self.sizes if size.dense_bytes != size.packed_bytes]
        if kept:
            same = sum(size.dense_bytes for size in kept)
            rows.append(Size(path=f"{len(kept)} of the same size", dense_bytes=same, packed_bytes=same))
        table.columns[0].overflow = "fold"
        for size in rows:
            table.add_row(Text(size.path), *_bytes(size.dense_bytes, size.packed_bytes))
        table.add_section()
        table.add_row("total", *_bytes(self.dense_bytes, self.packed_bytes))
        macs = f"MACs: dense {self.dense_macs:,}, packed {self.packed_macs:,}."
        verdict = Text(self.verdict, style="red" if self.slower else "")
        return Group(table, macs, Text(self.by_kernel), verdict)

    def __str__(self) -> str:
        return as_text(self)


def compare(
    fn: Callable[..., Any], params: Any, packed: Any, *args: Any, repeats: int = 20, warmup: int = 2
) -> Report:
    """Measures `fn(params, *args)` against `lift(fn)(packed, *args)`, both compiled, in turns.

    Args:
      fn: a function of params and arrays; options that are no arrays belong into a closure.
      params: as they were before packing; leaves among them are made dense.
      packed: the same tree with leaves.
      *args: arrays, at the batch size that matters.
      repeats: turns that are timed.
      warmup: turns that are not.

    Raises:
      ValueError: `repeats` or `warmup` is below 1.
    """
    plain, by_path = dense(params), flatten(packed)[0]
    sizes = [
        Size(path=path, dense_bytes=bytes_of(value), packed_bytes=bytes_of(by_path[path]))
        for path, value in flatten(plain)[0].items()
    ]
    arrays, treedef = jax.tree.flatten(packed)
    lifted = lift(fn)
    on_arrays = lambda leaves, *rest: lifted(jax.tree.unflatten(treedef, leaves), *rest)  # noqa: E731
    dense_fn, packed_fn = jax.jit(fn), jax.jit(lifted)
    times = race(
        lambda: dense_fn(plain, *args), lambda: packed_fn(packed, *args), repeats=repeats, warmup=warmup
    )
    return Report(
        sizes=tuple(sizes),
        dense_macs=sum(equation.products for equation in cost(fn, plain, *args).equations),
        packed_macs=sum(equation.products for equation in cost(on_arrays, arrays, *args).equations),
        times=times,
        arguments=", ".join(map(array_words, jax.tree.leaves(args))),
        kernels=explained(fn, packed, *args).kernels,
    )


def bytes_of(value: Any) -> int:
    """Bytes that are stored for a value, a shape or a leaf; 0 for what is no array."""
    return stored_bytes(value) if hasattr(value, "dtype") else 0


def _bytes(before: int, after: int) -> tuple[str, str, str]:
    """Two sizes and their ratio."""
    return decimal(before), decimal(after), f"{before / after:.2f}x" if after else ""
