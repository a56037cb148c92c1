"""Allocation: how a budget is shared out among arrays.

An allocation is a function `(pooled, weights, sparsity) -> kept`, by path: the pooled scores [*units], the
number of weights of each array, and how many units of each stay. It is traceable in scores and sparsity.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

Shares = Callable[[Mapping[str, Any], Mapping[str, tuple[int, ...]], Any], Mapping[str, Any]]


class Allocation(NamedTuple):
    """`share(pooled by path, shape by path, sparsity)`: kept units by path; at least one of all stays."""

    share: Shares
    name: str = "Allocation(...)"

    def __repr__(self) -> str:
        return self.name
