"""Network augmentation: a tiny network trained as part of wider ones, which give it more to learn from.

    wide = model of `factor` times the channels                 # its params are trained
    tiny = subnet(wide_params, shapes)                          # the first channels of every axis
    loss = L(tiny) + alpha * L(subnet(wide_params, drawn))      # one wider network a step

Source: Cai et al., 2022, arXiv:2110.08890, equations 2 and 3 (NetAug).
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from efficient.core.paths import flatten, unflatten


def subnet(params: Any, shapes: Any) -> Any:
    """The network of smaller `shapes` that stands first in every axis: a slice, through which gradients flow.

    Args:
      params: of the wide network.
      shapes: a tree like it, of arrays or shapes (`jax.eval_shape` of the small network's init).

    Raises:
      ValueError: another tree, or a shape that is no part of the wide one.
    """
    by_path, treedef = flatten(params)
    small, _ = flatten(shapes)
    if by_path.keys() != small.keys():
        odd = sorted(by_path.keys() ^ small.keys())[:4]
        raise ValueError(
            f"shapes must have the paths of params, got others at {odd}; build both by one model."
        )
    made = {}
    for path, value in by_path.items():
        want = tuple(small[path].shape)
        if len(want) != value.ndim or any(n > m for n, m in zip(want, value.shape, strict=True)):
            raise ValueError(
                f"{path!r} must be a part of {value.shape}, got {want}; a wide network is wider."
            )
        made[path] = value[tuple(map(slice, want))]
    return unflatten(treedef, made)


def masked_subnet(params: Any, keeps: Mapping[str, Any]) -> Any:
    """The same by zeros in place of slices, with widths that may be data: one program serves all of them.

    A network whose norms see zeros is not the sliced one: use it without norms over channels.

    Args:
      params: of the wide network.
      keeps: by path, how many first places of each axis stay: integers, or int32 [axes].

    Raises:
      ValueError: a path that params lack.
    """
    by_path, treedef = flatten(params)
    if unknown := sorted(keeps.keys() - by_path.keys()):
        raise ValueError(f"keeps must name paths of params, got {unknown}; see flatten(params).")
    made = dict(by_path)
    for path, counts in keeps.items():
        value = by_path[path]
        for axis in range(value.ndim):
            shape = [-1 if i == axis else 1 for i in range(value.ndim)]
            stays = (jnp.arange(value.shape[axis]) < counts[axis]).reshape(shape)
            value = jnp.where(stays, value, 0)
        made[path] = value
    return unflatten(treedef, made)


def drawn_width(key: Any, least: int, most: int, *, points: int = 4) -> int:
    """One of `points` even steps of width from above the tiny network's to the widest.

    Raises:
      ValueError: `most` is not above `least`, or fewer points than 1.
    """
    if not 0 < least < most or points < 1:
        raise ValueError(
            f"least must be below most and points from 1, got {least!r}, {most!r} and {points!r}."
        )
    widths = np.linspace(least, most, points + 1)[1:].round().astype(int)
    return int(widths[int(jax.random.randint(key, (), 0, points))])


def augmented(tiny: Any, wide: Any, *, alpha: float = 1.0) -> Any:
    """L(W_t) + alpha L([W_t, W_i]) (equation 3).

    Raises:
      ValueError: a negative alpha.
    """
    if alpha < 0:
        raise ValueError(f"alpha must be from 0, got {alpha!r}; the paper has 1.")
    return tiny + alpha * wide
