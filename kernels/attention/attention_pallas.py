"""Attention of sequences on a TPU and a GPU (Pallas): one program for both, a block of queries over its keys.

A block of queries meets a block of keys at a time; keys and values of one head lie in a TPU's VMEM whole,
which bounds their number there. Backward, one kernel is for queries and one for keys and values. Not run on
either yet: all lower for both, and their numbers are the reference's in interpret mode.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from efficient.kernels.attention.masks import Mask, visible
from efficient.kernels.attention.reference import NEVER
from efficient.kernels.compile_for import compile_for
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

MOST_TPU = 2**20  # numbers of one head's keys (backward: of a group's queries) that VMEM has room for


class Form(NamedTuple):
    """What a kernel knows before it runs."""

    mask: Mask
    scale: float
    queries: int  # of a block
    keys: int  # of a block
    t: int  # queries of a sequence, without what fills their last block
    group: int  # heads that read one head of keys


def check(tier: str, q: Any, k: Any) -> None:
    """Refuses what does not fit.

    Raises:
      NotImplementedError: more keys than VMEM holds.
    """
    (_, t, h, d), (_, s, g, _) = q.shape, k.shape
    size = max(s, t * h // g) * d
    if tier == "pallas_tpu" and size > MOST_TPU:
        raise NotImplementedError(
            f"keys of one head, and queries of those that read them, must be at most {MOST_TPU} numbers for "
            f"{tier}, got {size}; leave implementation out."
        )


def _form(q: Any, k: Any, *, mask: Mask, scale: float, tier: str) -> Form:
    """Blocks of 64, or of 128 on a TPU; powers of two."""
    most, (_, t, h, _), (_, s, g, _) = 128 if tier == "pallas_tpu" else 64, q.shape, k.shape
    queries, keys = (min(most, max(16, pl.next_power_of_2(n))) for n in (t, s))
    return Form(mask, scale, queries, keys, t, h // g)


def _headed(rows: Any, block: int) -> Any:
    """[b, t, h, d] as [b, h, t, d], filled up to whole blocks and a power of two of d."""
    rows = jnp.swapaxes(rows, 1, 2)
    wide = max(16, pl.next_power_of_2(rows.shape[3]))
    return jnp.pad(rows, [(0, 0), (0, 0), (0, -rows.shape[2] % block), (0, wide - rows.shape[3])])


def _back(rows: Any, like: Any) -> Any:
    """The way back of `_headed`."""
    return jnp.swapaxes(rows, 1, 2)[:, : like.shape[1], :, : like.shape[3]]


def _lengths_spec(tier: str) -> pl.BlockSpec:
    """Scalars."""
    return pl.BlockSpec(memory_space=pltpu.SMEM) if tier == "pallas_tpu" else pl.BlockSpec()


def forward(
    q: Any, k: Any, v: Any, lengths: Any, *, mask: Mask, scale: float, tier: str, interpret: bool = False
) -> tuple[Any, Any]:
    """The result and the sums; see `reference_and_sums`."""
    form = _form(q, k, mask=mask, scale=scale, tier=tier)
    rows, keys, values = _headed(q, form.queries), _headed(k, form.keys), _headed(v, form.keys)
    b, h, t, d = rows.shape
    own = pl.BlockSpec((None, None, form.queries, d), lambda b, h, i: (b, h, i, 0))
    all_keys = pl.BlockSpec(
        (None, None, keys.shape[2], d), lambda b, h, i: (b, jax.lax.div(h, form.group), 0, 0)
    )
    out, sums = pl.pallas_call(
        functools.partial(_forward, form=form),
        grid=(b, h, t // form.queries),
        in_specs=[_lengths_spec(tier), own, all_keys, all_keys],
        out_specs=[own, pl.BlockSpec((None, None, form.queries, 1), lambda b, h, i: (b, h, i, 0))],
        out_shape=[
            jax.ShapeDtypeStruct(rows.shape, jnp.float32),
            jax.ShapeDtypeStruct((b, h, t, 1), jnp.float32),
        ],
        compiler_params=compile_for(tier, grid=("parallel",) * 3),
        interpret=interpret,
    )(lengths, rows, keys, values)
    return _back(out, q), sums[:, :, : q.shape[1], 0]


def backward(
    q: Any, k: Any, v: Any, lengths: Any, out: Any, sums: Any, slope: Any, *, mask: Mask, scale: float,
    tier: str, interpret: bool = False,
) -> tuple[Any, Any, Any]:  # fmt: skip
    """Gradients of q, k and v."""
    form = _form(q, k, mask=mask, scale=scale, tier=tier)
    rows, slopes = _headed(q, form.queries), _headed(slope.astype(q.dtype), form.queries)
    keys, values = _headed(k, form.keys), _headed(v, form.keys)
    (b, h, t, d), (_, g, s, _) = rows.shape, keys.shape
    mean = jnp.einsum("bthd,bthd->bht", out.astype(jnp.float32), slope.astype(jnp.float32))
    sums = jnp.where(sums > NEVER, sums, -NEVER)  # no key seen: every weight is 0
    filled = [(0, 0), (0, 0), (0, t - q.shape[1])]
    sums, mean = (jnp.pad(a, filled)[..., None] for a in (sums, mean))
    compiled = {"compiler_params": compile_for(tier, grid=("parallel",) * 3), "interpret": interpret}
    one = pl.BlockSpec((None, None, form.queries, d), lambda b, h, i: (b, h, i, 0))
    number = pl.BlockSpec((None, None, form.queries, 1), lambda b, h, i: (b, h, i, 0))
    all_keys = pl.BlockSpec((None, None, s, d), lambda b, h, i: (b, jax.lax.div(h, form.group), 0, 0))
    to_q = pl.pallas_call(
        functools.partial(_to_queries, form=form),
        grid=(b, h, t // form.queries),
        in_specs=[_lengths_spec(tier), one, all_keys, all_keys, number, number, one],
        out_specs=one,
        out_shape=jax.ShapeDtypeStruct(rows.shape, jnp.float32),
        **compiled,
    )(lengths, rows, keys, values, sums, mean, slopes)
    block = pl.BlockSpec((None, None, form.keys, d), lambda b, g, j: (b, g, j, 0))
    of_group = pl.BlockSpec((None, form.group, t, d), lambda b, g, j: (b, g, 0, 0))
    numbers = pl.BlockSpec((None, form.group, t, 1), lambda b, g, j: (b, g, 0, 0))
    to_k, to_v = pl.pallas_call(
        functools.partial(_to_keys, form=form),
        grid=(b, g, s // form.keys),
        in_specs=[_lengths_spec(tier), of_group, block, block, numbers, numbers, of_group],
        out_specs=[block, block],
        out_shape=[jax.ShapeDtypeStruct(keys.shape, jnp.float32)] * 2,
        **compiled,
    )(lengths, rows, keys, values, sums, mean, slopes)
    return _back(to_q, q), _back(to_k, k), _back(to_v, v)


def _dot(a: Any, b: Any) -> Any:
    """A product, exact for what float32 holds."""
    precision = jax.lax.Precision.HIGHEST if a.dtype == jnp.float32 else None
    return jnp.dot(a, b, preferred_element_type=jnp.float32, precision=precision)


def _seen(length: Any, query: Any, key: Any, form: Form) -> Any:
    """Whether each query of a block sees each key; queries and keys from a place on."""
    shape = (form.queries, form.keys)
    row = query + jax.lax.broadcasted_iota(jnp.int32, shape, 0)
    place = key + jax.lax.broadcasted_iota(jnp.int32, shape, 1)
    return visible(length - form.t + row, place, length, form.mask) & (row < form.t)


def _over_keys(length: Any, query: Any, form: Form, step: Any, start: Any) -> Any:
    """`step(block of keys, carry)` over those that some query from `query` on sees."""
    last = length - form.t + query + form.queries  # one beyond the last query's place
    reach = jnp.minimum(length, last) if form.mask.is_causal else length
    end = jax.lax.div(jnp.maximum(reach, 0) + (form.keys - 1), jnp.int32(form.keys))
    if not form.mask.window:
        return jax.lax.fori_loop(0, end, step, start)
    begin = jax.lax.div(jnp.maximum(last - form.queries - form.mask.window + 1, 0), jnp.int32(form.keys))
    start = jax.lax.fori_loop(0, jnp.minimum(-(-form.mask.sinks // form.keys), begin), step, start)
    return jax.lax.fori_loop(begin, end, step, start)


def _forward(
    lengths_ref: Any, q_ref: Any, k_ref: Any, v_ref: Any, out_ref: Any, sums_ref: Any, *, form: Form
) -> None:
    """A block of queries."""
    length, query = lengths_ref[pl.program_id(0)], pl.program_id(2) * form.queries
    q = q_ref[...]

    def step(block: Any, carry: tuple[Any, Any, Any]) -> tuple[Any, Any, Any]:
        top, total, made = carry
        key = pl.multiple_of(block * form.keys, form.keys)
        seen = _seen(length, query, key, form)
        scores = _dot(q, k_ref[pl.ds(key, form.keys), :].T) * np.float32(form.scale)
        scores = jnp.where(seen, scores, NEVER)
        best = jnp.maximum(top, jnp.max(scores, axis=1, keepdims=True))
        weights = jnp.where(seen, jnp.exp(scores - best), 0.0)
        keep = jnp.exp(top - best)
        values = v_ref[pl.ds(key, form.keys), :]
        made = made * keep + _dot(weights.astype(values.dtype), values)
        return best, total * keep + jnp.sum(weights, axis=1, keepdims=True), made

    one = (form.queries, 1)
    start = (jnp.full(one, NEVER, jnp.float32), jnp.zeros(one, jnp.float32), jnp.zeros(q.shape, jnp.float32))
    top, total, made = _over_keys(length, query, form, step, start)
    is_none = total == 0
    out_ref[...] = made / jnp.where(is_none, 1.0, total)
    sums_ref[...] = jnp.where(is_none, NEVER, top + jnp.log(jnp.where(is_none, 1.0, total)))


def _shares(
    q: Any, k: Any, v: Any, sums: Any, mean: Any, slope: Any, seen: Any, form: Form
) -> tuple[Any, Any]:
    """Weights of a block, and slopes of its scores."""
    scores = _dot(q, k.T) * np.float32(form.scale)
    weights = jnp.where(seen, jnp.exp(jnp.where(seen, scores, 0.0) - sums), 0.0)
    return weights, weights * (_dot(slope, v.T) - mean) * np.float32(form.scale)


def _to_queries(lengths_ref: Any, q_ref: Any, k_ref: Any, v_ref: Any, sums_ref: Any, mean_ref: Any,
                slope_ref: Any, to_ref: Any, *, form: Form) -> None:  # fmt: skip
    """The gradient of a block of queries."""
    length, query = lengths_ref[pl.program_id(0)], pl.program_id(2) * form.queries
    q, sums, mean, slope = q_ref[...], sums_ref[...], mean_ref[...], slope_ref[...]

    def step(block: Any, made: Any) -> Any:
        key = pl.multiple_of(block * form.keys, form.keys)
        k, v = k_ref[pl.ds(key, form.keys), :], v_ref[pl.ds(key, form.keys), :]
        _, change = _shares(q, k, v, sums, mean, slope, _seen(length, query, key, form), form)
        return made + _dot(change.astype(k.dtype), k)

    to_ref[...] = _over_keys(length, query, form, step, jnp.zeros(q.shape, jnp.float32))


def _to_keys(lengths_ref: Any, q_ref: Any, k_ref: Any, v_ref: Any, sums_ref: Any, mean_ref: Any,
             slope_ref: Any, to_k_ref: Any, to_v_ref: Any, *, form: Form) -> None:  # fmt: skip
    """The gradients of a block of keys and of values, from all queries that see them."""
    length, key = lengths_ref[pl.program_id(0)], pl.program_id(2) * form.keys
    k, v = k_ref[...], v_ref[...]
    blocks = q_ref.shape[1] // form.queries
    place = length - form.t  # of the first query
    begin = jnp.int32(0)
    if form.mask.is_causal:
        begin = jax.lax.div(jnp.maximum(key - place, 0), jnp.int32(form.queries))
    left = jnp.maximum(blocks - begin, 1)

    def step(index: Any, carry: tuple[Any, Any]) -> tuple[Any, Any]:
        to_k, to_v = carry
        head, block = jax.lax.div(index, left), begin + jax.lax.rem(index, left)
        query = pl.multiple_of(block * form.queries, form.queries)
        at = (head, pl.ds(query, form.queries), slice(None))
        q, slope = q_ref[at], slope_ref[at]
        seen = _seen(length, query, key, form)
        weights, change = _shares(q, k, v, sums_ref[at], mean_ref[at], slope, seen, form)
        return to_k + _dot(change.T.astype(q.dtype), q), to_v + _dot(weights.T.astype(slope.dtype), slope)

    zeros = jnp.zeros(k.shape, jnp.float32)
    many = jnp.where(key < length, form.group * jnp.maximum(blocks - begin, 0), 0)
    to_k_ref[...], to_v_ref[...] = jax.lax.fori_loop(0, many, step, (zeros, zeros))
