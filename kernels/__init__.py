"""Kernels: the only code that knows hardware. Imported as `efficient.kernels`.

One folder an operation: `reference.py` (plain jnp, the oracle), then a file a tier, and the entry point,
which picks. `quantized_matmul` is here, by `cpu.cc` (compiled at first use, see `native`); Pallas tiers are
not yet, and leaves do not call it yet.
"""
