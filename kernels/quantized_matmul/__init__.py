"""x W with W as packed codes: `quantized_matmul`."""

from efficient.kernels.quantized_matmul.matmul import quantized_matmul
from efficient.kernels.quantized_matmul.reference import reference

__all__ = ["quantized_matmul", "reference"]
