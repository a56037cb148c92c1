"""Data-free quantization: EfficientNet-Lite0 in 8 bits with one scale a tensor, as it is and equalized.

Claim: Nagel et al., 2019, arXiv:1906.04721, tables 1 and 2: MobileNetV2 with 8-bit weights and one scale a
tensor falls from 71.72 to 0.12 %; equalizing the channels of layers that follow each other, and correcting
biases, brings it to 71.19, as good as a scale a channel.

    python -m experiments.dfq

The weights are those that Google published, trained on ImageNet (4.6 million); the images are cuts of two
photographs, other ones at each seed, so the measures are dB of the logits and agreement of the class with the
float32 network, not accuracy. Weights are rounded, activations are not. High biases are not absorbed. Bias
correction is the empirical kind, from cuts that are not compared. Cost: some 5 minutes; it needs the
checkpoint (`efficient.models.download_efficientnet_lite0()`) and scikit-learn.

Seen: one scale a tensor is 12 dB below one a channel in the logits; equalization takes two thirds of that
back, and with biases corrected it is above a scale a channel.
"""

import dataclasses
import functools
from typing import Any

import numpy as np

from efficient import at, dense, observe
from efficient.core.paths import flatten
from efficient.quantize import bias_corrected, channel, equalize, quantize, quantizers, tensor
from experiments.frame import Claim, Metrics, Outcome, Progress, average, by_seed, column, main, paired
from experiments.photographs import SIDE, Lite0, compared, crops, sqnr

BLOCKS = {"tensor": tensor, "channel": channel}
ARMS = ("tensor", "channel", "equalized", "corrected", "equalized_corrected", "equalized_channel")
LABELS = {
    "tensor": "a scale a tensor",
    "channel": "a scale a channel",
    "equalized": "a tensor, equalized",
    "corrected": "a tensor, biases corrected",
    "equalized_corrected": "a tensor, equalized, corrected",
    "equalized_channel": "a channel, equalized",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """What is run."""

    bits: int = 8  # of a weight, 2 to 8
    images: int = 64  # that are compared, a multiple of 8, > 0
    calibration: int = 16  # images that biases are corrected by, a multiple of 8, > 0
    seeds: tuple[int, ...] = (0, 1, 2)  # one set of cuts each

    def __post_init__(self) -> None:
        for name in ("images", "calibration"):
            if getattr(self, name) < 1 or getattr(self, name) % 8:
                raise ValueError(f"{name} must be a multiple of 8, got {getattr(self, name)!r}; try 64.")

    @classmethod
    def smoke(cls) -> "Config":
        """The same path on few images."""
        return cls(images=8, calibration=8, seeds=(0,))


class Arms:
    """The network, and its weights rounded in every way."""

    def __init__(self, config: Config) -> None:
        self.config, self.lite0 = config, Lite0()
        self.even = equalize(self.lite0.folded, self.lite0.params, np.zeros((1, SIDE, SIDE, 3), np.float32))

    def one(self, seed: int, progress: Progress) -> dict[str, dict[str, float]]:
        """All arms on one set of cuts."""
        config, lite0 = self.config, self.lite0
        images, others = crops(config.images, seed), crops(config.calibration, seed + 1000)
        logits = lite0.logits(lite0.params, images)
        arms = {"baseline": compared(logits, logits)}
        arms["even"] = compared(lite0.logits(self.even, images), logits)  # equalized, not rounded
        for name in progress.track(ARMS, f"seed {seed}: roundings"):
            whole = self.even if name.startswith("equalized") else lite0.params
            blocks = BLOCKS["channel" if name.endswith("channel") else "tensor"]()
            t = at("**/kernel", quantize(quantizers.integer(config.bits, blocks)))
            stats = None
            if name.endswith("corrected"):
                t = bias_corrected(t)
                batches = [others[i : i + 8] for i in range(0, len(others), 8)]
                stats = observe(lite0.folded.apply, whole, batches, where="**/kernel", statistics=("mean",))
            shown = dense(t.apply(whole, t.init(whole, stats=stats)))
            arms[name] = {**compared(lite0.logits(shown, images), logits), **self.kernels(whole, shown)}
        return arms

    def kernels(self, whole: Any, shown: Any) -> dict[str, float]:
        """DB of depthwise kernels and of the others, the mean over layers."""
        before, after = flatten(whole)[0], flatten(shown)[0]
        found: dict[str, list[float]] = {"depthwise_sqnr": [], "other_sqnr": []}
        for path, value in before.items():
            if path.endswith("kernel"):
                kind = "depthwise_sqnr" if value.ndim == 4 and value.shape[2] == 1 else "other_sqnr"
                found[kind].append(sqnr(value, after[path]))
        return {kind: float(np.mean(values)) for kind, values in found.items()}


def run(config: Config, *, progress: Progress | None = None) -> Metrics:
    """By arm (`baseline`, `even`, `tensor`, `channel`, `equalized`, ...): dB, agreement in percent."""
    return by_seed(Arms(config).one, config.seeds, progress=progress)


def gap(first: str, second: str, metric: str, metrics: Metrics) -> dict[int, float]:
    """DB of the first above the second."""
    return paired(lambda a, b: a - b, *(column(metrics, arm, metric) for arm in (first, second)))


def under(metric: str) -> Any:
    """A check: one scale a tensor is 10 dB below one a channel, in every seed."""

    def check(metrics: Metrics) -> Outcome:
        gaps = gap("channel", "tensor", metric, metrics)
        return Outcome.of(gaps, min(gaps.values()) >= 10)

    return check


def recovers(metrics: Metrics) -> Outcome:
    """The part of the gap in dB that equalization takes back."""
    pairs = gap("equalized", "tensor", "sqnr", metrics), gap("channel", "tensor", "sqnr", metrics)
    shares = paired(lambda a, b: 100 * a / b, *pairs)
    return Outcome.of(shares, min(shares.values()) >= 50)


def corrected(metrics: Metrics) -> Outcome:
    """DB that bias correction adds to equalization."""
    return Outcome.above(gap("equalized_corrected", "equalized", "sqnr", metrics))


DFQ = functools.partial(Claim, paper="Nagel et al., DFQ, 2019", arxiv="1906.04721", known="memory")
CLAIMS = (
    DFQ(
        id="dfq-depthwise",
        where="figure 2",
        metric="SQNR of depthwise weights, a scale a channel above one a tensor, 8 bits",
        unit="dB",
        published="large",
        rule="at least 10 in every seed",
        check=under("depthwise_sqnr"),
    ),
    DFQ(
        id="dfq-tensor",
        where="table 1",
        metric="SQNR of logits, a scale a channel above one a tensor, 8 bits",
        unit="dB",
        published="accuracy falls by 71.6 points",
        rule="at least 10 in every seed",
        check=under("sqnr"),
    ),
    DFQ(
        id="dfq-equalized",
        where="table 1",
        metric="part of that gap that equalization takes back",
        unit="%",
        published="97 (in accuracy)",
        rule="at least 50 in every seed",
        check=recovers,
    ),
    DFQ(
        id="dfq-corrected",
        where="table 2",
        metric="SQNR of logits that bias correction adds to equalization",
        unit="dB",
        published="above 0 (0.8 to 1.1 points)",
        rule="mean gap above 0 by 2 standard errors",
        check=corrected,
    ),
)


def tables(record: Any) -> list[Any]:
    """DB and agreement of each way."""
    from rich.table import Table

    table = Table(title=f"EfficientNet-Lite0, {record.config['bits']}-bit weights, against float32")
    for title in ("weights", "logits, dB", "same class, %", "depthwise, dB", "others, dB"):
        table.add_column(title, justify="left" if title == "weights" else "right")
    for name, label in LABELS.items():
        metrics = ("sqnr", "agreement", "depthwise_sqnr", "other_sqnr")
        table.add_row(label, *(f"{average(record.metrics, name, m):.1f}" for m in metrics))
    return [table]


def figures(record: Any) -> dict[str, Any]:
    """SQNR of logits and agreement, by way."""
    from experiments.frame import style

    figure, both = style.figure(columns=2, width=9.6, height=3.8)
    names = list(LABELS)
    for axes, metric, label in zip(
        both, ("sqnr", "agreement"), ("SQNR of logits, dB", "same class as float32, %"), strict=True
    ):
        axes.barh(range(len(names)), [average(record.metrics, name, metric) for name in names])
        axes.set_yticks(range(len(names)), list(LABELS.values()) if metric == "sqnr" else [""] * len(names))
        axes.invert_yaxis()
        axes.set(xlabel=label)
    return {"dfq": figure}


if __name__ == "__main__":
    main()
