"""Formats: error and bits a weight of every format, on the weights of a network trained on ImageNet.

Claims: Dettmers et al., 2023, arXiv:2305.14314 (QLoRA): NF4 errs less than FP4 and than 4-bit integers, and
quantizing its scales saves 0.373 bits a weight; Rouhani et al., 2023, arXiv:2310.10537 (MX): bits a weight
with shared exponents; NVIDIA, 2025, arXiv:2509.25149: NVFP4 errs less than MXFP4; Dai et al., 2021,
arXiv:2102.04503 (VS-Quant): a scale for each 16 weights, in few bits, beats one a channel.

    python -m experiments.formats

The weights are all pointwise kernels of EfficientNet-Lite0 with 64 input channels or more, and its
classifier, 4.3 million; nothing is trained. An error is the mean over layers, in dB; bits are those of the
packed leaves, scales and filling included: few of the channel counts divide by the size of a group, so that
they are above the nominal ones, which are measured on a 2048 x 2048 matrix. Beside them stands what the
whole network's logits lose on cuts of two photographs, other ones at each seed. Cost: some 6 minutes; it
needs the checkpoint (`efficient.models.download_efficientnet_lite0()`) and scikit-learn.

Seen: the papers' orders hold. At 4 bits MXFP4, NF4, NVFP4 and VS-Quant lie within 2.2 dB of each other; none
keeps this network's classes without training (58 % at best, affine groups of 64).
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from efficient import Transform, at, stored_bytes
from efficient.core.paths import select
from efficient.quantize import (
    Quantizer,
    binary,
    codebook,
    group,
    quantize,
    quantizers,
    ranges,
    tensor,
    twn,
)
from efficient.quantize.formats import E2M1, PowerOfTwo
from experiments.frame import Claim, Metrics, Outcome, Progress, average, by_seed, column, main, paired
from experiments.photographs import Lite0, compared, crops, sqnr

EVERY: Mapping[str, Callable[[], Transform]] = {
    "int8": lambda: quantize(quantizers.integer(8)),
    "int8_tensor": lambda: quantize(quantizers.integer(8, tensor())),
    "int6": lambda: quantize(quantizers.integer(6)),
    "int4": lambda: quantize(quantizers.integer(4)),
    "int4_mse": lambda: quantize(quantizers.integer(4, range=ranges.mse())),
    "int4_g64": lambda: quantize(quantizers.integer(4, group(64))),
    "affine4_g64": lambda: quantize(quantizers.affine(4, group(64))),
    "int3_g64": lambda: quantize(quantizers.integer(3, group(64))),
    "int2_g64": lambda: quantize(quantizers.integer(2, group(64))),
    "e4m3": lambda: quantize(quantizers.fp8()),
    "e5m2": lambda: quantize(quantizers.fp8(wide=True)),
    "fp4_g64": lambda: quantize(Quantizer(format=E2M1, blocks=group(64))),
    "nf4": lambda: quantize(quantizers.nf4(is_double=False)),
    "nf4_double": lambda: quantize(quantizers.nf4()),
    "mxfp8": lambda: quantize(quantizers.mxfp8()),
    "mxfp6": lambda: quantize(quantizers.mxfp6()),
    "mxfp4": lambda: quantize(quantizers.mxfp4()),
    "nvfp4": lambda: quantize(quantizers.nvfp4()),
    "vs_quant": lambda: quantize(quantizers.vs_quant()),
    "power4": lambda: quantize(Quantizer(format=PowerOfTwo(4), blocks=group(64))),
    "kmeans4": lambda: codebook(4, zero=False),
    "twn": twn,
    "binary": binary,
}
NOMINAL = {"nf4": 4.5, "mxfp8": 8.25, "mxfp6": 6.25, "mxfp4": 4.25, "nvfp4": 4.5}  # bits a weight
UNPACKED = {"kmeans4": 4}  # leaves that hold a byte for each index: bits that the index has


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """What is run."""

    formats: tuple[str, ...] = tuple(EVERY)  # which of them; most have claims
    images: int = 32  # that logits are compared on, a multiple of 8, > 0
    seeds: tuple[int, ...] = (0, 1, 2)  # one set of cuts each; weights are the same

    def __post_init__(self) -> None:
        if unknown := [name for name in self.formats if name not in EVERY]:
            raise ValueError(f"formats must be of {', '.join(EVERY)}, got {unknown!r}; leave it out for all.")
        if self.images < 1 or self.images % 8:
            raise ValueError(f"images must be a multiple of 8, got {self.images!r}; try 32.")

    @classmethod
    def smoke(cls) -> "Config":
        """The same path on few images, in two formats."""
        return cls(formats=("int8_tensor", "e4m3"), images=8, seeds=(0,))


def bits_of(t: Transform, weights: Mapping[str, Any], name: str) -> float:
    """Bits a weight of what is stored."""
    packed = t.pack(dict(weights), t.init(dict(weights)))
    size = sum(value.size for value in weights.values())
    bits = 8 * stored_bytes(packed) / size
    return bits - (8 - UNPACKED[name]) if name in UNPACKED else bits


def is_wide(path: str, value: Any) -> bool:
    """Pointwise kernels and dense ones that take in 64 channels or more."""
    inputs, outputs = value.shape[-2:] if value.ndim > 1 else (0, 0)
    return path.endswith("kernel") and inputs >= 64 and value.size == inputs * outputs


class Arms:
    """The network in every format; what does not depend on the images is computed once."""

    def __init__(self, names: tuple[str, ...], progress: Progress) -> None:
        self.lite0 = Lite0()
        weights = select(self.lite0.params, is_wide)
        matrix = {"kernel": jax.random.normal(jax.random.key(0), (2048, 2048))}
        self.measured: dict[str, dict[str, float]] = {}
        self.shown: dict[str, Any] = {}
        for name in progress.track(names, "formats"):
            t = EVERY[name]()
            rounded = t.apply(weights, t.init(weights))
            self.measured[name] = {
                "weight_sqnr": float(np.mean([sqnr(weights[path], rounded[path]) for path in weights])),
                "bits": bits_of(t, weights, name),
                "matrix_bits": bits_of(t, matrix, name),
            }
            scoped = at(tuple(weights), t)
            self.shown[name] = scoped.apply(self.lite0.params, scoped.init(self.lite0.params))

    def one(self, config: Config, seed: int, progress: Progress) -> dict[str, dict[str, float]]:
        """All formats on one set of cuts."""
        images = crops(config.images, seed)
        logits = self.lite0.logits(self.lite0.params, images)
        arms = {"baseline": compared(logits, logits)}
        for name in progress.track(self.shown, f"seed {seed}: networks"):
            found = compared(self.lite0.logits(self.shown[name], images), logits)
            arms[name] = {**self.measured[name], **found}
        return arms


def run(config: Config, *, progress: Progress | None = None) -> Metrics:
    """By arm (`baseline`, `int8`, `nf4`, ...): dB of weights and logits, bits a weight, agreement."""
    arms = Arms(config.formats, progress or Progress())
    return by_seed(functools.partial(arms.one, config), config.seeds, progress=progress)


def above(first: str, second: str) -> Callable[[Metrics], Outcome]:
    """A check: the first errs less. The weights are the same at every seed."""

    def check(metrics: Metrics) -> Outcome:
        pair = (column(metrics, arm, "weight_sqnr") for arm in (first, second))
        gaps = paired(lambda a, b: a - b, *pair)
        return Outcome.of(gaps, min(gaps.values()) > 0)

    return check


def saved(metrics: Metrics) -> Outcome:
    """Bits a weight that double quantization saves."""
    pair = (column(metrics, arm, "matrix_bits") for arm in ("nf4", "nf4_double"))
    bits = paired(lambda a, b: a - b, *pair)
    return Outcome.of(bits, all(round(value, 3) == 0.373 for value in bits.values()))


def nominal(metrics: Metrics) -> Outcome:
    """The largest difference from the papers' bits a weight."""
    gaps = {
        seed: max(abs(column(metrics, name, "matrix_bits")[seed] - bits) for name, bits in NOMINAL.items())
        for seed in column(metrics, "nf4", "matrix_bits")
    }
    return Outcome.at_most(gaps, 0.001)


SMALLER = functools.partial(
    Claim, unit="dB", published="above 0", known="memory", rule="above 0; one set of weights"
)
QLORA = functools.partial(SMALLER, paper="Dettmers et al., QLoRA, 2023", arxiv="2305.14314")
CLAIMS = (
    QLORA(
        id="formats-nf4-fp4",
        metric="SQNR of weights, NF4 above FP4 (E2M1), groups of 64",
        check=above("nf4", "fp4_g64"),
    ),
    QLORA(
        id="formats-nf4-int4",
        metric="SQNR of weights, NF4 above 4-bit integers, groups of 64",
        check=above("nf4", "int4_g64"),
    ),
    QLORA(
        id="formats-double",
        where="section 3",
        metric="bits a weight that quantizing scales saves",
        unit="bits",
        published=0.373,
        known="paper",
        rule="equal when rounded",
        check=saved,
    ),
    SMALLER(
        id="formats-bits",
        paper="Rouhani et al., Microscaling, 2023",
        arxiv="2310.10537",
        metric="difference from the nominal bits a weight of NF4, MXFP8, MXFP6, MXFP4, NVFP4, the largest",
        unit="bits",
        published="0",
        known="paper",
        rule="at most 0.001",
        check=nominal,
    ),
    SMALLER(
        id="formats-nvfp4-mxfp4",
        paper="NVIDIA, Pretraining with NVFP4, 2025",
        arxiv="2509.25149",
        metric="SQNR of weights, NVFP4 above MXFP4",
        check=above("nvfp4", "mxfp4"),
    ),
    SMALLER(
        id="formats-vs-quant",
        paper="Dai et al., VS-Quant, 2021",
        arxiv="2102.04503",
        metric="SQNR of 4-bit weights, a 4-bit scale for each 16 above a float scale a channel",
        check=above("vs_quant", "int4"),
    ),
    SMALLER(
        id="formats-e4m3-e5m2",
        paper="Micikevicius et al., FP8 Formats, 2022",
        arxiv="2209.05433",
        metric="SQNR of weights, E4M3 above E5M2",
        check=above("e4m3", "e5m2"),
    ),
)


def tables(record: Any) -> list[Any]:
    """Bits and error of every format."""
    from rich.table import Table

    table = Table(title="EfficientNet-Lite0's wide kernels in every format")
    for title in ("format", "bits", "of a matrix", "weights, dB", "logits, dB", "same class, %"):
        table.add_column(title, justify="left" if title == "format" else "right")
    names = sorted(record.config["formats"], key=lambda name: average(record.metrics, name, "matrix_bits"))
    for name in names:
        metrics = ("bits", "matrix_bits", "weight_sqnr", "sqnr", "agreement")
        digits = (2, 3, 1, 1, 1)
        cells = [f"{average(record.metrics, name, m):.{d}f}" for m, d in zip(metrics, digits, strict=True)]
        table.add_row(name, *cells)
    return [table]


def figures(record: Any) -> dict[str, Any]:
    """Bits and error, a row a format; the line is what uniform numbers gain by a bit."""
    from experiments.frame import style

    def value(name: str, metric: str) -> float:
        return average(record.metrics, name, metric)

    names = sorted(record.config["formats"], key=lambda name: value(name, "matrix_bits"), reverse=True)
    bits = [value(name, "matrix_bits") for name in names]
    figure, (left, right) = style.figure(columns=2, width=9.0, height=5.6, sharey=True)
    left.plot(bits, names, "o", color=style.BASELINE)
    left.set(xlabel="bits a weight, of a large matrix", title="Formats", xlim=(0, None))
    right.plot(6.02 * np.asarray(bits), names, color=style.BASELINE, linestyle=":", label="6.02 dB a bit")
    right.plot([value(name, "weight_sqnr") for name in names], names, "o", label="weights")
    right.plot([value(name, "sqnr") for name in names], names, "^", alpha=0.8, label="logits")
    right.set(xlabel="SQNR, dB")
    right.legend(loc="upper right")
    return {"formats": figure}


if __name__ == "__main__":
    main()
