"""Prune: which weights stay. `prune(score, sparsity, pattern=, allocation=)` puts the pieces together."""

from efficient.prune.allocation import Allocation
from efficient.prune.magnitude import magnitude
from efficient.prune.mask import kept_of, masked, top_mask
from efficient.prune.pattern import Pattern
from efficient.prune.prune import Pruned, prune
from efficient.prune.score import Score

__all__ = ["Allocation", "Pattern", "Pruned", "Score", "kept_of", "magnitude", "masked", "prune", "top_mask"]
