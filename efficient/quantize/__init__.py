"""Quantize: weights in few bits."""

from efficient.quantize.codebook import CodebookLeaf, codebook
from efficient.quantize.kmeans import Clustering, initial_centroids, kmeans, nearest, optimal_centroids
from efficient.quantize.linear import (
    QuantizedLeaf,
    absmax_scale,
    fake_quantize,
    integers,
    linear,
    round_through,
)

__all__ = [
    "Clustering",
    "CodebookLeaf",
    "QuantizedLeaf",
    "absmax_scale",
    "codebook",
    "fake_quantize",
    "initial_centroids",
    "integers",
    "kmeans",
    "linear",
    "nearest",
    "optimal_centroids",
    "round_through",
]
