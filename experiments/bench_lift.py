"""How much longer JAX takes to trace a model that is lifted over packed weights, and what it compiles to.

    python -m experiments.bench_lift [--layers=48] [--repeats=25]

`lift` traces the model and then evaluates the program equation by equation, so it adds to the time until
the first result. The model is a Flax MLP whose kernels are int8 (`linear(8)`). Arms: `baseline` is
`jit(apply)` on dense arrays; `inside` the same with `dense(packed)` inside the jit; `lifted` is
`jit(lift(apply))`. They run in turn within each round, in alternating order, so that a change of the load
meets all of them; a ratio is the median over rounds of the ratio within a round. JAX's caches are emptied
before each trace, as in the first call of a process. Tracing and lowering are one thread of Python: its CPU
time is counted, with the garbage collector off. A run of the compiled program is timed by the wall clock.
"""

import dataclasses
import math
import re
import statistics
import time
import timeit
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from efficient import at, dense, lift
from efficient.quantize import linear
from experiments.frame import Claim, Metrics, Outcome, Progress, by_seed, column, main, mean, paired

BASELINE, INSIDE, LIFTED = "baseline", "inside", "lifted"
TRACE_BAR, RUN_BAR = 1.25, 1.05
INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?[\w.-]+ = ", re.MULTILINE)  # a line of HLO text


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Sizes."""

    layers: int = 48  # dense layers, each followed by a ReLU
    width: int = 256  # inputs and outputs of a layer
    batch: int = 32  # rows of the input
    repeats: int = 25  # rounds of traces, in each of which every arm is traced and lowered once
    runs: int = 200  # rounds of runs of the compiled programs
    seeds: tuple[int, ...] = (0, 1, 2)  # weights and input; each is measured anew

    def __post_init__(self) -> None:
        for name in ("layers", "width", "batch", "repeats", "runs"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)!r}; see --help.")

    @classmethod
    def smoke(cls) -> "Config":
        """The same path in a few seconds."""
        return cls(layers=2, width=4, batch=2, repeats=2, runs=2, seeds=(0,))


class MLP(nn.Module):
    """Dense layers of one width, each followed by a ReLU."""

    layers: int
    width: int

    @nn.compact
    def __call__(self, x: Float[Array, "batch width"]) -> Float[Array, "batch width"]:
        """The last layer's output."""
        for _ in range(self.layers):
            x = nn.relu(nn.Dense(self.width)(x))
        return x


def subjects(config: Config, seed: int) -> dict[str, tuple[Callable[..., Any], tuple[Any, Any]]]:
    """By arm, what is jitted and its arguments."""
    model, keys = MLP(config.layers, config.width), jax.random.split(jax.random.key(seed), 3)
    x = jax.random.normal(keys[0], (config.batch, config.width))
    params = model.init(keys[1], x)
    quantize = at("**/kernel", linear(8))
    packed = quantize.pack(params, quantize.init(params, key=keys[2]))
    return {
        BASELINE: (model.apply, (dense(packed), x)),
        INSIDE: (lambda packed, x: model.apply(dense(packed), x), (packed, x)),
        LIFTED: (lift(model.apply), (packed, x)),
    }


def instructions(hlo: str | None) -> int:
    """Number of instructions in the text of a module, inside fusions too; 0 where there is no text."""
    return len(INSTRUCTION.findall(hlo or ""))


def in_turn(
    arms: Mapping[str, Callable[[], Mapping[str, float]]], rounds: Iterable[int]
) -> dict[str, dict[str, list[float]]]:
    """Calls every arm once a round, in alternating order: metric -> arm -> value by round."""
    found: dict[str, dict[str, list[float]]] = {}
    for index in rounds:
        for arm in list(arms) if index % 2 == 0 else list(arms)[::-1]:
            for metric, value in arms[arm]().items():
                found.setdefault(metric, {}).setdefault(arm, []).append(value)
    return found


def tracer(fn: Callable[..., Any], args: tuple[Any, ...]) -> Callable[[], dict[str, float]]:
    """A call that traces and lowers `fn` with JAX's caches empty; milliseconds of CPU time."""

    def timed(call: Callable[[], Any]) -> tuple[float, Any]:
        kept: list[Any] = []
        seconds = timeit.timeit(lambda: kept.append(call()), timer=time.thread_time, number=1)
        return 1e3 * seconds, kept[0]

    def call() -> dict[str, float]:
        jax.clear_caches()
        trace_ms, traced = timed(lambda: jax.jit(fn).trace(*args))
        lower_ms, _ = timed(traced.lower)
        return {"trace": trace_ms, "trace_lower": trace_ms + lower_ms}

    return call


def runner(compiled: Callable[..., Any], args: tuple[Any, ...]) -> Callable[[], dict[str, float]]:
    """A call that runs a compiled program, warm; milliseconds by the wall clock."""
    jax.block_until_ready(compiled(*args))

    def call() -> dict[str, float]:
        return {"run": 1e3 * timeit.timeit(lambda: jax.block_until_ready(compiled(*args)), number=1)}

    return call


def run(config: Config, *, progress: Progress | None = None) -> Metrics:
    """By arm: medians in ms, median ratios to `baseline` and to `inside`, instructions of the HLO."""

    def one(seed: int, progress: Progress) -> dict[str, dict[str, float]]:
        arms = subjects(config, seed)
        compiled = {arm: jax.jit(fn).lower(*args).compile() for arm, (fn, args) in arms.items()}
        runners = {arm: runner(compiled[arm], args) for arm, (_, args) in arms.items()}
        tracers = {arm: tracer(fn, args) for arm, (fn, args) in arms.items()}
        samples = in_turn(runners, progress.track(range(config.runs), "runs"))
        samples |= in_turn(tracers, progress.track(range(config.repeats), "traces"))
        found: dict[str, dict[str, float]] = {
            arm: {"instructions": instructions(one.as_text())} for arm, one in compiled.items()
        }
        for metric, by_arm in samples.items():
            for arm, values in by_arm.items():
                found[arm][f"{metric}_ms"] = statistics.median(values)
                for base in (BASELINE, INSIDE):
                    ratios = [value / other for value, other in zip(values, by_arm[base], strict=True)]
                    found[arm][f"{metric}_over_{base}"] = statistics.median(ratios)
        return found

    return by_seed(one, config.seeds, progress=progress)


def traces_fast(metrics: Metrics) -> Outcome:
    """The bar on the trace."""
    ratio = column(metrics, LIFTED, f"trace_over_{BASELINE}")
    return Outcome.of(ratio, holds=mean(ratio.values()) < TRACE_BAR)


def compiles_small(metrics: Metrics) -> Outcome:
    """The bar on the compiled program."""
    counts = (column(metrics, arm, "instructions") for arm in (LIFTED, INSIDE))
    ratio = paired(lambda ours, theirs: ours / theirs if theirs else math.nan, *counts)
    return Outcome.of(ratio, holds=max(ratio.values()) <= 1)


def runs_fast(metrics: Metrics) -> Outcome:
    """The bar on the run."""
    ratio = column(metrics, LIFTED, f"run_over_{INSIDE}")
    return Outcome.of(ratio, holds=mean(ratio.values()) < RUN_BAR)


PAPER = "efficient, its own bar"
CLAIMS = (
    Claim(
        id="lift-trace",
        paper=PAPER,
        metric="trace of jit(lift(apply)) on packed weights over trace of jit(apply) on dense ones",
        unit="x",
        published=f"under {TRACE_BAR}",
        known="bar",
        rule=f"the mean over seeds of the median ratio is under {TRACE_BAR}",
        check=traces_fast,
    ),
    Claim(
        id="lift-hlo",
        paper=PAPER,
        metric="instructions of the compiled lifted model over those of the model on dense(packed)",
        unit="x",
        published="at most 1",
        known="bar",
        rule="in every seed, lifting compiles to no more instructions than making the weights dense does",
        check=compiles_small,
    ),
    Claim(
        id="lift-run",
        paper=PAPER,
        metric="run of the compiled lifted model over that of the model on dense(packed)",
        unit="x",
        published=f"under {RUN_BAR}",
        known="bar",
        rule=f"the mean over seeds of the median ratio is under {RUN_BAR}",
        check=runs_fast,
    ),
)


if __name__ == "__main__":
    main()
