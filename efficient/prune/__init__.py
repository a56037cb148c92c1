"""Prune: which weights stay.

`prune(score, sparsity, pattern=, allocation=)` puts together one of `scores`, `patterns` and `allocations`;
`structured` prunes whole channels by the dependencies of a model; `reconstruct` corrects what stays; `rigl`,
`sparse_evolutionary` and `static_sparse` train sparse from the start, `straight_through` with hidden weights
that may come back; `leaves` store what is sparse. `ranking` orders channels, `prices` says what a number
of them costs: `netadapt` and `amc` search for the best numbers under a budget. `sensitivity` prunes each
layer alone.
"""

from efficient.prune.allocation import Allocation
from efficient.prune.amc import amc
from efficient.prune.corrected import Corrected, correction
from efficient.prune.drop_and_grow import Sparse, regrown
from efficient.prune.magnitude import magnitude
from efficient.prune.mask import kept_of, masked, top_mask
from efficient.prune.netadapt import netadapt
from efficient.prune.pattern import Pattern
from efficient.prune.price import Price
from efficient.prune.prune import Pruned, prune
from efficient.prune.ranking import Ranking, ranking
from efficient.prune.rigl import rigl
from efficient.prune.score import Score
from efficient.prune.sensitivity import Sensitivity, sensitivity
from efficient.prune.sparse_evolutionary import sparse_evolutionary
from efficient.prune.static_sparse import static_sparse
from efficient.prune.store_sparse import sparse
from efficient.prune.straight_through import straight_through
from efficient.prune.structured import Structured, structured

__all__ = [
    "Allocation",
    "Corrected",
    "Pattern",
    "Price",
    "Pruned",
    "Ranking",
    "Score",
    "Sensitivity",
    "Sparse",
    "Structured",
    "amc",
    "correction",
    "kept_of",
    "magnitude",
    "masked",
    "netadapt",
    "prune",
    "ranking",
    "regrown",
    "rigl",
    "sensitivity",
    "sparse",
    "sparse_evolutionary",
    "static_sparse",
    "straight_through",
    "structured",
    "top_mask",
]
