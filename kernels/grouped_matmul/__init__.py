"""Rows of x in groups, each times a matrix of its own: experts, adapters of many tenants."""

from efficient.kernels.grouped_matmul.grouped_matmul import grouped_matmul, grouped_quantized_matmul
from efficient.kernels.grouped_matmul.reference import quantized_reference, reference

__all__ = ["grouped_matmul", "grouped_quantized_matmul", "quantized_reference", "reference"]
