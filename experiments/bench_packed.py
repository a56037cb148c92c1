"""What packing does to the time of whole models at a batch of one: the zoo's, unedited, through `lift`.

    python -m experiments.bench_packed

Arms are int8 a column and int4 in runs of 32 rows, with inputs in float (`w8`, `w4`) and rounded to 8 bits by
one step an array as they come (`w8a8`, `w4a8`), and nine of ten blocks of 32 x 32 pruned (`blocks`). Weights
are as they are initialised: time does not ask what they are. Each arm races the dense model, both compiled,
in turns; a ratio is the median over turns. Arms that are slower than dense are reported as such. XLA's
depthwise convolutions are slow on a CPU: most of what MobileNetV2 gains is a kernel for those.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from efficient import Transform, at, chain, lift
from efficient.core.lift import explained
from efficient.core.measure import race
from efficient.models import zoo
from efficient.prune import patterns, prune, scores, sparse
from efficient.quantize import group, linear, quantize, quantize_inputs, quantizers
from efficient.quantize.formats import Integer
from experiments.frame import Claim, Metrics, Outcome, Progress, average, by_seed, column, main

ARMS: Mapping[str, tuple[str, Callable[[], Transform]]] = {
    "w8": ("int8 a column", lambda: linear(8)),
    "w4": ("int4, runs of 32", lambda: quantize(quantizers.integer(4, group(32)))),
    "w8a8": ("int8 a column, inputs in 8 bits", lambda: chain(linear(8), _inputs())),
    "w4a8": (
        "int4, runs of 32, inputs in 8 bits",
        lambda: chain(quantize(quantizers.integer(4, group(32))), _inputs()),
    ),
    "blocks": (
        "90 % of blocks of 32 x 32 pruned",
        lambda: chain(
            prune(scores.absolute(), 0.9, pattern=patterns.block((32, 32))), sparse("block", block=(32, 32))
        ),
    ),
}
FASTER = (
    ("lenet_300_100", "w8a8"),
    ("resnet18", "w8"),
    ("resnet18", "w8a8"),
    ("vit_tiny", "w8a8"),
    ("vit_tiny", "blocks"),
    ("mobilenet_v2", "w8"),
    ("mobilenet_v2", "w8a8"),
)


def _inputs() -> Transform:
    """Inputs rounded to 8 bits as they come."""
    return quantize_inputs(Integer(8), is_dynamic=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """What is timed."""

    models: tuple[str, ...] = ("lenet_300_100", "resnet18", "vit_tiny", "mobilenet_v2")  # of the zoo
    repeats: int = 31  # turns of each race, >= 3
    seeds: tuple[int, ...] = (0,)  # one whole measurement each

    def __post_init__(self) -> None:
        if self.repeats < 3:
            raise ValueError(f"repeats must be at least 3, got {self.repeats}; leave it out for the default.")

    @classmethod
    def smoke(cls) -> "Config":
        """The same path on the smallest network."""
        return cls(models=("lenet_300_100",), repeats=3)


def raced(model: str, arm: str, config: Config, seed: int) -> dict[str, float]:
    """Milliseconds of both, how often packed is faster, bytes, and products that a kernel computed."""
    module, example = zoo.get(model)
    key, image = jax.random.split(jax.random.key(seed))
    x = jax.random.normal(image, example.shape)
    variables = module.init(key, x)
    transform, params = at("**/kernel", ARMS[arm][1]()), variables["params"]
    packed = jax.tree.map(jnp.asarray, transform.pack(params, transform.init(params)))

    def run(params: Any, x: Any) -> Any:
        return module.apply({**variables, "params": params}, x)

    dense_fn, packed_fn = jax.jit(run), jax.jit(lift(run))
    times = race(lambda: dense_fn(params, x), lambda: packed_fn(packed, x), repeats=config.repeats, warmup=3)
    low, high = times.ratio_quartiles
    return {
        "dense_ms": times.first.median_ms,
        "ms": times.second.median_ms,
        "ratio": float(np.median(np.divide(times.first.samples_ms, times.second.samples_ms))),
        "low": low,
        "high": high,
        "kernels": float(len(explained(run, packed, x).kernels)),
    }


def run(config: Config, *, progress: Progress | None = None) -> Metrics:
    """By arm, `<model>.<metric>`; the baseline is the dense model's median over the races."""

    def one(seed: int, watch: Progress) -> dict[str, dict[str, float]]:
        arms: dict[str, dict[str, float]] = {arm: {} for arm in ("baseline", *ARMS)}
        for model in watch.track(config.models, "models"):
            dense = []
            for arm in ARMS:
                found = raced(model, arm, config, seed)
                dense.append(found.pop("dense_ms"))
                arms[arm].update({f"{model}.{name}": value for name, value in found.items()})
            arms["baseline"][f"{model}.ms"] = float(np.median(dense))
        return arms

    return by_seed(one, config.seeds, progress=progress)


def is_faster(model: str, arm: str) -> Callable[[Metrics], Outcome]:
    """Whether three of four turns were faster."""

    def check(metrics: Metrics) -> Outcome:
        low = column(metrics, arm, f"{model}.low")
        return Outcome.of(column(metrics, arm, f"{model}.ratio"), min(low.values()) > 1)

    return check


CLAIMS = tuple(
    Claim(
        id=f"packed-{model}-{arm}",
        paper="efficient, its own bar",
        metric=f"{model} at a batch of one, {ARMS[arm][0]}: dense time over packed",
        unit="x",
        published="above 1",
        known="bar",
        rule="packed is faster in three of four turns",
        check=is_faster(model, arm),
    )
    for model, arm in FASTER
)


def tables(record: Any) -> list[Any]:
    """Times faster than dense; in red where it got slower."""
    from rich.table import Table

    table = Table(title="Packed models at a batch of one: times faster than dense (products by kernels)")
    for title in ("model", "dense, ms", *ARMS):
        table.add_column(title, justify="left" if title == "model" else "right")
    for model in record.config["models"]:
        cells = []
        for arm in ARMS:
            names = ("ratio", "high", "kernels")
            ratio, high, count = (average(record.metrics, arm, f"{model}.{name}") for name in names)
            cell = f"{ratio:.2f} ({count:.0f})"
            cells.append(f"[red]{cell}[/red]" if high < 1 else cell)
        table.add_row(model, f"{average(record.metrics, 'baseline', f'{model}.ms'):.3g}", *cells)
    return [table]


def figures(record: Any) -> dict[str, Any]:
    """Times faster than dense, a row a model."""
    from experiments.frame import style

    figure, panels = style.figure(columns=1, width=6, height=3.4, squeeze=False)
    axes, models = panels[0][0], record.config["models"]
    for arm in ARMS:
        ratios = [average(record.metrics, arm, f"{model}.ratio") for model in models]
        axes.plot(ratios, models, "o", alpha=0.8, label=arm)
    axes.axvline(1, color=style.BASELINE, linewidth=1)
    axes.set(xlabel="times faster than dense", xlim=(0, None))
    axes.legend(loc="best", fontsize=8)
    return {"races": figure}


if __name__ == "__main__":
    main()
