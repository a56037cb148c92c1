"""Patterns: which weights stay or go together, one a file."""

from efficient.prune.patterns.block import block
from efficient.prune.patterns.channel import channel
from efficient.prune.patterns.head import head
from efficient.prune.patterns.kernel import kernel
from efficient.prune.patterns.layer import layer
from efficient.prune.patterns.n_m import n_m
from efficient.prune.patterns.pattern_library import pattern_library
from efficient.prune.patterns.per_output import per_output
from efficient.prune.patterns.unstructured import unstructured
from efficient.prune.patterns.vector import vector

__all__ = [
    "block",
    "channel",
    "head",
    "kernel",
    "layer",
    "n_m",
    "pattern_library",
    "per_output",
    "unstructured",
    "vector",
]
