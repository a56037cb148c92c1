"""Kernels: the only code that knows hardware. Imported as `efficient.kernels`.

One folder an operation: `reference.py` (plain jnp, the oracle), then a file a tier, and the entry point,
which picks. C++ is compiled at first use, see `native`; which tier runs, see `tiers`; derivatives are the
reference's (`derivative`), and rows of a batch, `vmap`'s too, are multiplied at once (`rows`).

`quantized_matmul`: x W, or x W^T, on packed codes, x in float or rounded to int8. `sparse_matmul`: W in
blocks, in compressed rows or columns, or n of every m. `depthwise_conv`: of each channel by itself. Leaves
use these through `lift`. `grouped_matmul`: rows in groups, each with a matrix of its own. `attention`: of
sequences, forward and backward, and of one token over a cache in a few bits, in pages or not.
`quantize_pack`: rounds and packs, for such caches and products. `hadamard`: the Walsh-Hadamard transform.
The Pallas tiers run where they are asked for by name; no device has run them yet.
"""
