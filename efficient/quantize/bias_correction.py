"""Bias correction: what rounding shifts the mean of each output by is taken off the bias.

Source: Nagel et al., 2019, arXiv:1906.04721, section 4.2 (DFQ); Banner et al., 2019, arXiv:1810.05723.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from efficient.core.paths import flatten, unflatten
from efficient.core.statistics import known
from efficient.core.transform import Key, State, Transform, dense_value, recipe, require_state


def beside(path: str) -> str:
    """The bias that Flax puts beside a kernel: `a/b/kernel` -> `a/b/bias`."""
    return path.rpartition("/")[0] + "/bias" if "/" in path else "bias"


@recipe
def bias_corrected(inner: Transform, *, bias_of: Callable[[str], str] = beside) -> Transform:
    """`inner`, and every bias less E[x] (W' - W): outputs keep their means.

    Each weight of the statistics that has a bias is corrected, once, at `init`; others are left as they are.
    `inner` must see the whole tree, biases too: scope inside, `bias_corrected(at("**/kernel", linear(4)))`.

    Args:
      inner: what changes the weights.
      bias_of: the path of a weight's bias.

    Raises:
      ValueError: at `init`, no statistic `mean` of a weight, or no weight of the statistics has a bias.

    Source: module docstring. *Differs:* E[x] is measured, not derived from normalization; padding of
    convolutions is left out of account.
    """

    def init(params: Any, *, stats: Any = None, key: Key | None = None) -> State:
        made = inner.init(params, stats=stats, key=key)
        before, after = flatten(params)[0], flatten(inner.apply(params, made))[0]
        shifts = {
            bias_of(path): _shift(dense_value(before[path]), dense_value(after[path]), own, path)
            for path, own in (stats or {}).items()
            if path in before and bias_of(path) in before
        }
        if not shifts:
            raise ValueError(
                f"params must have a bias beside weights of stats, got none for {sorted(stats or {})!r}; "
                "pass stats=observe(..., statistics='mean'), bias_of=, or fold normalization first."
            )
        return State(made.train, (shifts, made.fixed))

    def parts(state: State) -> tuple[Mapping[str, Any], State]:
        is_pair = isinstance(state, State) and isinstance(state.fixed, tuple) and len(state.fixed) == 2
        require_state(state, is_pair)
        return state.fixed[0], State(state.train, state.fixed[1])

    def update(state: State, params: Any, *, grads: Any = None, step: Any) -> State:
        shifts, own = parts(state)
        made = inner.update(own, params, grads=grads, step=step)
        return State(made.train, (shifts, made.fixed))

    def mapped(one: Callable[[Any, State], Any]) -> Callable[[Any, State], Any]:
        def over(params: Any, state: State) -> Any:
            shifts, own = parts(state)
            by_path, treedef = flatten(one(params, own))
            moved = {path: (by_path[path] - s).astype(by_path[path].dtype) for path, s in shifts.items()}
            return unflatten(treedef, {**by_path, **moved})

        return over

    return Transform(init, update, mapped(inner.apply), mapped(inner.pack))


def _shift(before: jax.Array, after: jax.Array, stats: Any, path: str) -> jax.Array:
    """E[x] (W' - W), one number an output."""
    known(stats, "total", path=path, how="pass stats=observe(..., statistics='mean')")
    change = (after - before).astype(jnp.float32)
    along = [change.shape[axis] if axis in stats.features else 1 for axis in range(-change.ndim, 0)]
    outputs = [axis for axis in range(change.ndim) if axis - change.ndim not in stats.contracted]
    groups, rest = divmod(stats.mean.size, math.prod(along))
    if rest or (groups > 1 and (len(outputs) > 1 or change.shape[outputs[0]] % groups)):
        raise ValueError(f"stats of {path!r} must be of one product, got {stats.mean.shape}; exclude it.")
    if groups == 1:
        means = jnp.broadcast_to(stats.mean.reshape(along), change.shape)
    else:  # grouped convolution: each output sees the channels of its own group
        own = jnp.repeat(stats.mean.reshape(groups, -1), change.shape[outputs[0]] // groups, axis=0)
        small = [along[axis] for axis in range(change.ndim) if axis != outputs[0]]
        means = jnp.moveaxis(own.T.reshape(*small, -1), -1, outputs[0])
        means = jnp.broadcast_to(means, change.shape)
    return jnp.sum(means * change, axis=stats.contracted)
