"""Patterns: which weights stay or go together, one a file."""

from efficient.prune.patterns.n_m import n_m
from efficient.prune.patterns.unstructured import unstructured

__all__ = ["n_m", "unstructured"]
