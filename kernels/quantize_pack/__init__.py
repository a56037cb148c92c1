"""Rounding to whole numbers and packing them into bytes, in one reading of the numbers."""

from efficient.kernels.quantize_pack.packed import Packed
from efficient.kernels.quantize_pack.quantize_pack import quantize_pack
from efficient.kernels.quantize_pack.reference import reference, unpack

__all__ = ["Packed", "quantize_pack", "reference", "unpack"]
