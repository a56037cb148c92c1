"""Prune: which weights stay."""

from efficient.prune.magnitude import magnitude
from efficient.prune.mask import kept_of, masked, top_mask

__all__ = ["kept_of", "magnitude", "masked", "top_mask"]
