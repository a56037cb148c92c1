"""What an experiment imports: claims and outcomes, columns of metrics, progress, the command line."""

from experiments.frame.app import main
from experiments.frame.claim import (
    Claim,
    Metrics,
    Outcome,
    average,
    better,
    column,
    deviation,
    mean,
    not_below,
    paired,
    show,
)
from experiments.frame.progress import Progress, by_seed
from experiments.frame.record import Record

__all__ = [
    "Claim",
    "Metrics",
    "Outcome",
    "Progress",
    "Record",
    "average",
    "better",
    "by_seed",
    "column",
    "deviation",
    "main",
    "mean",
    "not_below",
    "paired",
    "show",
]
