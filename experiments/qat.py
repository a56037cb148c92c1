"""Training in few bits: LSQ, PACT, DoReFa and plain straight-through training against rounding afterwards.

Claim: Esser et al., 2020, arXiv:1902.08153, table 1: on ImageNet at 2 to 4 bits LSQ is above PACT, PACT above
DoReFa (ResNet-18, 2 bits: 67.6, 64.4 and 62.6 %); rounding without training is far below.

    python -m experiments.qat

Ours is the lab VGG at an eighth of its width on a part of Fashion-MNIST. It is trained dense, then for a few
epochs with weights and inputs of all layers but the first and the last in so many bits; the baseline is the
better of the dense network and the same trained as much longer. PACT has DoReFa's weights, as in its paper,
and bounds that start at 3. Rounding afterwards takes the ranges of least squared error, and none of the
normalizations' statistics is taken anew. Cost: some 15 minutes.

Seen: LSQ and PACT are level at 3 bits and 2.2 and 2.9 points below dense at 2; DoReFa is 2.5 points below
PACT; steps from the least to the largest weight cost ten points at 2 bits, rounding afterwards 46.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp

from efficient import Transform, at, chain
from efficient.quantize import (
    ProductLeaf,
    dorefa,
    dorefa_inputs,
    lsq,
    lsq_inputs,
    pact,
    quantize,
    quantize_inputs,
    quantizers,
    ranges,
)
from efficient.quantize.formats import Affine
from experiments.frame import Claim, Metrics, Progress, average, better, by_seed, main, not_below
from experiments.frame.bench import Trainer
from experiments.tuned_net import SMOKE, TuneConfig, TunedNet

METHODS: Mapping[str, Callable[[int], Transform]] = {
    "lsq": lambda bits: chain(lsq(bits), lsq_inputs(bits)),
    "pact": lambda bits: chain(dorefa(bits), pact(bits, bound=3.0)),
    "dorefa": lambda bits: chain(dorefa(bits), dorefa_inputs(bits)),
    "minmax": lambda bits: chain(quantize(quantizers.integer(bits)), quantize_inputs(Affine(bits))),
}
LABELS = {"lsq": "LSQ", "pact": "PACT", "dorefa": "DoReFa", "minmax": "straight-through, min-max",
          "rounded": "rounded afterwards"}  # fmt: skip
STATISTICS = ("min", "max", "absmean", "histogram")


def rounded(bits: int) -> Transform:
    """Not trained: ranges of least squared error."""
    weights = quantizers.integer(bits, range=ranges.mse())
    return chain(quantize(weights), quantize_inputs(Affine(bits), range=ranges.mse()))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(TuneConfig):
    """What is run."""

    bits: tuple[int, ...] = (4, 3, 2)  # of weights and inputs, 2 to 8; 3 and 2 have claims

    @classmethod
    def smoke(cls) -> "Config":
        """The same path on a small network and few images."""
        return cls(**SMOKE, bits=(2,))


def bounds(shown: Any) -> Any:
    """PACT's penalty: the sum of squared bounds of what the model sees."""
    leaves = [leaf for leaf in _leaves(shown) if isinstance(leaf, ProductLeaf)]
    return 1e-4 * sum((jnp.sum(jnp.square(jnp.asarray(leaf.args))) for leaf in leaves), jnp.float32(0))


def _leaves(shown: Any) -> list[Any]:
    import jax

    return jax.tree.leaves(shown, is_leaf=lambda one: isinstance(one, ProductLeaf))


class Arms:
    """The network dense, rounded, and trained by each method at each width."""

    def __init__(self, config: Config) -> None:
        self.config, self.net = config, TunedNet(config)
        self.where = self.net.middle()
        self.trainers: dict[str, tuple[Transform, Trainer]] = {}
        for bits in config.bits:
            for name, make in METHODS.items():
                t = at(self.where, make(bits))
                penalty = {"penalty": bounds} if name == "pact" else {}
                self.trainers[f"{name}_{bits}"] = t, self.net.trainer(t, config.rate, config.tune, **penalty)

    def one(self, seed: int, progress: Progress) -> dict[str, dict[str, float]]:
        """All arms at one seed."""
        dense, accuracy = self.net.dense(seed)
        arms = {"baseline": {"accuracy": accuracy}}
        stats = self.net.statistics(dense, *STATISTICS)
        for bits in self.config.bits:
            t = at(self.where, rounded(bits))
            arms[f"rounded_{bits}"] = {
                "accuracy": self.net.accuracy(self.net.started(t, dense, seed, stats), t)
            }
        todo = self.trainers.items()
        for name, (t, train) in progress.track(todo, f"seed {seed}: methods", total=len(todo)):
            weights = train(self.net.started(t, dense, seed, stats), seed + 1000, self.config.tune)
            arms[name] = {"accuracy": self.net.accuracy(weights, t)}
        return arms


def run(config: Config, *, progress: Progress | None = None) -> Metrics:
    """By arm (`baseline`, `rounded_4`, `lsq_4`, ...): accuracy in percent."""
    return by_seed(Arms(config).one, config.seeds, progress=progress)


LSQ = functools.partial(
    Claim,
    paper="Esser et al., LSQ, 2020",
    arxiv="1902.08153",
    where="table 1",
    unit="points",
    known="memory",
    rule="mean gap not below 0 by more than 2 standard errors",
)
CLAIMS = (
    *(
        LSQ(
            id=f"qat-lsq-pact-{bits}",
            metric=f"accuracy of LSQ above PACT, {bits} bits",
            published={2: 3.2, 3: 2.1}[bits],
            check=not_below(f"lsq_{bits}", f"pact_{bits}"),
        )
        for bits in (3, 2)
    ),
    *(
        LSQ(
            id=f"qat-pact-dorefa-{bits}",
            metric=f"accuracy of PACT above DoReFa, {bits} bits",
            published={2: 1.8, 3: 0.6}[bits],
            check=not_below(f"pact_{bits}", f"dorefa_{bits}"),
        )
        for bits in (3, 2)
    ),
    LSQ(
        id="qat-trained-rounded",
        metric="accuracy of DoReFa, the least of the trained, above rounding afterwards, 2 bits",
        published="above 0",
        rule="mean gap above 0 by 2 standard errors",
        check=better("dorefa_2", "rounded_2"),
    ),
    LSQ(
        id="qat-lsq-minmax",
        metric="accuracy of trained steps above min-max steps, both trained straight through, 2 bits",
        published="above 0",
        rule="mean gap above 0 by 2 standard errors",
        check=better("lsq_2", "minmax_2"),
    ),
)


def tables(record: Any) -> list[Any]:
    """Accuracy by method and width."""
    from rich.table import Table

    dense = average(record.metrics, "baseline", "accuracy")
    table = Table(title=f"Weights and inputs in few bits, accuracy %; dense {dense:.2f}")
    table.add_column("method", no_wrap=True)
    for bits in record.config["bits"]:
        table.add_column(f"{bits} bits", justify="right")
    for name, label in LABELS.items():
        cells = [f"{average(record.metrics, f'{name}_{b}', 'accuracy'):.2f}" for b in record.config["bits"]]
        table.add_row(label, *cells)
    return [table]


def figures(record: Any) -> dict[str, Any]:
    """Accuracy against bits, by method."""
    from experiments.frame import style

    figure, axes = style.figure(width=6.4, height=4.0)
    bits = sorted(record.config["bits"])
    for name, label in LABELS.items():
        values = [average(record.metrics, f"{name}_{b}", "accuracy") for b in bits]
        axes.plot(bits, values, "o-", label=label)
    dense = average(record.metrics, "baseline", "accuracy")
    axes.axhline(dense, color=style.BASELINE, linewidth=1, label="dense")
    axes.set(xlabel="bits of weights and inputs", ylabel="test accuracy, %", title="Trained in few bits")
    axes.set_xticks(bits)
    axes.legend(loc="lower right", fontsize=8)
    return {"qat": figure}


if __name__ == "__main__":
    main()
