"""What compression costs a training step: pruning and fake quantization against the plain step.

    python -m experiments.bench_step

The step is `efficient.train.make_step` with Adam; the treatments are 90 % magnitude pruning, then int8 fake
quantization, of every kernel, once with fixed masks and once with masks on a ramp, made anew every 100
steps. The arms run in turn within each round, so that a change of the load meets all of them; the figure is
the median over rounds of the ratio within a round. Bar: at most 1.15.
"""

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from efficient.core.schedules import cubic_ramp
from efficient.core.scope import at
from efficient.core.transform import Transform, chain, identity
from efficient.data import Batch, Position
from efficient.models import zoo
from efficient.prune import magnitude
from efficient.quantize import linear
from efficient.train import classifier, create, make_step
from experiments.frame import Claim, Outcome, Progress, by_seed, column, main

BAR = 1.15
KERNELS = "**/kernel"
ARMS: dict[str, Callable[[], Transform]] = {
    "baseline": identity,
    "fixed_mask": lambda: at(KERNELS, chain(magnitude(0.9), linear(8))),
    "ramp": lambda: at(KERNELS, chain(magnitude(cubic_ramp(final=0.9, end=10_000), every=100), linear(8))),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """What is timed."""

    models: tuple[str, ...] = ("lenet5", "resnet20")  # names of efficient.models.zoo
    rounds: int = 24  # rounds, in each of which every arm runs once, >= 3
    steps: int = 3  # steps that an arm takes a round, > 0
    batch: int = 64  # images a step, > 0
    seeds: tuple[int, ...] = (0,)  # one whole measurement each

    def __post_init__(self) -> None:
        if self.rounds < 3 or self.steps < 1 or self.batch < 1:
            raise ValueError(
                f"rounds must be at least 3, steps and batch positive, got {self.rounds}, {self.steps} and "
                f"{self.batch}; leave them out for the defaults."
            )

    @classmethod
    def smoke(cls) -> "Config":
        """The same path on the smallest network."""
        return cls(models=("lenet_300_100",), rounds=3, steps=1, batch=2)


def runner(name: str, transform: Transform, config: Any, seed: int) -> Callable[[int], float]:
    """A function that takes a number of steps and returns the seconds that they took; warmed up."""
    model, example = zoo.get(name)
    draw = np.random.default_rng(seed)
    data = Batch(
        images=draw.random((config.batch, *example.shape[1:]), np.float32),
        labels=draw.integers(10, size=config.batch).astype(np.int32),
        mask=np.ones(config.batch, bool),
        resume_at=Position(0, 0),
    )
    variables: Any = dict(model.init(jax.random.key(seed), jnp.zeros(example.shape, example.dtype)))
    params, optimizer = variables.pop("params"), optax.adam(1e-3)
    state = create(params, transform, optimizer, key=jax.random.key(seed), model_state=variables)
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


def timed(
    name: str,
    config: Any,
    seed: int,
    progress: Progress,
    makers: Mapping[str, Callable[[], Transform]] = ARMS,
) -> dict[str, dict[str, float]]:
    """Every arm on one model: milliseconds a step, and the ratio to the plain step, that of `baseline`."""
    arms = {arm: runner(name, make(), config, seed) for arm, make in makers.items()}
    taken: dict[str, list[float]] = {arm: [] for arm in arms}
    for index in progress.track(range(config.rounds), name):
        for arm in list(arms)[:: 1 if index % 2 == 0 else -1]:
            taken[arm].append(arms[arm](config.steps))
    made: dict[str, dict[str, float]] = {}
    for arm, values in taken.items():
        ratios = [one / plain for one, plain in zip(values, taken["baseline"], strict=True)]
        lower, middle, upper = statistics.quantiles(ratios, n=4)
        made[arm] = {
            f"{name}.step_ms": 1e3 * statistics.median(values) / config.steps,
            f"{name}.ratio": middle,
            f"{name}.ratio_lower": lower,
            f"{name}.ratio_upper": upper,
        }
    return made


def run(config: Config, *, progress: Progress | None = None) -> dict[str, Any]:
    """Times all models: arm -> seed -> `<model>.<metric>` -> value."""

    def one(seed: int, watch: Progress) -> dict[str, dict[str, Any]]:
        arms: dict[str, dict[str, Any]] = {arm: {} for arm in ARMS}
        for name in watch.track(config.models, "models"):
            for arm, values in timed(name, config, seed, watch).items():
                arms[arm].update(values)
        return arms

    return by_seed(one, config.seeds, progress=progress)


def overhead(arm: str, name: str) -> Callable[[Any], Outcome]:
    """The ratio of an arm's step to the plain one."""

    def check(metrics: Any) -> Outcome:
        ratios = column(metrics, arm, f"{name}.ratio")
        return Outcome.of(ratios, max(ratios.values()) <= BAR)

    return check


CLAIMS = tuple(
    Claim(
        id=f"step-overhead-{name}-{arm.replace('_', '-')}",
        paper="efficient, its own bar",
        metric=f"training step of {name} under pruning ({arm.replace('_', ' ')}) and int8, over plain",
        unit="x",
        published=f"at most {BAR}",
        known="bar",
        rule=f"the median ratio is at most {BAR}",
        check=overhead(arm, name),
    )
    for name in Config().models
    for arm in ARMS
    if arm != "baseline"
)


if __name__ == "__main__":
    main()
