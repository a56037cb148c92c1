"""X H, H the Walsh-Hadamard matrix of a power of two, in n log n."""

from efficient.kernels.hadamard.hadamard import hadamard
from efficient.kernels.hadamard.reference import reference

__all__ = ["hadamard", "reference"]
