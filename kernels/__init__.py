"""Kernels: the only code that knows hardware. Imported as `efficient.kernels`.

One folder an operation: `reference.py` (plain jnp, the oracle), `pallas_tpu.py`, `pallas_gpu.py`, `cpu.cc`
and `specs.py` (shapes of real models). None is here yet: leaves run on XLA.
"""
