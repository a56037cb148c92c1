"""Attention: of sequences, forward and backward, and of one new token over a cache in a few bits."""

from efficient.kernels.attention.attention import attention
from efficient.kernels.attention.decode import decode_attention
from efficient.kernels.attention.reference import decode_reference, reference

__all__ = ["attention", "decode_attention", "decode_reference", "reference"]
