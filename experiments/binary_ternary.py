"""One and two bits: trained ternary weights, binary weights, and binary weights on binary inputs.

Claim: Zhu et al., 2017, arXiv:1612.01064 (TTQ); Rastegari et al., 2016, arXiv:1603.05279, table 1: ResNet-18
on ImageNet has 69.3 % in full, 60.8 % with binary weights (BWN) and 51.2 % as XNOR-Net, whose products are
popcounts. The order: full, TTQ, BWN, XNOR.

    python -m experiments.binary_ternary

Ours is the lab VGG at an eighth of its width on a part of Fashion-MNIST; the first and the last layer stay as
they are. Every arm starts from the trained dense network, as TTQ does, and is trained on for as long; the
baseline is the better of the dense network and the same trained as much longer. *Differs:* XNOR-Net
normalizes right before the signs; ours takes them of what a ReLU gives, less its mean. Cost: some 8 minutes.

Seen: ternary and binary weights lose about a point and are level with each other at this scale; binary inputs
cost nine points more, as in the paper.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

from efficient import Transform, at, chain, stored_bytes
from efficient.quantize import binary, binary_inputs, ttq, twn
from experiments.frame import Claim, Metrics, Progress, average, by_seed, column, main, not_below
from experiments.tuned_net import SMOKE, TuneConfig, TunedNet

METHODS: Mapping[str, Callable[[], Transform]] = {
    "ttq": ttq,
    "twn": twn,
    "bwn": binary,
    "xnor": lambda: chain(binary(), binary_inputs(is_centred=True)),
}
LABELS = {"baseline": "float32", "ttq": "TTQ", "twn": "TWN", "bwn": "BWN", "xnor": "XNOR"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(TuneConfig):
    """What is run."""

    tune: int = 8  # epochs of training on, > 0

    @classmethod
    def smoke(cls) -> "Config":
        """The same path on a small network and few images."""
        return cls(**SMOKE)


class Arms:
    """The network dense, and trained by each method."""

    def __init__(self, config: Config) -> None:
        self.config, self.net = config, TunedNet(config)
        where = self.net.middle()
        made = {name: at(where, make()) for name, make in METHODS.items()}
        self.trainers = {n: (t, self.net.trainer(t, config.rate, config.tune)) for n, t in made.items()}

    def one(self, seed: int, progress: Progress) -> dict[str, dict[str, float]]:
        """All arms at one seed."""
        dense, accuracy = self.net.dense(seed)
        arms = {"baseline": {"accuracy": accuracy, "bytes": float(stored_bytes(dense.params))}}
        todo = self.trainers.items()
        for name, (t, train) in progress.track(todo, f"seed {seed}: methods", total=len(todo)):
            weights = train(self.net.started(t, dense, seed), seed + 1000, self.config.tune)
            packed = t.pack(weights.params, weights.compress)
            arms[name] = {
                "accuracy": self.net.accuracy(weights, t),
                "packed_accuracy": self.net.bench.accuracy(packed, weights.model_state),
                "bytes": float(stored_bytes(packed)),
            }
        return arms


def run(config: Config, *, progress: Progress | None = None) -> Metrics:
    """By arm (`baseline`, `ttq`, `twn`, `bwn`, `xnor`): accuracy in percent, bytes packed."""
    return by_seed(Arms(config).one, config.seeds, progress=progress)


XNOR = functools.partial(
    Claim,
    paper="Rastegari et al., XNOR-Net, 2016",
    arxiv="1603.05279",
    where="table 1",
    unit="points",
    known="memory",
    rule="mean gap not below 0 by more than 2 standard errors",
)
TTQ = functools.partial(XNOR, paper="Zhu et al., TTQ, 2017", arxiv="1612.01064", where="")
CLAIMS = (
    TTQ(
        id="ternary-full-ttq",
        metric="accuracy of float32 above TTQ",
        published="about 0",
        check=not_below("baseline", "ttq"),
    ),
    TTQ(
        id="ternary-ttq-bwn",
        metric="accuracy of TTQ above binary weights",
        published="above 0",
        check=not_below("ttq", "bwn"),
    ),
    XNOR(
        id="binary-full-bwn",
        metric="accuracy of float32 above binary weights",
        published=8.5,
        check=not_below("baseline", "bwn"),
    ),
    XNOR(
        id="binary-bwn-xnor",
        metric="accuracy of binary weights above binary weights and inputs",
        published=9.6,
        check=not_below("bwn", "xnor"),
    ),
)


def tables(record: Any) -> list[Any]:
    """Accuracy and bytes by method."""
    from rich.table import Table

    table = Table(title=f"One and two bits a weight on {record.config['data']}")
    for title in ("weights", "accuracy, %", "bytes"):
        table.add_column(title, justify="left" if title == "weights" else "right")
    for name, label in LABELS.items():
        accuracy, size = (average(record.metrics, name, metric) for metric in ("accuracy", "bytes"))
        table.add_row(label, f"{accuracy:.2f}", f"{size:,.0f}")
    return [table]


def figures(record: Any) -> dict[str, Any]:
    """Accuracy of every seed, by method."""
    from experiments.frame import style

    figure, axes = style.figure(width=6.0, height=3.4)
    names = list(LABELS)
    for seed in record.metrics["baseline"]:
        values = [column(record.metrics, name, "accuracy")[seed] for name in names]
        axes.plot(values, range(len(names)), "o", label=f"seed {seed}")
    axes.set_yticks(range(len(names)), list(LABELS.values()))
    axes.invert_yaxis()
    axes.set(xlabel="test accuracy, %", title="Few bits a weight, trained")
    axes.legend(loc="best")
    return {"binary": figure}


if __name__ == "__main__":
    main()
