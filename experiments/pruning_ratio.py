"""Prune and retrain in rounds: LeNets keep a twelfth of their weights; what L1, L2 and rounds do for it.

Claim: Han et al., 2015, arXiv:1506.02626, Table 1: LeNet-300-100 and LeNet-5 lose eleven of twelve weights on
MNIST, and no accuracy. Figure 5 (AlexNet): without retraining L1 is better than L2, with retraining L2 is
better, and pruning in rounds is best.

    python -m experiments.pruning_ratio

Ours are on Fashion-MNIST, a part of it for LeNet-5, each layer at the paper's rates (here exact
counts, there thresholds); the curves are of LeNet-300-100, every layer at its rate to a power. At one
fraction, one shot is retrained for as many epochs, in the same phases, as the rounds that lead there. The
baseline is trained for as many epochs as the longest arm; losses are against the better of its accuracies
before and after. Adam, the penalty in its loss, where the paper has SGD. Cost: some 25 minutes.

Seen: a twelfth of the weights costs 0.43 and 0.45 points (two epochs a round, on fewer images, cost 1.5 and
2.1). As in the figure, L1 is better until retrained and rounds are best, by 3 points where 0.7 % stay; L1
and L2 retrained are alike.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax.numpy as jnp
import optax

from efficient import Transform, at, chain, identity
from efficient.core.paths import flatten
from efficient.prune import magnitude
from efficient.prune.regularizers import l1, l2
from experiments.frame import (
    Claim,
    Metrics,
    Outcome,
    Progress,
    better,
    by_seed,
    column,
    main,
    mean,
    paired,
)
from experiments.frame.bench import Bench, Weights, require_data

Network = Literal["lenet_300_100", "lenet5"]
CURVES: Network = "lenet_300_100"  # the network of the curves
CURVE = f"{CURVES}.mean_accuracy"
RATES: Mapping[str, Mapping[str, float]] = {  # the fraction of each layer's weights that stays
    "lenet_300_100": {"dense0": 0.08, "dense1": 0.09, "classifier": 0.26},
    "lenet5": {"conv0": 0.66, "conv1": 0.12, "dense": 0.08, "classifier": 0.19},
}
PENALTIES: Mapping[str, Callable[[Any], Any]] = {"L2": l2, "L1": l1}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """What is run."""

    data: str = "fashion_mnist"  # mnist5k, fashion_mnist, idx:FOLDER or folder:FOLDER of 28x28 images
    networks: tuple[Network, ...] = ("lenet_300_100", "lenet5")  # which to prune
    train: int = 0  # training images of LeNet-300-100; 0 is all
    conv_train: int = 12_800  # training images of LeNet-5; 0 is all
    epochs: int = 8  # of dense training, > 0
    retrain: int = 6  # epochs after each round of pruning, > 0
    powers: tuple[float, ...] = (0.5, 1.0, 1.5, 2.0)  # of the rates, one a round, rising; 1 is the paper's
    l2: float = 1e-4  # the strength of 1/2 sum w^2, >= 0
    l1: float = 1e-5  # the strength of sum |w|, >= 0
    batch_size: int = 64  # images a step, > 0
    seeds: tuple[int, ...] = (0, 1, 2)  # one whole run each

    def __post_init__(self) -> None:
        for name in ("epochs", "retrain", "batch_size"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)!r}; leave it out.")
        if 1.0 not in self.powers or tuple(sorted(set(self.powers))) != self.powers or self.powers[0] <= 0:
            raise ValueError(
                f"powers must be positive, rise and hold 1, got {self.powers!r}; e.g. --powers=0.5,1."
            )
        for name in ("l2", "l1"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be from 0, got {getattr(self, name)!r}; 0 is no penalty.")
        if not self.networks:
            raise ValueError("networks must be one or more, got (); leave it out for both.")
        require_data(self.data)

    @classmethod
    def smoke(cls) -> "Config":
        """The same path: few images, one epoch of each kind."""
        return cls(
            data="mnist5k", train=256, conv_train=128, epochs=1, retrain=1, powers=(0.5, 1.0), seeds=(0,)
        )


def pruning(name: str, power: float) -> Transform:
    """Every layer of a network pruned to its rate to the `power`: at 0 nothing goes."""
    rates = RATES[name].items()
    return chain(*(at(f"{layer}/kernel", magnitude(1 - rate**power)) for layer, rate in rates))


class Arms:
    """One network's arms. Compiled programs are made once and serve every seed."""

    def __init__(self, name: Network, config: Config) -> None:
        train = config.train if name == CURVES else config.conv_train
        self.name, self.config, self.has_curves = name, config, name == CURVES
        self.powers = tuple(p for p in config.powers if self.has_curves or p <= 1)
        self.penalties = tuple(PENALTIES) if self.has_curves else ("L2",)
        self.bench = Bench.make(name, config.data, batch_size=config.batch_size, train=train)
        self.dense, self.phase = {}, {}
        for kind in self.penalties:
            self.dense[kind] = self.trainer(kind, identity(), config.epochs)
            self.phase[kind] = self.trainer(kind, pruning(name, 1), config.retrain)

    def trainer(self, kind: str, transform: Transform, epochs: int) -> Callable[[Weights, int], Weights]:
        """Adam, its rate falling from 1e-3 to 0 on a cosine, with a penalty in its loss."""
        schedule = optax.cosine_decay_schedule(1e-3, epochs * self.bench.steps_per_epoch)
        strength, norm = getattr(self.config, kind.lower()), PENALTIES[kind]
        train = self.bench.trainer(
            transform, optax.adam(schedule), penalty=lambda weights: strength * norm(weights)
        )
        return lambda weights, seed: train(weights, seed, epochs)

    def retrained(self, kind: str, params: Any, power: float, seeds: range) -> Any:
        """Pruned once, then trained for a phase a seed."""
        t = pruning(self.name, power)
        weights = Weights(params, {}, t.init(params))
        for seed in seeds:
            weights = self.phase[kind](weights, seed)
        return t.apply(weights.params, weights.compress)

    def point(self, power: float, params: Any) -> dict[str, float]:
        """What is kept, in percent of the kernels' weights, and the accuracy."""
        kernels = [v for path, v in flatten(params)[0].items() if path.endswith("kernel")]
        kept = sum(int(jnp.sum(v != 0)) for v in kernels) / sum(v.size for v in kernels)
        return {"power": power, "kept": 100 * kept, "accuracy": self.bench.accuracy(params)}

    def unretrained(self, params: Any) -> list[dict[str, float]]:
        """The curve of a network pruned and left so."""
        pruned = [(p, pruning(self.name, p)) for p in self.powers]
        return [self.point(p, t.apply(params, t.init(params))) for p, t in pruned]

    def one_shot(self, kind: str, params: Any, seed: int, progress: Progress) -> list[dict[str, float]]:
        """The curve of networks pruned once, retrained as long as rounds to the same fraction take."""
        made = []
        for round_, power in enumerate(progress.track(self.powers, f"{kind}: retrained"), 1):
            made.append(self.point(power, self.retrained(kind, params, power, phases(seed, round_))))
        return made

    def iterative(self, params: Any, seed: int, progress: Progress) -> list[dict[str, float]]:
        """The curve of rounds of pruning and retraining under L2."""
        made = []
        for round_, power in enumerate(progress.track(self.powers, "L2: rounds"), 1):
            params = self.retrained("L2", params, power, phases(seed, round_)[-1:])
            made.append(self.point(power, params))
        return made

    def run(self, seed: int, progress: Progress) -> dict[str, dict[str, Any]]:
        """All arms at one seed: arm -> metric -> value."""
        dense = {
            kind: train(self.bench.start(seed), seed).params
            for kind, train in progress.track(self.dense.items(), "dense", total=len(self.dense))
        }
        longer = self.retrained("L2", dense["L2"], 0, phases(seed, len(self.powers)))
        first, later = self.bench.accuracy(dense["L2"]), self.bench.accuracy(longer)
        best = max(first, later)
        curves = {kind: self.unretrained(params) for kind, params in dense.items()}
        if self.has_curves:
            for kind, params in dense.items():
                curves[f"{kind}_retrained"] = self.one_shot(kind, params, seed, progress)
        curves["iterative"] = self.iterative(dense["L2"], seed, progress)
        arms: dict[str, dict[str, Any]] = {arm: summary(curve, best) for arm, curve in curves.items()}
        return {"baseline": {"accuracy": best, "first_accuracy": first, "later_accuracy": later}, **arms}


def phases(seed: int, rounds: int) -> range:
    """The seeds of so many phases of retraining."""
    return range(seed + 1000, seed + 1000 * (rounds + 1), 1000)


def summary(curve: list[dict[str, float]], best: float) -> dict[str, Any]:
    """The curve, its mean, and the points at the paper's rates and at the smallest fraction."""
    (paper,) = (point for point in curve if point["power"] == 1)
    return {
        "kept": paper["kept"],
        "accuracy": paper["accuracy"],
        "loss": best - paper["accuracy"],
        "mean_accuracy": mean([point["accuracy"] for point in curve]),
        "least_accuracy": curve[-1]["accuracy"],
        "curve": [{**point, "loss": best - point["accuracy"]} for point in curve],
    }


def run(config: Config, *, progress: Progress | None = None) -> Metrics:
    """By arm (`baseline`, `L2`, `L1_retrained`, `iterative`, ...): `<network>.<metric>`, % and points."""
    networks = {name: Arms(name, config) for name in config.networks}

    def one(seed: int, watch: Progress) -> dict[str, dict[str, Any]]:
        arms: dict[str, dict[str, Any]] = {}
        for name in watch.track(config.networks, f"seed {seed}: networks"):
            made = watch.part(f"{name}-{seed}", functools.partial(networks[name].run, seed, watch))
            for arm, values in made.items():
                arms.setdefault(arm, {}).update({f"{name}.{key}": value for key, value in values.items()})
        return arms

    return by_seed(one, config.seeds, progress=progress)


def twelve_times(name: str) -> Callable[[Metrics], Outcome]:
    """Accuracy lost in rounds at the paper's rates."""

    def check(metrics: Metrics) -> Outcome:
        kept = mean(column(metrics, "iterative", f"{name}.kept").values())
        found = Outcome.at_most(column(metrics, "iterative", f"{name}.loss"), 0.5)
        return dataclasses.replace(found, detail=f"{100 / kept:.1f} times fewer weights")

    return check


def without_retraining(metrics: Metrics) -> Outcome:
    """Points lost at once beyond five times those lost in rounds, of which 0.1 is the least that counts."""
    name = f"{CURVES}.loss"
    at_once, in_rounds = column(metrics, "L2", name), column(metrics, "iterative", name)
    found = Outcome.above(paired(lambda a, b: a - 5 * max(b, 0.1), at_once, in_rounds))
    lost = f"{mean(at_once.values()):.2f} and {mean(in_rounds.values()):+.2f} points"
    return dataclasses.replace(found, detail=f"at once and in rounds {lost}; {found.detail}")


OTHERS = ("L2", "L1", "L1_retrained", "L2_retrained")


def rounds_are_best(metrics: Metrics) -> Outcome:
    """How much better rounds are than the best other arm of the seed, at the smallest fraction."""
    ours = column(metrics, "iterative", f"{CURVES}.least_accuracy")
    others = [column(metrics, arm, f"{CURVES}.least_accuracy") for arm in OTHERS]
    return Outcome.above(paired(lambda first, *rest: first - max(rest), ours, *others))


HAN = functools.partial(
    Claim,
    paper="Han et al., Learning both Weights and Connections, 2015",
    arxiv="1506.02626",
    unit="points",
    known="memory",
)
CLAIMS = (
    *(
        HAN(
            id=f"pruning-ratio-{name.replace('_', '-')}",
            where="Table 1, on MNIST",
            metric=f"accuracy that {title} loses with a twelfth of its weights, layers at the paper's rates",
            published=published,
            rule="mean loss at most 0.5 points",
            check=twelve_times(name),
        )
        for name, title, published in (
            ("lenet_300_100", "LeNet-300-100", -0.05),
            ("lenet5", "LeNet-5", -0.03),
        )
    ),
    HAN(
        id="pruning-ratio-retraining",
        where="section 3.4",
        metric="loss of one shot without retraining, beyond 5 times that of rounds, at the paper's rates",
        published="above 0",
        known="bar",
        rule="mean above 0 by 2 standard errors; a loss of rounds below 0.1 points counts as 0.1",
        check=without_retraining,
    ),
    HAN(
        id="pruning-ratio-l1",
        where="Figure 5, AlexNet",
        metric="accuracy of L1 above L2, both without retraining, mean over the fractions kept",
        published="above 0",
        rule="mean gap above 0 by 2 standard errors",
        check=better("L1", "L2", CURVE),
    ),
    HAN(
        id="pruning-ratio-l2",
        where="Figure 5, AlexNet",
        metric="accuracy of L2 above L1, both retrained, mean over the fractions kept",
        published="above 0",
        rule="mean gap above 0 by 2 standard errors",
        check=better("L2_retrained", "L1_retrained", CURVE),
    ),
    HAN(
        id="pruning-ratio-rounds",
        where="Figure 5, AlexNet",
        metric="accuracy of pruning in rounds above the best other arm, at the smallest fraction kept",
        published="above 0",
        rule="mean gap above 0 by 2 standard errors",
        check=rounds_are_best,
    ),
)

LABELS = {
    "L2": "L2, not retrained",
    "L1": "L1, not retrained",
    "L1_retrained": "L1, retrained",
    "L2_retrained": "L2, retrained",
    "iterative": "L2, in rounds",
}


def points(record: Any, arm: str, key: str) -> list[list[float]]:
    """One number of each point of a curve, by fraction, then by seed."""
    curves = [values[f"{CURVES}.curve"] for values in record.metrics[arm].values()]
    return [[point[key] for point in same] for same in zip(*curves, strict=True)]


def tables(record: Any) -> list[Any]:
    """Each network at the paper's rates; the curves."""
    from rich.table import Table

    def average(arm: str, metric: str) -> str:
        return f"{mean(column(record.metrics, arm, metric).values()):.2f}"

    whole = Table(title=f"A twelfth of the weights: {record.config['data']}, accuracy %")
    for title in ("network", "kept %", "dense", "one shot, not retrained", "in rounds", "loss, points"):
        whole.add_column(title, justify="left" if title == "network" else "right")
    for name in record.config["networks"]:
        cells = [average(arm, f"{name}.accuracy") for arm in ("baseline", "L2", "iterative")]
        whole.add_row(
            name, average("iterative", f"{name}.kept"), *cells, average("iterative", f"{name}.loss")
        )
    if CURVES not in record.config["networks"]:
        return [whole]
    curves = Table(title=f"{CURVES}: accuracy % by the fraction kept")
    curves.add_column("kept %")
    for kept in points(record, "iterative", "kept"):
        curves.add_column(f"{mean(kept):.2f}", justify="right")
    for arm, label in LABELS.items():
        curves.add_row(label, *(f"{mean(a):.2f}" for a in points(record, arm, "accuracy")))
    return [whole, curves]


def figures(record: Any) -> dict[str, Any]:
    """Figure 5: accuracy lost against the fraction kept, by arm, mean and range over seeds."""
    from experiments.frame import style

    if CURVES not in record.config["networks"]:
        return {}
    figure, axes = style.figure(width=6.8, height=4.2)
    for arm, label in LABELS.items():
        kept = [mean(values) for values in points(record, arm, "kept")]
        losses = [[-loss for loss in values] for values in points(record, arm, "loss")]
        axes.plot(kept, [mean(v) for v in losses], "o--" if arm in PENALTIES else "o-", label=label)
        axes.fill_between(kept, [min(v) for v in losses], [max(v) for v in losses], alpha=0.15, linewidth=0)
    axes.axhline(0, color=style.BASELINE, linewidth=1)
    axes.set(
        xscale="log",
        xlabel="weights kept, % (log)",
        ylabel="accuracy against dense, points",
        title=f"LeNet-300-100 on {record.config['data']}",
    )
    axes.set_yscale("symlog", linthresh=1)
    axes.legend(loc="upper left", ncols=2)
    return {"figure5": figure}


if __name__ == "__main__":
    main()
