"""Formats: grids of numbers that weights are rounded to, one a file."""

from efficient.quantize.formats.floating import E2M1, E2M3, E3M2, E4M3, E5M2, Floating
from efficient.quantize.formats.integer import Affine, Integer, Unsigned
from efficient.quantize.formats.normal_float import NF4
from efficient.quantize.formats.power_of_two import PowerOfTwo
from efficient.quantize.formats.table import Table

__all__ = [
    "E2M1",
    "E2M3",
    "E3M2",
    "E4M3",
    "E5M2",
    "NF4",
    "Affine",
    "Floating",
    "Integer",
    "PowerOfTwo",
    "Table",
    "Unsigned",
]
