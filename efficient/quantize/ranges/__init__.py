"""Ranges: how far a grid reaches, one a file."""

from efficient.quantize.ranges.absmean import absmean
from efficient.quantize.ranges.kl import kl
from efficient.quantize.ranges.minmax import minmax
from efficient.quantize.ranges.mse import mse
from efficient.quantize.ranges.octav import octav
from efficient.quantize.ranges.percentile import percentile

__all__ = ["absmean", "kl", "minmax", "mse", "octav", "percentile"]
