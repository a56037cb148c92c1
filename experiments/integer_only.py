"""Integers alone: an image classifier in int8 tensors, int32 sums and shifts.

Claim: Jacob et al., 2018, arXiv:1712.05877: inference needs no floating point. MIT 6.5940, Lab 2: a VGG in
int8, one scale a channel for weights and one a tensor for activations, keeps 92.87 of 92.95 %.

    python -m experiments.integer_only

Ours is the lab VGG at an eighth of its width on a part of Fashion-MNIST, trained from scratch, its
normalizations folded, its ranges the least and the largest of the calibration images. Nothing is trained
afterwards. Every operation is compared with the same one on real numbers, rounded where tensors are, given
the same int8 inputs. Cost: some 4 minutes.

Seen: in int8 it loses 0.03 points, no operation is more than a step from real numbers, and weights take a
quarter of the bytes; in 4 bits it loses two points.
"""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np

from efficient import stored_bytes
from efficient.quantize.integer import calibrate, compile_integers
from experiments.folded_net import SMOKE, NetConfig, Nets
from experiments.frame import Claim, Metrics, Outcome, Progress, average, by_seed, column, main, paired

ARMS = {
    "per_channel": {"per_channel": True, "bits": 8},
    "per_tensor": {"per_channel": False, "bits": 8},
    "four_bits": {"per_channel": True, "bits": 4},
}
LABELS = {
    "baseline": "float32",
    "per_channel": "int8, a channel",
    "per_tensor": "int8, a tensor",
    "four_bits": "int4 in int8, a channel",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(NetConfig):
    """What is run."""

    compared: int = 32  # test images on which each operation is compared, > 0

    @classmethod
    def smoke(cls) -> "Config":
        """The same path on a thin network and few images."""
        return cls(**SMOKE, compared=2)  # type: ignore[arg-type]


def run(config: Config, *, progress: Progress | None = None) -> Metrics:
    """By arm (`baseline`, `per_channel`, `per_tensor`, `four_bits`): accuracies, dB, steps, bytes."""
    nets = Nets(config)

    def one(seed: int, watch: Progress) -> dict[str, dict[str, float]]:
        net = nets.trained(seed)
        dense = net.under(net.params)
        arms = {"baseline": {**net.scored(dense, dense), "bytes": float(stored_bytes(net.params))}}
        ranges = calibrate(net.folded, net.params, [nets.images])
        for name, options in watch.track(ARMS.items(), "programs", total=len(ARMS)):
            program = compile_integers(net.folded, net.params, ranges, **options)  # type: ignore[arg-type]
            logits = net.logits(jax.jit(program))
            few = nets.test_images[: config.compared]
            ends = np.abs(np.asarray(program(few) - program(few, simulated=True))) / program.outgoing.scale
            arms[name] = {
                **net.scored(logits, dense),
                "bytes": float(program.weight_bytes),
                "steps": float(max(steps for _, steps in program.differences(few))),
                "end_steps": float(np.mean(ends)),
            }
        return arms

    return by_seed(one, config.seeds, progress=progress)


def lost(metrics: Metrics) -> Outcome:
    """Points that int8 loses."""
    pair = (column(metrics, arm, "accuracy") for arm in ("baseline", "per_channel"))
    return Outcome.at_most(paired(lambda a, b: a - b, *pair), 0.3)


def one_step(metrics: Metrics) -> Outcome:
    """The largest difference of any operation of any arm."""
    columns = [column(metrics, arm, "steps") for arm in ARMS]
    worst = {seed: max(c[seed] for c in columns) for seed in columns[0]}
    return Outcome.of(worst, max(worst.values()) <= 1)


def smaller(metrics: Metrics) -> Outcome:
    """Bytes of float32 over those of the program."""
    pair = (column(metrics, arm, "bytes") for arm in ("baseline", "per_channel"))
    ratios = paired(lambda a, b: a / b, *pair)
    return Outcome.of(ratios, min(ratios.values()) >= 3.5)


JACOB = functools.partial(Claim, paper="Jacob et al., Quantization and Training, 2018", arxiv="1712.05877")
CLAIMS = (
    Claim(
        id="integer-accuracy",
        paper="MIT 6.5940, Lab 2",
        where="int8 linear quantization",
        metric="accuracy that int8 loses, weights by channel, untuned",
        unit="points",
        published=0.08,
        known="repository",
        rule="mean loss at most 0.3 points",
        check=lost,
    ),
    JACOB(
        id="integer-one-step",
        where="section 2.2",
        metric="steps of int8 by which an operation in integers differs from real numbers, the worst",
        published="at most 1",
        known="bar",
        rule="at most 1 in every operation, arm and seed",
        check=one_step,
    ),
    JACOB(
        id="integer-bytes",
        where="section 1",
        metric="bytes of float32 weights over those of the program, multipliers included",
        unit="x",
        published=4,
        known="memory",
        rule="at least 3.5 in every seed",
        check=smaller,
    ),
)

METRICS = ("accuracy", "agreement", "sqnr", "steps", "end_steps", "bytes")


def tables(record: Any) -> list[Any]:
    """Accuracy, agreement, steps and bytes of each program."""
    from rich.table import Table

    table = Table(title=f"The lab VGG in integers on {record.config['data']}")
    titles = ("program", "accuracy", "agrees %", "SQNR dB", "worst step", "end, steps", "bytes")
    for title in titles:
        is_first = title == "program"
        table.add_column(title, justify="left" if is_first else "right", no_wrap=is_first)
    for arm in ("baseline", *ARMS):
        cells = [
            f"{average(record.metrics, arm, m):,.{0 if m in ('bytes', 'steps') else 2}f}"
            if m in next(iter(record.metrics[arm].values()))
            else "-"
            for m in METRICS
        ]
        table.add_row(LABELS[arm], *cells)
    return [table]


def figures(record: Any) -> dict[str, Any]:
    """Accuracy of each program."""
    from experiments.frame import style

    figure, axes = style.figure(width=6.0, height=3.2)
    names = ["baseline", *ARMS]
    for seed in record.metrics["baseline"]:
        axes.plot(
            [record.metrics[arm][seed]["accuracy"] for arm in names],
            range(len(names)),
            "o",
            label=f"seed {seed}",
        )
    axes.set_yticks(range(len(names)), [LABELS[name] for name in names])
    axes.invert_yaxis()
    axes.set(xlabel="test accuracy, %", title="In integers alone, untuned")
    axes.legend(loc="best")
    return {"integers": figure}


if __name__ == "__main__":
    main()
