"""What attention, caches in a few bits, depthwise convolutions, groups and packing take, against XLA's own.

    python -m experiments.bench_ops

Each kernel races what JAX offers for the same thing, both compiled, in turns; a ratio is the median over
turns of XLA's time over ours. Shapes are those of SmolLM2-135M and Llama-3-8B (attention, logits),
MobileNetV2 (convolutions) and small experts. Where ours reads less (int8, int4), XLA's has the float32 array:
that is the offer. Each result is held to the reference's before it is timed.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from efficient.kernels.attention import attention, decode_attention
from efficient.kernels.depthwise_conv import depthwise_conv
from efficient.kernels.grouped_matmul import grouped_matmul, grouped_quantized_matmul
from efficient.kernels.hadamard import hadamard
from efficient.kernels.hadamard import reference as butterfly
from efficient.kernels.quantize_pack import Packed, quantize_pack, unpack
from efficient.kernels.quantized_matmul import transposed_matmul

from efficient.core.measure import race
from experiments.frame import Claim, Metrics, Outcome, Progress, average, by_seed, column, main

TOLERANCE = 1e-4  # of the largest number: float32 sums in another order


class Case(NamedTuple):
    """Two programs for one thing, and what both take."""

    theirs: Callable[..., Any]
    ours: Callable[..., Any]  # takes `implementation=` too
    args: tuple[Any, ...]  # of theirs
    own: tuple[Any, ...] | None = None  # of ours, where they differ


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """What is timed."""

    scale: int = 1  # sizes are divided by it, >= 1
    repeats: int = 31  # turns of each race, >= 3
    seeds: tuple[int, ...] = (0,)  # one whole measurement each

    def __post_init__(self) -> None:
        if self.repeats < 3 or self.scale < 1:
            raise ValueError(
                f"repeats must be at least 3, scale at least 1, got {self.repeats} and {self.scale}."
            )

    @classmethod
    def smoke(cls) -> "Config":
        """The same path at an eighth of the sizes."""
        return cls(scale=8, repeats=3)


def _attention(n: int, draw: Callable[..., Any], *, is_slope: bool = False) -> Case:
    """SmolLM2's heads over `n` tokens, causal."""
    q, k, v = draw(1, n, 9, 64), draw(1, n, 3, 64), draw(1, n, 3, 64)

    def of(run: Callable[..., Any]) -> Callable[..., Any]:
        if not is_slope:
            return run
        return lambda q, k, v, **o: jax.grad(lambda *a: jnp.sum(run(*a, **o) ** 2), (0, 1, 2))(q, k, v)

    theirs = functools.partial(jax.nn.dot_product_attention, is_causal=True)
    return Case(of(theirs), of(functools.partial(attention, is_causal=True)), (q, k, v))


def _decode(n: int, draw: Callable[..., Any], bits: int) -> Case:
    """One token of Llama-3-8B's heads over `n`."""
    q, k, v = draw(1, 32, 128), draw(1, n, 8, 128), draw(1, n, 8, 128)
    kept = (k, v) if bits == 32 else tuple(quantize_pack(a, bits=bits) for a in (k, v))
    dense = (unpack(a, 128) if isinstance(a, Packed) else a for a in kept)
    lengths = jnp.full(1, n, jnp.int32)
    return Case(
        lambda q, k, v: jax.nn.dot_product_attention(q[:, None], k, v)[:, 0],
        lambda q, k, v, **o: decode_attention(q, k, v, lengths, **o),
        (q, *dense),
        (q, *kept),
    )


def _depthwise(side: int, channels: int, draw: Callable[..., Any]) -> Case:
    """A 3 x 3 window."""
    x, w = draw(1, side, side, channels), draw(3, 3, channels)
    ones = ((1, 1), (1, 1))

    def theirs(x: Any, w: Any) -> Any:
        names = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            x, w[:, :, None], (1, 1), ones, dimension_numbers=names, feature_group_count=channels
        )

    return Case(theirs, functools.partial(depthwise_conv, padding=ones), (x, w))


def _groups(rows: int, draw: Callable[..., Any], size: int, *, is_packed: bool) -> Case:
    """Rows of 8 experts."""
    x, w = draw(rows, size), draw(8, size, 2 * size)
    counts = np.bincount(np.random.default_rng(0).integers(0, 8, rows), minlength=8)
    sizes = jnp.asarray(counts, jnp.int32)
    if not is_packed:
        return Case(jax.lax.ragged_dot, grouped_matmul, (x, w, sizes))
    kept = quantize_pack(w, bits=4, group=32, axis=-2)
    dense = unpack(kept, 2 * size, axis=-2, group=32)

    def ours(x: Any, sizes: Any, codes: Any, scale: Any, **o: Any) -> Any:
        packing = {"bits": 4, "columns": 2 * size, "group": 32, "is_signed": True}
        return grouped_quantized_matmul(x, sizes, codes, scale, **packing, **o)

    return Case(jax.lax.ragged_dot, ours, (x, dense, sizes), (x, sizes, kept.codes, kept.scale))


def _logits(words: int, draw: Callable[..., Any], *, is_rounded: bool) -> Case:
    """One token against SmolLM2's tied embedding, in int4."""
    x, kept = draw(1, 576), quantize_pack(draw(words, 576), bits=4, group=32)

    def ours(x: Any, codes: Any, scale: Any, **o: Any) -> Any:
        return transposed_matmul(
            x, codes, scale, bits=4, group=32, is_signed=True, is_rounded=is_rounded, **o
        )

    return Case(lambda x, w: x @ w.T, ours, (x, unpack(kept, 576, group=32)), (x, kept.codes, kept.scale))


def cases(scale: int, draw: Callable[..., Any]) -> dict[str, Callable[[], Case]]:
    """By name; each made when its turn comes."""
    packed = lambda bits, group: Case(  # noqa: E731
        functools.partial(quantize_pack, bits=bits, group=group, implementation="reference"),
        functools.partial(quantize_pack, bits=bits, group=group),
        (draw(1024, 4096 // scale),),
    )
    return {
        "attention, 1,024 tokens": lambda: _attention(1024 // scale, draw),
        "attention, 2,048 tokens": lambda: _attention(2048 // scale, draw),
        "its gradient, 1,024 tokens": lambda: _attention(1024 // scale, draw, is_slope=True),
        "decode over float32, 8,192 keys": lambda: _decode(8192 // scale, draw, 32),
        "decode over int8, 8,192 keys": lambda: _decode(8192 // scale, draw, 8),
        "decode over int4, 8,192 keys": lambda: _decode(8192 // scale, draw, 4),
        "depthwise 3x3, 56x56x144": lambda: _depthwise(56, 144 // scale, draw),
        "depthwise 3x3, 14x14x576": lambda: _depthwise(14, 576 // scale, draw),
        "8 experts, 16 rows": lambda: _groups(16, draw, 1024 // scale, is_packed=False),
        "8 experts, 256 rows": lambda: _groups(256, draw, 1024 // scale, is_packed=False),
        "8 experts in int4, 16 rows": lambda: _groups(16, draw, 1024 // scale, is_packed=True),
        "logits of int4, x in float32": lambda: _logits(49152 // scale, draw, is_rounded=False),
        "logits of int4, x in int8": lambda: _logits(49152 // scale, draw, is_rounded=True),
        "Hadamard, 16 x 4,096": lambda: Case(butterfly, hadamard, (draw(16, 4096),)),
        "round and pack, int8 rows": lambda: packed(8, 0),
        "round and pack, int4 runs of 32": lambda: packed(4, 32),
    }


NAMES = tuple(cases(1, lambda *shape: None))


def _error(found: Any, want: Any) -> float:
    """The largest difference, of the largest number."""
    found, want = (np.asarray(a, np.float64) for a in (found, want))
    return float(np.abs(found - want).max() / max(np.abs(want).max(), 1e-9))


def raced(case: Case, repeats: int) -> dict[str, float]:
    """Milliseconds of both, their ratio and its quartiles, and the error.

    Raises:
      ArithmeticError: ours is not the reference's.
    """
    own = case.args if case.own is None else case.own
    theirs, ours = jax.jit(case.theirs), jax.jit(case.ours)
    want, found = case.ours(*own, implementation="reference"), ours(*own)
    error = max(map(_error, jax.tree.leaves(found), jax.tree.leaves(want)))
    if not error <= TOLERANCE:
        raise ArithmeticError(f"results must agree with the reference, got an error of {error:g}.")
    times = race(lambda: theirs(*case.args), lambda: ours(*own), repeats=repeats, warmup=2)
    ratios = np.divide(times.first.samples_ms, times.second.samples_ms)
    low, median, high = np.quantile(ratios, (0.25, 0.5, 0.75))
    return {
        "theirs_ms": times.first.median_ms, "ms": times.second.median_ms, "ratio": float(median),
        "low": float(low), "high": float(high), "error": error,
    }  # fmt: skip


def run(config: Config, *, progress: Progress | None = None) -> Metrics:
    """By arm: `baseline` has XLA's milliseconds, `kernel` ours, the ratio and its quartiles, by case."""

    def one(seed: int, watch: Progress) -> dict[str, dict[str, float]]:
        random = np.random.default_rng(seed)
        draw = lambda *shape: jnp.asarray(random.normal(size=shape), jnp.float32)  # noqa: E731
        arms: dict[str, dict[str, float]] = {"baseline": {}, "kernel": {}}
        for name, make in watch.track(list(cases(config.scale, draw).items()), "operations"):
            found = raced(make(), config.repeats)
            arms["baseline"][f"{name}.ms"] = found.pop("theirs_ms")
            arms["kernel"].update({f"{name}.{metric}": value for metric, value in found.items()})
        return arms

    return by_seed(one, config.seeds, progress=progress)


def is_faster(name: str) -> Callable[[Metrics], Outcome]:
    """Whether three of four turns were faster."""

    def check(metrics: Metrics) -> Outcome:
        low = column(metrics, "kernel", f"{name}.low")
        return Outcome.of(column(metrics, "kernel", f"{name}.ratio"), min(low.values()) > 1)

    return check


CLAIMS = tuple(
    Claim(
        id="ops-" + "-".join(name.replace(",", "").lower().split()),
        paper="efficient, its own bar",
        metric=f"{name}: XLA's time over ours",
        unit="x",
        published="above 1",
        known="bar",
        rule="ours is faster in three of four turns",
        check=is_faster(name),
    )
    for name in NAMES
)


def tables(record: Any) -> list[Any]:
    """Both times and the ratio."""
    from rich.table import Table

    table = Table(title="Operations: XLA's time over ours")
    for title in ("operation", "XLA, ms", "ours, ms", "times faster"):
        table.add_column(title, justify="left" if title == "operation" else "right")
    for name in NAMES:
        times = [average(record.metrics, arm, f"{name}.ms") for arm in ("baseline", "kernel")]
        ratio = average(record.metrics, "kernel", f"{name}.ratio")
        cell = f"{ratio:.2f}"
        slow = average(record.metrics, "kernel", f"{name}.high") < 1
        table.add_row(name, *(f"{ms:.3g}" for ms in times), f"[red]{cell}[/red]" if slow else cell)
    return [table]


def figures(record: Any) -> dict[str, Any]:
    """Times faster, a row an operation, on a logarithmic axis."""
    from experiments.frame import style

    figure, panels = style.figure(columns=1, width=6.4, height=4.6, squeeze=False)
    axes = panels[0][0]
    names = NAMES[::-1]
    ratios, low, high = (
        np.array([average(record.metrics, "kernel", f"{name}.{metric}") for name in names])
        for metric in ("ratio", "low", "high")
    )
    axes.errorbar(ratios, names, xerr=[ratios - low, high - ratios], fmt="o", capsize=2)
    axes.axvline(1, color=style.BASELINE, linewidth=1)
    axes.set(xlabel="times faster than XLA (quartiles of turns)", xscale="log")
    return {"races": figure}


if __name__ == "__main__":
    main()
