"""Allocations: how a budget is shared out among arrays, one a file."""

from efficient.prune.allocations.at_most import at_most, from_sensitivity
from efficient.prune.allocations.erdos_renyi import erdos_renyi
from efficient.prune.allocations.per_leaf import per_leaf
from efficient.prune.allocations.together import together

__all__ = ["at_most", "erdos_renyi", "from_sensitivity", "per_leaf", "together"]
