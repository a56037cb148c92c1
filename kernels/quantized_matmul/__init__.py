"""x W with W as packed codes, x in float or rounded to 8 bits; and x W^T, where rows are summed over."""

from efficient.kernels.quantized_matmul.int8 import int8_matmul
from efficient.kernels.quantized_matmul.matmul import quantized_matmul
from efficient.kernels.quantized_matmul.reference import int8_reference, reference
from efficient.kernels.quantized_matmul.transposed import transposed_matmul

__all__ = ["int8_matmul", "int8_reference", "quantized_matmul", "reference", "transposed_matmul"]
