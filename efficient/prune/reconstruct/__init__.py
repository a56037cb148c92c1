"""Reconstruct: prune a layer and correct the weights that stay, from what enters it."""

from efficient.prune.reconstruct.lasso import lasso
from efficient.prune.reconstruct.least_squares import correct, corrected
from efficient.prune.reconstruct.optimal_brain_surgeon import optimal_brain_surgeon
from efficient.prune.reconstruct.sparsegpt import sparsegpt
from efficient.prune.reconstruct.thinet import thinet

__all__ = ["correct", "corrected", "lasso", "optimal_brain_surgeon", "sparsegpt", "thinet"]
