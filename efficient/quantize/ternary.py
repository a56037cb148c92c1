"""Ternary: weights that are -1, 0 or 1 times a scale, fixed by a formula (TWN) or trained, one a sign (TTQ).

Source: Li et al., 2016, arXiv:1605.04711, section 2 (TWN); Zhu et al., 2017, arXiv:1612.01064, section 3
(TTQ).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from efficient.core.per_leaf import per_leaf
from efficient.core.transform import Key, State, Transform, recipe
from efficient.quantize.block_leaf import BlockLeaf, packed_leaf
from efficient.quantize.codebook import CodebookLeaf
from efficient.quantize.formats import Integer


class Scales(NamedTuple):
    """The values that TTQ trains."""

    positive: Any  # float32[]
    negative: Any


@jax.custom_jvp
def _signs(value: Float[Array, "*shape"], threshold: Float[Array, ""]) -> Float[Array, "*shape"]:
    """-1, 0 or 1; straight through to the weight."""
    return jnp.where(value > threshold, 1.0, jnp.where(value < -threshold, -1.0, 0.0))


@_signs.defjvp
def _signs_jvp(primals: Any, tangents: Any) -> Any:
    return _signs(*primals), tangents[0]


@recipe
def twn(share: float = 0.7) -> Transform:
    """W' = alpha sign(W) where |W| > D, else 0; D = share mean |W|, alpha the mean |W| of those beyond D.

    One alpha and D a leaf, by formulas (equations 5 and 6); the gradient passes straight through, alpha's own
    left out. There is no state.

    Args:
      share: > 0; 0.7 is nearly the best for normal and for even weights.

    Raises:
      ValueError: at once, a share out of range.
    """
    require_share(share)
    grid = Integer(2)

    def parts(value: jax.Array) -> tuple[jax.Array, jax.Array]:
        size = jax.lax.stop_gradient(jnp.abs(value.astype(jnp.float32)))
        threshold = share * jnp.mean(size)
        beyond = size > threshold
        count = jnp.maximum(jnp.sum(beyond, dtype=jnp.float32), 1.0)
        return _signs(value.astype(jnp.float32), threshold), jnp.sum(size * beyond) / count

    def init(value: jax.Array, *, path: str, stats: Any, key: Key | None) -> State:
        del value, path, stats, key
        return State()

    def apply(value: jax.Array, state: State) -> jax.Array:
        del state
        signs, scale = parts(value)
        return _through(value.astype(jnp.float32), signs, scale)

    def pack(value: jax.Array, state: State) -> BlockLeaf:
        del state
        signs, scale = parts(value)
        layout, whole = (0,) * value.ndim, scale.reshape((1,) * value.ndim)
        return packed_leaf(signs, whole, None, grid=grid, layout=layout, dtype=value.dtype)

    return per_leaf(init=init, apply=apply, pack=pack)


@jax.custom_jvp
def _through(
    value: Float[Array, "*shape"], signs: Float[Array, "*shape"], scale: Float[Array, ""]
) -> Float[Array, "*shape"]:
    """Signs * scale; the gradient goes to the value alone, as it is."""
    del value
    return signs * scale


@_through.defjvp
def _through_jvp(primals: Any, tangents: Any) -> Any:
    return _through(*primals), tangents[0]


@recipe
def ttq(share: float = 0.05) -> Transform:
    """W' is Wp where W > D, -Wn where W < -D, else 0; D = share max |W|; Wp, Wn are trained (`State.train`).

    dL/dWp sums the gradient over the weights above D, dL/dWn its negative over those below; the weights get
    the gradient times Wp, 1 or Wn (equations 7 and 8). Both start at the mean |W| of theirs.

    Args:
      share: in (0, 1).

    Raises:
      ValueError: at once, a share out of range.
    """
    require_share(share)

    def threshold(value: jax.Array) -> jax.Array:
        return share * jnp.max(jax.lax.stop_gradient(jnp.abs(value.astype(jnp.float32))))

    def init(value: jax.Array, *, path: str, stats: Any, key: Key | None) -> State:
        del path, stats, key
        value, least = value.astype(jnp.float32), threshold(value)

        def mean(of: jax.Array) -> jax.Array:
            count = jnp.maximum(jnp.sum(of, dtype=jnp.float32), 1.0)
            return jnp.sum(jnp.abs(value) * of) / count

        return State(train=Scales(mean(value > least), mean(value < -least)))

    def apply(value: jax.Array, state: State) -> jax.Array:
        value = value.astype(jnp.float32)
        return _two_scales(value, threshold(value), *state.train)

    def pack(value: jax.Array, state: State) -> CodebookLeaf:
        value = value.astype(jnp.float32)
        least = threshold(value)
        indices = jnp.where(value > least, 2, jnp.where(value < -least, 0, 1)).astype(jnp.uint8)
        positive, negative = state.train
        entries = jnp.stack([-negative, jnp.zeros_like(positive), positive])
        return CodebookLeaf(codebook=entries, indices=indices, out_dtype=value.dtype)

    return per_leaf(init=init, apply=apply, pack=pack)


@jax.custom_jvp
def _two_scales(
    value: Float[Array, "*shape"],
    threshold: Float[Array, ""],
    positive: Float[Array, ""],
    negative: Float[Array, ""],
) -> Float[Array, "*shape"]:
    """Wp, 0 or -Wn."""
    return jnp.where(value > threshold, positive, jnp.where(value < -threshold, -negative, 0.0))


@_two_scales.defjvp
def _two_scales_jvp(primals: Any, tangents: Any) -> Any:
    value, threshold, positive, negative = primals
    d_value, _, d_positive, d_negative = tangents
    above, below = value > threshold, value < -threshold
    slope = jnp.where(above, positive, jnp.where(below, negative, 1.0))
    change = jnp.where(above, d_positive, jnp.where(below, -d_negative, 0.0))
    return _two_scales(*primals), slope * d_value + change


def require_share(share: float) -> None:
    """Refuses what is no share of the largest or the mean.

    Raises:
      ValueError: it is not above 0, or not finite.
    """
    if not 0 < share < float("inf"):
        raise ValueError(f"share must be above 0 and finite, got {share!r}; leave it out.")
