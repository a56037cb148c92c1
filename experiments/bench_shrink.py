"""What shrinking saves: half of the channels, heads and hidden units of unedited models, cut out for real.

    python -m experiments.bench_shrink

Every free group that `dependencies` finds keeps the half of its channels whose weights are largest on average
(`structured(found, absolute(), 0.5)`, at initialisation: accuracy is not the question here). The masked model
and the shrunk one run in turns; MACs are counted from the programs. Weights are moved from their start, so
that biases and norms count. Cost: some minutes, most of them to compile.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from efficient import cost, race
from efficient.core.dependencies import dependencies
from efficient.core.paths import map_with_path
from efficient.core.resize import resized
from efficient.models import zoo
from efficient.prune import structured
from efficient.prune.scores import absolute
from experiments.frame import Claim, Metrics, Outcome, Progress, by_seed, column, main, mean

OPTIONS: dict[str, dict[str, int]] = {
    "lenet5": {},
    "lab_vgg": {},
    "resnet20": {},
    "resnet50": {"resolution": 96},
    "mobilenet_v2": {"resolution": 96},
    "efficientnet_lite0": {"resolution": 96},
    "vit_tiny": {"resolution": 96},
    "decoder_tiny": {},
}
TOLERANCE = 1e-5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """What is shrunk and timed."""

    models: tuple[str, ...] = tuple(OPTIONS)  # names of efficient.models.zoo
    sparsity: float = 0.5  # fraction of the channels of each group that goes, in (0, 1)
    batch: int = 8  # images or sequences at a time
    repeats: int = 15  # turns, in each of which both run once
    seeds: tuple[int, ...] = (0,)  # weights and inputs

    def __post_init__(self) -> None:
        if not 0 < self.sparsity < 1 or self.batch < 1 or self.repeats < 3:
            raise ValueError(
                f"sparsity must be in (0, 1), batch from 1 and repeats from 3, got {self.sparsity}, "
                f"{self.batch} and {self.repeats}; leave them out for the defaults."
            )
        if unknown := set(self.models) - set(OPTIONS):
            raise ValueError(
                f"models must be among {list(OPTIONS)}, got {sorted(unknown)!r}; choose from these."
            )

    @classmethod
    def smoke(cls) -> "Config":
        """The same path on the smallest model."""
        return cls(models=("lenet5",), batch=2, repeats=3)


def subject(name: str, batch: int, seed: int) -> tuple[Any, Any, jax.Array]:
    """A model's function, variables that are not at their start, and an input."""
    module, example = zoo.get(name, **OPTIONS[name])
    keys = jax.random.split(jax.random.key(seed), 3)
    shape = (batch, *example.shape[1:])
    if jnp.issubdtype(example.dtype, jnp.floating):
        x = jax.random.normal(keys[0], shape)
    else:
        x = jax.random.randint(keys[0], shape, 0, 100)
    variables = jax.jit(module.init)(keys[1], x)
    moved = jax.tree.map(lambda v: v + 0.1 * jnp.abs(jax.random.normal(keys[2], v.shape)), variables)
    return module.apply, moved, x


def shrunk(name: str, config: Config, seed: int) -> dict[str, dict[str, float]]:
    """One model, masked and shrunk."""
    apply, variables, x = subject(name, config.batch, seed)
    found = dependencies(apply, variables, x)
    keep = structured(found, absolute(), config.sparsity).init(variables).fixed.keep
    masks = found.masks(keep)
    masked = map_with_path(lambda path, v: v * masks[path] if path in masks else v, variables)
    small, run = found.shrink(variables, keep), resized(apply, found, keep)
    compiled = jax.jit(apply), jax.jit(run)
    expected, out = compiled[0](masked, x), compiled[1](small, x)
    times = race(lambda: compiled[0](masked, x), lambda: compiled[1](small, x), repeats=config.repeats)
    before, after = cost(apply, masked, x), cost(run, small, x)
    low, high = times.ratio_quartiles
    return {
        "baseline": {
            f"{name}.macs": before.macs,
            f"{name}.params": before.params,
            f"{name}.ms": times.first.median_ms,
        },
        "shrunk": {
            f"{name}.macs": after.macs,
            f"{name}.params": after.params,
            f"{name}.ms": times.second.median_ms,
            f"{name}.groups": len(found.free),
            f"{name}.error": float(jnp.max(jnp.abs(out - expected)) / jnp.max(jnp.abs(expected))),
            f"{name}.speedup": times.ratio,
            f"{name}.speedup_lower": low,
            f"{name}.speedup_upper": high,
        },
    }


def run(config: Config, *, progress: Progress | None = None) -> Metrics:
    """By arm, `<model>.macs`, `.params`, `.ms`; of the shrunk one its error and its speed-up."""

    def one(seed: int, watch: Progress) -> dict[str, dict[str, float]]:
        arms: dict[str, dict[str, float]] = {}
        for name in watch.track(config.models, "models"):
            made = watch.part(f"{name}-{seed}", functools.partial(shrunk, name, config, seed))
            for arm, values in made.items():
                arms.setdefault(arm, {}).update(values)
        return arms

    return by_seed(one, config.seeds, progress=progress)


def exact(metrics: Metrics) -> Outcome:
    """The largest difference of all models."""
    worst = {
        seed: max(value for key, value in values.items() if key.endswith(".error"))
        for seed, values in metrics["shrunk"].items()
    }
    return Outcome.of(worst, max(worst.values()) <= TOLERANCE)


def faster(name: str) -> Any:
    """The shrunk model is faster than the masked one, beyond the noise."""

    def check(metrics: Metrics) -> Outcome:
        ratios = column(metrics, "shrunk", f"{name}.speedup")
        lower = min(column(metrics, "shrunk", f"{name}.speedup_lower").values())
        macs = mean(column(metrics, "baseline", f"{name}.macs").values()) / mean(
            column(metrics, "shrunk", f"{name}.macs").values()
        )
        return Outcome.of(ratios, lower > 1, f"with {macs:.2f} times fewer MACs")

    return check


PAPER = "efficient, its own bar"
CLAIMS = (
    Claim(
        id="shrink-exact",
        paper=PAPER,
        metric="difference of the shrunk model's results from the masked one's, of their largest value",
        published=f"at most {TOLERANCE}",
        known="bar",
        rule=f"for every model at most {TOLERANCE}",
        check=exact,
    ),
    *(
        Claim(
            id=f"shrink-{name.replace('_', '-')}",
            paper=PAPER,
            metric=f"how many times faster {name} is with half of its channels cut out",
            unit="x",
            published="above 1",
            known="bar",
            rule="the lower quartile of the ratio is above 1",
            check=faster(name),
        )
        for name in OPTIONS
    ),
)


def tables(record: Any) -> list[Any]:
    """Predicted by MACs, and measured."""
    from rich.table import Table

    table = Table(title=f"Half of the channels cut out, batch {record.config['batch']}")
    for title in ("model", "groups", "params", "left", "MACs", "left", "ms", "left", "faster"):
        table.add_column(title, justify="left" if title == "model" else "right")

    def value(arm: str, key: str) -> float:
        return mean(column(record.metrics, arm, key).values())

    for name in record.config["models"]:
        cells = []
        for key, form in (("params", "{:,.0f}"), ("macs", "{:,.0f}"), ("ms", "{:.2f}")):
            before, after = value("baseline", f"{name}.{key}"), value("shrunk", f"{name}.{key}")
            cells += [form.format(before), f"{100 * after / before:.0f} %"]
        table.add_row(
            name,
            f"{value('shrunk', f'{name}.groups'):.0f}",
            *cells,
            f"{value('shrunk', f'{name}.speedup'):.2f}x",
        )
    return [table]


if __name__ == "__main__":
    main()
