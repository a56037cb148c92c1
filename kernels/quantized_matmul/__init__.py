"""x W with W as packed codes: `quantized_matmul`; with x rounded to 8 bits too: `int8_matmul`."""

from efficient.kernels.quantized_matmul.int8 import int8_matmul
from efficient.kernels.quantized_matmul.matmul import quantized_matmul
from efficient.kernels.quantized_matmul.reference import int8_reference, reference

__all__ = ["int8_matmul", "int8_reference", "quantized_matmul", "reference"]
