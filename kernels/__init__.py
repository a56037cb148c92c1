"""Kernels: the only code that knows hardware. Imported as `efficient.kernels`."""
