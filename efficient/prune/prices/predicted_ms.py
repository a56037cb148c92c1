"""Time of the shrunk model by the roofline: see `DeviceProfile.predict_ms`."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from efficient.core.cost import cost
from efficient.core.dependencies import Dependencies
from efficient.core.measure import DeviceProfile
from efficient.core.paths import map_with_path
from efficient.core.resize import resized
from efficient.prune.price import Counts, Price, remembered


def predicted_ms(
    found: Dependencies, fn: Callable[..., Any], params: Any, *args: Any, profile: DeviceProfile
) -> Price:
    """The price in milliseconds that the roofline predicts; each counts traced once, none compiled.

    Args:
      found: the groups of `params` in `fn(params, *args)`.
      fn: the function.
      params: arrays or shapes.
      *args: arrays or shapes.
      profile: of the device, such as `calibrate()` measures.

    Raises:
      ValueError: at the call, counts as `Dependencies.sizes_left` refuses them.
    """

    def price(counts: Counts) -> float:
        shapes, keep = found.sizes_left(counts), first_of(found, counts)
        small = map_with_path(
            lambda path, v: jax.ShapeDtypeStruct(shapes.get(path, np.shape(v)), jnp.result_type(v)), params
        )
        return profile.predict_ms(cost(resized(fn, found, keep), small, *args).equations)

    return Price(remembered(found, price), unit="ms", name=f"predicted_ms({profile.name})")


def first_of(found: Dependencies, counts: Counts) -> dict[str, np.ndarray]:
    """Masks that keep the first `counts` of each group: which ones does not change the time."""
    return {name: np.arange(found.groups[name].size) < count for name, count in counts.items()}
