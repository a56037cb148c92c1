"""Mixed precision: how many bits each layer gets.

Widths are data (`mixed`, `with_widths`): trying another choice compiles nothing. Prices say what each costs,
`hessian_harms` what it harms, `allocate` solves for the best exactly, `haq` learns it.
"""

from efficient.quantize.mixed.allocate import allocate
from efficient.quantize.mixed.haq import Walked, haq, widths_of, within
from efficient.quantize.mixed.harms import hessian_harms, hessian_traces
from efficient.quantize.mixed.mixed import Assigned, mixed, with_widths
from efficient.quantize.mixed.prices import (
    Choice,
    Prices,
    Widths,
    bit_ops,
    looked_up,
    priced,
    total,
    weight_bytes,
)

__all__ = [
    "Assigned",
    "Choice",
    "Prices",
    "Walked",
    "Widths",
    "allocate",
    "bit_ops",
    "haq",
    "hessian_harms",
    "hessian_traces",
    "looked_up",
    "mixed",
    "priced",
    "total",
    "weight_bytes",
    "widths_of",
    "with_widths",
    "within",
]
