"""Allocate: the widths of least harm within a budget, exactly: a knapsack with one pair for each layer.

Source: Dong et al., 2020, arXiv:1911.03852 (HAWQ-V2), section 3.2, chooses by the same sum of harms; Yao et
al., 2021, arXiv:2011.10680 (HAWQ-V3), equation 11, solves it as an integer program, as here. The solver is
SciPy's (HiGHS).
"""

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

from efficient.quantize.mixed.prices import Prices, Widths, total


def allocate(harms: Prices, prices: Prices, budget: float, *, seconds: float = 60.0) -> dict[str, Widths]:
    """The choice of least total harm that costs at most `budget`.

    Args:
      harms: by path and pair, finite, of any unit; negative where a width does good.
      prices: of the same paths, for the same pairs or more.
      budget: in the unit of the prices.
      seconds: after which the best choice so far is refused as unproven.

    Raises:
      ValueError: paths or pairs without a price, a harm that is not finite, or a budget below the price of
        the cheapest choice.
      TimeoutError: no proven optimum in time.

    Example:
      >>> a, b = Widths(4, 8), Widths(8, 8)
      >>> harms = {"x": {a: 1.0, b: 0.0}, "y": {a: 3.0, b: 0.0}}
      >>> prices = {"x": {a: 1.0, b: 2.0}, "y": {a: 1.0, b: 2.0}}
      >>> [pair.weights for pair in allocate(harms, prices, 3.0).values()]
      [4, 8]
    """
    if missing := [path for path in harms if not harms[path].keys() <= prices.get(path, {}).keys()]:
        raise ValueError(f"prices must cover every harm, got none for some pair of {missing[0]!r}; add it.")
    if not harms:
        raise ValueError("harms must be of a layer or more, got none; check the pattern of paths.")
    prices = {path: prices[path] for path in harms}
    cheapest = total(prices, {p: min(row, key=lambda pair: prices[p][pair]) for p, row in harms.items()})
    if not budget >= cheapest:
        raise ValueError(f"budget must be at least {cheapest:g}, the cheapest choice, got {budget!r}.")
    items = [(path, pair) for path, row in harms.items() for pair in row]
    cost = np.array([harms[path][pair] for path, pair in items], float)
    weight = np.array([prices[path][pair] for path, pair in items], float)
    if not np.isfinite(cost).all():
        worst = items[int(np.argmin(np.isfinite(cost)))]
        raise ValueError(f"harms must be finite, got {harms[worst[0]][worst[1]]!r} for {worst}.")
    names = list(harms)
    one_each = np.array([[float(path == name) for path, _ in items] for name in names])
    unit = max(float(np.abs(cost).max()), 1e-300), max(float(weight.max()), 1e-300)
    found = milp(
        cost / unit[0],
        integrality=np.ones(len(items)),
        bounds=Bounds(0, 1),
        constraints=[
            LinearConstraint(one_each, 1, 1),
            LinearConstraint(weight[None] / unit[1], -np.inf, budget / unit[1]),
        ],
        options={"time_limit": seconds, "mip_rel_gap": 0.0},
    )
    if found.status != 0:
        raise TimeoutError(f"no proven optimum in {seconds:g} seconds ({found.message}); allow more.")
    return {path: pair for (path, pair), share in zip(items, found.x, strict=True) if share > 0.5}
