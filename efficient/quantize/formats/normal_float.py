"""NF4: sixteen numbers that hold equal shares of a normal distribution, zero and both ends among them.

Source: Dettmers et al., 2023, arXiv:2305.14314, section 3, and appendix E for NF4's table, which was computed
in float32: `normal_float(4)` meets it to 3e-7.
"""

from statistics import NormalDist

import numpy as np

from efficient.quantize.formats.table import Table


def normal_float(bits: int) -> Table:
    """The table by its construction: 2^(bits-1) quantiles below zero, one more above, scaled to [-1, 1].

    Raises:
      ValueError: `bits` outside 2..8.

    Source: arXiv:2305.14314, equation 4; the outermost quantile is that of the authors' code.
    """
    if not 2 <= bits <= 8:
        raise ValueError(f"bits must be from 2 to 8, got {bits!r}; NF4 has 4.")
    half = 2 ** (bits - 1)
    offset = (1 - 1 / (2 * (2**bits - 1)) + 1 - 1 / (2 * 2**bits)) / 2
    quantile = NormalDist().inv_cdf
    above = [quantile(p) for p in np.linspace(offset, 0.5, half + 1)[:-1]]
    below = [-quantile(p) for p in np.linspace(offset, 0.5, half)[:-1]]
    numbers = sorted([*below, 0.0, *above])
    return Table(tuple(float(np.float32(n / numbers[-1])) for n in numbers))


NF4 = Table((
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
    -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
    0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
    0.7229568362236023, 1.0,
))  # fmt: skip
