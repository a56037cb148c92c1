"""How few bits a weight can have: shared values and integer grids on a convolutional net, untuned and tuned.

Claim: MIT 6.5940, Lab 2 (a VGG on CIFAR-10, 92.95 %): k-means codebooks of 8, 4 and 2 bits give 92.73, 81.61
and 16.23 % untuned, and 92.70 (4 bits) and 91.47 % (2 bits) when the shared values are trained.

    python -m experiments.weight_bits

Ours is a ResNet-20 of half the width on 5,000 real MNIST digits, trained from scratch, all of whose kernels
take so many bits. The integer grid, one scale a channel, is trained through its rounding. The baseline is the
better of the network before and after as many more epochs as the tuning takes. Cost: some 25 minutes.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import optax

from efficient import Transform, at, identity, stored_bytes
from efficient.quantize import codebook, linear
from experiments.frame import Claim, Metrics, Outcome, Progress, by_seed, column, main, mean
from experiments.frame.bench import Bench, Weights, require_data

METHODS: Mapping[str, Callable[[int], Transform]] = {
    "codebook": lambda bits: codebook(bits, zero=False),  # nothing was pruned: no entry is kept for zero
    "linear": linear,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """What is run."""

    model: str = "resnet20"  # an image classifier of efficient.models.zoo
    width: float = 0.5  # multiplies its channels; 0: the model's own
    data: str = "mnist5k"  # mnist5k, fashion_mnist, digits, idx:FOLDER or folder:FOLDER
    bits: tuple[int, ...] = (8, 4, 2)  # of a weight, 2 to 8; 8 and 2 have claims
    epochs: int = 12  # of dense training, > 0
    tune: int = 5  # epochs of training with so many bits, > 0
    batch_size: int = 64  # images a step, > 0
    train: int = 0  # training images used; 0 is all
    seeds: tuple[int, ...] = (0, 1, 2)  # one whole run each

    def __post_init__(self) -> None:
        for name in ("epochs", "tune", "batch_size"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)!r}; leave it out.")
        if not self.bits or not all(2 <= bits <= 8 for bits in self.bits):
            raise ValueError(f"bits must be of 2 to 8, got {self.bits!r}; e.g. --bits=8,2.")
        require_data(self.data)

    @classmethod
    def smoke(cls) -> "Config":
        """The same path on a small network and few images."""
        return cls(model="lenet_300_100", width=0, bits=(2,), epochs=1, tune=1, train=256, seeds=(0,))


class Arms:
    """The network dense, and with so many bits a weight by either method."""

    def __init__(self, config: Config) -> None:
        options = {"width": config.width} if config.width else {}
        self.bench = Bench.make(
            config.model, config.data, batch_size=config.batch_size, train=config.train, **options
        )
        self.config = config
        self.transforms: dict[str, Transform] = {
            f"{name}_{bits}": at("**/kernel", method(bits))
            for name, method in METHODS.items()
            for bits in config.bits
        }
        self.tune = {arm: self.trainer(t, config.tune) for arm, t in self.transforms.items()}
        self.train_further = self.trainer(identity(), config.tune)
        self.train_dense = self.trainer(identity(), config.epochs)

    def trainer(self, transform: Transform, epochs: int) -> Callable[[Weights, int], Weights]:
        """Adam, its rate falling from 1e-3 to 0 on a cosine."""
        schedule = optax.cosine_decay_schedule(1e-3, epochs * self.bench.steps_per_epoch)
        train = self.bench.trainer(transform, optax.adam(schedule))
        return lambda weights, seed: train(weights, seed, epochs)

    def accuracy(self, weights: Weights, transform: Transform) -> float:
        """Percent of the test set, with the weights that the transform shows."""
        return self.bench.accuracy(transform.apply(weights.params, weights.compress), weights.model_state)

    def run(self, seed: int, progress: Progress) -> dict[str, dict[str, float]]:
        """All arms at one seed."""
        dense = self.train_dense(self.bench.start(seed), seed)
        first = self.accuracy(dense, identity())
        best = max(first, self.accuracy(self.train_further(dense, seed + 1000), identity()))
        arms: dict[str, dict[str, float]] = {"baseline": {"accuracy": best, "first_accuracy": first}}
        for arm, transform in progress.track(self.transforms.items(), "widths", total=len(self.transforms)):
            start = dense._replace(compress=transform.init(dense.params))
            tuned = self.tune[arm](start, seed + 1000)
            untuned, accuracy = self.accuracy(start, transform), self.accuracy(tuned, transform)
            packed = transform.pack(tuned.params, tuned.compress)
            arms[arm] = {
                "untuned_accuracy": untuned,
                "untuned_loss": first - untuned,
                "accuracy": accuracy,
                "loss": best - accuracy,
                "size_in_memory": 100 * stored_bytes(packed) / stored_bytes(dense.params),
            }
        return arms


def run(config: Config, *, progress: Progress | None = None) -> Metrics:
    """By arm (`baseline`, `codebook_2`, ..., `linear_8`): accuracies in percent, losses in points."""
    return by_seed(Arms(config).run, config.seeds, progress=progress)


def untuned(arm: str, *, most: float) -> Callable[[Metrics], Outcome]:
    """The mean loss untuned is at most so many points."""
    return lambda metrics: Outcome.at_most(column(metrics, arm, "untuned_loss"), most)


def collapse(arm: str, *, least: float, tuned: float) -> Callable[[Metrics], Outcome]:
    """The mean loss untuned is at least `least` points; tuned, at most `tuned`."""

    def check(metrics: Metrics) -> Outcome:
        losses = column(metrics, arm, "untuned_loss")
        after = mean(column(metrics, arm, "loss").values())
        holds = mean(losses.values()) >= least and after <= tuned
        return Outcome.of(losses, holds, f"tuned, the loss is {after:+.2f} points")

    return check


LAB = functools.partial(
    Claim,
    paper="MIT 6.5940, Lab 2",
    where="k-means and linear quantization",
    unit="points",
    known="repository",
)
CLAIMS = (
    LAB(
        id="bits-codebook-8",
        metric="accuracy of a ResNet-20 lost to 8-bit codebooks, untuned (the lab: VGG on CIFAR-10)",
        published=0.22,
        rule="mean loss at most 0.3 points",
        check=untuned("codebook_8", most=0.3),
    ),
    LAB(
        id="bits-codebook-2",
        metric="accuracy of a ResNet-20 lost to 2-bit codebooks, untuned (the lab: VGG on CIFAR-10)",
        published=76.72,
        rule="untuned it loses more than 20 points; tuned, at most 3",
        check=collapse("codebook_2", least=20, tuned=3),
    ),
    LAB(
        id="bits-linear-8",
        metric="accuracy of a ResNet-20 lost to int8 weights, untuned (the lab: VGG, activations int8 too)",
        published=0.08,
        rule="mean loss at most 0.3 points",
        check=untuned("linear_8", most=0.3),
    ),
)


def tables(record: Any) -> list[Any]:
    """Accuracy by method and width."""
    from rich.table import Table

    table = Table(title=f"Bits a weight: {record.config['model']} on {record.config['data']}, accuracy %")
    for title in ("weights", "bits", "untuned", "tuned"):
        table.add_column(title, justify="left" if title == "weights" else "right")

    def average(arm: str, metric: str) -> str:
        return f"{mean(column(record.metrics, arm, metric).values()):.2f}"

    table.add_row("float32", "32", average("baseline", "first_accuracy"), average("baseline", "accuracy"))
    for method in METHODS:
        for bits in record.config["bits"]:
            arm = f"{method}_{bits}"
            table.add_row(method, str(bits), average(arm, "untuned_accuracy"), average(arm, "accuracy"))
    return [table]


def figures(record: Any) -> dict[str, Any]:
    """Accuracy against bits, untuned and tuned."""
    from experiments.frame import style

    figure, axes = style.figure(width=6.4, height=4.0)
    bits = sorted(record.config["bits"])
    for method in METHODS:
        for metric, label, line in (("untuned_accuracy", "untuned", "--"), ("accuracy", "tuned", "-")):
            values = [mean(column(record.metrics, f"{method}_{b}", metric).values()) for b in bits]
            axes.plot(bits, values, "o" + line, label=f"{method}, {label}")
    axes.axhline(
        mean(column(record.metrics, "baseline", "accuracy").values()), color=style.BASELINE, linewidth=1
    )
    axes.set(
        xlabel="bits a weight",
        ylabel="test accuracy, %",
        title=f"{record.config['model']} on {record.config['data']}",
    )
    axes.set_xticks(bits)
    axes.legend(loc="lower right")
    return {"bits": figure}


if __name__ == "__main__":
    main()
