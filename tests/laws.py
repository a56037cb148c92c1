"""The laws table: one row a method. `test_laws.py` holds every row, and every ordered pair, to all laws.

To add a method: one row in METHODS.
"""

import dataclasses

from efficient import Transform
from efficient.adapt import lora
from efficient.factorize import low_rank
from efficient.prune import magnitude
from efficient.quantize import codebook, linear


@dataclasses.dataclass(frozen=True, kw_only=True)
class Method:
    """What the theory says of a method."""

    make: Transform
    keeps_zeros: bool  # a zero that comes in goes out as zero
    is_idempotent: bool  # applying twice is applying once
    prunes: bool = False  # state.fixed is masks by path


METHODS: dict[str, Method] = {
    "magnitude": Method(make=magnitude(0.5), keeps_zeros=True, is_idempotent=True, prunes=True),
    "codebook": Method(make=codebook(3), keeps_zeros=True, is_idempotent=True),
    "linear": Method(make=linear(8), keeps_zeros=True, is_idempotent=True),
    "low_rank": Method(make=low_rank(3), keeps_zeros=False, is_idempotent=True),
    "lora": Method(make=lora(2), keeps_zeros=False, is_idempotent=False),
}
PAIRS = [(a, b) for a in METHODS for b in METHODS]
