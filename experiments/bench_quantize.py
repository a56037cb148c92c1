"""What quantization costs: training steps in 8 bits, and GPTQ on weights of the size of ResNet-50's.

    python -m experiments.bench_quantize

Steps are timed as in `bench_step`: arms in turn, the median of the ratios within rounds. Bar, for weights and
inputs in 8 bits on ResNet-20: at most 1.3. GPTQ runs over all 54 layers of ResNet-50 (25.5 million weights,
drawn; Gram matrices of drawn images), layer by layer; what is compiled is compiled once for each shape of
layer. Memory is the largest resident size of the process, before and after.

Seen: steps in 8 bits take what plain ones take (1.01); GPTQ takes 40 seconds for the 54 layers and 2.3 GB
above the model.
"""

import dataclasses
import resource
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from efficient import Transform, at, chain, identity, observe
from efficient.core.layer import layer
from efficient.core.paths import flatten
from efficient.models import zoo
from efficient.quantize import gptq, lsq, quantize, quantize_inputs, quantizers
from efficient.quantize.formats import Affine
from experiments.bench_step import timed
from experiments.frame import Claim, Metrics, Outcome, Progress, average, by_seed, column, main

BAR = 1.3
KERNELS = "**/kernel"
ARMS: Mapping[str, Callable[[], Transform]] = {
    "baseline": identity,
    "weights": lambda: at(KERNELS, quantize(quantizers.integer(8))),
    "weights_inputs": lambda: at(
        KERNELS, chain(quantize(quantizers.integer(8)), quantize_inputs(Affine(8), is_dynamic=True))
    ),
    "lsq": lambda: at(KERNELS, lsq(8)),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """What is timed."""

    model: str = "resnet20"  # of efficient.models.zoo, whose steps are timed
    rounds: int = 24  # rounds, in each of which every arm runs once, >= 3
    steps: int = 3  # steps that an arm takes a round, > 0
    batch: int = 64  # images a step, > 0
    solved: str = "resnet50"  # of efficient.models.zoo, whose layers are solved
    images: int = 4  # that Gram matrices are taken of, > 0
    bits: int = 4  # of a solved weight, 2 to 8
    seeds: tuple[int, ...] = (0,)  # one whole measurement each

    def __post_init__(self) -> None:
        if self.rounds < 3 or min(self.steps, self.batch, self.images) < 1:
            raise ValueError(
                f"rounds must be at least 3, steps, batch and images positive, got {self.rounds}, "
                f"{self.steps}, {self.batch} and {self.images}; leave them out for the defaults."
            )

    @classmethod
    def smoke(cls) -> "Config":
        """The same path on the smallest networks."""
        return cls(model="lenet_300_100", rounds=3, steps=1, batch=2, solved="lenet5", images=2)


def resident_mb() -> float:
    """The largest resident size so far."""
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def solved(config: Config, seed: int, progress: Progress) -> dict[str, dict[str, float]]:
    """GPTQ, layer by layer: seconds and memory in all, and the error over that of the nearest."""
    model, example = zoo.get(config.solved)
    images = np.random.default_rng(seed).normal(size=(config.images, *example.shape[1:])).astype(np.float32)
    variables = model.init(jax.random.key(seed), jnp.zeros(example.shape, example.dtype))
    before, start = resident_mb(), time.perf_counter()
    batches = [images[i : i + 1] for i in range(len(images))]
    stats = observe(model.apply, variables, batches, where=KERNELS, statistics=("gram",))
    observed, weights = time.perf_counter() - start, flatten(variables)[0]
    first: dict[tuple[int, ...], float] = {}
    later, total = [], 0.0
    logs, t = [], gptq(quantizers.integer(config.bits))
    for path, own in progress.track(stats.items(), "layers", total=len(stats)):
        start = time.perf_counter()
        one = {path: weights[path]}
        shown = jax.block_until_ready(t.apply(one, t.init(one, stats={path: own})))
        taken = time.perf_counter() - start
        total += taken
        if weights[path].shape in first:
            later.append(taken / first[weights[path].shape])
        first.setdefault(weights[path].shape, taken)
        problem = layer(weights[path], path=path, stats=own)

        def error(value: Any, problem: Any = problem) -> float:
            change = problem.cut(value) - problem.weights
            return float(jnp.sum(change * jnp.matmul(problem.gram, change, precision="highest")))

        nearest = quantizers.integer(config.bits).fake(weights[path])
        logs.append(np.log(error(shown[path]) / error(nearest)))
    whole = {
        "observe_s": observed,
        "solve_s": total,
        "layers": float(len(stats)),
        "shapes": float(len(first)),
        "weights": float(sum(weights[path].size for path in stats)),
        "resident_before_mb": before,
        "resident_mb": resident_mb(),
        "error": float(np.exp(np.mean(logs))),
        "again": float(np.median(later)) if later else float("nan"),  # a shape's next layer, over its first
    }
    return {"gptq": whole}


def run(config: Config, *, progress: Progress | None = None) -> Metrics:
    """By arm (`baseline`, `weights`, `weights_inputs`, `lsq`, `gptq`): milliseconds, ratios, seconds, MB."""

    def one(seed: int, watch: Progress) -> dict[str, dict[str, float]]:
        return {**timed(config.model, config, seed, watch, ARMS), **solved(config, seed, watch)}

    return by_seed(one, config.seeds, progress=progress)


def overhead(metrics: Metrics) -> Outcome:
    """The ratio of a step with weights and inputs in 8 bits to the plain one."""
    ratios = column(metrics, "weights_inputs", "resnet20.ratio")
    return Outcome.of(ratios, max(ratios.values()) <= BAR)


def less(metrics: Metrics) -> Outcome:
    """GPTQ's error over the nearest's, the geometric mean over layers."""
    return Outcome.at_most(column(metrics, "gptq", "error"), 1.0)


CLAIMS = (
    Claim(
        id="quantize-step-overhead",
        paper="efficient, its own bar",
        metric="training step of ResNet-20 with weights and inputs in 8 bits, over plain",
        unit="x",
        published=f"at most {BAR}",
        known="bar",
        rule=f"the median ratio is at most {BAR}",
        check=overhead,
    ),
    Claim(
        id="quantize-gptq-resnet50",
        paper="Frantar et al., GPTQ, 2023",
        arxiv="2210.17323",
        metric="error of the layers of a drawn ResNet-50, GPTQ over the nearest, 4 bits",
        unit="x",
        published="below 1",
        known="memory",
        rule="mean at most 1",
        check=less,
    ),
)


def tables(record: Any) -> list[Any]:
    """Steps, and GPTQ's time and memory."""
    from rich.table import Table

    name, metrics = record.config["model"], record.metrics
    steps = Table(title=f"A training step of {name}, {record.config['batch']} images")
    for title in ("arm", "ms", "over plain", "quartiles"):
        steps.add_column(title, justify="left" if title == "arm" else "right")
    for arm in ARMS:
        cells = [average(metrics, arm, f"{name}.{m}") for m in ("step_ms", "ratio")]
        ends = [average(metrics, arm, f"{name}.ratio_{m}") for m in ("lower", "upper")]
        steps.add_row(arm.replace("_", " and "), f"{cells[0]:.1f}", f"{cells[1]:.3f}",
                      f"{ends[0]:.3f} to {ends[1]:.3f}")  # fmt: skip
    size = Table(title=f"GPTQ on {record.config['solved']}")
    for title in ("layers", "shapes", "weights", "observe, s", "solve, s", "resident, MB", "error"):
        size.add_column(title, justify="right")
    row = {m: average(metrics, "gptq", m) for m in ("layers", "shapes", "weights", "observe_s", "solve_s")}
    before, after = (average(metrics, "gptq", m) for m in ("resident_before_mb", "resident_mb"))
    size.add_row(
        f"{row['layers']:.0f}", f"{row['shapes']:.0f}", f"{row['weights']:,.0f}", f"{row['observe_s']:.1f}",
        f"{row['solve_s']:.1f}", f"{before:,.0f} to {after:,.0f}", f"{average(metrics, 'gptq', 'error'):.2f}",
    )  # fmt: skip
    return [steps, size]


if __name__ == "__main__":
    main()
