"""Prune: which weights stay.

`prune(score, sparsity, pattern=, allocation=)` puts together one of `scores`, `patterns` and `allocations`;
`structured` prunes whole channels by the dependencies of a model; `reconstruct` corrects what stays; `rigl`,
`sparse_evolutionary` and `static_sparse` train sparse from the start; `leaves` store what is sparse.
"""

from efficient.prune.allocation import Allocation
from efficient.prune.corrected import Corrected, correction
from efficient.prune.drop_and_grow import Sparse, regrown
from efficient.prune.magnitude import magnitude
from efficient.prune.mask import kept_of, masked, top_mask
from efficient.prune.pattern import Pattern
from efficient.prune.prune import Pruned, prune
from efficient.prune.rigl import rigl
from efficient.prune.score import Score
from efficient.prune.sparse_evolutionary import sparse_evolutionary
from efficient.prune.static_sparse import static_sparse
from efficient.prune.store_sparse import sparse
from efficient.prune.structured import Structured, structured

__all__ = [
    "Allocation",
    "Corrected",
    "Pattern",
    "Pruned",
    "Score",
    "Sparse",
    "Structured",
    "correction",
    "kept_of",
    "magnitude",
    "masked",
    "prune",
    "regrown",
    "rigl",
    "sparse",
    "sparse_evolutionary",
    "static_sparse",
    "structured",
    "top_mask",
]
