"""Lottery ticket: a sparse network that starts from its own early weights learns what the dense one learns.

Claim: Frankle and Carbin, 2019, arXiv:1803.03635, Figures 1 and 4: of LeNet-300-100 on MNIST, pruned in
rounds and reset each time to its first weights, a tenth to a fifth of the weights trains to the accuracy of
the whole; with other first weights the same masks do worse.

    python -m experiments.lottery_ticket

Ours is on Fashion-MNIST, with the paper's Adam (1.2e-3), batch of 60 and rounds (a fifth of what is left; of
the last layer a tenth), and far shorter training: each arm is trained for `epochs` from its first weights.
Arms at each sparsity: the ticket, its masks over newly drawn weights, as many weights of each layer chosen at
random with the first values, and tickets that go back to the weights after `rewind` epochs (arXiv:1903.01611)
and train for the rest. The paper stops early by a validation set; here all arms train equally long. Cost:
some 8 minutes.

Seen: tickets beat the dense network, which three epochs leave undertrained, down to 3 % of the weights, and
2.5 to 3 points above both controls.
"""

import dataclasses
import functools
import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

import jax
import optax
from jaxtyping import Array, Bool

from efficient import State
from efficient.prune import Pruned
from efficient.prune.lottery import all_kept, fixed_masks, next_masks, ticket
from experiments.frame import (
    Claim,
    Metrics,
    Outcome,
    Progress,
    by_seed,
    column,
    deviation,
    main,
    mean,
    paired,
)
from experiments.frame.bench import Bench, Weights, require_data

Masks = Mapping[str, Bool[Array, "..."]]
LAST = "classifier/kernel"  # is pruned at half the rate, as in the paper
ARMS = {
    "ticket": "ticket",
    "reinitialized": "its masks, new weights",
    "random": "random masks, first weights",
    "rewound": "ticket, rewound later",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """What is run."""

    data: str = "fashion_mnist"  # mnist5k, fashion_mnist, digits, idx:FOLDER or folder:FOLDER
    train: int = 30_000  # training images used; 0 is all
    epochs: int = 3  # of each training, > 0
    rewind: int = 1  # epochs after which late rewinding starts, >= 0 and below `epochs`; 0: no such arm
    per_round: float = 0.2  # fraction of what is left that a round prunes, in (0, 1)
    rounds: int = 16  # of pruning, > 0; 16 leave 2.8 %
    shown: tuple[int, ...] = (3, 6, 8, 9, 10, 12, 14, 16)  # rounds after which the controls are trained
    learning_rate: float = 1.2e-3  # of Adam, > 0
    batch_size: int = 60  # images a step, > 0
    seeds: tuple[int, ...] = (0, 1, 2)  # one whole run each

    def __post_init__(self) -> None:
        for name in ("epochs", "rounds", "learning_rate", "batch_size"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)!r}; leave it out.")
        if not 0 < self.per_round < 1:
            raise ValueError(f"per_round must be in (0, 1), got {self.per_round!r}; the paper's is 0.2.")
        if not 0 <= self.rewind < self.epochs:
            raise ValueError(
                f"rewind must be from 0 to {self.epochs - 1}, got {self.rewind!r}; the rest is trained."
            )
        if not self.shown or not all(1 <= round_ <= self.rounds for round_ in self.shown):
            raise ValueError(f"shown must be rounds from 1 to {self.rounds}, got {self.shown!r}; e.g. 5,10.")
        require_data(self.data)

    @classmethod
    def smoke(cls) -> "Config":
        """The same path: few images, two rounds."""
        return cls(data="digits", train=240, epochs=2, rounds=2, shown=(2,), per_round=0.6, seeds=(0,))


def pruned(trained: Any, masks: Masks, round_: int, per_round: float) -> dict[str, Any]:
    """The masks after a round: what is left of every layer, of the last one pruned at half the rate."""
    others = {path: mask for path, mask in masks.items() if path != LAST}
    last = {LAST: masks[LAST]}
    return {
        **next_masks(trained, others, 1 - (1 - per_round) ** round_),
        **next_masks(trained, last, 1 - (1 - per_round / 2) ** round_),
    }


def shuffled(masks: Masks, key: jax.Array) -> dict[str, Any]:
    """As many weights of each layer, anywhere."""
    keys = jax.random.split(key, len(masks))
    return {
        path: jax.random.permutation(one, mask.ravel()).reshape(mask.shape)
        for one, (path, mask) in zip(keys, sorted(masks.items()), strict=True)
    }


def zeros(masks: Masks) -> float:
    """Percent of the weights under masks that are gone."""
    return 100 * (1 - sum(int(m.sum()) for m in masks.values()) / sum(m.size for m in masks.values()))


class Arms:
    """LeNet-300-100 whole, as tickets, and as their controls."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.bench = Bench.make(
            "lenet_300_100", config.data, batch_size=config.batch_size, train=config.train
        )
        every = all_kept(jax.eval_shape(self.bench.start, 0).params)
        self.fit = self.bench.trainer(fixed_masks(every), optax.adam(config.learning_rate))

    def trained(self, early: Any, masks: Masks, seed: int, epochs: int) -> tuple[Any, float]:
        """The weights after so many epochs under masks, and their accuracy."""
        start = Weights(ticket(early, masks), {}, State({}, Pruned(dict(masks), {})))
        params = self.fit(start, seed, epochs).params
        return params, self.bench.accuracy(ticket(params, masks))

    def tickets(self, early: Any, seed: int, epochs: int, watch: Any) -> list[tuple[Masks, float]]:
        """By round, from 0: the masks and the accuracy of rounds that go back to `early`."""
        masks: Masks = all_kept(early)
        made: list[tuple[Masks, float]] = []
        for round_ in watch:
            params, accuracy = self.trained(early, masks, seed, epochs)
            made.append((masks, accuracy))
            masks = pruned(params, masks, round_ + 1, self.config.per_round)
        return made

    def run(self, seed: int, progress: Progress) -> dict[str, dict[str, Any]]:
        """All arms at one seed: accuracy by round."""
        config, first = self.config, self.bench.start(seed).params
        rounds = range(config.rounds + 1)
        own = self.tickets(first, seed, config.epochs, progress.track(rounds, "tickets"))
        accuracies: dict[str, dict[int, float]] = {"ticket": {r: own[r][1] for r in config.shown}}
        drawn = self.bench.start(seed + 10_000).params
        for name in ("reinitialized", "random"):
            accuracies[name] = {}
        for round_ in progress.track(config.shown, "controls"):
            masks = own[round_][0]
            anywhere = shuffled(masks, jax.random.key(seed + 20_000 + round_))
            _, accuracies["reinitialized"][round_] = self.trained(drawn, masks, seed, config.epochs)
            _, accuracies["random"][round_] = self.trained(first, anywhere, seed, config.epochs)
        if config.rewind:
            later, _ = self.trained(first, all_kept(first), seed, config.rewind)
            rest = config.epochs - config.rewind
            late = self.tickets(later, seed + 1000, rest, progress.track(rounds, "rewound tickets"))
            accuracies["rewound"] = {r: late[r][1] for r in config.shown}
        sparsity = {r: zeros(own[r][0]) for r in config.shown}
        arms = {arm: summary(values, sparsity) for arm, values in accuracies.items()}
        return {"baseline": {"accuracy": own[0][1]}, **arms}


BANDS = {"eighty": (80, 90), "ninety_five": (95, 100)}  # percent of the weights gone, both ends within


def summary(accuracy: Mapping[int, float], sparsity: Mapping[int, float]) -> dict[str, Any]:
    """The curve by round, and its mean over each band that has a round."""
    found: dict[str, Any] = {}
    for band, (low, high) in BANDS.items():
        if within := [accuracy[r] for r in accuracy if low <= sparsity[r] <= high]:
            found[f"{band}_accuracy"] = mean(within)
    return {
        **found,
        "curve": [{"round": r, "sparsity": sparsity[r], "accuracy": accuracy[r]} for r in accuracy],
    }


def run(config: Config, *, progress: Progress | None = None) -> Metrics:
    """By arm (`baseline`, `ticket`, ...): accuracies in percent."""
    return by_seed(Arms(config).run, config.seeds, progress=progress)


def better(other: str, band: str, ours: str = "ticket") -> Callable[[Metrics], Outcome]:
    """How much better the tickets are than another arm, on average over the rounds of a band."""

    def check(metrics: Metrics) -> Outcome:
        both = (column(metrics, arm, f"{band}_accuracy") for arm in (ours, other))
        return Outcome.above(paired(operator.sub, *both))

    return check


def as_good_as_dense(metrics: Metrics) -> Outcome:
    """What tickets lose against the whole network."""
    tickets = column(metrics, "ticket", "eighty_accuracy")
    return Outcome.at_most(paired(operator.sub, column(metrics, "baseline", "accuracy"), tickets), 0.5)


TICKETS = functools.partial(
    Claim,
    paper="Frankle and Carbin, The Lottery Ticket Hypothesis, 2019",
    arxiv="1803.03635",
    where="LeNet-300-100 on MNIST",
    unit="points",
    known="memory",
)
GAP = "mean gap above 0 by 2 standard errors"
CLAIMS = (
    TICKETS(
        id="ticket-reinitialized-80",
        metric="accuracy of tickets with 80 to 90 % of the weights gone above their masks over new weights",
        published="above 0",
        rule=GAP,
        check=better("reinitialized", "eighty"),
    ),
    TICKETS(
        id="ticket-reinitialized-95",
        metric="accuracy of tickets with 95 % or more of the weights gone above their masks over new weights",
        published="above 0",
        rule=GAP,
        check=better("reinitialized", "ninety_five"),
    ),
    TICKETS(
        id="ticket-random-80",
        metric="accuracy of tickets with 80 to 90 % of the weights gone above random masks, first weights",
        published="above 0",
        rule=GAP,
        check=better("random", "eighty"),
    ),
    TICKETS(
        id="ticket-rewound-80",
        paper="Frankle et al., Stabilizing the Lottery Ticket Hypothesis, 2019",
        arxiv="1903.01611",
        where="",
        metric="accuracy of rewound tickets, 80 to 90 % of the weights gone, above masks over new weights",
        published="above 0",
        rule=GAP,
        check=better("reinitialized", "eighty", ours="rewound"),
    ),
    TICKETS(
        id="ticket-dense",
        metric="accuracy that tickets with 80 to 90 % of the weights gone lose against the whole network",
        published="at most 0",
        rule="mean loss at most 0.5 points, all trained equally long",
        check=as_good_as_dense,
    ),
)


def points(record: Any, arm: str, key: str) -> list[list[float]]:
    """One number of each round shown, then by seed."""
    curves = [values["curve"] for values in record.metrics[arm].values()]
    return [[point[key] for point in same] for same in zip(*curves, strict=True)]


def tables(record: Any) -> list[Any]:
    """Accuracy by sparsity and arm."""
    from rich.table import Table

    dense = mean(column(record.metrics, "baseline", "accuracy").values())
    table = Table(title=f"Tickets: LeNet-300-100 on {record.config['data']}, accuracy %; dense {dense:.2f}")
    table.add_column("weights gone, %")
    for values in points(record, "ticket", "sparsity"):
        table.add_column(f"{mean(values):.1f}", justify="right")
    for arm, label in ARMS.items():
        if arm in record.metrics:
            table.add_row(label, *(f"{mean(a):.2f}" for a in points(record, arm, "accuracy")))
    return [table]


def figures(record: Any) -> dict[str, Any]:
    """Accuracy against the weights left, by arm, mean and standard error over seeds."""
    from experiments.frame import style

    figure, axes = style.figure(width=6.8, height=4.2)
    left = [100 - mean(values) for values in points(record, "ticket", "sparsity")]
    for arm, label in ARMS.items():
        if arm not in record.metrics:
            continue
        values = points(record, arm, "accuracy")
        middle = [mean(v) for v in values]
        errors = [(deviation(v) or 0.0) / math.sqrt(len(v)) for v in values]
        (line,) = axes.plot(left, middle, "o-", label=label)
        low, high = ([m + sign * e for m, e in zip(middle, errors, strict=True)] for sign in (-1, 1))
        axes.fill_between(left, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
    axes.axhline(
        mean(column(record.metrics, "baseline", "accuracy").values()),
        color=style.BASELINE,
        linewidth=1,
        label="dense, trained as long",
    )
    axes.set(
        xscale="log",
        xlabel="weights left, % (log)",
        ylabel="test accuracy, %",
        title=f"LeNet-300-100 on {record.config['data']}",
    )
    ticks = [tick for tick in (2, 3, 5, 10, 20, 50, 100) if min(left) / 1.2 <= tick <= 1.2 * max(left)]
    axes.set_xticks(ticks, labels=[str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.invert_xaxis()
    axes.legend(loc="lower left")
    return {"tickets": figure}


if __name__ == "__main__":
    main()
