"""Harms: how much a loss is expected to rise where a layer is rounded, from its curvature.

    traces = hessian_traces(loss, params, key=key, where="**/kernel")
    harms = hessian_harms(traces, params, widths)

Source: Dong et al., 2020, arXiv:1911.03852 (HAWQ-V2), section 3: the mean of the Hessian's eigenvalues, by
Hutchinson's estimator, times |Q(W) - W|^2.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from efficient.core.paths import flatten, select, unflatten
from efficient.core.transform import Key
from efficient.quantize import quantizers
from efficient.quantize.mixed.prices import Widths
from efficient.quantize.quantizer import Quantizer


def hessian_traces(
    loss: Callable[[Any], jax.Array],
    params: Any,
    *,
    key: Key,
    where: str = "**/kernel",
    samples: int = 32,
) -> dict[str, float]:
    """By path, the trace of the Hessian of the loss in that weight, over its size: the mean eigenvalue.

    The estimate is the mean of v^T H v over vectors v of signs, drawn for all weights at once; its standard
    error falls with sqrt(samples). H v is a derivative of the gradient: about twice a gradient's time each.

    Args:
      loss: params -> a scalar; twice differentiable where it is asked.
      params: where.
      key: of the signs.
      where: a path pattern of the weights.
      samples: vectors, > 0.

    Raises:
      ValueError: `samples` below 1, or no path matches.
    """
    if samples < 1:
        raise ValueError(f"samples must be from 1, got {samples!r}; leave it out.")
    flat, treedef = flatten(params)
    own = select(params, where)
    slope = jax.grad(lambda part: loss(unflatten(treedef, {**flat, **part})))

    @jax.jit
    def one(own: Any, key: Any) -> dict[str, jax.Array]:
        keys = dict(zip(own, jax.random.split(key, len(own)), strict=True))
        v = {path: jax.random.rademacher(keys[path], w.shape, w.dtype) for path, w in own.items()}
        curved = jax.jvp(slope, (own,), (v,))[1]
        return {path: jnp.vdot(v[path], curved[path]) / v[path].size for path in own}

    drawn = [one(own, k) for k in jax.random.split(key, samples)]
    return {path: float(np.mean([each[path] for each in drawn])) for path in own}


def hessian_harms(
    traces: Mapping[str, float],
    params: Any,
    widths: Sequence[Widths],
    *,
    make: Callable[[int], Quantizer] = quantizers.integer,
) -> dict[str, dict[Widths, float]]:
    """By path and pair, mean eigenvalue * |Q(W) - W|^2; the width of inputs is not looked at.

    Args:
      traces: of `hessian_traces`; negative ones, which no minimum has, count as 0.
      params: the weights.
      widths: the pairs.
      make: bits -> how weights are rounded.

    Raises:
      ValueError: a path that the params do not have.
    """
    flat = flatten(params)[0]
    if missing := [path for path in traces if path not in flat]:
        raise ValueError(f"traces must be of these params, got {missing[0]!r}; pass what they were made of.")
    errors = {
        (path, bits): float(jnp.sum(jnp.square(make(bits).fake(flat[path]) - flat[path])))
        for path in traces
        for bits in {pair.weights for pair in widths}
    }
    return {
        path: {pair: max(trace, 0.0) * errors[path, pair.weights] for pair in widths}
        for path, trace in traces.items()
    }
