"""Channels chosen by what the next layer makes of them, in one layer and in all, against simpler choices.

Claim: Luo et al., 2017, arXiv:1707.06342 (ThiNet), Figure 3: a greedy choice by the next layer's output beats
the sum of the filter's weights, the average percentage of zeros, and chance. He et al., 2017,
arXiv:1707.06168, Figure 4: a LASSO on that output beats the first channels and the largest filters, one layer
at a time, without tuning; least squares on the channels that stay makes up for much of what goes.

    python -m experiments.thinet

Ours is the lab VGG at an eighth of its width on 3,200 images of Fashion-MNIST. Every choice is made with and
without least squares (`solved.` and `plain.`; both papers solve). The whole network is cut from the first
layer to the last, each layer's inputs observed in what is left so far, to half of its channels, and the cut
is real: `shrink` and `resized` make the network that is tuned, counted and timed. ThiNet tunes after every
layer, ours once at the end; He et al. fit the outputs of the whole network's layers, ours those of the layer
on its present inputs; their networks have no batch normalization. Cost: some 8 minutes.
"""

import dataclasses
import functools
import itertools
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from efficient import cost, identity, race
from efficient.core.dependencies import dependencies
from efficient.core.observe import observed
from efficient.prune import kept_of
from efficient.train.classify import pixels
from experiments.frame import (
    Claim,
    Metrics,
    Outcome,
    Progress,
    average,
    better,
    by_seed,
    column,
    main,
    mean,
    paired,
)
from experiments.frame.bench import Bench, Weights, require_data
from experiments.thinet_arms import (
    KINDS,
    LABELS,
    METHODS,
    Question,
    Site,
    cut,
    shrunk_bench,
    sites_of,
    vgg,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """What is run."""

    stages: int = 4  # of the lab VGG, two layers each, 1 to 4
    width: float = 0.125  # multiplies its channels
    data: str = "fashion_mnist"  # mnist5k, fashion_mnist, idx:FOLDER or folder:FOLDER
    train: int = 3200  # training images used; 0 is all
    test: int = 1000  # test images used, > 0
    epochs: int = 6  # of dense training, > 0
    tune: int = 2  # epochs of training the small network, > 0
    batch_size: int = 64  # images a step, > 0
    calibration: int = 256  # training images that choices and least squares see, > 0
    layers: tuple[int, ...] = (1, 3, 5)  # whose channels go alone, from 0
    fractions: tuple[float, ...] = (0.25, 0.5, 0.75, 0.875)  # of one layer's channels that go, in (0, 1)
    whole: float = 0.5  # fraction of every layer's channels that goes, in (0, 1)
    methods: tuple[str, ...] = ()  # such as "thinet"; empty: all
    repeats: int = 15  # turns in which the whole and the small network are timed, >= 3
    seeds: tuple[int, ...] = (0, 1, 2)  # one whole run each

    def __post_init__(self) -> None:
        for name in ("test", "epochs", "tune", "batch_size", "calibration"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)!r}; leave it out.")
        if not self.fractions or not all(0 < one < 1 for one in (*self.fractions, self.whole)):
            raise ValueError(
                f"fractions and whole must be in (0, 1), got {self.fractions!r} and {self.whole!r}; 0.5 is "
                "half."
            )
        if not 1 <= self.stages <= 4:
            raise ValueError(f"stages must be 1 to 4, got {self.stages!r}; 4 are the whole lab VGG.")
        if not self.layers or not all(0 <= one < 2 * self.stages for one in self.layers):
            raise ValueError(
                f"layers must be from 0 to {2 * self.stages - 1}, got {self.layers!r}; e.g. --layers=1,3."
            )
        if unknown := set(self.methods) - set(METHODS):
            raise ValueError(
                f"methods must be among {sorted(METHODS)}, got {sorted(unknown)}; choose from these."
            )
        if self.repeats < 3:
            raise ValueError(f"repeats must be at least 3, got {self.repeats!r}; 15 is usual.")
        require_data(self.data)

    @classmethod
    def smoke(cls) -> "Config":
        """The same path: a thin network, few images, two methods."""
        return cls(
            stages=1,
            width=0.04,
            data="mnist5k",
            train=64,
            test=64,
            epochs=1,
            tune=1,
            batch_size=32,
            calibration=32,
            layers=(0,),
            fractions=(0.5,),
            methods=("l1", "thinet"),
            repeats=3,
            seeds=(0,),
        )


def weights_of(variables: Any) -> Weights:
    """Variables as a bench has them."""
    return Weights(variables["params"], {"batch_stats": variables["batch_stats"]})


class Arms:
    """The network whole, one layer cut, and all of it cut. Compiled programs serve every seed."""

    def __init__(self, config: Config) -> None:
        self.config = config
        sizes = {"batch_size": config.batch_size, "train": config.train}
        bench = vgg(config.data, stages=config.stages, width=config.width, **sizes)
        images = bench.data
        tested = images.subset(
            train=len(images.train_labels), test=min(config.test, len(images.test_labels)), seed=0
        )
        self.bench = dataclasses.replace(bench, data=tested)
        self.images = pixels(jnp.asarray(images.train_images[: config.calibration]))
        start = jax.eval_shape(self.bench.start, 0)
        whole = {"params": start.params, **start.model_state}
        self.found = dependencies(self.bench.model.apply, whole, self.images[:1])
        self.sites = sites_of(self.found)
        self.look = {site.group: self.looking(site) for site in self.sites}
        halves = {site.group: np.arange(site.size) < kept_of(site.size, config.whole) for site in self.sites}
        self.small = shrunk_bench(self.bench, self.found, halves)
        self.train_dense = self.trainer(self.bench, config.epochs)
        same = config.tune == config.epochs  # then it is the same program
        self.train_further = self.train_dense if same else self.trainer(self.bench, config.tune)
        self.tune = self.trainer(self.small, config.tune)

    def trainer(self, bench: Bench, epochs: int) -> Callable[[Weights, int], Weights]:
        """Adam, its rate falling from 1e-3 to 0 on a cosine."""
        schedule = optax.cosine_decay_schedule(1e-3, epochs * bench.steps_per_epoch)
        train = bench.trainer(identity(), optax.adam(schedule))
        return lambda weights, seed: train(weights, seed, epochs)

    def looking(self, site: Site) -> Callable[[Any, Any], Any]:
        """What enters the consumer of a site, compiled without the layers behind it."""
        see = observed(self.bench.model.apply, where=site.consumer, statistics=("gram", "zeros"))
        return jax.jit(lambda variables, images: see(variables, images)[1])

    def accuracy(self, variables: Any, bench: Bench | None = None) -> float:
        """Percent of the test set."""
        weights = weights_of(variables)
        return (bench or self.bench).accuracy(weights.params, weights.model_state)

    def asked(self, variables: Any, site: Site, sparsity: float, key: jax.Array) -> Question:
        """A question about the present variables."""
        stats = self.look[site.group](variables, self.images)
        return Question(self.found, variables, site, sparsity, stats, key)

    def alone(self, dense: Any, key: jax.Array, method: str) -> dict[str, dict[str, float]]:
        """By kind, `layer@fraction`: the accuracy with one layer cut."""
        made: dict[str, dict[str, float]] = {kind: {} for kind in KINDS}
        for index in self.config.layers:
            asked = self.asked(dense, self.sites[index], 0.0, jax.random.fold_in(key, index))
            for fraction in self.config.fractions:
                question = asked._replace(sparsity=fraction)
                mask = METHODS[method](question)
                for kind in KINDS:
                    shown = cut(question, mask, solves=kind == "solved")
                    made[kind][f"{index}@{fraction:g}"] = self.accuracy(shown)
        return {kind: {**values, "alone": mean(values.values())} for kind, values in made.items()}

    def all_cut(self, dense: Any, key: jax.Array, method: str, kind: str) -> tuple[Any, dict[str, Any]]:
        """Every layer cut, from the first to the last: the variables, and which channels stay."""
        now, keep = dense, {}
        for index, site in enumerate(self.sites):
            question = self.asked(now, site, self.config.whole, jax.random.fold_in(key, index))
            mask = METHODS[method](question)
            now, keep[site.group] = cut(question, mask, solves=kind == "solved"), np.asarray(mask)
        return now, keep

    def whole(self, dense: Any, seed: int, method: str, kind: str) -> tuple[Any, dict[str, float]]:
        """Every layer cut: the small variables, and the accuracies untuned and tuned."""
        shown, keep = self.all_cut(dense, jax.random.key(seed), method, kind)
        small = self.found.shrink(shown, keep)
        tuned = self.tune(weights_of(small), seed + 1000)
        return small, {
            "untuned_accuracy": self.accuracy(small, self.small),
            "masked_accuracy": self.accuracy(shown),
            "accuracy": self.small.accuracy(tuned.params, tuned.model_state),
        }

    def timed(self, dense: Any, small: Any) -> dict[str, dict[str, float]]:
        """What the whole and the small network cost, timed in turns."""
        x = self.images[: self.config.batch_size]
        before, after = self.bench.forward, self.small.forward
        times = race(lambda: before(dense, x), lambda: after(small, x), repeats=self.config.repeats)
        low, high = times.ratio_quartiles
        made = {}
        for name, fn, variables, timing in (
            ("dense", self.bench.model.apply, dense, times.first),
            ("shrunk", after, small, times.second),
        ):
            report = cost(fn, variables, x[:1])
            made[name] = {"macs": report.macs, "params": report.params, "ms": timing.median_ms}
        made["shrunk"] |= {"speedup": times.ratio, "speedup_lower": low, "speedup_upper": high}
        return made

    def run(self, seed: int, progress: Progress) -> dict[str, dict[str, float]]:
        """All arms at one seed."""
        trained = self.train_dense(self.bench.start(seed), seed)
        dense = {"params": trained.params, **trained.model_state}
        further = self.train_further(trained, seed + 1000)
        accuracies = [self.bench.accuracy(w.params, w.model_state) for w in (trained, further)]
        arms: dict[str, dict[str, float]] = {
            "baseline": {"first_accuracy": accuracies[0], "accuracy": max(accuracies)}
        }
        for name in progress.track(self.config.methods or tuple(METHODS), "methods"):
            found = self.alone(dense, jax.random.key(seed), name)
            for kind in KINDS:
                small, values = self.whole(dense, seed, name, kind)
                arms[f"{kind}.{name}"] = {**found[kind], **values}
        times = self.timed(dense, small)
        arms["baseline"] |= times["dense"]
        return {**arms, "shrunk": times["shrunk"]}


def run(config: Config, *, progress: Progress | None = None) -> Metrics:
    """By arm (`baseline`, `plain.l1`, `solved.thinet`, ..., `shrunk`): accuracies in percent, and costs."""
    return by_seed(Arms(config).run, config.seeds, progress=progress)


def smaller(metrics: Metrics) -> Outcome:
    """At least three times fewer MACs, and faster beyond the noise."""
    ratios = paired(operator.truediv, column(metrics, "baseline", "macs"), column(metrics, "shrunk", "macs"))
    lower = min(column(metrics, "shrunk", "speedup_lower").values())
    faster = mean(column(metrics, "shrunk", "speedup").values())
    return Outcome.of(ratios, mean(ratios.values()) >= 3 and lower > 1, f"measured {faster:.2f} times faster")


THINET = functools.partial(
    Claim,
    paper="Luo et al., ThiNet, 2017",
    arxiv="1707.06342",
    where="Figure 3",
    unit="points",
    published="above",
    known="memory",
    rule="the mean gap is above 0 by two standard errors",
)
HE = functools.partial(
    THINET,
    paper="He et al., Channel Pruning for Accelerating Very Deep Neural Networks, 2017",
    arxiv="1707.06168",
    where="Figure 4",
)
CLAIMS = (
    THINET(
        id="thinet-l1-untuned",
        metric="accuracy untuned of ThiNet above the L1 norm as published, half of all channels gone",
        check=better("solved.thinet", "plain.l1", "untuned_accuracy"),
    ),
    THINET(
        id="thinet-choice",
        metric="accuracy of ThiNet's choice above the L1 norm's, one layer cut, neither with least squares",
        check=better("plain.thinet", "plain.l1", "alone"),
    ),
    THINET(
        id="thinet-random-tuned",
        metric="accuracy tuned of ThiNet above random channels, half of every layer's channels gone",
        check=better("solved.thinet", "plain.random", "accuracy"),
    ),
    HE(
        id="thinet-lasso-untuned",
        metric="accuracy untuned of LASSO above the L1 norm as published, half of all channels gone",
        check=better("solved.lasso", "plain.l1", "untuned_accuracy"),
    ),
    HE(
        id="thinet-lasso-choice",
        metric="accuracy of LASSO's choice above the L1 norm's, one layer cut, both with least squares",
        check=better("solved.lasso", "solved.l1", "alone"),
    ),
    HE(
        id="thinet-least-squares",
        metric="accuracy untuned of LASSO with least squares above without, half of all channels gone",
        where="section 3.1",
        check=better("solved.lasso", "plain.lasso", "untuned_accuracy"),
    ),
    THINET(
        id="thinet-shrunk",
        where="abstract (VGG-16)",
        metric="how many times fewer MACs with half of every layer's channels cut out",
        unit="x",
        published=3.31,
        known="paper",
        rule="at least 3 times fewer MACs, and the lower quartile of the measured speed-up is above 1",
        check=smaller,
    ),
)


def shown(record: Any) -> list[str]:
    """The methods of a record."""
    return [name for name in METHODS if f"plain.{name}" in record.metrics]


def tables(record: Any) -> list[Any]:
    """Accuracies by method, and what the cut saves."""
    from rich.table import Table

    dense, best = (average(record.metrics, "baseline", name) for name in ("first_accuracy", "accuracy"))
    table = Table(title=f"Channels cut, accuracy %; dense {dense:.1f}, trained further {best:.1f}")
    for title in ("channels", "least squares", "one layer", "all, untuned", "all, tuned"):
        table.add_column(title, justify="left" if title == "channels" else "right")
    for name, kind in itertools.product(shown(record), KINDS):
        values = [
            average(record.metrics, f"{kind}.{name}", metric)
            for metric in ("alone", "untuned_accuracy", "accuracy")
        ]
        table.add_row(LABELS[name], "yes" if kind == "solved" else "no", *(f"{v:.2f}" for v in values))
    costs = Table(title=f"{100 * record.config['whole']:g} % of every layer's channels cut out")
    for title in ("network", "MACs", "params", "ms"):
        costs.add_column(title, justify="left" if title == "network" else "right")
    for arm in ("baseline", "shrunk"):
        macs, params, ms = (average(record.metrics, arm, metric) for metric in ("macs", "params", "ms"))
        costs.add_row("whole" if arm == "baseline" else arm, f"{macs:,.0f}", f"{params:,.0f}", f"{ms:.2f}")
    return [table, costs]


def figures(record: Any) -> dict[str, Any]:
    """One layer cut: accuracy by fraction. The whole network: untuned and tuned."""
    from experiments.frame import style

    layers, fractions = record.config["layers"], record.config["fractions"]
    dense = average(record.metrics, "baseline", "first_accuracy")
    alone, grid = style.figure(
        rows=2, columns=len(layers), width=3.6 * len(layers) + 1, height=6.0, sharey=True, squeeze=False
    )
    for (row, kind), (place, index) in itertools.product(enumerate(KINDS), enumerate(layers)):
        axes = grid[row][place]
        for name in shown(record):
            values = [average(record.metrics, f"{kind}.{name}", f"{index}@{one:g}") for one in fractions]
            axes.plot([0, *(100 * one for one in fractions)], [dense, *values], "o-", label=LABELS[name])
        title = f"layer {index}" + (", least squares" if kind == "solved" else ", as they are")
        axes.set(title=title, xlabel="channels removed, %" if row else "")
    for axes in grid[:, 0]:
        axes.set_ylabel("test accuracy untuned, %")
    grid[0][0].legend(loc="lower left")
    return {"alone": alone, "whole": _whole(record)}


def _whole(record: Any) -> Any:
    """Accuracy of each method with every layer cut."""
    from experiments.frame import style

    figure, both = style.figure(columns=2, width=9.0, height=3.4, sharey=True)
    names = shown(record)
    for axes, kind in zip(both, KINDS, strict=True):
        for metric, label, marker in (("untuned_accuracy", "untuned", "o"), ("accuracy", "tuned", "D")):
            values = [average(record.metrics, f"{kind}.{name}", metric) for name in names]
            axes.plot(values, range(len(names)), marker, label=label)
        axes.axvline(average(record.metrics, "baseline", "accuracy"), color=style.BASELINE, linewidth=1)
        axes.set(xlabel="test accuracy, %", title="least squares" if kind == "solved" else "as they are")
        axes.set_yticks(range(len(names)), [LABELS[name] for name in names])
    both[0].invert_yaxis()
    both[0].legend(loc="center left")
    return figure


if __name__ == "__main__":
    main()
