"""Granularity: the larger the groups of weights that go together, the more accuracy goes with them.

Claim: Mao et al., 2017, arXiv:1705.08922: at one sparsity single weights are better than rows of a kernel,
these than kernels, these than filters. 2:4 (Mishra et al., 2021, arXiv:2104.08378) lies between the first two
and loses nothing against the dense network. MIT 6.5940: what is left of a network tunes to more if chosen by
magnitude than at random.

    python -m experiments.granularity

Ours prunes the second convolution of LeNet-5, which has 25,000 of its convolutions' 25,500 weights (in the
first one a kernel is a filter), by the mean |w| of each group, on a part of Fashion-MNIST; then all layers,
at 95 %, by magnitude and at random. Every arm starts from the same trained network and is tuned equally long;
so is the dense baseline, the better of before and after. Of 50 filters 12 stay at 75 %, which is 76 % gone.
Cost: some 8 minutes.
"""

import dataclasses
import functools
import operator
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from efficient import State, Transform, at, identity
from efficient.core.paths import flatten
from efficient.prune import Pattern, Pruned, prune, scores
from efficient.prune.lottery import all_kept, fixed_masks
from efficient.prune.patterns import channel, kernel, n_m, unstructured, vector
from experiments.frame import (
    Claim,
    Metrics,
    Outcome,
    Progress,
    by_seed,
    column,
    main,
    mean,
    not_below,
    paired,
)
from experiments.frame.bench import Bench, Weights, require_data

LAYER = "conv1/kernel"  # [5, 5, 20, 50]
GRAINS: Mapping[str, tuple[Callable[[], Pattern], str]] = {  # from fine to coarse
    "fine": (unstructured, "single weights"),
    "vector": (lambda: vector(5, axis=1), "rows of a kernel, 5"),
    "kernel": (kernel, "kernels, 25"),
    "channel": (channel, "filters, 500"),
}
N_M = {50: (2, 4), 75: (1, 4)}  # by sparsity, percent
ALL = 0.95  # the sparsity of all layers, by magnitude and at random
LABELS = {name: label for name, (_, label) in GRAINS.items()} | {"n_m": "N of 4 inputs (2:4, 1:4)"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """What is run."""

    data: str = "fashion_mnist"  # mnist5k, fashion_mnist, idx:FOLDER or folder:FOLDER of 28x28 images
    train: int = 6400  # training images used, and at most as many test images; 0 is all
    sparsities: tuple[int, ...] = (50, 75, 90)  # percent of the convolution's weights that go
    epochs: int = 6  # of dense training, > 0
    tune: int = 1  # epochs of training with masks, > 0
    batch_size: int = 64  # images a step, > 0
    seeds: tuple[int, ...] = (0, 1, 2)  # one whole run each

    def __post_init__(self) -> None:
        for name in ("epochs", "tune", "batch_size"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)!r}; leave it out.")
        if not self.sparsities or not all(0 < percent < 100 for percent in self.sparsities):
            raise ValueError(
                f"sparsities must be percents from 1 to 99, got {self.sparsities!r}; e.g. --sparsities=50,75."
            )
        require_data(self.data)

    @classmethod
    def smoke(cls) -> "Config":
        """The same path: few images, one epoch, one sparsity."""
        return cls(data="mnist5k", train=128, sparsities=(75,), epochs=1, tune=1, seeds=(0,))


def arms(sparsities: tuple[int, ...]) -> dict[str, Transform]:
    """Every way to prune, as `fine_75`, `n_m_75`, ..., `all_magnitude`."""
    made = {}
    for percent in sparsities:
        for name, (pattern, _) in GRAINS.items():
            made[f"{name}_{percent}"] = prune(scores.absolute(), percent / 100, pattern=pattern())
        if percent in N_M:
            made[f"n_m_{percent}"] = prune(scores.absolute(), pattern=n_m(*N_M[percent]))
    return {
        **{name: at(LAYER, transform) for name, transform in made.items()},
        "all_magnitude": at("**/kernel", prune(scores.absolute(), ALL)),
        "all_random": at("**/kernel", prune(scores.random(), ALL)),
    }


class Arms:
    """LeNet-5 dense, and pruned in every way."""

    def __init__(self, config: Config) -> None:
        self.bench = Bench.make("lenet5", config.data, batch_size=config.batch_size, train=config.train)
        self.transforms = arms(config.sparsities)
        self.train_dense = self.trainer(identity(), config.epochs)
        ones = all_kept(jax.eval_shape(self.bench.start, 0).params)
        self.tune = self.trainer(fixed_masks(ones), config.tune)  # one program serves all masks

    def trainer(self, transform: Transform, epochs: int) -> Callable[[Weights, int], Weights]:
        """Adam, its rate falling from 1e-3 to 0 on a cosine."""
        schedule = optax.cosine_decay_schedule(1e-3, epochs * self.bench.steps_per_epoch)
        train = self.bench.trainer(transform, optax.adam(schedule))
        return lambda weights, seed: train(weights, seed, epochs)

    def tuned(self, shown: Any, dense: Any, seed: int) -> float:
        """The accuracy after training in which what is zero stays zero."""
        before, now = flatten(dense)[0], flatten(shown)[0]
        masks = {path: (now[path] != 0) | (before[path] == 0) for path in all_kept(dense)}
        state = State({}, Pruned(masks, {}))
        params = self.tune(Weights(shown, {}, state), seed).params
        return self.bench.accuracy(fixed_masks(masks).apply(params, state))

    def one(self, transform: Transform, dense: Any, seed: int) -> dict[str, float]:
        """One way to prune: zeros, and the accuracies."""
        shown = transform.apply(dense, transform.init(dense, key=jax.random.key(seed)))
        zeros = flatten(shown)[0][LAYER] == 0
        return {
            "zeros": 100 * float(jnp.mean(zeros.astype(jnp.float32))),
            "untuned_accuracy": self.bench.accuracy(shown),
            "accuracy": self.tuned(shown, dense, seed + 1000),
        }

    def run(self, seed: int, progress: Progress) -> dict[str, dict[str, float]]:
        """All arms at one seed."""
        dense = self.train_dense(self.bench.start(seed), seed).params
        first, later = self.bench.accuracy(dense), self.tuned(dense, dense, seed + 1000)
        made = {"baseline": {"accuracy": max(first, later), "first_accuracy": first}}
        todo = self.transforms.items()
        for name, transform in progress.track(todo, f"seed {seed}: patterns", total=len(todo)):
            made[name] = self.one(transform, dense, seed)
        return made


def run(config: Config, *, progress: Progress | None = None) -> Metrics:
    """By arm (`baseline`, `fine_50`, ..., `all_random`): accuracies and zeros in percent."""
    return by_seed(Arms(config).run, config.seeds, progress=progress)


def gap(first: str, second: str, metrics: Metrics) -> dict[int, float]:
    """Points by which the first arm is better tuned than the second, by seed."""
    return paired(operator.sub, *(column(metrics, arm, "accuracy") for arm in (first, second)))


def above(first: str, second: str, least: float = 0.0) -> Callable[[Metrics], Outcome]:
    """The first arm is better than the second by more than `least` points and 2 standard errors."""
    return lambda metrics: Outcome.above(gap(first, second, metrics), least)


def lost(arm: str, most: float) -> Callable[[Metrics], Outcome]:
    """The arm loses on average at most so many points against the dense network."""
    return lambda metrics: Outcome.at_most(gap("baseline", arm, metrics), most)


MAO = functools.partial(
    Claim,
    paper="Mao et al., Exploring the Regularity of Sparse Structure, 2017",
    arxiv="1705.08922",
    unit="points",
    published="at least 0",
    known="memory",
    rule="mean gap not below 0 by more than 2 standard errors",
)
MISHRA = functools.partial(
    MAO, paper="Mishra et al., Accelerating Sparse Deep Neural Networks, 2021", arxiv="2104.08378"
)
CLAIMS = (
    MISHRA(
        id="granularity-fine-n-m",
        metric="accuracy of single weights above 2:4, 50 % of a convolution gone, tuned",
        check=not_below("fine_50", "n_m_50"),
    ),
    MISHRA(
        id="granularity-n-m-vector",
        metric="accuracy of 2:4 above rows of a kernel, 50 % of a convolution gone, tuned",
        check=not_below("n_m_50", "vector_50"),
    ),
    MAO(
        id="granularity-fine-vector",
        metric="accuracy of single weights above rows of a kernel, 75 % of a convolution gone, tuned",
        check=not_below("fine_75", "vector_75"),
    ),
    MAO(
        id="granularity-vector-channel",
        metric="accuracy of rows of a kernel above filters, 75 % of a convolution gone, tuned",
        check=not_below("vector_75", "channel_75"),
    ),
    MAO(
        id="granularity-fine-channel",
        metric="accuracy of single weights above filters, 75 % of a convolution gone, tuned",
        published="above 0",
        rule="mean gap above 0 by 2 standard errors",
        check=above("fine_75", "channel_75"),
    ),
    MISHRA(
        id="granularity-n-m-dense",
        metric="accuracy that 2:4 in a convolution loses against the dense network, tuned",
        published="at most 0",
        rule="mean loss at most 0.5 points",
        check=lost("n_m_50", 0.5),
    ),
    Claim(
        id="granularity-random",
        paper="MIT 6.5940, Pruning and sparsity",
        metric="accuracy of masks by magnitude above random masks, 95 % of all layers gone, tuned",
        unit="points",
        published="above 2",
        known="bar",
        rule="mean gap above 2 by 2 standard errors",
        check=above("all_magnitude", "all_random", 2.0),
    ),
)


def curve(record: Any, name: str, metric: str) -> list[tuple[int, list[float]]]:
    """One way to prune: its percents, and one metric of the seeds at each."""
    percents = [p for p in sorted(record.config["sparsities"]) if f"{name}_{p}" in record.metrics]
    return [(p, list(column(record.metrics, f"{name}_{p}", metric).values())) for p in percents]


def tables(record: Any) -> list[Any]:
    """Accuracy, tuned and not, by grain and sparsity; magnitude and chance."""
    from rich.table import Table

    dense = mean(column(record.metrics, "baseline", "accuracy").values())
    percents = sorted(record.config["sparsities"])
    grains = Table(title=f"LeNet-5's second convolution: accuracy %, untuned / tuned; dense {dense:.2f}")
    grains.add_column("what goes together")
    for percent in percents:
        grains.add_column(f"{percent} % gone", justify="right")
    for name, label in LABELS.items():
        pairs = (curve(record, name, metric) for metric in ("untuned_accuracy", "accuracy"))
        cells = {p: f"{mean(u):.2f} / {mean(t):.2f}" for (p, u), (_, t) in zip(*pairs, strict=True)}
        grains.add_row(label, *(cells.get(percent, "-") for percent in percents))
    whole = Table(title=f"All layers, {100 * ALL:g} % gone: accuracy %")
    for title in ("chosen", "untuned", "tuned"):
        whole.add_column(title, justify="left" if title == "chosen" else "right")
    for arm, label in (("all_magnitude", "by magnitude"), ("all_random", "at random")):
        values = (column(record.metrics, arm, metric).values() for metric in ("untuned_accuracy", "accuracy"))
        whole.add_row(label, *(f"{mean(v):.2f}" for v in values))
    return [grains, whole]


def figures(record: Any) -> dict[str, Any]:
    """Accuracy against sparsity by grain, untuned and tuned, mean and range over seeds."""
    from experiments.frame import style

    figure, both = style.figure(columns=2, width=9.6, height=4.2)
    dense = column(record.metrics, "baseline", "accuracy").values()
    for axes, metric, title in zip(both, ("untuned_accuracy", "accuracy"), ("untuned", "tuned"), strict=True):
        for name, label in LABELS.items():
            if not (points := curve(record, name, metric)):
                continue
            percents, middle = [p for p, _ in points], [mean(v) for _, v in points]
            errors = [[m - min(v), max(v) - m] for m, (_, v) in zip(middle, points, strict=True)]
            line = {"fmt": "D--"} if name == "n_m" else {"fmt": "o-"}
            axes.errorbar(percents, middle, list(zip(*errors, strict=True)), **line, label=label, capsize=2)
        axes.axhline(mean(dense), color=style.BASELINE, linewidth=1, label="dense")
        axes.set(xlabel="weights gone, %", ylabel="test accuracy, %", title=f"second convolution, {title}")
        axes.set_xticks(sorted(record.config["sparsities"]))
    both[0].legend(loc="lower left", fontsize=8)
    return {"granularity": figure}


if __name__ == "__main__":
    main()
