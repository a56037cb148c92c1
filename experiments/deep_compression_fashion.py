"""Deep Compression on all 60,000 images of Fashion-MNIST: at least 30 times smaller at the same loss.

The networks and arms of `experiments.deep_compression`, on a harder data set; more weights are kept.

    python -m experiments.deep_compression_fashion

Fashion-MNIST comes with Debian's package `dataset-fashion-mnist`; without it the error lists the other ways.
"""

import dataclasses
from typing import Any

from experiments import deep_compression
from experiments.deep_compression_arms import Config as LeNets
from experiments.frame import Claim, main

tables, figures, run = deep_compression.tables, deep_compression.figures, deep_compression.run


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(LeNets):
    """What is run: fewer epochs of a larger set."""

    data: str = "fashion_mnist"  # as in deep_compression
    effort: float = 0.4  # multiplies every number of epochs, > 0
    density: float = 1.3  # multiplies the fraction of weights that each layer keeps, > 0
    batch_size: int = 128  # images a step, > 0


def claims() -> tuple[Claim, ...]:
    """At least 30 times smaller, and the arms of the figures."""
    made: list[Any] = [
        Claim(
            id=f"dc-fashion-{name.replace('_', '-')}-ratio",
            paper=deep_compression.PAPER,
            arxiv="1510.00149",
            where="Table 1, on MNIST",
            metric=f"how many times smaller the file of {name} is than its float32 weights, on Fashion-MNIST",
            unit="x",
            published=published,
            known="paper",
            rule="at least 30x in file bytes, mean loss at most 0.5 points, the same logits bit for bit",
            check=deep_compression.ratio_claim(name, at_least=30),
        )
        for name, published in (("lenet_300_100", 40), ("lenet5", 39))
    ]
    shared = ("dc-figure-6", "dc-one-shot", "dc-8-bit", "dc-2-bit")
    for claim in deep_compression.CLAIMS:
        if claim.id in shared:
            made.append(dataclasses.replace(claim, id=f"{claim.id}-fashion"))
    return tuple(made)


CLAIMS = claims()


if __name__ == "__main__":
    main()
