"""An experiment of a few milliseconds: one more bit of a uniform quantizer gains 20 log10(2) = 6.02 dB.

python -m tests.experiments.sample.closed_form
"""

import dataclasses
import math
import operator
from typing import Literal

import numpy as np

from experiments.frame import Claim, Outcome, by_seed, column, main, mean, paired


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    samples: int = 4096  # numbers drawn, > 0
    # bits of the quantizer:
    # baseline and treatment
    bits: tuple[int, int] = (4, 5)
    span: float = 1.0  # the numbers are uniform in [-span, span]
    rounding: Literal["nearest", "floor"] = "nearest"
    verbose: bool = dataclasses.field(default=False, metadata={"help": "says nothing"})
    note: str = ""
    seeds: tuple[int, ...] = (0, 1, 2)  # one draw each

    def __post_init__(self) -> None:
        if self.samples <= 0:
            raise ValueError(f"samples must be positive, got {self.samples!r}; try --samples=4096.")

    @classmethod
    def smoke(cls):
        return cls(samples=64, seeds=(0, 1))


def signal_to_noise(values, bits, config):
    """In decibels, of the midrise quantizer with 2**bits levels."""
    step = 2 * config.span / 2**bits
    centre = 0.5 if config.rounding == "nearest" else 0.0
    error = (np.floor(values / step) + centre) * step - values
    return 10 * math.log10(np.mean(values**2) / np.mean(error**2))


def run(config, *, progress=None):
    def one(seed, progress):
        values = np.random.default_rng(seed).uniform(-config.span, config.span, config.samples)
        curve = [signal_to_noise(values, bits, config) for bits in progress.track(range(1, 9), "bits")]
        names = ("baseline", "treatment")
        return {
            arm: {"snr_db": signal_to_noise(values, bits, config), "curve_db": curve}
            for arm, bits in zip(names, config.bits, strict=True)
        }

    return by_seed(one, config.seeds, progress=progress)


def gain(metrics):
    return paired(operator.sub, *(column(metrics, arm, "snr_db") for arm in ("treatment", "baseline")))


def gains_a_bit(metrics):
    found = gain(metrics)
    return Outcome.of(found, holds=all(abs(value - 6.02) < 0.5 for value in found.values()))


def gains_more(metrics):
    return Outcome.of(gain(metrics), holds=min(gain(metrics).values()) > 7, detail="it cannot: see Bennett")


def entropy(metrics):
    return Outcome.of(column(metrics, "treatment", "entropy_bits"), holds=True)


CLAIMS = (
    Claim(
        id="closed-form-bit",
        paper="Bennett, Spectra of quantized signals, 1948",
        metric="gain in signal-to-noise ratio of one more bit",
        unit="dB",
        published=6.02,
        known="recomputed",
        rule="every seed gains 6.02 dB within 0.5 dB",
        check=gains_a_bit,
    ),
    Claim(
        id="closed-form-more",
        paper="nobody <script>alert(1)</script>",
        arxiv="1510.00149",
        where="table 0",
        metric="gain in signal-to-noise ratio | of one more bit",
        unit="dB",
        published="more than 7",
        known="memory",
        rule="every seed gains more than 7 dB",
        check=gains_more,
    ),
    Claim(
        id="closed-form-entropy",
        paper="Bennett, Spectra of quantized signals, 1948",
        metric="entropy of the codes",
        unit="bit",
        published=5,
        rule="the codes have five bits of entropy",
        check=entropy,
    ),
)


def figures(record):
    from experiments.frame import style

    made, axes = style.figure()
    bits = range(1, 9)
    curves = [row["curve_db"] for row in record.metrics["baseline"].values()]
    axes.plot(bits, [mean(points) for points in zip(*curves, strict=True)], "o-", label="measured")
    axes.plot(bits, [6.02 * b for b in bits], "--", color=style.BASELINE, label="6.02 dB a bit")
    axes.set(xlabel="bits", ylabel="signal to noise, dB", title="Every bit gains 6 dB")
    style.label_lines(axes)
    return {"curve": made}


if __name__ == "__main__":
    main()
