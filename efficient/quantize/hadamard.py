"""Hadamard transform: an orthogonal change of basis that spreads every outlier over all channels, in n log n.

Source: Ashkboos et al., 2024, arXiv:2404.00456, section 3.1.
"""

from efficient.kernels.hadamard import hadamard

__all__ = ["hadamard"]
