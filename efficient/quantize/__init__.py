"""Quantize: weights in few bits."""

from efficient.quantize import formats, integer, mixed, quantizers, ranges
from efficient.quantize.adaround import adaround
from efficient.quantize.awq import awq
from efficient.quantize.basis import Basis, in_basis
from efficient.quantize.bias_correction import bias_corrected
from efficient.quantize.binary import binary, binary_inputs, sign_bits, sign_dot
from efficient.quantize.block_leaf import BlockLeaf
from efficient.quantize.blocks import Blocks, channel, group, tensor, tile
from efficient.quantize.cluster_means import cluster_means
from efficient.quantize.codebook import CodebookLeaf, codebook
from efficient.quantize.dorefa import dorefa, dorefa_inputs
from efficient.quantize.equalize import equalize
from efficient.quantize.fold import Folded, fold
from efficient.quantize.format import Format, round_to
from efficient.quantize.gptq import gptq
from efficient.quantize.hadamard import hadamard
from efficient.quantize.inputs import moving, quantize_inputs
from efficient.quantize.kmeans import Clustering, initial_centroids, kmeans, nearest, optimal_centroids
from efficient.quantize.linear import (
    QuantizedLeaf,
    absmax_scale,
    fake_quantize,
    integers,
    linear,
    round_through,
)
from efficient.quantize.lsq import lsq, lsq_inputs
from efficient.quantize.pact import bound_penalty, pact
from efficient.quantize.product_leaf import ProductLeaf, ProductRule
from efficient.quantize.quantize import quantize
from efficient.quantize.quantizer import Grid, Plain, Quantizer, Scale, SharedExponent
from efficient.quantize.qwix_arrays import from_qwix, to_qwix
from efficient.quantize.range import Range
from efficient.quantize.rotate import rotate
from efficient.quantize.smooth import smooth
from efficient.quantize.stochastic import noisy_gradients, stochastic, stochastic_round
from efficient.quantize.ternary import ttq, twn

__all__ = [
    "Basis",
    "BlockLeaf",
    "Blocks",
    "Clustering",
    "CodebookLeaf",
    "Folded",
    "Format",
    "Grid",
    "Plain",
    "ProductLeaf",
    "ProductRule",
    "QuantizedLeaf",
    "Quantizer",
    "Range",
    "Scale",
    "SharedExponent",
    "absmax_scale",
    "adaround",
    "awq",
    "bias_corrected",
    "binary",
    "binary_inputs",
    "bound_penalty",
    "channel",
    "cluster_means",
    "codebook",
    "dorefa",
    "dorefa_inputs",
    "equalize",
    "fake_quantize",
    "fold",
    "formats",
    "from_qwix",
    "gptq",
    "group",
    "hadamard",
    "in_basis",
    "initial_centroids",
    "integer",
    "integers",
    "kmeans",
    "linear",
    "lsq",
    "lsq_inputs",
    "mixed",
    "moving",
    "nearest",
    "noisy_gradients",
    "optimal_centroids",
    "pact",
    "quantize",
    "quantize_inputs",
    "quantizers",
    "ranges",
    "rotate",
    "round_through",
    "round_to",
    "sign_bits",
    "sign_dot",
    "smooth",
    "stochastic",
    "stochastic_round",
    "tensor",
    "tile",
    "to_qwix",
    "ttq",
    "twn",
]
