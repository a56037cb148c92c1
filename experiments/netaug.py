"""Network augmentation: a tiny network trained as a part of wider ones; a large one needs dropout instead.

Claim: Cai et al., 2022, arXiv:2110.08890, tables 1 and 2 and figure 2: tiny networks underfit. Training them
inside larger ones adds 1.3 to 2.2 points on ImageNet (MobileNetV2-Tiny, MCUNet), regularization such as
dropout takes points away; for ResNet-50 it is the other way round.

    python -m experiments.netaug

The tiny network has 2,034 params, three convolutions and a dense layer; it is the first channels of every
axis of a network three times as wide, and each step adds the loss of one of four widths between. The large
one has 316,000 params, augmented to one and a half times its width. Both are trained on a part of
Fashion-MNIST for as many steps as without augmentation. (A first run with a third of the tiny network's steps
and rate left it far from what it can learn, 74 %, and showed nothing.) Cost: some 15 minutes.

Seen: dropout takes 1.7 points from the tiny network and 0.3 from the large one; augmentation leaves both
level (0.1 points for the tiny one, with one seed 1.6 above and two below).
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import optax

from efficient import distill
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
    not_below,
    paired,
)
from experiments.small_convs import Convs, Fit, Rows, accuracy, cross_entropy, splits

STRIDES = (2, 2, 2)
LABELS = {
    "baseline": "2,034 params",
    "tiny_augmented": "the same, augmented",
    "tiny_dropout": "the same, dropout",
    "large": "316,000 params",
    "large_augmented": "the same, augmented",
    "large_dropout": "the same, dropout",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """What is run."""

    data: str = "fashion_mnist"  # mnist5k, fashion_mnist, digits, idx:FOLDER or folder:FOLDER
    train: int = 4800  # training images used, > 0
    test: int = 10_000  # test images, > 0
    tiny: tuple[int, ...] = (6, 10, 14)  # channels of each convolution
    large: tuple[int, ...] = (64, 128, 208)
    tiny_factor: float = 3.0  # of the widest network's channels, > 1
    large_factor: float = 1.5  # the same around the large one
    points: int = 4  # widths that are drawn, > 0
    alpha: float = 1.0  # weight of the wider network's loss, >= 0
    dropout: float = 0.2  # before the dense layer, in [0, 1)
    epochs: int = 60  # of the tiny network, > 0
    large_epochs: int = 10  # of the large one, > 0
    rate: float = 1e-2  # of the tiny network's Adam, > 0
    large_rate: float = 3e-3  # of the large one's, > 0
    batch_size: int = 64  # images a step, > 0
    seeds: tuple[int, ...] = (0, 1, 2)  # one network an arm each

    def __post_init__(self) -> None:
        for name in ("train", "test", "points", "epochs", "large_epochs", "rate", "large_rate", "batch_size"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)!r}; leave it out.")
        if min(self.tiny_factor, self.large_factor) <= 1 or self.alpha < 0 or not 0 <= self.dropout < 1:
            raise ValueError(
                "factors must be above 1, alpha from 0 and dropout in [0, 1), got "
                f"{self.tiny_factor!r}, {self.large_factor!r}, {self.alpha!r} and {self.dropout!r}."
            )
        if len(self.tiny) != len(STRIDES) or len(self.large) != len(STRIDES):
            raise ValueError(f"tiny and large must be {len(STRIDES)} widths, got {self.tiny}, {self.large}.")

    @classmethod
    def smoke(cls) -> "Config":
        """The same path on few images and a large network that is small."""
        few = {"train": 128, "test": 100, "epochs": 1, "large_epochs": 1, "batch_size": 32, "points": 2}
        return cls(data="mnist5k", large=(8, 12, 16), seeds=(0,), **few)  # type: ignore[arg-type]


def widths_between(base: Sequence[int], factor: float, points: int) -> list[tuple[int, ...]]:
    """`points` networks wider than `base`, the last `factor` times as wide."""
    grown = 1 + (factor - 1) * np.arange(1, points + 1) / points
    return [tuple(round(width * one) for width in base) for one in grown]


def shapes_of(widths: tuple[int, ...], x: Any) -> Any:
    """Of the params of a network."""
    return jax.eval_shape(Convs(widths, STRIDES).init, jax.random.key(0), x)


class Augmented:
    """Trains the base inside the widest, step by step with one of the others; compiled once a width."""

    def __init__(
        self, config: Config, base: tuple[int, ...], factor: float, epochs: int, rate: float, rows: Rows
    ) -> None:
        self.config, self.epochs, self.steps = config, epochs, len(rows) // config.batch_size
        self.widths = widths_between(base, factor, config.points)
        x = rows.values["x"][:1]
        self.small = shapes_of(base, x)
        self.shapes = [shapes_of(widths, x) for widths in self.widths]
        self.optimizer = optax.adam(optax.cosine_decay_schedule(rate, epochs * self.steps))

        def loss(wide: Any, x: Any, y: Any, place: int) -> Any:
            own, drawn = distill.subnet(wide, self.small), distill.subnet(wide, self.shapes[place])
            tiny = cross_entropy(Convs(base, STRIDES).apply(own, x), y)
            wider = cross_entropy(Convs(self.widths[place], STRIDES).apply(drawn, x), y)
            return distill.augmented(tiny, wider, alpha=config.alpha)

        @functools.partial(jax.jit, static_argnames="place", donate_argnums=(0, 1))
        def step(wide: Any, moments: Any, x: Any, y: Any, index: Any, place: int) -> tuple[Any, Any]:
            slope = jax.grad(loss)(wide, x[index], y[index], place)
            change, moments = self.optimizer.update(slope, moments, wide)
            return optax.apply_updates(wide, change), moments

        self.step = step

    def __call__(self, rows: Rows, seed: int) -> Any:
        """The trained base."""
        draw = np.random.default_rng(seed)
        wide = Convs(self.widths[-1], STRIDES).init(jax.random.key(seed), rows.values["x"][:1])
        moments = self.optimizer.init(wide)
        for _ in range(self.epochs):
            order = draw.permutation(len(rows))[: self.steps * self.config.batch_size]
            for index in order.reshape(self.steps, -1):
                place = int(draw.integers(len(self.widths)))
                wide, moments = self.step(wide, moments, rows.values["x"], rows.values["y"], index, place)
        return distill.subnet(wide, self.small)


class Arms:
    """Both networks, each trained in three ways."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.data, self.test = splits(config.data, config.train, config.test)
        self.trainers: dict[str, Callable[[int], Any]] = {}
        self.runs: dict[str, Callable[[Any, Any], Any]] = {}
        both = (
            ("tiny", config.tiny, config.tiny_factor, config.epochs, config.rate),
            ("large", config.large, config.large_factor, config.large_epochs, config.large_rate),
        )
        for name, base, factor, epochs, rate in both:
            augmented = Augmented(config, base, factor, epochs, rate, self.data)
            plain = "baseline" if name == "tiny" else name
            self.trainers[plain] = self.plain(base, epochs, rate, 0.0)
            self.trainers[f"{name}_augmented"] = functools.partial(augmented, self.data)
            self.trainers[f"{name}_dropout"] = self.plain(base, epochs, rate, config.dropout)
            self.runs[name] = jax.jit(Convs(base, STRIDES).apply)

    def plain(self, base: tuple[int, ...], epochs: int, rate: float, dropout: float) -> Callable[[int], Any]:
        """Training alone."""
        model = Convs(base, STRIDES, dropout=dropout)

        def loss(params: Any, rows: Any, key: Any) -> Any:
            logits = model.apply(params, rows["x"], train=True, rngs={"dropout": key})
            return cross_entropy(logits, rows["y"])

        fit = Fit(loss, epochs=epochs, batch=self.config.batch_size, rows=len(self.data), rate=rate)
        return lambda seed: fit(model.init(jax.random.key(seed), self.data.values["x"][:1]), self.data, seed)

    def one(self, seed: int, progress: Progress) -> dict[str, dict[str, float]]:
        """All arms at one seed."""
        arms = {}
        todo = self.trainers.items()
        for name, train in progress.track(todo, f"seed {seed}: networks", total=len(todo)):
            run, params = self.runs[name.partition("_")[0].replace("baseline", "tiny")], train(seed)
            arms[name] = {
                "accuracy": accuracy(functools.partial(run, params), self.test),
                "train_accuracy": accuracy(functools.partial(run, params), self.data),
                "params": float(sum(leaf.size for leaf in jax.tree.leaves(params))),
            }
        return arms


def run(config: Config, *, progress: Progress | None = None) -> Metrics:
    """By arm (`baseline`: the tiny network, `tiny_augmented`, ..., `large_dropout`): percents, params."""
    return by_seed(Arms(config).one, config.seeds, progress=progress)


def no_gain(metrics: Metrics) -> Outcome:
    """Points that augmentation adds to the large network, which should be none."""
    pair = (column(metrics, arm, "accuracy") for arm in ("large_augmented", "large"))
    gaps = paired(lambda a, b: a - b, *pair)
    found = Outcome.above(gaps)
    return Outcome.of(gaps, found.spread is not None and not found.holds, found.detail)


NETAUG = functools.partial(
    Claim, paper="Cai et al., NetAug, 2022", arxiv="2110.08890", unit="points", known="memory"
)
CLAIMS = (
    NETAUG(
        id="netaug-tiny",
        where="table 1",
        metric="accuracy that augmentation adds to the tiny network",
        published="1.3 to 2.2",
        rule="mean gap above 0 by 2 standard errors",
        check=better("tiny_augmented", "baseline"),
    ),
    NETAUG(
        id="netaug-large",
        where="table 2",
        metric="accuracy that augmentation adds to the large network",
        published="below 0",
        rule="mean gap not above 0 by more than 2 standard errors",
        check=no_gain,
    ),
    NETAUG(
        id="netaug-tiny-dropout",
        where="figure 2",
        metric="accuracy of the tiny network above the same with dropout",
        published="above 0",
        rule="mean gap above 0 by 2 standard errors",
        check=better("baseline", "tiny_dropout"),
    ),
    NETAUG(
        id="netaug-large-dropout",
        where="figure 2",
        metric="accuracy of the large network with dropout above the same without",
        published="above 0",
        rule="mean gap not below 0 by more than 2 standard errors",
        check=not_below("large_dropout", "large"),
    ),
)


def tables(record: Any) -> list[Any]:
    """Accuracies of both networks, trained in each way."""
    from rich.table import Table

    table = Table(title=f"Augmentation on {record.config['data']}")
    for title in ("network", "params", "training, %", "test, %"):
        table.add_column(title, justify="left" if title == "network" else "right")
    for name, label in LABELS.items():
        size, train, test = (
            average(record.metrics, name, metric) for metric in ("params", "train_accuracy", "accuracy")
        )
        table.add_row(label, f"{size:,.0f}", f"{train:.2f}", f"{test:.2f}")
    return [table]


def figures(record: Any) -> dict[str, Any]:
    """Points above plain training, of every seed."""
    from experiments.frame import style

    figure, both = style.figure(columns=2, width=9.0, height=3.2)
    for axes, base, plain in zip(both, ("tiny", "large"), ("baseline", "large"), strict=True):
        for i, way in enumerate(("augmented", "dropout")):
            pair = (column(record.metrics, arm, "accuracy") for arm in (f"{base}_{way}", plain))
            gaps = list(paired(lambda a, b: a - b, *pair).values())
            axes.plot(gaps, [i] * len(gaps), "o", color=style.BASELINE, alpha=0.6)
            axes.plot([sum(gaps) / len(gaps)], [i], "|", markersize=18)
        axes.axvline(0, color=style.BASELINE, linewidth=1)
        axes.set_yticks([0, 1], ["augmented", "dropout"] if base == "tiny" else ["", ""])
        axes.set_ylim(-0.5, 1.5)
        axes.set(xlabel="points above plain training", title=f"The {base} network")
    return {"netaug": figure}


if __name__ == "__main__":
    main()
