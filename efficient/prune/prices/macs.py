"""MACs of the shrunk model, in closed form.

An equation that consumes a weight multiplies each of the weight's elements a fixed number of times, so

    MACs(counts) = sum over equations of MACs * elements left of the weight / all its elements,

a polynomial in the counts. It is exact for dense layers, convolutions (grouped and depthwise ones too),
scanned layers and affine norms. What consumes no weight (attention's two products, pools) is taken whole, and
so are the heads that share a weight (a norm of queries): there the price is an upper bound.
"""

from collections.abc import Callable
from typing import Any

from efficient.core.cost import cost
from efficient.core.dependencies import Dependencies
from efficient.prune.price import Price, in_proportion


def macs(
    found: Dependencies, fn: Callable[..., Any], params: Any, *args: Any, convention: str = "conv_fc"
) -> Price:
    """The price in MACs: microseconds a call, nothing is traced again.

    Args:
      found: the groups of `params` in `fn(params, *args)`.
      fn: the function, as for `cost`.
      params: arrays or shapes.
      *args: arrays or shapes; MACs are those of their whole batch.
      convention: what is counted, see `efficient.core.convention`.

    Raises:
      ValueError: there is no such convention; at the call, counts as `Dependencies.sizes_left` refuses them.
    """
    report = cost(fn, params, *args, convention=convention)
    paid = [(one.path, one.macs) for one in report.equations if one.macs]
    return Price(in_proportion(found, paid), unit="MACs", name=f"macs({convention})")
