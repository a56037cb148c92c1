"""Kernels on a GPU: right against float64 on fresh inputs, and raced against XLA's and cuDNN's. Not run yet.

    make gpu-check            # minutes, on one NVIDIA card; --smoke interprets tiny sizes anywhere

`errors` are the largest differences from float64, over what rounding of the inputs' dtype may come to.
Races time a chain of products, each of which waits for the last, in one program: a launch costs nothing then.
Bandwidth is that of a copy of 1 GiB in the same run.
"""

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from efficient.kernels.attention import attention, decode_attention
from efficient.kernels.depthwise_conv import depthwise_conv
from efficient.kernels.grouped_matmul import grouped_matmul
from efficient.kernels.hadamard import hadamard
from efficient.kernels.quantize_pack import quantize_pack, unpack
from efficient.kernels.quantized_matmul import int8_matmul, quantized_matmul
from efficient.kernels.quantized_matmul.tuning import tune_quantized_matmul

from experiments.frame import Claim, Metrics, Outcome, Progress, average, by_seed, column, main

GPU = {"implementation": "pallas_gpu"}
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
ROUNDING = {"float32": 2.0**-22, "bfloat16": 2.0**-7}  # of a product: both factors, and what is kept of it
Draw = Callable[..., jax.Array]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """What is checked and timed."""

    rows: int = 4096  # rows and columns of W in races, a multiple of 128
    wide: int = 14336  # columns of the wide ones
    tokens: int = 8192  # of a cache; half as many of a sequence
    calls: int = 64  # products of a chain
    repeats: int = 9  # chains of each arm, in turns, >= 3
    seeds: tuple[int, ...] = (0,)  # one whole measurement each

    def __post_init__(self) -> None:
        if self.rows % 128 or self.repeats < 3 or min(self.wide, self.tokens, self.calls) < 1:
            raise ValueError(
                f"rows must be a multiple of 128, repeats at least 3, sizes positive, got {self}."
            )

    @classmethod
    def smoke(cls) -> "Config":
        """The same path at tiny sizes, which a machine without a GPU can interpret."""
        return cls(rows=128, wide=192, tokens=64, calls=1, repeats=3)


def _exact_attention(q: Any, k: Any, v: Any) -> tuple[Any, Any]:
    """Causal, in float64; and the sum of magnitudes."""
    q, k, v = (np.asarray(a.astype(jnp.float32), np.float64) for a in (q, k, v))
    k, v = (np.repeat(a, q.shape[2] // a.shape[2], 2) for a in (k, v))
    scores = np.einsum("bthd,bshd->bhts", q, k) / np.sqrt(q.shape[3])
    t, s = scores.shape[2:]
    scores = np.where(np.arange(s) <= np.arange(s - t, s)[:, None], scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    out, size = (np.einsum("bhts,bshd->bthd", weights, a) for a in (v, np.abs(v)))
    return out, 8 * size  # scores of a few units are off by as many roundings


def _product(x: Any, w: Any) -> tuple[Any, Any]:
    """In float64; and the sum of magnitudes."""
    x, w = (np.asarray(jnp.asarray(a).astype(jnp.float32), np.float64) for a in (x, w))
    return x @ w, np.abs(x) @ np.abs(w)


def checks(dtype: Any, draw: Draw) -> dict[str, Callable[[], tuple[Any, tuple[Any, Any]]]]:
    """By name: what a kernel finds, and float64's with what a rounding is a part of."""
    x, q = draw(37, 576).astype(dtype), draw(2, 70, 6, 64).astype(dtype)
    w = draw(576, 320)
    k, v = (draw(2, 130, 2, 64).astype(dtype) for _ in range(2))

    def weights(bits: int, group: int) -> Any:
        packed = quantize_pack(w, bits=bits, group=group, axis=-2, implementation="reference")
        options = {"bits": bits, "columns": 320, "group": group, "is_signed": True}
        found = quantized_matmul(x, packed.codes, packed.scale, **options, **GPU)
        return found, _product(x, unpack(packed, 320, axis=-2, group=group))

    def integers(bits: int, group: int) -> Any:
        packed = quantize_pack(w, bits=bits, group=group, axis=-2, implementation="reference")
        options = {"bits": bits, "columns": 320, "group": group, "is_signed": True}
        whole = jnp.round(3 * x.astype(jnp.float32)).clip(-127, 127)
        step = jnp.float32(1)
        found = int8_matmul(whole, packed.codes, packed.scale, **options, x_scale=step, **GPU)
        return found, _product(whole, unpack(packed, 320, axis=-2, group=group))

    def decode(bits: int) -> Any:
        packed = [quantize_pack(a, bits=bits, implementation="reference") for a in (k, v)]
        lengths = jnp.full(2, 130, jnp.int32)
        found = decode_attention(q[:, 0], *packed, lengths, **GPU)
        want, size = _exact_attention(q[:, :1], *(unpack(a, 64) for a in packed))
        return found, (want[:, 0], size[:, 0])

    def slopes() -> Any:
        run = lambda q, k, v, **o: jnp.sum(attention(q, k, v, is_causal=True, **o).astype(jnp.float32) ** 2)  # noqa: E731
        single = [a.astype(jnp.float32) for a in (q, k, v)]
        found = jax.grad(functools.partial(run, **GPU))(q, k, v)
        want = np.asarray(jax.grad(functools.partial(run, implementation="reference"))(*single), np.float64)
        return found, (want, 8 * np.abs(want).max() * np.ones_like(want))

    def transform() -> Any:
        rows = draw(9, 4096).astype(dtype)
        return hadamard(rows, **GPU), _product(rows, scipy.linalg.hadamard(4096) / 64.0)

    def groups() -> Any:
        own, sizes = draw(3, 576, 80).astype(dtype), jnp.array([20, 0, 17], jnp.int32)
        parts = [_product(x[:20], own[0]), _product(x[20:], own[2])]
        want, size = (np.concatenate([part[i] for part in parts]) for i in range(2))
        return grouped_matmul(x, own, sizes, **GPU), (want, size)

    def depthwise() -> Any:
        image, window = draw(2, 12, 12, 96).astype(dtype), draw(3, 3, 96).astype(dtype)
        i, p = (np.asarray(a.astype(jnp.float32), np.float64) for a in (image, window))
        places = [(y, z) for y in range(3) for z in range(3)]
        parts = np.stack([i[:, y : y + 10, z : z + 10] * p[y, z] for y, z in places])
        return depthwise_conv(image, window, **GPU), (parts.sum(0), np.abs(parts).sum(0))

    def packed_bits() -> Any:
        options = {"bits": 4, "group": 32, "is_symmetric": False}
        ours, theirs = (
            quantize_pack(draw_once, **options, **o) for o in (GPU, {"implementation": "reference"})
        )
        same = all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))
        return np.zeros(1) if same else np.ones(1), (np.zeros(1), np.ones(1))

    draw_once = draw(33, 576).astype(dtype)
    return {
        "int4, runs of 32": lambda: weights(4, 32),
        "int2, one run": lambda: weights(2, 0),
        "int8, runs of 64": lambda: weights(8, 64),
        "W8A8": lambda: integers(8, 0),
        "W4A8": lambda: integers(4, 32),
        "attention": lambda: (attention(q, k, v, is_causal=True, **GPU), _exact_attention(q, k, v)),
        "its gradient": slopes,
        "decode, int8": lambda: decode(8),
        "decode, int4": lambda: decode(4),
        "Hadamard": transform,
        "groups": groups,
        "depthwise": depthwise,
        "packing": packed_bits,
    }


def chained(run: Callable[..., Any], calls: int) -> Callable[..., Any]:
    """A program of `calls` runs, each of which waits for the last."""

    def step(_: Any, carry: tuple[Any, Any]) -> tuple[Any, Any]:
        x, rest = carry
        made = run(x, *rest)
        return x + (1e-30 * jnp.max(made)).astype(x.dtype), rest

    return jax.jit(lambda x, *rest: jax.lax.fori_loop(0, calls, step, (x, rest))[0])


def timed(
    arms: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]], config: Config
) -> dict[str, list[float]]:
    """Milliseconds of one run of each arm; arms take turns."""
    programs = {name: (chained(run, config.calls), args) for name, (run, args) in arms.items()}
    for program, args in programs.values():
        jax.block_until_ready(program(*args))
    taken: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(config.repeats):
        for name, (program, args) in programs.items():
            start = time.perf_counter()
            jax.block_until_ready(program(*args))
            taken[name].append(1e3 * (time.perf_counter() - start) / config.calls)
    return taken


def races(config: Config, draw: Draw) -> dict[str, Callable[[], dict[str, float]]]:
    """By name: ms of theirs and ours, the ratio, bytes that ours reads, and operations."""
    n, wide, half = config.rows, config.wide, jnp.bfloat16

    def pair(theirs: Any, ours: Any, args: Any, own: Any, read: float, operations: float) -> dict[str, float]:
        taken = timed({"theirs": (theirs, args), "ours": (ours, own)}, config)
        ratios = np.divide(taken["theirs"], taken["ours"])
        return {
            "theirs_ms": float(np.median(taken["theirs"])), "ms": float(np.median(taken["ours"])),
            "ratio": float(np.median(ratios)), "bytes": read, "operations": operations,
        }  # fmt: skip

    def product(batch: int, columns: int) -> dict[str, float]:
        x, w = draw(batch, n).astype(half), draw(n, columns)
        packed = quantize_pack(w, bits=4, group=128, axis=-2, implementation="reference")
        options = {"bits": 4, "columns": columns, "group": 128, "is_signed": True, **GPU}
        if jax.default_backend() == "gpu":
            tune_quantized_matmul(batch, n, columns)
        ours = lambda x, c, s: quantized_matmul(x, c, s, **options)  # noqa: E731
        read = packed.codes.nbytes + packed.scale.nbytes + x.nbytes + 2 * batch * columns
        operations = 2.0 * batch * n * columns
        return pair(jnp.dot, ours, (x, w.astype(half)), (x, packed.codes, packed.scale), read, operations)

    def integers() -> dict[str, float]:
        x, w = draw(n, n).astype(half), draw(n, n)
        packed = quantize_pack(w, bits=8, axis=-2, implementation="reference")
        options = {"bits": 8, "columns": n, "is_signed": True, **GPU}
        ours = lambda x, c, s: int8_matmul(x, c, s, **options)  # noqa: E731
        args = (x, packed.codes, packed.scale)
        return pair(jnp.dot, ours, (x, w.astype(half)), args, 2.0 * x.nbytes + w.nbytes / 4, 2.0 * n**3)

    def decode() -> dict[str, float]:
        b, t = 8, config.tokens
        q, k, v = draw(b, 32, 128).astype(half), draw(b, t, 8, 128), draw(b, t, 8, 128)
        lengths = jnp.full(b, t, jnp.int32)
        kept = tuple(quantize_pack(a, bits=8, implementation="reference") for a in (k, v))
        dense = tuple(a.astype(half) for a in (k, v))
        run = lambda q, k, v: decode_attention(q, k, v, lengths, **GPU)  # noqa: E731
        read = float(sum(a.nbytes for a in jax.tree.leaves(kept)))
        return pair(run, run, (q, *dense), (q, *kept), read, 4.0 * b * 32 * t * 128)

    def flash() -> dict[str, float]:
        b, t = 4, config.tokens // 2
        q, k, v = (draw(b, t, 16, 128).astype(half) for _ in range(3))
        on_gpu = jax.default_backend() == "gpu"
        best: Any = "cudnn" if on_gpu else "xla"
        theirs = lambda q, k, v: jax.nn.dot_product_attention(q, k, v, is_causal=True, implementation=best)  # noqa: E731
        ours = lambda q, k, v: attention(q, k, v, is_causal=True, **GPU)  # noqa: E731
        return pair(theirs, ours, (q, k, v), (q, k, v), 4.0 * q.nbytes, 2.0 * b * 16 * t * t * 128)

    found: dict[str, Callable[[], dict[str, float]]] = {
        f"W4A16, {batch} x {n} x {columns}": functools.partial(product, batch, columns)
        for columns in (n, wide)
        for batch in (1, 4, 16)
    }
    return {**found, "W8A8": integers, "decode, int8": decode, "flash": flash}


def bandwidth(config: Config) -> float:
    """GB/s of a copy: bytes read and written."""
    x = jnp.zeros((2**28 if config.rows >= 4096 else 2**12,), jnp.float32)
    taken = timed({"copy": (lambda x: x + 1, (x,))}, dataclasses.replace(config, calls=1))
    return 2e-6 * x.nbytes / float(np.median(taken["copy"]))


def run(config: Config, *, progress: Progress | None = None) -> Metrics:
    """`baseline` has theirs' milliseconds and the copy's GB/s; `errors` and `kernel` what they are named for.

    Raises:
      RuntimeError: there is no GPU, and sizes are not those of a smoke run.
    """
    if jax.default_backend() != "gpu" and config.rows > 128:
        raise RuntimeError(
            f"a GPU must be the default device, got {jax.default_backend()}; --smoke interprets tiny sizes."
        )

    def one(seed: int, watch: Progress) -> dict[str, dict[str, float]]:
        random = np.random.default_rng(seed)
        draw = lambda *shape: jnp.asarray(random.normal(size=shape), jnp.float32)  # noqa: E731
        arms: dict[str, dict[str, float]] = {"baseline": {}, "errors": {}, "kernel": {}}
        for label, dtype in DTYPES.items():
            for name, make in watch.track(list(checks(dtype, draw).items()), f"checks in {label}"):
                found, (want, size) = make()
                off = np.abs(np.asarray(jnp.asarray(found).astype(jnp.float32), np.float64) - want)
                arms["errors"][f"{name}, {label}"] = float((off / (ROUNDING[label] * size + 1e-30)).max())
        arms["baseline"]["copy_gbs"] = bandwidth(config)
        for name, race in watch.track(list(races(config, draw).items()), "races"):
            made = race()
            arms["baseline"][f"{name}.ms"] = made.pop("theirs_ms")
            made["of_copy"] = made["bytes"] / (1e6 * made["ms"]) / arms["baseline"]["copy_gbs"]
            arms["kernel"].update({f"{name}.{metric}": value for metric, value in made.items()})
        return arms

    return by_seed(one, config.seeds, progress=progress)


def _nothing(*shape: int) -> jax.Array:
    """Zeros."""
    return jnp.zeros(shape)


def _names() -> list[str]:
    """Of races at the sizes that claims are about."""
    return list(races(Config(), _nothing))


def at_least(names: list[str], metric: str, bar: float) -> Callable[[Metrics], Outcome]:
    """Whether the least of some races' metric reaches a bar."""

    def check(metrics: Metrics) -> Outcome:
        by_race = [column(metrics, "kernel", f"{name}.{metric}") for name in names]
        least = {seed: min(race[seed] for race in by_race) for seed in by_race[0]}
        return Outcome.of(least, min(least.values()) >= bar)

    return check


def are_right(metrics: Metrics) -> Outcome:
    """Whether every error is within what rounding may come to."""
    names = [f"{name}, {label}" for label in DTYPES for name in checks(jnp.float32, _nothing)]
    by_check = [column(metrics, "errors", name) for name in names]
    worst = {seed: max(check[seed] for check in by_check) for seed in by_check[0]}
    return Outcome.of(worst, max(worst.values()) <= 1)


PRODUCTS = [name for name in _names() if name.startswith("W4A16")]
BARS = (
    ("w4a16", "W4A16 at batches 1 to 16: jnp.dot in bfloat16 over ours, the least", PRODUCTS, "ratio", 2.5),
    (
        "w4a16-copy",
        "W4A16 at a batch of one: of a copy's bandwidth",
        [PRODUCTS[0], PRODUCTS[3]],
        "of_copy",
        0.7,
    ),
    ("w8a8", "W8A8 at 4,096 rows: jnp.dot in bfloat16 over ours", ["W8A8"], "ratio", 1.4),
    ("decode", "decode attention: keys and values in bfloat16 over int8", ["decode, int8"], "ratio", 1.6),
    ("flash", "flash attention: cuDNN's time over ours", ["flash"], "ratio", 0.8),
)
CLAIMS = (
    Claim(
        id="gpu-right",
        paper="efficient, its own bar",
        metric="largest error of any kernel and dtype, in what rounding may come to",
        unit="x",
        published="at most 1",
        known="bar",
        rule="every kernel agrees with float64",
        check=are_right,
    ),
    *(
        Claim(
            id=f"gpu-{id}",
            paper="efficient, its own bar",
            metric=metric,
            unit="x",
            published=f"at least {bar:g}",
            known="bar",
            rule=f"at least {bar:g}",
            check=at_least(names, which, bar),
        )
        for id, metric, names, which, bar in BARS
    ),
)


def tables(record: Any) -> list[Any]:
    """Errors, then races."""
    from rich.table import Table

    errors = Table(title="Largest errors, in what rounding of the dtype may come to")
    races_of = Table(title=f"Races; a copy: {average(record.metrics, 'baseline', 'copy_gbs'):.4g} GB/s")
    for title in ("kernel", "error"):
        errors.add_column(title, justify="left" if title == "kernel" else "right")
    for title in ("race", "theirs, ms", "ours, ms", "ratio", "of copy"):
        races_of.add_column(title, justify="left" if title == "race" else "right")
    for label in DTYPES:
        for check in checks(jnp.float32, _nothing):
            errors.add_row(
                f"{check}, {label}", f"{average(record.metrics, 'errors', f'{check}, {label}'):.3f}"
            )
    for name in races(Config(**record.config), _nothing):
        theirs = average(record.metrics, "baseline", f"{name}.ms")
        ms, ratio, copy = (
            average(record.metrics, "kernel", f"{name}.{m}") for m in ("ms", "ratio", "of_copy")
        )
        races_of.add_row(name, f"{theirs:.4g}", f"{ms:.4g}", f"{ratio:.2f}", f"{copy:.2f}")
    return [errors, races_of]


def figures(record: Any) -> dict[str, Any]:
    """The roofline: operations a second against operations a byte."""
    from experiments.frame import style

    figure, panels = style.figure(columns=1, width=6, height=4, squeeze=False)
    axes = panels[0][0]
    copy = average(record.metrics, "baseline", "copy_gbs")
    xs = []
    for name in races(Config(**record.config), _nothing):
        ms, read, operations = (
            average(record.metrics, "kernel", f"{name}.{metric}") for metric in ("ms", "bytes", "operations")
        )
        xs.append(operations / read)
        axes.plot(operations / read, operations / ms / 1e9, "o", label=name)
    line = np.geomspace(min(xs), max(xs), 2)
    axes.plot(line, line * copy / 1e3, color=style.BASELINE, linewidth=1, label="bandwidth of a copy")
    axes.set(xlabel="operations a byte", ylabel="TFLOP/s", xscale="log", yscale="log")
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize=7)
    return {"roofline": figure}


if __name__ == "__main__":
    main()
