"""All matrix products of a token of SmolLM2-135M, weights out of cache: int4 and int8 against XLA's float32.

    python -m experiments.bench_token

30 layers' projections and feed-forward matrices, layer by layer, then logits over 49,152 words from the tied
embedding, each of the shape that the model has; weights at random. No attention, norms or sampling: what is
timed is the reading of 134 million weights. Arms: float32 by XLA, int4 in runs of 32 with x rounded to int8
as it comes (`w4a8`) or in float32 (`w4`), int8 a column with x rounded (`w8a8`). All run in turns; a ratio is
the median over turns. `share` is the bytes that are kept over the time, of the bandwidth that a large matrix
times a vector reads at in the same run (`measure.calibrate`).
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from efficient.kernels.quantize_pack import quantize_pack
from efficient.kernels.quantized_matmul import int8_matmul, quantized_matmul, transposed_matmul

from efficient.core.measure import calibrate, race
from experiments.frame import Claim, Metrics, Outcome, Progress, average, by_seed, column, main

HIDDEN, WIDE, SMALL, WORDS = 576, 1536, 192, 49_152
MATRICES: Mapping[str, tuple[int, int]] = {
    "query": (HIDDEN, HIDDEN), "key": (HIDDEN, SMALL), "value": (HIDDEN, SMALL), "out": (HIDDEN, HIDDEN),
    "gate": (HIDDEN, WIDE), "up": (HIDDEN, WIDE), "down": (WIDE, HIDDEN),
}  # fmt: skip
ARMS = {"w4a8": (4, 32, True), "w4": (4, 32, False), "w8a8": (8, 0, True)}  # bits, run, whether x is rounded
LLAMA_MS = 1e3 / 133  # a whole token, two threads


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """What is timed."""

    layers: int = 30  # >= 1
    words: int = WORDS  # of the embedding, >= 1
    repeats: int = 31  # turns of each race, >= 3
    seeds: tuple[int, ...] = (0,)  # one whole measurement each

    def __post_init__(self) -> None:
        if self.repeats < 3 or min(self.layers, self.words) < 1:
            raise ValueError(f"repeats must be at least 3, layers and words positive, got {self}.")

    @classmethod
    def smoke(cls) -> "Config":
        """The same path with two layers."""
        return cls(layers=2, words=512, repeats=3)


def token(product: Callable[[Any, str, Any], Any], x: Any, layers: Any, table: Any) -> Any:
    """Every product of a token, each after those that it waits for."""
    for own in layers:
        of = lambda x, name: product(x, name, own[name])  # noqa: B023, E731
        heads = of(x, "query") + jnp.tile(of(x, "key") + of(x, "value"), 3)
        x = x + 1e-3 * of(heads, "out")
        x = x + 1e-3 * of(of(x, "gate") * of(x, "up"), "down")
    return product(x, "logits", table)


def packed_product(x: Any, name: str, weights: Any, *, bits: int, group: int, is_rounded: bool) -> Any:
    """By the kernels."""
    codes, scale = weights
    options: dict[str, Any] = {"bits": bits, "group": group, "is_signed": True}
    if name == "logits":
        return transposed_matmul(x, codes, scale, **options, is_rounded=is_rounded)
    run = int8_matmul if is_rounded else quantized_matmul
    return run(x, codes, scale, columns=MATRICES[name][1], **options)


def plain_product(x: Any, name: str, weights: Any) -> Any:
    """By XLA."""
    return x @ weights.T if name == "logits" else x @ weights


def programs(config: Config, seed: int) -> dict[str, tuple[Callable[[], Any], int]]:
    """By arm: a call, and the bytes of its weights."""
    draw = np.random.default_rng(seed)
    normal = lambda *shape: jnp.asarray(draw.normal(size=shape, scale=shape[-2] ** -0.5), jnp.float32)  # noqa: E731
    layers = [{name: normal(*shape) for name, shape in MATRICES.items()} for _ in range(config.layers)]
    table = normal(config.words, HIDDEN)
    x = jnp.asarray(draw.normal(size=(1, HIDDEN)), jnp.float32)

    def made(product: Any, layers: Any, table: Any) -> tuple[Callable[[], Any], int]:
        run = jax.jit(functools.partial(token, product))
        return lambda: run(x, layers, table), sum(a.nbytes for a in jax.tree.leaves((layers, table)))

    out = {"baseline": made(plain_product, layers, table)}
    for arm, (bits, group, is_rounded) in ARMS.items():
        pack = functools.partial(quantize_pack, bits=bits, group=group)
        kept = [{name: pack(w, axis=-2)[:2] for name, w in own.items()} for own in layers]
        product = functools.partial(packed_product, bits=bits, group=group, is_rounded=is_rounded)
        out[arm] = made(product, kept, pack(table)[:2])
    return out


def run(config: Config, *, progress: Progress | None = None) -> Metrics:
    """By arm: ms, mb, and but for the baseline ratio, low (its first quartile) and share."""

    def one(seed: int, watch: Progress) -> dict[str, dict[str, float]]:
        made = programs(config, seed)
        read = calibrate(read_bytes=1 << (29 if config.layers > 2 else 22)).bandwidth
        base, size = made["baseline"]
        arms = {"baseline": {"mb": size / 1e6, "read_gbs": read / 1e9}}
        dense = []
        for arm in watch.track(list(ARMS), "arms"):
            call, size = made[arm]
            times = race(base, call, repeats=config.repeats, warmup=2)
            ratios = np.divide(times.first.samples_ms, times.second.samples_ms)
            dense.append(times.first.median_ms)
            ms = times.second.median_ms
            arms[arm] = {
                "ms": ms, "mb": size / 1e6, "ratio": float(np.median(ratios)),
                "low": float(np.quantile(ratios, 0.25)), "share": size / ms * 1e3 / read,
            }  # fmt: skip
        arms["baseline"]["ms"] = float(np.median(dense))
        return arms

    return by_seed(one, config.seeds, progress=progress)


def at_least(arm: str, metric: str, bar: float) -> Callable[[Metrics], Outcome]:
    """Whether a metric reaches a bar."""

    def check(metrics: Metrics) -> Outcome:
        found = column(metrics, arm, metric)
        return Outcome.of(found, min(found.values()) >= bar)

    return check


def at_most(arm: str, metric: str, bar: float) -> Callable[[Metrics], Outcome]:
    """Whether a metric stays within a bar."""

    def check(metrics: Metrics) -> Outcome:
        found = column(metrics, arm, metric)
        return Outcome.of(found, max(found.values()) <= bar)

    return check


CLAIMS = (
    *(
        Claim(
            id=f"token-{arm}",
            paper="efficient, its own bar",
            metric=f"all products of a token of SmolLM2-135M, {arm}: float32's time over ours",
            unit="x",
            published=f"at least {bar:g}",
            known="bar",
            rule=f"at least {bar:g}",
            check=at_least(arm, "ratio", bar),
        )
        for arm, bar in (("w4a8", 12.0), ("w4", 8.0), ("w8a8", 6.0))
    ),
    Claim(
        id="token-bandwidth",
        paper="efficient, its own bar",
        metric="int4 weights read by w4a8, of measured bandwidth",
        unit="",
        published="at least 0.7",
        known="bar",
        rule="at least 0.7",
        check=at_least("w4a8", "share", 0.7),
    ),
    Claim(
        id="token-llama-cpp",
        paper="llama.cpp, decode of SmolLM2-135M in Q4_1 on two threads of another machine of this kind",
        metric="all products of a token, w4a8",
        unit="ms",
        published=f"{LLAMA_MS:.1f} for a whole token",
        known="bar",
        rule="at most its",
        check=at_most("w4a8", "ms", LLAMA_MS),
    ),
)


def tables(record: Any) -> list[Any]:
    """Times, bytes, ratios."""
    from rich.table import Table

    table = Table(title="All products of one token of SmolLM2-135M")
    for title in ("arm", "ms", "MB", "times faster", "of bandwidth"):
        table.add_column(title, justify="left" if title == "arm" else "right")
    for arm in ("baseline", *ARMS):
        ms, mb = (average(record.metrics, arm, name) for name in ("ms", "mb"))
        if arm == "baseline":
            share = mb / ms / average(record.metrics, arm, "read_gbs")
            table.add_row("float32", f"{ms:.3g}", f"{mb:.0f}", "1", f"{share:.2f}")
        else:
            ratio, share = (average(record.metrics, arm, name) for name in ("ratio", "share"))
            table.add_row(arm, f"{ms:.3g}", f"{mb:.0f}", f"{ratio:.2f}", f"{share:.2f}")
    return [table]


def figures(record: Any) -> dict[str, Any]:
    """Milliseconds by arm, and what reading the weights alone would take."""
    from experiments.frame import style

    figure, panels = style.figure(columns=1, width=5.6, height=2.8, squeeze=False)
    axes, arms = panels[0][0], [*ARMS, "baseline"]
    ms, mb = ([average(record.metrics, arm, name) for arm in arms] for name in ("ms", "mb"))
    read = average(record.metrics, "baseline", "read_gbs")
    names = ["float32" if arm == "baseline" else arm for arm in arms]
    axes.plot(ms, names, "o", label="measured")
    axes.plot([size / read for size in mb], names, "|", markersize=14, label="reading the weights")
    axes.axvline(LLAMA_MS, color=style.BASELINE, linewidth=1, label="llama.cpp, a whole token, elsewhere")
    axes.set(xlabel="ms a token", xscale="log")
    axes.legend(loc="best", fontsize=8)
    return {"token": figure}


if __name__ == "__main__":
    main()
