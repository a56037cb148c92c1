"""One table of pruning and sparse training: seven methods from the same weights, with the same steps.

Claim: Lee et al., JaxPruner, 2023, arXiv:2304.14082, and the table of its repository: on ResNet-50
(ImageNet), pruning by magnitude along a ramp is best, straight-through two points below; of what is sparse
from the start RigL and SET come near; a mask that never moves and pruning at random are four and five points
behind.

    python -m experiments.jaxpruner_table

Ours is the CIFAR family's ResNet-8 of half the width on 6,400 images of Fashion-MNIST at 14 x 14 pixels, by
SGD with momentum. All methods prune all kernels, with densities by Erdos-Renyi-Kernel but for `global
magnitude`; what prunes follows one cubic ramp, straight-through as well; what is sparse from the start moves
its masks up to the ramp's end. Saliency is left out. The sparsity is a value in the state of each method: one
program a method serves all sparsities and seeds. Batch, ramp and how often masks move were settled on seed 0,
which is not judged: first, with half the steps and a ramp to three quarters of them, magnitude and RigL were
there 1.0 and 1.5 points below static at 95 %. Cost: some 12 minutes.
"""

import dataclasses
import functools
import itertools
import math
import operator
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import UInt8

from efficient import State, Transform, at, lift
from efficient.core.paths import flatten
from efficient.data import Dataset, load
from efficient.models.resnet import cifar_resnet
from efficient.prune import (
    magnitude,
    prune,
    regrown,
    rigl,
    sparse_evolutionary,
    static_sparse,
    straight_through,
)
from efficient.prune.allocations import erdos_renyi
from efficient.prune.prune import Schedule
from efficient.prune.scores import absolute, random
from efficient.train import classifier
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
    show,
)
from experiments.frame.bench import Bench, Trainer, Weights, require_data
from experiments.sparse_training import arm_of, until

PUBLISHED: Mapping[str, float] = {  # ResNet-50, %; the dense network has 76.67
    "random": 70.192,
    "magnitude": 75.532,
    "global_magnitude": 75.486,
    "straight_through": 73.542,
    "static": 71.344,
    "set": 74.566,
    "rigl": 74.752,
}
PRUNED = ("random", "magnitude", "global_magnitude", "straight_through")  # along the ramp
GROWN = ("set", "rigl")  # whose masks move


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """What is run."""

    data: str = "fashion_mnist"  # mnist5k, fashion_mnist, digits, idx:FOLDER or folder:FOLDER
    pool: int = 2  # so many pixels a side become one, their mean; 1 leaves images as they are
    train: int = 6_400  # training images used, and at most as many of the test; 0 is all
    depth: int = 8  # layers of the network, 6 n + 2
    width: float = 0.5  # multiplies its channels, 16, 32 and 64
    sparsities: tuple[float, ...] = (0.8, 0.9, 0.95)  # each in (0, 1), rising; 0.95 has claims
    methods: tuple[str, ...] = ()  # keys of PUBLISHED; empty is all
    epochs: int = 5  # of every arm, > 0
    begin: float = 0.1  # of the steps, where the ramp begins, in [0, end)
    end: float = 0.6  # of the steps, where the ramp ends and masks stay, in (begin, 1)
    prune_every: int = 10  # steps between two masks on the ramp, > 0
    move_every: int = 50  # steps between two moves of RigL and SET, > 0
    fraction: float = 0.3  # of the active weights that they move (RigL: at first), in (0, 1]
    rate: float = 0.1  # of learning at first; falls to 0 on a cosine, > 0
    batch_size: int = 32  # images a step, > 0
    seeds: tuple[int, ...] = (1, 2, 3)  # one whole run each; settings were chosen on 0

    def __post_init__(self) -> None:
        for name in ("pool", "width", "epochs", "prune_every", "move_every", "rate", "batch_size"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)!r}; leave it out.")
        if not 0 <= self.begin < self.end < 1:
            raise ValueError(
                f"begin and end must be 0 <= begin < end < 1, got {self.begin!r} and {self.end!r}; "
                "e.g. --begin=0.1 --end=0.6."
            )
        rising = tuple(sorted(set(self.sparsities)))
        if not rising or rising != self.sparsities or not 0 < rising[0] <= rising[-1] < 1:
            raise ValueError(
                f"sparsities must rise within (0, 1), got {self.sparsities!r}; e.g. --sparsities=0.9,0.95."
            )
        if unknown := sorted(set(self.methods) - set(PUBLISHED)):
            raise ValueError(
                f"methods must be among {list(PUBLISHED)}, got {unknown!r}; leave it out for all of them."
            )
        require_data(self.data)

    @classmethod
    def smoke(cls) -> "Config":
        """The same path: dense and one method on 8 x 8 digits, four steps."""
        return cls(
            data="digits", pool=1, train=64, batch_size=16, width=0.25, epochs=1, begin=0.0, end=0.7,
            prune_every=1, move_every=2, sparsities=(0.8,), seeds=(0,),
            methods=("magnitude",),
        )  # fmt: skip


class Aimed(NamedTuple):
    """`State.fixed` of `aimed`."""

    inner: Any  # of the transform that it makes
    final: jax.Array  # float32 [], the sparsity at which the schedule arrives


def aimed(make: Callable[[Schedule], Transform], final: float, ramp: Schedule) -> Transform:
    """`make(step -> final * ramp(step))`, with `final` in its state: updates are one program for all finals.

    Args:
        make: a transform from a schedule of its sparsity.
        final: in [0, 1); only `init` looks at it.
        ramp: step -> in [0, 1], the part of `final` that is reached.
    """

    def inner(goal: Any) -> Transform:
        return make(lambda step: goal * ramp(step))

    def init(params: Any, *, stats: Any = None, key: Any = None) -> State:
        state = inner(final).init(params, stats=stats, key=key)
        return State(state.train, Aimed(state.fixed, jnp.asarray(final, jnp.float32)))

    def update(state: State, params: Any, *, grads: Any = None, step: Any) -> State:
        goal, was = state.fixed.final, State(state.train, state.fixed.inner)
        now = inner(goal).update(was, params, grads=grads, step=step)
        return State(now.train, Aimed(now.fixed, goal))

    def apply(params: Any, state: State) -> Any:
        return inner(final).apply(params, State(state.train, state.fixed.inner))

    return Transform(init, update, apply, apply, name=f"aimed({inner(final)!r})")


def methods(config: Config, steps: int) -> dict[str, Callable[[float], Transform]]:
    """By name, from a sparsity: transforms whose updates are one program for all sparsities."""
    erk, every, move = erdos_renyi(), config.prune_every, config.move_every
    begin, end = math.floor(config.begin * steps), math.ceil(config.end * steps)
    ramp = optax.polynomial_schedule(0.0, 1.0, 3, transition_steps=end - begin, transition_begin=begin)
    made: dict[str, Callable[[Schedule], Transform]] = {
        "random": lambda goal: prune(random(), goal, allocation=erk, every=every),
        "magnitude": lambda goal: prune(absolute(), goal, allocation=erk, every=every),
        "global_magnitude": lambda goal: magnitude(goal, scope="global", every=every),
        "straight_through": lambda goal: straight_through(goal, allocation=erk, every=every),
    }
    set_ = functools.partial(sparse_evolutionary, every=move, fraction=config.fraction, allocation=erk)
    rigl_ = functools.partial(rigl, end=end, every=move, alpha=config.fraction, allocation=erk)
    return {
        **{name: functools.partial(aimed, make, ramp=ramp) for name, make in made.items()},
        "static": functools.partial(static_sparse, allocation=erk),
        "set": lambda sparsity: until(set_(sparsity), end),
        "rigl": rigl_,
    }


def pooled(images: UInt8[np.ndarray, "n h w c"], side: int) -> UInt8[np.ndarray, "n H W c"]:
    """Images whose pixels are the means of squares, rounded; what is left over at the end is cut off."""
    count, height, width, channels = images.shape
    rows, columns = height // side, width // side
    cut = images[:, : rows * side, : columns * side].astype(np.float32)
    squares = cut.reshape(count, rows, side, columns, side, channels)
    return np.round(squares.mean((2, 4))).astype(np.uint8)


def data_of(config: Config) -> Dataset:
    """The images that are used, pooled."""
    images = load(config.data)
    if config.train:
        images = images.subset(train=config.train, test=min(config.train, len(images.test_labels)), seed=0)
    return dataclasses.replace(
        images,
        train_images=pooled(images.train_images, config.pool),
        test_images=pooled(images.test_images, config.pool),
    )


class Arms:
    """The network dense, and by every method at every sparsity."""

    def __init__(self, config: Config) -> None:
        images = data_of(config)
        model = cifar_resnet(
            config.depth, width=config.width, classes=len(images.classes), shortcut="A", folded=False
        )
        self.config = config
        self.bench = Bench(
            model=model,
            data=images,
            batch_size=config.batch_size,
            classifier=classifier(model),
            forward=jax.jit(lift(model.apply)),
        )
        self.steps = config.epochs * self.bench.steps_per_epoch
        self.methods = methods(config, self.steps)
        self.names = config.methods or tuple(PUBLISHED)
        self.trainers = {name: self.trainer(name) for name in self.methods}

    def transform(self, name: str, sparsity: float) -> Transform:
        """A method at a sparsity, on all kernels."""
        return at("**/kernel", self.methods[name](sparsity))

    def trainer(self, name: str) -> Trainer:
        """SGD with momentum; what grows has no momentum yet."""
        schedule = optax.cosine_decay_schedule(self.config.rate, self.steps)
        optimizer = optax.sgd(schedule, momentum=0.9, nesterov=True)
        transform = self.transform(name, self.config.sparsities[0])
        return self.bench.trainer(transform, optimizer, restarted=regrown if name in GROWN else None)

    def one(self, name: str, sparsity: float, first: Weights, seed: int) -> dict[str, float]:
        """One arm, trained from the `first` weights: its accuracy, and how many of its weights are zero."""
        transform = self.transform(name, sparsity)
        compress = transform.init(first.params, key=jax.random.key(seed))
        trained = self.trainers[name](first._replace(compress=compress), seed, self.config.epochs)
        shown = transform.apply(trained.params, trained.compress)
        kernels = [v for path, v in flatten(shown)[0].items() if path.endswith("kernel")]
        zeros = sum(int(jnp.sum(v == 0)) for v in kernels)
        return {
            "accuracy": self.bench.accuracy(shown, trained.model_state),
            "zeros": 100 * zeros / sum(v.size for v in kernels),
        }

    def run(self, seed: int, progress: Progress) -> dict[str, dict[str, float]]:
        """All arms at one seed: arm -> metric -> value."""
        first = self.bench.start(seed)
        arms = {"baseline": self.one("static", 0.0, first, seed)}
        best = arms["baseline"]["accuracy"]
        pairs = [(name, sparsity) for name in self.names for sparsity in self.config.sparsities]
        for name, sparsity in progress.track(pairs, f"seed {seed}: arms"):
            values = self.one(name, sparsity, first, seed)
            arms[arm_of(name, sparsity)] = {**values, "loss": best - values["accuracy"]}
        return arms


def run(config: Config, *, progress: Progress | None = None) -> Metrics:
    """By arm (`baseline`, `magnitude_95`, `rigl_80`, ...): accuracy and zeros in percent, loss in points."""
    return by_seed(Arms(config).run, config.seeds, progress=progress)


def gap(metrics: Metrics, first: str, second: str) -> dict[int, float]:
    """By how many points one method is better than another at 95 %, seed by seed."""
    both = (column(metrics, arm_of(name, 0.95), "accuracy") for name in (first, second))
    return paired(operator.sub, *both)


def better(first: str, second: str) -> Callable[[Metrics], Outcome]:
    """The first method is above the second by two standard errors."""
    return lambda metrics: Outcome.above(gap(metrics, first, second))


def agreement(ours: Mapping[str, float], theirs: Mapping[str, float]) -> float:
    """Kendall's tau of two tables: pairs in one order less pairs in the other, over all; a tie is neither."""
    pairs = list(itertools.combinations(theirs, 2))
    signs = (np.sign((ours[a] - ours[b]) * (theirs[a] - theirs[b])) for a, b in pairs)
    return float(sum(signs)) / len(pairs)


def same_order(metrics: Metrics) -> Outcome:
    """Kendall's tau between the published accuracies and each seed's at 95 %."""
    columns = {name: column(metrics, arm_of(name, 0.95), "accuracy") for name in PUBLISHED}
    taus = {
        seed: agreement({name: values[seed] for name, values in columns.items()}, PUBLISHED)
        for seed in columns["rigl"]
    }
    return Outcome.of(taus, mean(taus.values()) >= 0.5)


LEE = functools.partial(
    Claim,
    paper="Lee et al., JaxPruner, 2023",
    arxiv="2304.14082",
    where="the repository's table of baselines, ResNet-50",
    known="repository",
)
CLAIMS = (
    *(
        LEE(
            id=f"jaxpruner-{first}-{second}",
            metric=f"accuracy of {first} above {second}, 95 % of the weights zero",
            unit="points",
            published=round(PUBLISHED[first] - PUBLISHED[second], 2),
            rule="mean gap above 0 by 2 standard errors",
            check=better(first, second),
        )
        for first, second in (
            ("magnitude", "random"),
            ("magnitude", "static"),
            ("magnitude", "rigl"),
            ("rigl", "static"),
        )
    ),
    LEE(
        id="jaxpruner-straight-through",
        metric="accuracy of straight-through below magnitude, 95 % of the weights zero",
        unit="points",
        published=round(PUBLISHED["magnitude"] - PUBLISHED["straight_through"], 2),
        rule="mean gap at most 3 points",
        check=lambda metrics: Outcome.at_most(gap(metrics, "magnitude", "straight_through"), 3),
    ),
    LEE(
        id="jaxpruner-order",
        metric="Kendall's tau between the published order of seven methods and ours at 95 %",
        published=1.0,
        rule="at least 0.5 on average over seeds",
        check=same_order,
    ),
)


def shown(record: Any) -> dict[str, float]:
    """The published accuracies of the methods that were run."""
    chosen = record.config["methods"] or PUBLISHED
    return {name: value for name, value in PUBLISHED.items() if name in chosen}


def tables(record: Any) -> list[Any]:
    """Accuracy by method and sparsity, mean and standard deviation, beside what was published."""
    from rich.table import Table

    config = record.config
    title = f"ResNet-{config['depth']} (width {config['width']:g}) on {config['data']}, accuracy %"
    table = Table(title=title)
    table.add_column("method")
    for sparsity in config["sparsities"]:
        table.add_column(f"{100 * sparsity:g} % zero", justify="right")
    table.add_column("ResNet-50, published", justify="right")

    def cell(arm: str) -> str:
        values = list(column(record.metrics, arm, "accuracy").values())
        return show(mean(values), spread=deviation(values))

    dense = cell("baseline")
    table.add_row("dense", *(dense for _ in config["sparsities"]), "76.67")
    for name, published in shown(record).items():
        if name in (PRUNED[0], "static"):
            table.add_section()
        cells = (cell(arm_of(name, sparsity)) for sparsity in config["sparsities"])
        table.add_row(name.replace("_", " "), *cells, f"{published:.2f}")
    return [table]


def figures(record: Any) -> dict[str, Any]:
    """Accuracy against sparsity by method, mean and standard error over seeds."""
    from experiments.frame import style

    figure, axes = style.figure(width=7.4, height=4.4)
    sparsities = record.config["sparsities"]
    for place, name in enumerate(shown(record)):
        columns = [list(column(record.metrics, arm_of(name, s), "accuracy").values()) for s in sparsities]
        errors = [(deviation(values) or 0.0) / math.sqrt(len(values)) for values in columns]
        axes.errorbar(
            [index + 0.04 * (place - 3) for index in range(len(sparsities))],
            [mean(values) for values in columns],
            errors,
            fmt="o-" if name in PRUNED else "s--",
            color=(*style.PALETTE, style.INK)[list(PUBLISHED).index(name)],
            capsize=3,
            label=name.replace("_", " "),
        )
    dense = mean(column(record.metrics, "baseline", "accuracy").values())
    axes.axhline(dense, color=style.BASELINE, linewidth=1, label="dense")
    axes.set(
        xlabel="weights that are zero, % (dashed: sparse from the start)",
        ylabel="test accuracy, %",
        title=f"ResNet-{record.config['depth']} on {record.config['data']}",
    )
    axes.set_xticks(range(len(sparsities)), [f"{100 * s:g}" for s in sparsities])
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return {"table": figure}


if __name__ == "__main__":
    main()
