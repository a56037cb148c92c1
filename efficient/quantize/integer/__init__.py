"""Integer: models that run in integers alone."""

from efficient.quantize.integer.arithmetic import (
    Affine8,
    Multiplier,
    affine_of,
    linear_quantize,
    multiplier,
    quantized_dense,
    requantize,
    shifted_bias,
)
from efficient.quantize.integer.compiled import calibrate, compile_integers
from efficient.quantize.integer.program import IntegerProgram

__all__ = [
    "Affine8",
    "IntegerProgram",
    "Multiplier",
    "affine_of",
    "calibrate",
    "compile_integers",
    "linear_quantize",
    "multiplier",
    "quantized_dense",
    "requantize",
    "shifted_bias",
]
