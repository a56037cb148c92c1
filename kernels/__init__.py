"""Kernels: the only code that knows hardware. Imported as `efficient.kernels`.

One folder an operation: `reference.py` (plain jnp, the oracle), then a file a tier, and the entry point,
which picks. `quantized_matmul` is here, with x in float32 (`cpu.cc`) and, as `int8_matmul`, with x rounded to
int8 (`int8.cc`); both are compiled at first use, see `native`. Pallas tiers are not yet, and leaves do not
call them yet.
"""
