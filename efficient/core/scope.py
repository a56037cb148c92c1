"""Scope: which values a transform sees, and whether layer by layer.

at("**/kernel", magnitude(0.9), exclude="head/**")
at("layers/**/kernel", stacked(linear(8)))          # scanned layers: each slice by itself
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from efficient.core.paths import Where, flatten, require_where, select, unflatten
from efficient.core.transform import Key, State, Transform, recipe, require_transform


@recipe
def at(where: Where, transform: Transform, *, exclude: Where = ()) -> Transform:
    """Scopes `transform` to the values that `where` chooses and `exclude` does not.

    Args:
      where: a glob such as `"**/kernel"`, a compiled regular expression (it too must match the whole path), a
        predicate `(path, value) -> bool`, or a sequence of these. See `paths`.
      transform: sees a flat dict of the chosen values, by path.
      exclude: what to leave out, in the same language.

    Raises:
      ValueError: at once, `where` or `exclude` is no pattern or `transform` no transform; at `init`, when
        nothing is chosen: the message names the nearest paths.

    Example:
      >>> import jax.numpy as jnp
      >>> from efficient import identity
      >>> t = at("**/kernel", identity())
      >>> t.init({"Dense_0": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}})
      State(train=(), fixed=())
    """
    for name, pattern in (("where", where), ("exclude", exclude)):
        require_where(pattern, name)
    require_transform(transform, "at(pattern, transform)")

    def chosen(tree: Any) -> dict[str, Any]:
        return select(tree, where, exclude=exclude)

    def put_back(tree: Any, new: Mapping[str, Any]) -> Any:
        by_path, treedef = flatten(tree)
        return unflatten(treedef, {path: new.get(path, value) for path, value in by_path.items()})

    def init(params: Any, *, stats: Any = None, key: Key | None = None) -> State:
        return transform.init(chosen(params), stats=stats, key=key)

    def update(state: State, params: Any, *, grads: Any = None, step: Any) -> State:
        grads = None if grads is None else chosen(grads)
        return transform.update(state, chosen(params), grads=grads, step=step)

    def apply(params: Any, state: State) -> Any:
        return put_back(params, transform.apply(chosen(params), state))

    def pack(params: Any, state: State) -> Any:
        return put_back(params, transform.pack(chosen(params), state))

    return Transform(init, update, apply, pack)


@recipe
def stacked(transform: Transform) -> Transform:
    """Runs `transform` on each slice along the first axis: a transform a layer, for scanned layers.

    A model that scans over its layers stores their weights with a leading axis, `[layers, ...]`. Under
    `stacked` every layer has its own budget, codebook, scale and factors; the states and leaves have the
    leading axis too, so that `lax.scan` slices them with the layer. A `stats` dict is sliced alike.

    Raises:
      ValueError: the leaves differ in their first axis, or one has none.
    """
    require_transform(transform, "stacked(transform)")

    def layers(params: Any) -> int:
        by_path, _ = flatten(params)
        sizes = {path: v.shape[0] if v.ndim else None for path, v in by_path.items()}
        if len(set(sizes.values())) != 1 or None in sizes.values():
            raise ValueError(
                f"stacked values must share their first axis (the layers), got {sizes!r}; scope with at(...)."
            )
        return int(next(iter(sizes.values())) or 0)

    def init(params: Any, *, stats: Any = None, key: Key | None = None) -> State:
        count = layers(params)
        keys = None if key is None else jax.random.split(key, count)
        if stats is not None:
            stats = {path: stats[path] for path in flatten(params)[0] if path in stats}
            # A count of batches has no axes: it is every layer's.
            stats = jax.tree.map(lambda a: a if jnp.ndim(a) else jnp.broadcast_to(a, (count,)), stats)
        return jax.vmap(lambda p, s, k: transform.init(p, stats=s, key=k))(params, stats, keys)

    def update(state: State, params: Any, *, grads: Any = None, step: Any) -> State:
        one = lambda s, p, g: transform.update(s, p, grads=g, step=step)  # noqa: E731
        return jax.vmap(one)(state, params, grads)

    def apply(params: Any, state: State) -> Any:
        return jax.vmap(transform.apply)(params, state)

    def pack(params: Any, state: State) -> Any:
        return jax.vmap(transform.pack)(params, state)

    return Transform(init, update, apply, pack)
