"""A convolution of each channel by itself, directly."""

from efficient.kernels.depthwise_conv.depthwise_conv import depthwise_conv
from efficient.kernels.depthwise_conv.reference import reference

__all__ = ["depthwise_conv", "reference"]
