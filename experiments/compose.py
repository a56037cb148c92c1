"""Composition: pruning, few bits, low rank and distillation stacked, in either order, on one network.

Claims: Harma et al., 2024, arXiv:2405.20935: pruning before quantization loses less than after it, and the
two are not orthogonal; a pruned network trained in few bits keeps its zeros and is better than one rounded
afterwards (NVIDIA's sparse QAT); Polino et al., 2018, arXiv:1802.05668: a teacher helps a student in few
bits.

    python -m experiments.compose

Ours is the lab VGG at an eighth of its width on a part of Fashion-MNIST; all layers but the first and the
last have 80 % zeros, 3-bit weights with one scale a channel, or half their rank. Every arm is a `chain` and
is trained on from the dense network for as long as the baseline. The teacher is the dense network itself.
Bits a weight are the entropy of what is stored, zeros as a bitmap. Cost: some 15 minutes.

Seen: sparse training in few bits keeps every zero and is two points above rounding the pruned network;
pruning first is a point above quantizing first; a teacher adds 0.7 points; 82.7 % are left at 1.2 bits a
weight, 83.4 % with a teacher, of 85.9.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from efficient import Transform, at, chain, dense, distill, lift
from efficient.core.paths import select
from efficient.factorize import low_rank
from efficient.prune import magnitude
from efficient.quantize import quantize, quantizers
from efficient.train import losses
from efficient.train.classify import pixels
from efficient.train.step import Loss
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
)
from experiments.frame.bench import Weights
from experiments.tuned_net import SMOKE, TuneConfig, TunedNet

TEMPERATURE, SHARE = 4.0, 0.5  # of the teacher's logits, and their part of the loss


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(TuneConfig):
    """What is run."""

    sparsity: float = 0.8  # of zeros, in (0, 1)
    bits: int = 3  # of a weight, 2 to 8
    rank: float = 0.5  # of the full rank, in (0, 1]

    @classmethod
    def smoke(cls) -> "Config":
        """The same path on a small network and few images."""
        return cls(**SMOKE)


def stacks(config: Config) -> dict[str, Transform]:
    """By arm, what is trained through."""
    prune, few = magnitude(config.sparsity), quantize(quantizers.integer(config.bits))
    low = low_rank(config.rank)
    return {
        "prune": prune,
        "quantize": few,
        "low_rank": low,
        "prune+quantize": chain(prune, few),
        "quantize+prune": chain(few, prune),
        "low_rank+quantize": chain(low, few),
        "low_rank+prune": chain(low, prune),
        "low_rank+prune+quantize": chain(low, prune, few),
    }


TAUGHT = ("prune", "quantize", "prune+quantize", "low_rank+prune+quantize")  # trained with a teacher too
ROUNDED = {"prune-rounded": ("prune", "prune+quantize"), "quantized-pruned": ("quantize", "quantize+prune")}
"""Trained as the first, then made into the second without training."""


def taught(net: TunedNet, teacher: Weights) -> Loss:
    """Cross-entropy and the teacher's softened logits."""
    apply: Any = lift(net.bench.model.apply)
    theirs = {"params": teacher.params, **teacher.model_state}

    def loss(weights: Any, model_state: Any, batch: Any, key: Any) -> tuple[Any, Any]:
        images = pixels(batch.images)
        logits, new_state = apply(
            {"params": weights, **model_state},
            images,
            train=True,
            mutable=list(model_state),
            rngs={"dropout": key},
        )
        own: Any = net.bench.model.apply(theirs, images)
        soft = distill.forward_kl(logits, own, temperature=TEMPERATURE, mask=batch.mask)
        hard = losses.mean(losses.cross_entropy(logits, batch.labels), batch.mask)
        accuracy = losses.mean(losses.is_correct(logits, batch.labels), batch.mask)
        return (1 - SHARE) * hard + SHARE * soft, (new_state, {"accuracy": accuracy})

    return loss


def bits_a_weight(shown: Any, size: int, bits: int) -> float:
    """The entropy of the arrays that stand for `size` weights: which are zero, and the values of the others.

    Values of a channel that are at most 2^bits different ones are codes, with a float32 scale a channel;
    others are float32.
    """
    total = 0.0
    for leaf in jax.tree.leaves(shown):
        matrix = np.asarray(leaf).reshape(-1, leaf.shape[-1])
        density = float(np.mean(matrix != 0))
        total += matrix.size * _entropy([density, 1 - density])
        for channel in matrix.T:
            _, counts = np.unique(channel[channel != 0], return_counts=True)
            if len(counts) <= 2**bits:
                total += counts.sum() * _entropy(counts / max(counts.sum(), 1)) + 32
            else:
                total += counts.sum() * 32
    return float(total / size)


def _entropy(shares: Any) -> float:
    """In bits."""
    return float(sum(-p * np.log2(p) for p in shares if p > 0))


class Arms:
    """The network under every stack."""

    def __init__(self, config: Config) -> None:
        self.config, self.net = config, TunedNet(config)
        self.where = self.net.middle()
        self.stacks = {name: at(self.where, t) for name, t in stacks(config).items()}
        self.trainers = {
            name: self.net.trainer(t, config.rate, config.tune) for name, t in self.stacks.items()
        }

    def one(self, seed: int, progress: Progress) -> dict[str, dict[str, float]]:
        """All arms at one seed."""
        whole, accuracy = self.net.dense(seed)
        arms = {"baseline": {"accuracy": accuracy, "bits": 32.0, "zeros": 0.0}}
        trained: dict[str, Weights] = {}
        todo = self.stacks.items()
        for name, t in progress.track(todo, f"seed {seed}: stacks", total=len(todo)):
            begun = self.net.started(t, whole, seed)
            arms[f"untuned.{name}"] = self.scored(t, begun)
            trained[name] = self.trainers[name](begun, seed + 1000, self.config.tune)
            arms[name] = self.scored(t, trained[name])
        for name, (first, second) in ROUNDED.items():
            t = self.stacks[second]
            params = self.stacks[first].apply(trained[first].params, trained[first].compress)
            begun = self.net.started(t, Weights(params, trained[first].model_state), seed)
            arms[name] = self.scored(t, begun)
        loss = taught(self.net, whole)
        for name in progress.track(TAUGHT, f"seed {seed}: taught"):
            t = self.stacks[name]
            train = self.net.trainer(t, self.config.rate, self.config.tune, loss=loss)
            weights = train(self.net.started(t, whole, seed), seed + 1000, self.config.tune)
            arms[f"{name}+distil"] = self.scored(t, weights)
        return arms

    def scored(self, t: Transform, weights: Weights) -> dict[str, float]:
        """Accuracy, bits a weight, and zeros in percent."""
        shown = t.apply(weights.params, weights.compress)
        packed = t.pack(weights.params, weights.compress)
        size = sum(value.size for value in select(weights.params, self.where).values())
        chosen = select(shown, self.where)
        flat = jnp.concatenate([jnp.ravel(dense(value)) for value in chosen.values()])
        stored = jnp.concatenate([jnp.ravel(v) for v in select(dense(packed), self.where).values()])
        return {
            "accuracy": self.net.bench.accuracy(shown, weights.model_state),
            "bits": bits_a_weight(chosen, size, self.config.bits),
            "zeros": 100 * float(jnp.mean(flat == 0)),
            "moved": float(jnp.max(jnp.abs(flat - stored))),  # by packing
        }


def run(config: Config, *, progress: Progress | None = None) -> Metrics:
    """By arm (`baseline`, `prune`, `prune+quantize`, ...): accuracy and zeros in percent, bits a weight."""
    return by_seed(Arms(config).one, config.seeds, progress=progress)


def keeps_zeros(metrics: Metrics) -> Outcome:
    """Zeros of the pruned network in few bits, less what was asked for, in points; the least."""
    zeros = column(metrics, "prune+quantize", "zeros")
    pruned = column(metrics, "prune", "zeros")
    gaps = {seed: zeros[seed] - pruned[seed] for seed in zeros}
    return Outcome.of(gaps, min(gaps.values()) >= 0)


def unmoved(metrics: Metrics) -> Outcome:
    """The largest difference that packing makes to any weight of any arm."""
    names = [name for name in metrics if name != "baseline"]
    worst = {
        seed: max(column(metrics, name, "moved")[seed] for name in names)
        for seed in column(metrics, "baseline", "accuracy")
    }
    return Outcome.of(worst, max(worst.values()) <= 1e-6)


HARMA = functools.partial(
    Claim,
    paper="Harma et al., 2024",
    arxiv="2405.20935",
    unit="points",
    published="above 0",
    known="memory",
    rule="mean gap not below 0 by more than 2 standard errors",
)
NVIDIA: Callable[..., Claim] = functools.partial(
    HARMA, paper="Mishra et al., 2021; NVIDIA's sparse QAT", arxiv="2104.08378"
)
CLAIMS = (
    NVIDIA(
        id="compose-zeros",
        metric="zeros of the pruned network trained in few bits, above those of the pruned one",
        published="at least 0",
        known="bar",
        rule="at least 0 in every seed",
        check=keeps_zeros,
    ),
    NVIDIA(
        id="compose-sparse-qat",
        metric="accuracy of sparse training in few bits above pruning, training and rounding",
        rule="mean gap above 0 by 2 standard errors",
        check=better("prune+quantize", "prune-rounded"),
    ),
    HARMA(
        id="compose-order-untuned",
        metric="accuracy of pruning before rounding above rounding before pruning, untuned",
        check=not_below("untuned.prune+quantize", "untuned.quantize+prune"),
    ),
    HARMA(
        id="compose-order",
        metric="accuracy of pruning before rounding above rounding before pruning, trained",
        check=not_below("prune+quantize", "quantize+prune"),
    ),
    HARMA(
        id="compose-distil",
        paper="Polino et al., 2018",
        arxiv="1802.05668",
        metric="accuracy of the pruned network in few bits with a teacher above without",
        check=not_below("prune+quantize+distil", "prune+quantize"),
    ),
    HARMA(
        id="compose-packed",
        paper="ours",
        arxiv="",
        metric="difference that packing makes to a weight, the largest of all arms",
        unit="",
        published=0,
        known="bar",
        rule="at most 1e-6",
        check=unmoved,
    ),
)


def tables(record: Any) -> list[Any]:
    """Accuracy, bits and zeros of every stack."""
    from rich.table import Table

    table = Table(title="Stacks of methods on the lab VGG: accuracy %, bits a weight")
    for title in ("stack", "untuned", "trained", "taught", "bits", "zeros, %"):
        is_first = title == "stack"
        table.add_column(title, justify="left" if is_first else "right", no_wrap=is_first)

    def value(arm: str, metric: str = "accuracy") -> str:
        return f"{average(record.metrics, arm, metric):.2f}" if arm in record.metrics else "-"

    for name in record.metrics:
        if "." in name or name.endswith("distil"):
            continue
        cells = (value(f"untuned.{name}"), value(name), value(f"{name}+distil"), value(name, "bits"))
        table.add_row(name, *cells, value(name, "zeros"))
    return [table]


def figures(record: Any) -> dict[str, Any]:
    """Bits a weight and accuracy, a row a stack; what collapsed is written at the edge."""
    from experiments.frame import style

    def value(name: str, metric: str = "accuracy") -> float:
        return average(record.metrics, name, metric)

    dense = value("baseline")
    names = [n for n in record.metrics if n != "baseline" and "." not in n and not n.endswith("+distil")]
    names.sort(key=lambda name: value(name, "bits"), reverse=True)
    shown = [value(n) for n in record.metrics if n != "baseline" and "." not in n and value(n) > dense - 20]
    least = min([*shown, dense]) - 1
    figure, (left, right) = style.figure(columns=2, width=9.0, height=4.2, sharey=True)
    left.plot([value(name, "bits") for name in names], names, "o", color=style.BASELINE)
    left.set_xscale("log", base=2)
    left.set(xlabel="bits a weight, entropy", title="Stacks of methods")
    left.xaxis.set_major_formatter("{x:g}")
    for suffix, mark, label in (("", "o", "trained on labels"), ("+distil", "^", "with a teacher")):
        rows = [(value(name + suffix), name) for name in names if name + suffix in record.metrics]
        kept = [row for row in rows if row[0] >= least]
        right.plot(*zip(*kept, strict=True), mark, alpha=0.8, label=label) if kept else None
        for accuracy, name in rows:
            if accuracy < least:
                where = {"va": "center", "fontsize": 8, "color": style.BASELINE}
                right.text(least, name, f"\u2190 {accuracy:.0f}", **where)
    right.set_xlim(least, dense + 0.5)
    right.axvline(dense, color=style.BASELINE, linewidth=1, label="dense")
    right.set(xlabel="test accuracy, %")
    right.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, fontsize=8)
    return {"stacks": figure}


if __name__ == "__main__":
    main()
