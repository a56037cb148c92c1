"""Network slimming: an L1 penalty on the scales of normalizations says in training which channels can go.

Claim: Liu et al., 2017, arXiv:1708.06519. Figure 4: the larger the penalty, the more scales are near zero.
Table 1: of a VGG on CIFAR-10 trained so, 70 % of the channels of all layers, those of smallest scale, are
removed, and after fine-tuning it is as accurate as before (93.66 %, then 93.80 %), with half of the
operations.

    python -m experiments.network_slimming

Ours is the lab VGG at a tenth of its width on 2,000 images of Fashion-MNIST, scales starting at 0.5 as in the
paper, some 500 steps of SGD where the paper takes 160 epochs: the penalty is larger, for it pulls for a
shorter time. Arms: trained without and with the penalty, pruned together by scale; trained without, pruned by
the L1 norm of the filters, every layer alike (Li et al., 2017, arXiv:1608.08710). No penalty while tuning.
Losses untuned are against the network that was pruned, tuned ones against the better of the network trained
without penalty, before and after as many more epochs. Channels are cut out for real: the network that is
counted and timed is the small one. Cost: some 12 minutes.

Seen: with the penalty half of the channels can go with nothing tuned (81.3 %, without it 11.3 %); 70 % gone
leave a tenth of the operations. Tuned, 40 to 50 % cost 2 to 4 points in this thin network, whatever chooses.
"""

import dataclasses
import functools
import itertools
import operator
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from efficient import State, race
from efficient.core.dependencies import dependencies
from efficient.core.paths import map_with_path
from efficient.core.resize import resized
from efficient.prune import Pruned, prices
from efficient.prune.allocations import per_leaf, together
from efficient.prune.lottery import fixed_masks
from efficient.prune.regularizers import slimming_penalty
from efficient.train.classify import pixels
from experiments.frame import (
    Claim,
    Metrics,
    Outcome,
    Progress,
    average,
    by_seed,
    column,
    main,
    mean,
    paired,
)
from experiments.frame.bench import Weights, require_data
from experiments.network_slimming_worth import EDGES, best, by_norm, by_scale, histogram, near_zero
from experiments.thinet_arms import vgg

START = 0.5  # of every scale
ALLOWED = 0.5  # points that tuning may leave lost


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """What is run."""

    stages: int = 4  # of the lab VGG, two layers each, 1 to 4
    width: float = 0.1  # multiplies its channels
    data: str = "fashion_mnist"  # mnist5k, fashion_mnist, idx:FOLDER or folder:FOLDER
    train: int = 2000  # training images used, and at most as many test images; 0 is all
    epochs: int = 8  # of training with or without the penalty, > 0
    tune: int = 2  # epochs after pruning, > 0
    batch_size: int = 32  # images a step, > 0
    learning_rate: float = 0.05  # of SGD, falling to 0 on a cosine, > 0
    penalties: tuple[float, ...] = (2e-3, 2e-2)  # of sum |scale|, rising, > 0; the last one is pruned
    fractions: tuple[float, ...] = (0.4, 0.5, 0.6, 0.7)  # of all channels that go, rising, in (0, 1)
    repeats: int = 15  # turns in which the whole and the small network are timed, >= 3
    seeds: tuple[int, ...] = (0, 1, 2)  # one whole run each

    def __post_init__(self) -> None:
        for name in ("epochs", "tune", "batch_size", "learning_rate"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)!r}; leave it out.")
        for name, most in (("penalties", float("inf")), ("fractions", 1)):
            values = getattr(self, name)
            rise = all(a < b for a, b in itertools.pairwise((0, *values, most)))
            if not values or not rise:
                raise ValueError(
                    f"{name} must rise within 0 and {most}, got {values!r}; leave it out for the default."
                )
        if not 1 <= self.stages <= 4:
            raise ValueError(f"stages must be 1 to 4, got {self.stages!r}; 4 are the whole lab VGG.")
        if self.repeats < 3:
            raise ValueError(f"repeats must be at least 3, got {self.repeats!r}; 15 is usual.")
        require_data(self.data)

    @classmethod
    def smoke(cls) -> "Config":
        """The same path: a thin network, few images, one penalty and one fraction."""
        few: Any = {"stages": 1, "width": 0.04, "train": 64, "epochs": 1, "tune": 1, "repeats": 3}
        return cls(data="mnist5k", penalties=(5e-3,), fractions=(0.5,), seeds=(0,), **few)


class Arms:
    """The network trained with each penalty, and pruned. Compiled programs serve every seed."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.bench = vgg(
            config.data,
            stages=config.stages,
            width=config.width,
            batch_size=config.batch_size,
            train=config.train,
        )
        self.x = pixels(jnp.asarray(self.bench.data.test_images[: config.batch_size]))
        start = jax.eval_shape(self.bench.start, 0)
        whole = {"params": start.params, **start.model_state}
        self.found = dependencies(self.bench.model.apply, whole, self.x[:1])
        self.macs = prices.macs(self.found, self.bench.model.apply, whole, self.x[:1])
        every = {name: np.ones(group.size, bool) for name, group in self.found.free.items()}
        self.ones = self.masks(every)
        self.fixed = fixed_masks(self.ones.fixed.masks)
        strengths = (0.0, *config.penalties)
        self.train = {strength: self.trainer(config.epochs, strength) for strength in strengths}
        same = config.tune == config.epochs  # then it is the same program
        self.tune = self.train[0.0] if same else self.trainer(config.tune, 0.0)

    def trainer(self, epochs: int, strength: float) -> Callable[[Weights, int], Weights]:
        """SGD with Nesterov's momentum, under masks and a penalty."""
        rate = optax.cosine_decay_schedule(self.config.learning_rate, epochs * self.bench.steps_per_epoch)
        train = self.bench.trainer(
            self.fixed,
            optax.sgd(rate, momentum=0.9, nesterov=True),
            penalty=(lambda weights: strength * slimming_penalty(weights)) if strength else None,
        )
        return lambda weights, seed: train(weights, seed, epochs)

    def masks(self, keep: Mapping[str, Any]) -> State:
        """The state under which only these channels are there."""
        return State({}, Pruned(self.found.under("params").masks(keep), {}))

    def start(self, seed: int) -> Weights:
        """The weights before training, scales at `START`."""
        drawn = self.bench.start(seed)
        begun = lambda path, v: jnp.full_like(v, START) if path.endswith("scale") else v  # noqa: E731
        return drawn._replace(params=map_with_path(begun, drawn.params), compress=self.ones)

    def seen(self, weights: Weights) -> Any:
        """The variables under the masks."""
        return {"params": self.fixed.apply(weights.params, weights.compress), **weights.model_state}

    def accuracy(self, weights: Weights) -> float:
        """Percent of the test set."""
        return self.bench.accuracy(self.seen(weights)["params"], weights.model_state)

    def cost(self, keep: Mapping[str, Any]) -> dict[str, float]:
        """MACs and parameters of what is left, and percent of channels gone."""
        counts = {name: int(mask.sum()) for name, mask in keep.items()}
        shapes = self.found.under("params").sizes_left(counts)
        total = sum(mask.size for mask in keep.values())
        return {
            "macs": self.macs(counts),
            "params": sum(int(np.prod(shape)) for shape in shapes.values()),
            "channels": 100 * (1 - sum(counts.values()) / total),
        }

    def pruned(self, dense: Weights, keep: Mapping[str, Any], seed: int) -> tuple[Weights, dict[str, float]]:
        """The network without some channels, tuned; its costs, and its accuracies before and after."""
        before = dense._replace(compress=self.masks(keep))
        after = self.tune(before, seed + 1000)
        untuned, accuracy = self.accuracy(before), self.accuracy(after)
        return after, {**self.cost(keep), "untuned_accuracy": untuned, "accuracy": accuracy}

    def timed(self, dense: Weights, small: Weights, keep: Mapping[str, Any]) -> dict[str, float]:
        """The channels cut out: the network timed beside the whole one, and how far its results are."""
        whole, masked = self.seen(dense), self.seen(small)
        left, run = self.found.shrink(masked, keep), resized(self.bench.model.apply, self.found, keep)
        after, before = jax.jit(run), self.bench.forward
        expected = before(masked, self.x)
        error = jnp.max(jnp.abs(after(left, self.x) - expected)) / jnp.max(jnp.abs(expected))
        times = race(lambda: before(whole, self.x), lambda: after(left, self.x), repeats=self.config.repeats)
        low, high = times.ratio_quartiles
        return {
            "error": float(error),
            "whole_ms": times.first.median_ms,
            "ms": times.second.median_ms,
            "speedup": times.ratio,
            "speedup_lower": low,
            "speedup_upper": high,
        }

    def run(self, seed: int, progress: Progress) -> dict[str, dict[str, Any]]:
        """All arms at one seed."""
        config, arms = self.config, dict[str, dict[str, Any]]()
        trained = {}
        for strength, train in progress.track(self.train.items(), "penalties", total=len(self.train)):
            trained[strength] = train(self.start(seed), seed)
            scales = by_scale(self.found, trained[strength].params)
            arms[f"penalty.{strength:g}"] = {
                "accuracy": self.accuracy(trained[strength]),
                "near_zero": near_zero(scales),
                "histogram": histogram(scales),
            }
        dense, sparse = trained[0.0], trained[config.penalties[-1]]
        first = arms["penalty.0"]["accuracy"]
        top = max(first, self.accuracy(self.tune(dense, seed + 1000)))
        whole = self.cost({name: np.ones(group.size, bool) for name, group in self.found.free.items()})
        arms["baseline"] = {"first_accuracy": first, "accuracy": top, **whole}
        choices = {
            "slimmed": (sparse, by_scale(self.found, sparse.params), together()),
            "scales": (dense, by_scale(self.found, dense.params), together()),
            "l1": (dense, by_norm(self.found, dense.params), per_leaf()),
        }
        pairs = list(itertools.product(config.fractions, choices))
        for fraction, name in progress.track(pairs, "pruned"):
            weights, worth, allocation = choices[name]
            keep = best(worth, fraction, allocation)
            small, values = self.pruned(weights, keep, seed)
            own = arms[f"penalty.{config.penalties[-1]:g}"]["accuracy"] if weights is sparse else first
            values |= {"untuned_loss": own - values["untuned_accuracy"], "loss": top - values["accuracy"]}
            if name == "slimmed" and fraction == config.fractions[-1]:
                values |= self.timed(dense, small, keep)
            arms[f"{name}.{fraction:g}"] = values
        return arms


LABELS = {
    "slimmed": "by scale, trained with the penalty",
    "scales": "by scale, trained without",
    "l1": "by L1 norm, trained without",
}


def run(config: Config, *, progress: Progress | None = None) -> Metrics:
    """By arm (`baseline`, `penalty.0.02`, `slimmed.0.7`, ...): accuracies in percent, losses in points."""
    return by_seed(Arms(config).run, config.seeds, progress=progress)


def measured(metrics: Metrics, kind: str) -> list[str]:
    """What follows `kind.` in the names of arms, as numbers rise.

    Raises:
        LookupError: there is no such arm.
    """
    found = [name.removeprefix(f"{kind}.") for name in metrics if name.startswith(f"{kind}.")]
    if not found:
        raise LookupError(f"no arm {kind}.*")
    return sorted(found, key=float)


def averaged(metrics: Metrics, kind: str, metric: str) -> dict[int, float]:
    """A metric by seed, its mean over the fractions."""
    columns = [column(metrics, f"{kind}.{fraction}", metric) for fraction in measured(metrics, kind)]
    return paired(lambda *values: mean(values), *columns)


def lower(first: str, second: str, metric: str) -> Callable[[Metrics], Outcome]:
    """The second kind's mean over fractions is above the first's by two standard errors."""

    def check(metrics: Metrics) -> Outcome:
        gaps = paired(operator.sub, averaged(metrics, second, metric), averaged(metrics, first, metric))
        return Outcome.above(gaps)

    return check


def more_near_zero(metrics: Metrics) -> Outcome:
    """With the largest penalty, more scales are near zero than with none, by ten points of all."""
    last = measured(metrics, "penalty")[-1]
    gaps = paired(
        operator.sub,
        column(metrics, f"penalty.{last}", "near_zero"),
        column(metrics, "penalty.0", "near_zero"),
    )
    return Outcome.above(gaps, 10.0)


def no_loss(metrics: Metrics) -> Outcome:
    """The largest fraction whose mean loss, tuned, is small."""
    losses = {
        fraction: column(metrics, f"slimmed.{fraction}", "loss") for fraction in measured(metrics, "slimmed")
    }
    means = {fraction: mean(values.values()) for fraction, values in losses.items()}
    good = [100 * float(fraction) for fraction, value in means.items() if value <= ALLOWED]
    seeds = next(iter(losses.values()))
    detail = "losses " + ", ".join(f"{float(f):.0%}: {value:+.2f}" for f, value in means.items())
    return Outcome.of(dict.fromkeys(seeds, max(good, default=0.0)), bool(good), detail)


def smaller(metrics: Metrics) -> Outcome:
    """Percent of the MACs saved at the largest fraction, and faster beyond the noise."""
    arm = f"slimmed.{measured(metrics, 'slimmed')[-1]}"
    saved = paired(
        lambda whole, left: 100 * (1 - left / whole),
        column(metrics, "baseline", "macs"),
        column(metrics, arm, "macs"),
    )
    low = min(column(metrics, arm, "speedup_lower").values())
    faster = mean(column(metrics, arm, "speedup").values())
    return Outcome.of(saved, mean(saved.values()) >= 51 and low > 1, f"measured {faster:.2f} times faster")


LIU = functools.partial(Claim, paper="Liu et al., Network Slimming, 2017", arxiv="1708.06519", known="memory")
CLAIMS = (
    LIU(
        id="slimming-scales",
        where="Figure 4",
        metric="scales near zero with the largest penalty, beyond those without a penalty, of all channels",
        unit="points",
        published="more",
        rule="the mean gap is above 10 points by two standard errors",
        check=more_near_zero,
    ),
    LIU(
        id="slimming-untuned",
        where="section 3",
        metric="loss untuned, trained without the penalty, beyond that with it; mean over fractions",
        unit="points",
        published="above",
        rule="the mean gap is above 0 by two standard errors",
        check=lower("slimmed", "scales", "untuned_loss"),
    ),
    LIU(
        id="slimming-no-loss",
        where="Table 1",
        metric="largest fraction of all channels that goes at no loss after tuning (a VGG on CIFAR-10)",
        unit="%",
        published=70.0,
        rule=f"at some fraction of 40 % or more the mean loss is at most {ALLOWED} points",
        check=no_loss,
    ),
    LIU(
        id="slimming-l1-norm",
        known="bar",
        metric="loss tuned, pruned by the L1 norm, beyond that of slimming; mean over fractions",
        unit="points",
        published="above",
        rule="the mean gap is above 0 by two standard errors",
        check=lower("slimmed", "l1", "loss"),
    ),
    LIU(
        id="slimming-shrunk",
        where="Table 1",
        metric="MACs saved with 70 % of all channels cut out (a VGG on CIFAR-10)",
        unit="%",
        published=51.0,
        rule="at least 51 % saved, and the lower quartile of the measured speed-up is above 1",
        check=smaller,
    ),
)


def tables(record: Any) -> list[Any]:
    """Scales by penalty; accuracy and cost by what is pruned."""
    from rich.table import Table

    scales = Table(title="Trained with a penalty on the scales")
    for title in ("penalty", "accuracy %", "scales near zero %"):
        scales.add_column(title, justify="right")
    for strength in measured(record.metrics, "penalty"):
        values = (average(record.metrics, f"penalty.{strength}", name) for name in ("accuracy", "near_zero"))
        scales.add_row(strength, *(f"{value:.1f}" for value in values))
    best = average(record.metrics, "baseline", "accuracy")
    table = Table(title=f"Channels removed, accuracy %; dense {best:.1f}")
    for title in ("pruned", "channels %", "untuned", "tuned", "MACs left %", "params left %"):
        table.add_column(title, justify="left" if title == "pruned" else "right")
    for kind, label in LABELS.items():
        for fraction in measured(record.metrics, kind):
            arm = f"{kind}.{fraction}"
            cells = [average(record.metrics, arm, m) for m in ("channels", "untuned_accuracy", "accuracy")]
            cells += [
                100 * average(record.metrics, arm, name) / average(record.metrics, "baseline", name)
                for name in ("macs", "params")
            ]
            table.add_row(label, *(f"{cell:.1f}" for cell in cells))
    return [scales, table]


def figures(record: Any) -> dict[str, Any]:
    """Histograms of the scales by penalty; accuracy by the fraction removed."""
    from experiments.frame import style

    strengths = measured(record.metrics, "penalty")
    scales, row = style.figure(columns=len(strengths), width=3.2 * len(strengths), height=3.0, squeeze=False)
    for axes, strength in zip(row[0], strengths, strict=True):
        counts = [values["histogram"] for values in record.metrics[f"penalty.{strength}"].values()]
        axes.bar(EDGES[:-1], np.mean(counts, axis=0), width=EDGES[1], align="edge")
        axes.set(title=f"penalty {strength}", xlabel="scale")
    row[0][0].set_ylabel("channels")
    pruned, both = style.figure(columns=2, width=9.0, height=3.8, sharey=True)
    for axes, metric, title in zip(both, ("untuned_accuracy", "accuracy"), ("untuned", "tuned"), strict=True):
        for kind, label in LABELS.items():
            fractions = measured(record.metrics, kind)
            values = [average(record.metrics, f"{kind}.{one}", metric) for one in fractions]
            axes.plot([100 * float(one) for one in fractions], values, "o-", label=label)
        axes.axhline(average(record.metrics, "baseline", "accuracy"), color=style.BASELINE, linewidth=1)
        axes.set(xlabel="channels removed, %", title=title)
    both[0].set_ylabel("test accuracy, %")
    both[1].legend(loc="lower left")  # where all curves are high
    return {"scales": scales, "pruned": pruned}


if __name__ == "__main__":
    main()
