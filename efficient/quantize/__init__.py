"""Quantize: weights in few bits."""

from efficient.quantize import formats, quantizers, ranges
from efficient.quantize.block_leaf import BlockLeaf
from efficient.quantize.blocks import Blocks, channel, group, tensor, tile
from efficient.quantize.codebook import CodebookLeaf, codebook
from efficient.quantize.format import Format, round_to
from efficient.quantize.kmeans import Clustering, initial_centroids, kmeans, nearest, optimal_centroids
from efficient.quantize.linear import (
    QuantizedLeaf,
    absmax_scale,
    fake_quantize,
    integers,
    linear,
    round_through,
)
from efficient.quantize.quantize import quantize
from efficient.quantize.quantizer import Grid, Plain, Quantizer, Scale, SharedExponent
from efficient.quantize.range import Range

__all__ = [
    "BlockLeaf",
    "Blocks",
    "Clustering",
    "CodebookLeaf",
    "Format",
    "Grid",
    "Plain",
    "QuantizedLeaf",
    "Quantizer",
    "Range",
    "Scale",
    "SharedExponent",
    "absmax_scale",
    "channel",
    "codebook",
    "fake_quantize",
    "formats",
    "group",
    "initial_centroids",
    "integers",
    "kmeans",
    "linear",
    "nearest",
    "optimal_centroids",
    "quantize",
    "quantizers",
    "ranges",
    "round_through",
    "round_to",
    "tensor",
    "tile",
]
