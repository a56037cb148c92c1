"""What quantized and sparse products take on this CPU, against XLA's float32 product in its better layout.

    python -m experiments.bench_kernels

Shapes are those of SmolLM2-135M (hidden, feed-forward, vocabulary), Llama-7B and ResNet's 3 x 3 convolutions
as products; batches of 1, 16 and 256 rows. Arms are int4 in runs of 32 rows and int8 a column, with x rounded
to int8 as it comes (`w4a8`, `w8a8`), int4 with x in float32 (`w4`), 16 shared values a matrix (`codebook`),
and in float32 one of ten blocks of 32 x 32 (`blocks`), one weight of twenty in compressed columns (`csr`),
and two of every four (`2-of-4`). All arms of a shape run in turn within each round; a ratio is the median
over rounds of the ratio within a round. Each arm's numbers are held to the reference's before it is timed.
"""

import dataclasses
import functools
import math
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from efficient.kernels.quantized_matmul import int8_matmul, quantized_matmul
from efficient.kernels.sparse_matmul import block_sparse_matmul, csr_matmul, n_m_matmul

from efficient.prune.leaves import BlockSparseLeaf, CSRLeaf, NMLeaf
from experiments.frame import Claim, Metrics, Outcome, Progress, average, by_seed, column, main

BARS: Mapping[str, tuple[float | None, float | None, float | None]] = {
    "w4a8": (12, 6, 2.5),
    "w4": (8, 3, 1),
    "w8a8": (6, 5, 2.5),
    "codebook": (6, 3, 1),
    "blocks": (5, 5, 5),
    "csr": (4, None, None),
}
ARMS = (*BARS, "2-of-4")
SPARSE = ("blocks", "csr", "2-of-4")
BATCHES = (1, 16, 256)
LABELS = {
    "w4a8": "int4, runs of 32; x in int8",
    "w4": "int4, runs of 32; x in float32",
    "w8a8": "int8 a column; x in int8",
    "codebook": "16 shared values; x in float32",
    "blocks": "blocks of 32x32, 90 % absent",
    "csr": "compressed columns, 95 % absent",
}
TOLERANCE = 1e-4  # of the largest number: float32 sums in another order


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """What is timed."""

    shapes: tuple[str, ...] = (
        "576x1536", "1536x576", "576x49152", "4096x4096", "4096x11008", "1152x128", "4608x512",
    )  # fmt: skip  # rows x columns of W
    batches: tuple[int, ...] = BATCHES  # rows of x, > 0
    rounds: int = 15  # rounds, in each of which every arm runs, >= 3
    span: float = 0.01  # seconds of an arm's calls a round, > 0
    seeds: tuple[int, ...] = (0,)  # one whole measurement each

    def __post_init__(self) -> None:
        if self.rounds < 3 or self.span <= 0 or min(self.batches) < 1:
            raise ValueError(
                f"rounds must be at least 3, span and batches positive, got {self.rounds}, {self.span} and "
                f"{self.batches}; leave them out for the defaults."
            )
        for shape in self.shapes:
            sizes(shape)

    @classmethod
    def smoke(cls) -> "Config":
        """The same path on the smallest product."""
        return cls(shapes=("48x130",), batches=(1, 16), rounds=3, span=1e-4)


def sizes(shape: str) -> tuple[int, int]:
    """Rows and columns.

    Raises:
        ValueError: not two positive numbers with an x between them.
    """
    rows, _, columns = shape.partition("x")
    if not (rows.isdecimal() and columns.isdecimal() and int(rows) and int(columns)):
        raise ValueError(f"shape must be rows x columns, as in 576x1536, got {shape!r}; write it so.")
    return int(rows), int(columns)


Product = Callable[..., jax.Array]


def products(shape: str, seed: int) -> dict[str, Product]:
    """`x -> x W` by arm, `plain` and `turned` in float32; the others take `implementation=`."""
    k, n = sizes(shape)
    draw = np.random.default_rng(seed)
    dense = jnp.asarray(draw.normal(size=(k, n)), jnp.float32)
    turned = jnp.asarray(np.asarray(dense).T.copy())
    four = jnp.asarray(draw.integers(0, 256, (k, -(-n // 2))), jnp.uint8)
    eight = jnp.asarray(draw.integers(0, 256, (k, n)), jnp.uint8)
    by_run = jnp.asarray(draw.uniform(0.5, 1, (-(-k // 32), n)), jnp.float32)
    by_column, half = by_run[:1], jnp.full((by_run.shape[0], 1), 8.0)
    table = jnp.asarray(np.sort(draw.normal(size=16)), jnp.float32)
    sparse = _sparse(k, n, draw)
    return {
        "plain": lambda x: x @ dense,
        "turned": lambda x: jax.lax.dot_general(x, turned, (((1,), (1,)), ((), ()))),
        "w4a8": functools.partial(
            int8_matmul, codes=four, scale=by_run, shift=half, bits=4, columns=n, group=32
        ),
        "w4": functools.partial(
            quantized_matmul, codes=four, scale=by_run, shift=half, bits=4, columns=n, group=32
        ),
        "w8a8": functools.partial(
            int8_matmul, codes=eight, scale=by_column, shift=jnp.full((1, 1), 128.0), bits=8, columns=n
        ),
        "codebook": functools.partial(
            quantized_matmul, codes=four, table=table, scale=jnp.ones((1, 1)), bits=4, columns=n
        ),
        **sparse,
    }


def _sparse(k: int, n: int, draw: np.random.Generator) -> dict[str, Product]:
    """The sparse arms."""
    numbers = draw.normal(size=(k, n)).astype(np.float32)
    of_block = draw.random((-(-k // 32), -(-n // 32))) < 0.1
    blocks = BlockSparseLeaf.from_dense(
        numbers * np.kron(of_block, np.ones((32, 32), np.float32))[:k, :n], block=(32, 32)
    )
    lines = CSRLeaf.from_dense(numbers * (draw.random((k, n)) < 0.05), axis=1)
    ranks = np.argsort(np.argsort(draw.random((-(-k // 4), 4, n)), 1), 1).reshape(-1, n)[:k]
    pairs = NMLeaf.from_dense(numbers * (ranks < 2), n=2, m=4)
    blocks, lines, pairs = (jax.tree.map(jnp.asarray, leaf) for leaf in (blocks, lines, pairs))
    return {
        "blocks": functools.partial(
            block_sparse_matmul, values=blocks.values, columns=blocks.columns, pointers=blocks.pointers,
            size=n,
        ),
        "csr": functools.partial(
            csr_matmul, values=lines.values, indices=lines.indices, pointers=lines.pointers, size=n,
            by_row=False,
        ),
        "2-of-4": functools.partial(n_m_matmul, values=pairs.values, positions=pairs.positions, m=4),
    }  # fmt: skip


def seconds(run: Callable[[], Any], calls: int) -> float:
    """Of one call."""
    start = time.perf_counter()
    for _ in range(calls):
        jax.block_until_ready(run())
    return (time.perf_counter() - start) / calls


def raced(shape: str, batch: int, made: Mapping[str, Product], config: Config, seed: int) -> dict[str, Any]:
    """Milliseconds, ratio and error of every arm at one batch."""
    k, _ = sizes(shape)
    x = jnp.asarray(np.random.default_rng(seed + 1).normal(size=(batch, k)), jnp.float32)
    runs = {arm: functools.partial(jax.jit(product), x) for arm, product in made.items()}
    for run in runs.values():
        seconds(run, 2)  # compiles
    calls = {arm: max(1, round(config.span / seconds(run, 1))) for arm, run in runs.items()}
    taken: dict[str, list[float]] = {arm: [] for arm in runs}
    for index in range(config.rounds):
        for arm in list(runs)[:: 1 if index % 2 == 0 else -1]:
            taken[arm].append(seconds(runs[arm], calls[arm]))
    best = min("plain", "turned", key=lambda arm: statistics.median(taken[arm]))
    found: dict[str, Any] = {
        "baseline": {"ms": 1e3 * statistics.median(taken[best]), "error": 0.0, "ratio": 1.0}
    }
    for arm in ARMS:
        want = np.asarray(made[arm](x, implementation="reference"))
        error = float(np.abs(np.asarray(runs[arm]()) - want).max() / np.abs(want).max())
        if not error <= TOLERANCE:
            raise ArithmeticError(
                f"{arm} on {shape} must agree with its reference, got an error of {error:g}."
            )
        ratios = [ours / one for ours, one in zip(taken[best], taken[arm], strict=True)]
        found[arm] = {
            "ms": 1e3 * statistics.median(taken[arm]), "error": error, "ratio": statistics.median(ratios)
        }  # fmt: skip
    return found


def run(config: Config, *, progress: Progress | None = None) -> Metrics:
    """By arm, `<shape>.<batch>.<metric>`: ms, ratio (float32's time over ours, above 1 is faster), error."""

    def one(seed: int, watch: Progress) -> dict[str, dict[str, float]]:
        arms: dict[str, dict[str, float]] = {arm: {} for arm in ("baseline", *ARMS)}
        for shape in watch.track(config.shapes, "shapes"):
            made = products(shape, seed)
            for batch in config.batches:
                for arm, values in raced(shape, batch, made, config, seed).items():
                    arms[arm].update({f"{shape}.{batch}.{name}": value for name, value in values.items()})
        return arms

    return by_seed(one, config.seeds, progress=progress)


def mean_ratio(arm: str, batch: int, bar: float) -> Callable[[Metrics], Outcome]:
    """The geometric mean over shapes of how much faster an arm is."""

    def check(metrics: Metrics) -> Outcome:
        logs: dict[int, list[float]] = {}
        for shape in Config().shapes:
            for seed, ratio in column(metrics, arm, f"{shape}.{batch}.ratio").items():
                logs.setdefault(seed, []).append(math.log(ratio))
        ratios = {seed: math.exp(statistics.fmean(values)) for seed, values in logs.items()}
        return Outcome.of(ratios, min(ratios.values()) >= bar)

    return check


CLAIMS = tuple(
    Claim(
        id=f"kernels-{arm}-{batch}",
        paper="efficient, its own bar",
        metric=f"{LABELS[arm]}; float32's time over ours at batch {batch}, mean over shapes",
        unit="x",
        published=f"at least {bar:g}",
        known="bar",
        rule=f"the geometric mean of median ratios is at least {bar:g}",
        check=mean_ratio(arm, batch, bar),
    )
    for arm, bars in BARS.items()
    for batch, bar in zip(BATCHES, bars, strict=True)
    if bar is not None
)


def tables(record: Any) -> list[Any]:
    """How many times faster than float32, a row for each shape and batch."""
    from rich.table import Table

    table = Table(title="Products: times faster than XLA's float32, and its milliseconds")
    for title in ("W", "batch", "float32, ms", *ARMS):
        table.add_column(title, justify="left" if title == "W" else "right")
    for shape in record.config["shapes"]:
        for batch in record.config["batches"]:
            base = average(record.metrics, "baseline", f"{shape}.{batch}.ms")
            cells = [f"{average(record.metrics, arm, f'{shape}.{batch}.ratio'):.2f}" for arm in ARMS]
            table.add_row(shape, str(batch), f"{base:.3f}", *cells)
    return [table]


def figures(record: Any) -> dict[str, Any]:
    """How many times faster, by shape; a panel for each batch."""
    from experiments.frame import style

    batches = record.config["batches"]
    figure, panels = style.figure(columns=len(batches), width=3.4 * len(batches), height=3.6, squeeze=False)
    for axes, batch in zip(panels[0], batches, strict=True):
        for arm in ARMS:
            ratios = [average(record.metrics, arm, f"{s}.{batch}.ratio") for s in record.config["shapes"]]
            marker = "s" if arm in SPARSE else "o"
            axes.plot(ratios, record.config["shapes"], marker, alpha=0.8, label=arm)
        axes.axvline(1, color=style.BASELINE, linewidth=1)
        axes.set(xlabel="times faster than float32", title=f"batch {batch}", xlim=(0, None))
    for axes in panels[0][1:]:
        axes.set_yticklabels([])
    panels[0][-1].legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize=8)
    return {"races": figure}


if __name__ == "__main__":
    main()
