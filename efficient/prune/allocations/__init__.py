"""Allocations: how a budget is shared out among arrays, one a file."""

from efficient.prune.allocations.per_leaf import per_leaf
from efficient.prune.allocations.together import together

__all__ = ["per_leaf", "together"]
