"""Scores: what a weight is worth, one a file."""

from efficient.prune.scores.absolute import absolute

__all__ = ["absolute"]
