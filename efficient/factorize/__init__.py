"""Factorize: weights as products of smaller ones."""

from efficient.factorize.low_rank import LowRankLeaf, low_rank

__all__ = ["LowRankLeaf", "low_rank"]
