"""What each way to prune costs, and what it gives: seconds and bytes to choose, accuracy untuned and tuned.

Claim: what knows more than the weights (gradients, curvature, inputs) chooses better at one shot, and tuning
makes most of the difference go away. Methods are seldom set side by side (Blalock et al., 2020,
arXiv:2003.03033).

    python -m experiments.pruning_methods

One trained network, the lab VGG at an eighth of its width on Fashion-MNIST, is pruned by every score and
every reconstruction of `efficient.prune`: 70 % of its weights, or half of its channels. Seconds are those
that a caller waits: statistics over the calibration images, compilation, masks. Memory is what the
statistics and the state hold. What all methods of a kind compile is compiled before. Methods that choose
while training are in `jaxpruner_table` and `sparse_training`. Cost: some 12 minutes.

Seen: untuned only what is solved for is far from chance: one by one (OBS) 76 %, magnitude with its weights
corrected 54 %, SparseGPT 51 %, of 82 %; OBS takes the longest, 22 s. Tuned, magnitude over all layers at once
is as good; scores by gradients stay behind even a random choice, GraSP by far. Of channels, those that are
chosen and solved for by what enters them (ThiNet, LASSO) lose least.
"""

import dataclasses
import functools
import math
import time
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import optax

from efficient import State
from efficient.core.dependencies import dependencies
from efficient.core.paths import flatten
from efficient.prune import Pruned
from efficient.prune.lottery import all_kept, fixed_masks
from efficient.train import losses
from efficient.train.classify import pixels
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
from experiments.pruning_methods_arms import ARMS, KINDS, SMOKE, Choice, Method, Trained


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """What is run."""

    width: float = 0.125  # multiplies the channels of the lab VGG
    data: str = "fashion_mnist"  # mnist5k, fashion_mnist, digits, idx:FOLDER or folder:FOLDER
    train: int = 1600  # training images used, and at most as many test images; 0 is all
    epochs: int = 8  # of dense training, > 0
    tune: int = 1  # epochs of training with the masks, > 0
    batch_size: int = 32  # images a step, > 0
    calibration: int = 512  # training images that statistics are taken of, > 0
    sparsity: float = 0.7  # of the weights, in (0, 1)
    channels: float = 0.5  # fraction of the channels that goes, in (0, 1)
    methods: tuple[str, ...] = ()  # arms such as "weights.wanda"; empty: all
    seeds: tuple[int, ...] = (0, 1, 2)  # one whole run each

    def __post_init__(self) -> None:
        for name in ("epochs", "tune", "batch_size", "calibration"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)!r}; leave it out.")
        for name in ("sparsity", "channels"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name} must be in (0, 1), got {getattr(self, name)!r}; 0.5 is half.")
        if unknown := set(self.methods) - set(ARMS):
            raise ValueError(
                f"methods must be among {sorted(ARMS)}, got {sorted(unknown)}; choose from these."
            )
        require_data(self.data)

    @classmethod
    def smoke(cls) -> "Config":
        """The same path on a thin network, few images and three methods."""
        return cls(
            width=0.04,
            data="mnist5k",
            train=64,
            epochs=1,
            batch_size=32,
            calibration=32,
            methods=SMOKE,
            seeds=(0,),
        )


def held(tree: Any) -> int:
    """Bytes of all arrays."""
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree) if hasattr(leaf, "nbytes"))


def timed(method: Method, net: Trained) -> tuple[Choice, Any, float]:
    """What a method chose, the pruned weights, and the seconds that both took."""
    start = time.perf_counter()
    choice = method(net)
    shown = jax.block_until_ready(choice.transform.apply(net.params, choice.state))
    return choice, shown, time.perf_counter() - start


class Arms:
    """The network dense, and pruned by every method."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.bench = Bench.make(
            "lab_vgg", config.data, batch_size=config.batch_size, train=config.train, width=config.width
        )
        ones = all_kept(jax.eval_shape(self.bench.start, 0).params, where="**")
        self.ones = State({}, Pruned({path: jnp.ones(v.shape, bool) for path, v in ones.items()}, {}))
        self.fixed = fixed_masks(self.ones.fixed.masks)
        self.train = self.bench.trainer(self.fixed, optax.adam(1e-3))  # one program for all arms

    def trained(self, weights: Weights, seed: int) -> Trained:
        """What methods are given."""
        data, size, model = self.bench.data, self.bench.batch_size, self.bench.model
        images, labels = data.train_images, data.train_labels
        starts = range(0, min(self.config.calibration, len(labels)), size)
        batches = [(pixels(images[i : i + size]), jnp.asarray(labels[i : i + size])) for i in starts]

        def apply(params: Any, x: Any) -> Any:
            return model.apply({"params": params, **weights.model_state}, x)

        def loss(params: Any, x: Any, y: Any) -> jax.Array:
            return jnp.mean(losses.cross_entropy(apply(params, x), y))

        return Trained(
            params=weights.params,
            apply=apply,
            loss=loss,
            batches=batches,
            found=dependencies(apply, weights.params, batches[0][0]),
            sparsity=self.config.sparsity,
            channels=self.config.channels,
            key=jax.random.key(seed),
        )

    def tuned(self, dense: Weights, shown: Any, seed: int) -> Weights:
        """What is zero stays zero, and the rest is trained."""
        before, now = flatten(dense.params)[0], flatten(shown)[0]
        masks = {path: (now[path] != 0) | (before[path] == 0) for path in before}
        start = dense._replace(params=shown, compress=State({}, Pruned(masks, {})))
        return self.train(start, seed, self.config.tune)

    def one(self, method: Method, net: Trained, dense: Weights, seed: int) -> dict[str, float]:
        """One method: its cost, and the accuracies."""
        choice, shown, seconds = timed(method, net)
        weights = self.tuned(dense, shown, seed + 1000)
        kernels = [v for path, v in flatten(shown)[0].items() if path.endswith("kernel")]
        zeros = sum(int(jnp.sum(v == 0)) for v in kernels)
        return {
            "seconds": seconds,
            "statistics_bytes": held(choice.stats),
            "state_bytes": held(choice.state),
            "zeros": 100 * zeros / sum(v.size for v in kernels),
            "untuned_accuracy": self.bench.accuracy(shown, dense.model_state),
            "accuracy": self.bench.accuracy(
                self.fixed.apply(weights.params, weights.compress), weights.model_state
            ),
        }

    def run(self, seed: int, progress: Progress) -> dict[str, dict[str, float]]:
        """All arms at one seed."""
        start = self.bench.start(seed)._replace(compress=self.ones)
        dense = self.train(start, seed, self.config.epochs)
        further = self.train(dense, seed + 1000, self.config.tune)
        first, later = (self.bench.accuracy(w.params, w.model_state) for w in (dense, further))
        arms: dict[str, dict[str, float]] = {
            "baseline": {
                "first_accuracy": first,
                "accuracy": max(first, later),
                "weights_bytes": held(dense.params),
            }
        }
        net = self.trained(dense, seed)
        for kind in KINDS:  # what all methods of a kind compile is nobody's cost
            timed(ARMS[f"{kind}.random"], net)
        for name in progress.track(self.config.methods or tuple(ARMS), "methods"):
            arms[name] = self.one(ARMS[name], net, dense, seed)
        return arms


def run(config: Config, *, progress: Progress | None = None) -> Metrics:
    """By arm (`baseline`, `weights.wanda`, ...): seconds, bytes and accuracies in percent."""
    return by_seed(Arms(config).run, config.seeds, progress=progress)


def smaller_spread(metrics: Metrics) -> Outcome:
    """Tuning narrows what lies between the best and the worst method that looks at the network."""
    arms = [name for name in metrics if name.startswith("weights.") and name != "weights.random"]

    def spread(metric: str) -> dict[int, float]:
        columns = [column(metrics, name, metric) for name in arms]
        return {seed: max(c[seed] for c in columns) - min(c[seed] for c in columns) for seed in columns[0]}

    untuned, tuned = spread("untuned_accuracy"), spread("accuracy")
    ratios = paired(lambda a, b: a / b if b else math.nan, untuned, tuned)
    return Outcome.of(ratios, mean(ratios.values()) >= 2, "untuned over tuned, points between best and worst")


UNTUNED = functools.partial(
    Claim,
    unit="points",
    published="above 0",
    known="memory",
    rule="mean gap above 0 by 2 standard errors",
)
CLAIMS = (
    UNTUNED(
        id="methods-reconstruction",
        paper="Frantar and Alistarh, SparseGPT, 2023",
        arxiv="2301.00774",
        metric="accuracy untuned of SparseGPT above that of magnitude, 70 % of the weights gone",
        check=better("weights.sparsegpt", "weights.magnitude", "untuned_accuracy"),
    ),
    UNTUNED(
        id="methods-thinet",
        paper="Luo et al., ThiNet, 2017",
        arxiv="1707.06342",
        metric="accuracy untuned of ThiNet above that of the L1 norm, half of the channels gone",
        check=better("channels.thinet", "channels.l1-norm", "untuned_accuracy"),
    ),
    Claim(
        id="methods-tuning",
        paper="Blalock et al., What is the State of Neural Network Pruning?, 2020",
        arxiv="2003.03033",
        metric="how many times nearer tuning brings the best and the worst method together",
        unit="x",
        published="above 1",
        known="memory",
        rule="at least 2 on average over seeds, random choice left out",
        check=smaller_spread,
    ),
)


def rows(record: Any, kind: str) -> Iterator[tuple[str, list[float]]]:
    """By method, the means of its metrics."""
    metrics = ("zeros", "seconds", "statistics_bytes", "state_bytes", "untuned_accuracy", "accuracy")
    for name in KINDS[kind]:
        arm = f"{kind}.{name}"
        if arm in record.metrics:
            yield name, [mean(column(record.metrics, arm, metric).values()) for metric in metrics]


def tables(record: Any) -> list[Any]:
    """Cost and result of each method, one table for weights and one for channels."""
    from rich.table import Table

    made = []
    for kind in KINDS:
        dense = mean(column(record.metrics, "baseline", "accuracy").values())
        table = Table(title=f"Pruning {kind}, one shot; accuracy %, dense {dense:.1f}")
        for title in ("method", "zeros %", "seconds", "stats kB", "state kB", "untuned", "tuned"):
            is_name = title == "method"
            table.add_column(title, justify="left" if is_name else "right", overflow="fold", no_wrap=is_name)
        for name, (zeros, seconds, statistics, state, untuned, tuned) in rows(record, kind):
            cells = (f"{zeros:.1f}", f"{seconds:.2f}", f"{statistics / 1e3:,.1f}", f"{state / 1e3:,.1f}")
            table.add_row(name, *cells, f"{untuned:.1f}", f"{tuned:.1f}")
        made.append(table)
    return made


def figures(record: Any) -> dict[str, Any]:
    """Accuracy of each method, untuned and tuned, beside that of the dense network."""
    from experiments.frame import style

    figure, both = style.figure(columns=2, width=10.0, height=4.4)
    for axes, kind in zip(both, KINDS, strict=True):
        found = dict(rows(record, kind))
        names, places = list(found), range(len(found))
        for index, label, marker in ((-2, "untuned", "o"), (-1, "tuned", "D")):
            axes.plot([values[index] for values in found.values()], places, marker, label=label)
        axes.axvline(
            mean(column(record.metrics, "baseline", "accuracy").values()), color=style.BASELINE, linewidth=1
        )
        axes.set(xlabel="test accuracy, %", title=kind)
        axes.set_yticks(list(places), names)
        axes.invert_yaxis()
    figure.legend(*both[0].get_legend_handles_labels(), loc="outside upper right", ncols=2)
    return {"methods": figure}


if __name__ == "__main__":
    main()
