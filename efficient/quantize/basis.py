"""Basis: a transform run on weights in another basis of their inputs, which what enters them is brought to.

(x B) (B^-1 W) = x W for any invertible B: the function stays, and B^-1 W may be easier to quantize, x B too.
A `ProductLeaf` multiplies x by B where it meets the weight, so that any model can be treated, unedited.
"""

import abc
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from efficient.core.paths import flatten, unflatten
from efficient.core.transform import Key, State, Transform, dense_value, is_float, like, require_state
from efficient.quantize.hadamard import hadamard
from efficient.quantize.product_leaf import ProductLeaf, ProductRule

INPUTS = -2  # the axis of Flax's kernels


@dataclasses.dataclass(frozen=True)
class Basis(ProductRule):
    """A change of basis; `args` say which."""

    @property
    def mixes(self) -> bool:
        """Yes."""
        return True

    @abc.abstractmethod
    def inputs(self, x: Any, args: Any) -> Any:
        """X B along the last axis."""

    @abc.abstractmethod
    def weights(self, w: Any, args: Any) -> Any:
        """B^-1 w along the last axis."""

    @abc.abstractmethod
    def statistics(self, stats: Any, args: Any) -> Any:
        """What is still known of the inputs once they are in this basis."""

    def before(self, x: Any, args: Any, axes: tuple[int, ...]) -> Any:
        """X B."""
        (axis,) = axes
        return jnp.moveaxis(self.inputs(jnp.moveaxis(x, axis, -1), args), -1, axis)

    def whole(self, weight: Any, args: Any, axis: int) -> Any:
        """B times the weight: B^-1 is B^T in an orthogonal basis, and diagonal ones override this."""
        return jnp.moveaxis(self.back(jnp.moveaxis(weight, axis, -1), args), -1, axis)

    @abc.abstractmethod
    def back(self, w: Any, args: Any) -> Any:
        """B w along the last axis: undoes `weights`."""


@dataclasses.dataclass(frozen=True)
class Diagonal(Basis):
    """B = diag(1 / s): inputs are divided by s, weights multiplied by it. `args`: s, float32 [channels]."""

    def inputs(self, x: Any, args: Any) -> Any:
        """X / s."""
        return x / _along(args, x)

    def weights(self, w: Any, args: Any) -> Any:
        """S w."""
        return w * _along(args, w)

    def back(self, w: Any, args: Any) -> Any:
        """W / s."""
        return w / _along(args, w)

    def statistics(self, stats: Any, args: Any) -> Any:
        """All but the histogram, which does not tell channels apart."""
        new = {"histogram": None}
        for name, power in (
            ("absmax", 1),
            ("min", 1),
            ("max", 1),
            ("total", 1),
            ("abstotal", 1),
            ("squares", 2),
        ):
            value = getattr(stats, name)
            new[name] = None if value is None else value / args**power
        return dataclasses.replace(
            stats, **new, gram=_turned(stats, lambda x: self.inputs(x, args), args.size)
        )


@dataclasses.dataclass(frozen=True)
class Rotation(Basis):
    """An orthogonal B: random signs, then Hadamard's transform of 2^k channels by any rotation of the rest.

    `args`: (signs, float32 [channels]; rest, float32 [m, m], orthogonal), channels = 2^k m with m odd.
    """

    def inputs(self, x: Any, args: Any) -> Any:
        """X diag(signs) (H (x) R)."""
        signs, rest = args
        return _kronecker(x * _along(signs, x), rest)

    def weights(self, w: Any, args: Any) -> Any:
        """B^T w: as x B, for a w that is real."""
        return self.inputs(w, args)

    def back(self, w: Any, args: Any) -> Any:
        """diag(signs) (H (x) R)^T w."""
        signs, rest = args
        return _kronecker(w, rest.T) * _along(signs, w)

    def statistics(self, stats: Any, args: Any) -> Any:
        """Only the Gram matrix."""
        gone = dict.fromkeys(("absmax", "min", "max", "total", "abstotal", "squares", "zeros", "histogram"))
        turned = _turned(stats, lambda x: self.inputs(x, args), args[0].size)
        return dataclasses.replace(stats, **gone, gram=turned)


def _turned(stats: Any, turn: Callable[[Any], Any], channels: int) -> Any:
    """B^T (X^T X) B; of patches, whose channels stand last, place by place. None if unknown."""
    gram = stats.gram
    if gram is None or stats.contracted[-1] != INPUTS or gram.ndim != 2:
        return None
    rows = turn(gram.reshape(-1, channels)).reshape(gram.shape)
    return turn(rows.T.reshape(-1, channels)).reshape(gram.shape).T


def _along(values: Any, x: Any) -> Any:
    """Values of the last axis, for every other place."""
    return jnp.broadcast_to(values, x.shape)


def _kronecker(x: Any, rest: Any) -> Any:
    """X (H (x) R) along the last axis."""
    *lead, n = x.shape
    m = rest.shape[0]
    grid = x.reshape(*lead, n // m, m)
    turned = jnp.einsum("...km,mr->...kr", grid, rest.astype(x.dtype), precision=jax.lax.Precision.HIGHEST)
    return jnp.swapaxes(hadamard(jnp.swapaxes(turned, -1, -2)), -1, -2).reshape(*lead, n)


@runtime_checkable
class Choose(Protocol):
    """`(value, *, path, stats, key) -> args` of the basis for one weight; raises `ValueError`."""

    def __call__(self, value: jax.Array, *, path: str, stats: Any, key: Key | None) -> Any: ...  # noqa: D102


def in_basis(basis: Basis, choose: Choose, inner: Transform) -> Transform:
    """`inner` on the weights in another basis of their inputs, axis -2 of each.

    `State.fixed` is a dict of the basis of each path, and the inner state.

    Args:
      basis: its kind.
      choose: finds its `args` for each weight, at `init`.
      inner: sees a flat dict of weights in the new basis, and what statistics are known there.

    Raises:
      ValueError: at `init`, a weight of fewer than two axes; or as `choose` and `inner`.
    """

    def shown(params: Any, bases: Mapping[str, Any]) -> dict[str, jax.Array]:
        by_path = flatten(params)[0]
        return {path: there(dense_value(by_path[path]), args) for path, args in bases.items()}

    def there(value: jax.Array, args: Any) -> jax.Array:
        last = jnp.moveaxis(value.astype(jnp.float32), INPUTS, -1)
        return jnp.moveaxis(basis.weights(last, args), -1, INPUTS).astype(value.dtype)

    def parts(state: State) -> tuple[dict[str, Any], State]:
        is_pair = isinstance(state, State) and isinstance(state.fixed, tuple) and len(state.fixed) == 2
        require_state(state, is_pair)
        return state.fixed[0], State(state.train, state.fixed[1])

    def init(params: Any, *, stats: Any = None, key: Key | None = None) -> State:
        stats, bases = stats or {}, {}
        for i, (path, value) in enumerate(flatten(params)[0].items()):
            if not is_float(value):
                continue
            if value.ndim < 2:
                raise ValueError(f"{path!r} must have inputs along axis -2, got {value.shape}; exclude it.")
            own = None if key is None else jax.random.fold_in(key, i)
            bases[path] = choose(dense_value(value), path=path, stats=stats.get(path), key=own)
        known = {path: basis.statistics(stats[path], args) for path, args in bases.items() if path in stats}
        made = inner.init(shown(params, bases), stats=known, key=key)
        return State(made.train, (bases, made.fixed))

    def update(state: State, params: Any, *, grads: Any = None, step: Any) -> State:
        bases, own = parts(state)
        weights = shown(params, bases)
        if grads is not None:
            by_path = flatten(grads)[0]
            undo = lambda w: {p: basis.whole(v, bases[p], INPUTS) for p, v in w.items()}  # noqa: E731
            (grads,) = jax.vjp(undo, weights)[1]({path: by_path[path] for path in bases})
        made = inner.update(own, weights, grads=grads, step=step)
        return State(made.train, (bases, made.fixed))

    def mapped(one: Any) -> Any:
        def over(params: Any, state: State) -> Any:
            bases, own = parts(state)
            by_path, treedef = flatten(params)
            made = one(shown(params, bases), own)
            leaves = {
                path: ProductLeaf(weight=like(made[path], by_path[path]), args=args, rule=basis, axis=INPUTS)
                for path, args in bases.items()
            }
            return unflatten(treedef, {**by_path, **leaves})

        return over

    return Transform(init, update, mapped(inner.apply), mapped(inner.pack))
