"""How much longer a training step takes under compression than without.

    python -m experiments.bench_step [--record=PATH] [--rounds=N] [--models=lenet5,resnet20]

The step is `efficient.train.make_step` with Adam; the treatment is 90 % magnitude pruning, then int8 fake
quantization, of every kernel, once with fixed masks and once with masks on a ramp, made anew every 100 steps.
The arms run in turn within each round, so that a change of the load meets all of them; the figure is
the median over rounds of the ratio within a round. Bar: at most 1.15.
"""

import dataclasses
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app, flags
from rich.console import Console
from rich.progress import track
from rich.table import Table

from efficient.core.schedules import cubic_ramp
from efficient.core.transform import Transform, at, chain, identity
from efficient.data import Batch, Position
from efficient.models import zoo
from efficient.prune import magnitude
from efficient.quantize import linear
from efficient.train import classifier, create, make_step
from experiments.frame import environment
from experiments.frame.record import write_atomic

BAR = 1.15
PLAIN = "plain"
KERNELS = "**/kernel"
ARMS: dict[str, Callable[[], Transform]] = {
    PLAIN: identity,
    "magnitude, linear": lambda: at(KERNELS, chain(magnitude(0.9), linear(8))),
    "magnitude on a ramp, linear": lambda: at(
        KERNELS, chain(magnitude(cubic_ramp(final=0.9, end=10_000), every=100), linear(8))
    ),
}
_ROUNDS = flags.DEFINE_integer("rounds", 40, "rounds, in each of which every arm runs once", lower_bound=3)
_STEPS = flags.DEFINE_integer("steps", 5, "steps that an arm takes a round", lower_bound=1)
_BATCH = flags.DEFINE_integer("batch", 64, "images a step", lower_bound=1)
_MODELS = flags.DEFINE_list("models", ["lenet5", "resnet20"], "names of efficient.models.zoo")
_RECORD = flags.DEFINE_string("record", None, "where to write the JSON record")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Timing:
    """One model's steps, in milliseconds, and their ratio to the plain step."""

    model: str  # name in the zoo
    step_ms: dict[str, float]  # by arm: the median over rounds
    ratio: dict[str, float]  # by arm but the plain one: the median over rounds of the ratio within a round
    quartiles: dict[str, tuple[float, float]]  # of the ratio


def runner(name: str, transform: Transform, *, batch: int) -> Callable[[int], float]:
    """A function that takes a number of steps and returns the seconds that they took; warmed up."""
    model, example = zoo.get(name)
    draw = np.random.default_rng(0)
    data = Batch(
        images=draw.random((batch, *example.shape[1:]), np.float32),
        labels=draw.integers(10, size=batch).astype(np.int32),
        mask=np.ones(batch, bool),
        resume_at=Position(0, 0),
    )
    variables: Any = dict(model.init(jax.random.key(0), jnp.zeros(example.shape, example.dtype)))
    params, optimizer = variables.pop("params"), optax.adam(1e-3)
    state = create(params, transform, optimizer, key=jax.random.key(1), model_state=variables)
    step = make_step(classifier(model).loss, optimizer, transform)

    def seconds(steps: int) -> float:
        nonlocal state
        start = time.perf_counter()
        for _ in range(steps):
            state, metrics = step(state, data)
        jax.block_until_ready((state, metrics))
        return time.perf_counter() - start

    seconds(3)
    return seconds


def measure(name: str, *, rounds: int, steps: int, batch: int) -> Timing:
    """Times every arm on one model."""
    arms = {arm: runner(name, make(), batch=batch) for arm, make in ARMS.items()}
    taken: dict[str, list[float]] = {arm: [] for arm in arms}
    for index in track(range(rounds), name, console=Console(stderr=True), transient=True):
        order = list(arms) if index % 2 == 0 else list(arms)[::-1]
        for arm in order:
            taken[arm].append(arms[arm](steps))
    ratios = {
        arm: [one / plain for one, plain in zip(taken[arm], taken[PLAIN], strict=True)]
        for arm in arms
        if arm != PLAIN
    }
    quarters = {arm: statistics.quantiles(values, n=4) for arm, values in ratios.items()}
    return Timing(
        model=name,
        step_ms={arm: 1e3 * statistics.median(values) / steps for arm, values in taken.items()},
        ratio={arm: statistics.median(values) for arm, values in ratios.items()},
        quartiles={arm: (values[0], values[2]) for arm, values in quarters.items()},
    )


def table(timings: list[Timing]) -> Table:
    """What was measured."""
    made = Table(
        "model", "arm", "step", "ratio", "quartiles", title=f"Overhead of a training step (bar {BAR})"
    )
    for timing in timings:
        for arm, step_ms in timing.step_ms.items():
            ratio, quarters = timing.ratio.get(arm), timing.quartiles.get(arm)
            colour = "green" if ratio is None or ratio <= BAR else "red"
            made.add_row(
                timing.model,
                arm,
                f"{step_ms:.2f} ms",
                "" if ratio is None else f"[{colour}]{ratio:.3f}[/]",
                "" if quarters is None else f"{quarters[0]:.3f} to {quarters[1]:.3f}",
            )
    return made


def main(argv: list[str]) -> None:
    """Measures, prints, and writes the record."""
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments {argv[1:]!r}")
    timings = [
        measure(name, rounds=_ROUNDS.value, steps=_STEPS.value, batch=_BATCH.value) for name in _MODELS.value
    ]
    Console().print(table(timings))
    if _RECORD.value:
        record = {
            "bench": "step",
            "bar": BAR,
            "rounds": _ROUNDS.value,
            "steps": _STEPS.value,
            "batch": _BATCH.value,
            "timings": [dataclasses.asdict(timing) for timing in timings],
            "versions": environment.versions(),
            "device": dataclasses.asdict(environment.device()),
        }
        write_atomic(Path(_RECORD.value), json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    app.run(main)
