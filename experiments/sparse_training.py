"""Sparse training: new weights grow by the gradient (RigL) or at random (SET), and what that is worth.

Claim: Evci et al., 2020, arXiv:1911.11134, Table 1 and Figure 2: with as many weights and steps, RigL is
better than SET (Mocanu et al., 2018, arXiv:1707.04780), and SET better than a mask that never moves
(ResNet-50, ImageNet, 80 to 96.5 % sparse), at a small part of the operations of dense training.

    python -m experiments.sparse_training

Ours is LeNet-300-100 on half of Fashion-MNIST, by SGD with momentum, sparse from the first step, Erdos-Renyi
densities for all. At one seed all arms have the same first weights, masks and batches. SET moves a fixed
fraction, RigL one that falls on a cosine; `random growth` is RigL's schedule with SET's choice, so that only
the choice differs. All stop moving at the same step, where SET's paper moves to the end. Operations are
counted, not timed: three times a forward pass a step, weights that are zero left out; a step of RigL that
moves masks has the whole gradient of the weights. Cost: some 6 minutes.

Seen: up to 95 % methods differ by less than half a point, and where weights grow is no matter; at 98 % the
order is the paper's, RigL 83.8, SET 83.0, static 81.5.
"""

import dataclasses
import functools
import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from efficient import State, Transform, at, cost
from efficient.prune import kept_of, regrown, rigl, sparse_evolutionary, static_sparse
from efficient.prune.allocations import erdos_renyi
from efficient.prune.drop_and_grow import sparse_training
from experiments.frame import (
    Claim,
    Metrics,
    Outcome,
    Progress,
    better,
    by_seed,
    column,
    deviation,
    main,
    mean,
    paired,
)
from experiments.frame.bench import Bench, Trainer, Weights, require_data

LABELS = {"rigl": "RigL", "random_growth": "random growth", "set": "SET", "static": "static"}
INPUTS = "dense0/kernel"  # [pixels, units]
SPARSE = erdos_renyi()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """What is run."""

    data: str = "fashion_mnist"  # mnist5k, fashion_mnist, digits, idx:FOLDER or folder:FOLDER
    train: int = 30_000  # training images used; 0 is all
    sparsities: tuple[float, ...] = (0.9, 0.95, 0.98)  # each in (0, 1), rising; 0.9 and 0.95 have claims
    epochs: int = 7  # of every arm, > 0
    every: int = 100  # steps between two moves of masks, > 0
    fraction: float = 0.3  # of the active weights that moves (RigL and random growth: at first), in (0, 1]
    end: float = 0.75  # of the steps, after which masks stay, in (0, 1)
    rate: float = 0.1  # of learning at first; falls to 0 on a cosine, > 0
    batch_size: int = 128  # images a step, > 0
    seeds: tuple[int, ...] = (0, 1, 2)  # one whole run each

    def __post_init__(self) -> None:
        for name in ("epochs", "every", "rate", "batch_size"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)!r}; leave it out.")
        if not 0 < self.end < 1:
            raise ValueError(f"end must be in (0, 1), got {self.end!r}; the paper's is 0.75.")
        rising = tuple(sorted(set(self.sparsities)))
        if not rising or rising != self.sparsities or not 0 < rising[0] <= rising[-1] < 1:
            raise ValueError(
                f"sparsities must rise within (0, 1), got {self.sparsities!r}; e.g. --sparsities=0.9,0.95."
            )
        require_data(self.data)

    @classmethod
    def smoke(cls) -> "Config":
        """The same path: few images, one epoch of four steps, moves at each second step."""
        return cls(
            data="mnist5k", train=256, batch_size=64, epochs=1, every=2, sparsities=(0.95,), seeds=(0,)
        )


def until(transform: Transform, end: int) -> Transform:
    """`transform`, whose masks stay from step `end` on."""

    def update(state: State, params: Any, *, grads: Any = None, step: Any) -> State:
        move = functools.partial(transform.update, state, params, grads=grads, step=step)
        return jax.lax.cond(step < end, move, lambda: state)

    return Transform(transform.init, update, transform.apply, transform.pack, name=f"until({transform!r})")


def random_growth(sparsity: float, *, end: int, every: int, alpha: float) -> Transform:
    """`rigl`, but for what grows: that is drawn evenly."""
    return sparse_training(
        static_sparse(sparsity, allocation=SPARSE),
        is_due=lambda step: (step % every == 0) & (step < end),
        fraction=lambda step: alpha / 2 * (1 + jnp.cos(jnp.pi * step / end)),
        promise=lambda value, grad, key: jax.random.uniform(key, value.shape),
    )


def methods(config: Config, end: int) -> dict[str, Callable[[float], Transform]]:
    """By name, from a sparsity: transforms whose updates are one program for all sparsities."""
    every, part = config.every, config.fraction
    return {
        "rigl": lambda s: rigl(s, end=end, every=every, alpha=part, allocation=SPARSE),
        "random_growth": lambda s: random_growth(s, end=end, every=every, alpha=part),
        "set": lambda s: until(sparse_evolutionary(s, every=every, fraction=part, allocation=SPARSE), end),
        "static": lambda s: static_sparse(s, allocation=SPARSE),
    }


def training_cost(macs: Mapping[str, int], density: Mapping[str, float], whole_gradients: float) -> float:
    """Operations of sparse training over those of dense.

    With f_D = sum(macs) and f_S = sum(density * macs) of a forward pass, a step costs 3 f_S, and 2 f_S + f_D
    where it needs the whole gradient of the weights; dense training costs 3 f_D.

    Args:
        macs: of a forward pass, by path of the weight.
        density: the part of each path's weights that is not zero; 1 where it has none.
        whole_gradients: the fraction of the steps that need it, in [0, 1].

    Source: Evci et al., 2020, arXiv:1911.11134, section 3 and appendix on FLOPs (there a step that moves
    masks leaves the update of the weights out).
    """
    dense = sum(macs.values())
    sparse = sum(density.get(path, 1.0) * value for path, value in macs.items())
    return (3 * sparse + whole_gradients * (dense - sparse)) / (3 * dense)


class Arms:
    """The network dense, and sparse by every method. What is compiled serves every sparsity and seed."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.bench = Bench.make(
            "lenet_300_100", config.data, batch_size=config.batch_size, train=config.train
        )
        self.steps = config.epochs * self.bench.steps_per_epoch
        self.end = math.ceil(config.end * self.steps)
        self.methods = methods(config, self.end)
        self.trainers = {name: self.trainer(name) for name in self.methods}
        shapes = jax.eval_shape(self.bench.start, 0).params
        image = jax.ShapeDtypeStruct((1, *self.bench.data.image_shape), jnp.float32)
        apply: Any = self.bench.model.apply
        self.macs = cost(lambda params, x: apply({"params": params}, x), shapes, image).macs_by_path

    def transform(self, name: str, sparsity: float) -> Transform:
        """A method at a sparsity, on all kernels."""
        return at("**/kernel", self.methods[name](sparsity))

    def trainer(self, name: str) -> Trainer:
        """SGD with momentum; what grows has no momentum yet."""
        optimizer = optax.sgd(optax.cosine_decay_schedule(self.config.rate, self.steps), momentum=0.9)
        transform = self.transform(name, self.config.sparsities[0])
        return self.bench.trainer(transform, optimizer, restarted=None if name == "static" else regrown)

    @property
    def due(self) -> float:
        """The fraction of the steps at which masks move."""
        return ((self.end - 1) // self.config.every) / self.steps

    def one(self, name: str, sparsity: float, first: Weights, seed: int) -> dict[str, Any]:
        """One arm, trained from the `first` weights: its accuracy, its weights and what they cost."""
        transform = self.transform(name, sparsity)
        compress = transform.init(first.params, key=jax.random.key(seed))
        weights = self.trainers[name](first._replace(compress=compress), seed, self.config.epochs)
        shown = transform.apply(weights.params, weights.compress)
        before, after = compress.fixed.masks, weights.compress.fixed.masks
        sizes = {path: mask.size for path, mask in after.items()}
        active = {path: int(mask.sum()) for path, mask in after.items()}
        density = {path: active[path] / size for path, size in sizes.items()}
        stayed = sum(int((before[path] & after[path]).sum()) for path in after)
        return {
            "accuracy": self.bench.accuracy(shown),
            "weights": sum(active.values()),
            "asked": kept_of(sum(sizes.values()), sparsity),
            "astray": astray(shown, after),
            "moved": 100 * (1 - stayed / sum(active.values())),
            "training_cost": training_cost(self.macs, density, self.due if name == "rigl" else 0.0),
            "pixels": int(after[INPUTS].any(1).sum()),
            "per_pixel": after[INPUTS].sum(1).tolist(),
        }

    def run(self, seed: int, progress: Progress) -> dict[str, dict[str, Any]]:
        """All arms at one seed: arm -> metric -> value."""
        first = self.bench.start(seed)
        arms = {"baseline": self.one("static", 0.0, first, seed)}
        pairs = [(name, sparsity) for sparsity in self.config.sparsities for name in self.methods]
        for name, sparsity in progress.track(pairs, f"seed {seed}: arms"):
            values = self.one(name, sparsity, first, seed)
            values["loss"] = arms["baseline"]["accuracy"] - values["accuracy"]
            arms[arm_of(name, sparsity)] = values
        for arm, values in arms.items():  # the figure's: of one seed, at the highest sparsity
            if seed != self.config.seeds[0] or arm not in {
                arm_of(name, self.config.sparsities[-1]) for name in self.methods
            }:
                del values["per_pixel"]
        return arms


def arm_of(name: str, sparsity: float) -> str:
    """The arm of a method at a sparsity."""
    return f"{name}_{100 * sparsity:g}"


def astray(shown: Any, masks: Mapping[str, Any]) -> int:
    """How many weights outside the masks are not exactly zero."""
    paths = {path: functools.reduce(operator.getitem, path.split("/"), shown) for path in masks}
    return sum(int(jnp.sum((paths[path] != 0) & ~mask)) for path, mask in masks.items())


def run(config: Config, *, progress: Progress | None = None) -> Metrics:
    """By arm (`baseline`, `rigl_95`, `set_90`, ...): accuracy, weights, cost of training."""
    return by_seed(Arms(config).run, config.seeds, progress=progress)


def exact(metrics: Metrics) -> Outcome:
    """The most weights, of the arms of a seed, too many or too few or not zero outside the mask."""

    def most(metric: Callable[[str], Mapping[int, float]]) -> dict[int, float]:
        columns = [metric(arm) for arm in metrics if arm != "baseline"]
        return {seed: max(c[seed] for c in columns) for seed in columns[0]}

    def wrong(arm: str) -> dict[int, float]:
        weights, asked, out = (column(metrics, arm, name) for name in ("weights", "asked", "astray"))
        return paired(lambda w, a, o: abs(w - a) + o, weights, asked, out)

    return Outcome.at_most(most(wrong), 0)


EVCI = functools.partial(
    Claim,
    paper="Evci et al., Rigging the Lottery, 2020",
    arxiv="1911.11134",
    where="Table 1 and Figure 2, ResNet-50",
    known="memory",
)
CLAIMS = (
    *(
        EVCI(
            id=f"sparse-{first}-{second}-{percent}".replace("_", "-"),
            metric=f"accuracy of {LABELS[first]} above {LABELS[second]}, {percent} % of the weights zero",
            unit="points",
            published="above 0",
            rule="mean gap above 0 by 2 standard errors",
            check=better(f"{first}_{percent}", f"{second}_{percent}"),
        )
        for first, second in (("rigl", "set"), ("set", "static"))
        for percent in (90, 95)
    ),
    EVCI(
        id="sparse-growth",
        metric="accuracy of growing by the gradient above growing at random, one schedule, 95 % zero",
        unit="points",
        published="above 0",
        rule="mean gap above 0 by 2 standard errors",
        check=better("rigl_95", "random_growth_95"),
    ),
    EVCI(
        id="sparse-cost",
        metric="operations of training by RigL over dense, 90 % of the weights zero (the paper: ResNet-50)",
        published=0.13,
        rule="at most 0.13",
        check=lambda metrics: Outcome.at_most(column(metrics, "rigl_90", "training_cost"), 0.13),
    ),
    Claim(
        id="sparse-exact",
        paper="ours",
        metric="weights more or fewer than asked, or not exactly zero outside the mask, the worst arm",
        published=0.0,
        known="bar",
        rule="none in any arm of any seed",
        check=exact,
    ),
)


def tables(record: Any) -> list[Any]:
    """Accuracy, weights and cost by sparsity and method."""
    from rich.table import Table

    def average(arm: str, metric: str) -> float:
        return mean(column(record.metrics, arm, metric).values())

    table = Table(title=f"LeNet-300-100 on {record.config['data']}, trained sparse; operations of dense = 1")
    for title in ("zeros %", "method", "accuracy %", "weights", "moved %", "pixels", "operations"):
        table.add_column(title, justify="left" if title == "method" else "right")

    def add(zeros: str, label: str, arm: str) -> None:
        numbers = (f"{average(arm, name):,.0f}" for name in ("weights", "moved", "pixels"))
        table.add_row(
            zeros, label, f"{average(arm, 'accuracy'):.2f}", *numbers, f"{average(arm, 'training_cost'):.3f}"
        )

    add("0", "dense", "baseline")
    for sparsity in record.config["sparsities"]:
        table.add_section()
        for name, label in LABELS.items():
            add(f"{100 * sparsity:g}", label, arm_of(name, sparsity))
    return [table]


def figures(record: Any) -> dict[str, Any]:
    """Accuracy by sparsity and method; which pixels the methods look at."""
    return {"accuracy": accuracy_figure(record), "pixels": pixels_figure(record)}


def accuracy_figure(record: Any) -> Any:
    """Accuracy by sparsity and method, mean and standard error over seeds."""
    from experiments.frame import style

    figure, axes = style.figure(width=6.8, height=4.2)
    sparsities = record.config["sparsities"]
    for place, (name, label) in enumerate(LABELS.items()):
        columns = [list(column(record.metrics, arm_of(name, s), "accuracy").values()) for s in sparsities]
        errors = [(deviation(values) or 0.0) / math.sqrt(len(values)) for values in columns]
        places = [index + 0.08 * (place - 1.5) for index in range(len(sparsities))]
        axes.errorbar(places, [mean(v) for v in columns], errors, fmt="o-", capsize=3, label=label)
    dense = mean(column(record.metrics, "baseline", "accuracy").values())
    axes.axhline(dense, color=style.BASELINE, linewidth=1, label="dense")
    axes.set(
        xlabel="weights that are zero, %",
        ylabel="test accuracy, %",
        title=f"LeNet-300-100 on {record.config['data']}",
    )
    axes.set_xticks(range(len(sparsities)), [f"{100 * s:g}" for s in sparsities])
    axes.legend(loc="lower left")
    return figure


def pixels_figure(record: Any) -> Any:
    """Weights of each pixel at the highest sparsity, one seed."""
    from experiments.frame import style

    figure, all_axes = style.figure(columns=len(LABELS), width=9.0, height=2.6)
    sparsity, seed = record.config["sparsities"][-1], record.config["seeds"][0]
    counts = {name: record.metrics[arm_of(name, sparsity)][seed]["per_pixel"] for name in LABELS}
    most = max(map(max, counts.values()))
    for axes, (name, label) in zip(all_axes, LABELS.items(), strict=True):
        side = math.isqrt(len(counts[name]))
        axes.imshow(np.reshape(counts[name], (side, side)), vmin=0, vmax=most, cmap="viridis")
        axes.set(title=label, xticks=[], yticks=[])
        axes.grid(visible=False)
    figure.suptitle(f"Weights of each pixel, {100 * sparsity:g} % zero (at most {most})", fontsize=10)
    return figure


if __name__ == "__main__":
    main()
