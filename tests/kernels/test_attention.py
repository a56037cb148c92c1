"""Attention: every tier, forward and backward, against softmax in float64; and over caches in a few bits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from efficient.kernels.attention import attention, decode_attention
from efficient.kernels.attention.attention import BACKWARD, FORWARD
from efficient.kernels.attention.decode import NATIVE
from efficient.kernels.quantize_pack import Packed, quantize_pack

from tests.kernels.laws import KernelLaws
from tests.kernels.packed_cases import codes_of, needs_compiler

U = 2.0**-24
OFF = {"is_symmetric": False}


def softmax_of(q, k, v, seen, scale):
    """In float64, and what rounding may come to: [b, t, h, d], seen [b, t, s].

    A score is off by (d + 8) u sum |q k|; weights by twice the largest such, by (s + 16) u of sums and by 8 u
    of the exponential. Where nothing is seen, 0.
    """
    q, k, v = (np.asarray(a, np.float64) for a in (q, k, v))
    k, v = (np.repeat(a, q.shape[2] // a.shape[2], 2) for a in (k, v))
    scores = np.einsum("bthd,bshd->bhts", q, k) * scale
    size = np.einsum("bthd,bshd->bhts", np.abs(q), np.abs(k)) * abs(scale)
    seen = np.broadcast_to(seen[:, None], scores.shape)
    scores = np.where(seen, scores, -np.inf)
    top = scores.max(-1, keepdims=True, initial=-1e300)
    weights = np.exp(scores - top)
    total = weights.sum(-1, keepdims=True)
    weights = weights / np.where(total == 0, 1, total)
    off = 2 * (q.shape[3] + 8) * U * np.where(seen, size, 0).max(-1, initial=0) + (2 * k.shape[1] + 48) * U
    out = np.einsum("bhts,bshd->bthd", weights, v)
    slack = 2 * np.expm1(off).transpose(0, 2, 1)[..., None] * np.einsum("bhts,bshd->bthd", weights, np.abs(v))
    return out, slack + 1e-35


def seen_of(t, s, lengths, is_causal=False, window=0, sinks=0):
    """Place by place."""
    out = np.zeros((len(lengths), t, s), bool)
    for b, length in enumerate(lengths):
        for i in range(t):
            place = length - t + i
            for key in range(min(s, length)):
                near = not window or key > place - window or key < sinks
                out[b, i, key] = near and (key <= place or not is_causal)
    return out


class TestAttention(KernelLaws):
    moving = ("q", "k", "v")
    rows = ("q", "k", "v")
    cases = {  # b, t, s, h, g, d
        "grouped": ((2, 33, 70, 6, 2, 24), {"is_causal": True}),
        "smollm": ((1, 96, 96, 9, 3, 64), {"is_causal": True, "window": 20, "sinks": 3}),
        "vit": ((2, 50, 50, 3, 3, 64), {}),
        "lengths": ((3, 9, 130, 2, 1, 80), {"lengths": [130, 5, 0], "is_causal": True}),
        "one": ((1, 1, 5, 1, 1, 1), {"scale": 2.0}),
    }

    def arguments(self, case, draw):
        (b, t, s, h, g, d), options = case
        return {"q": draw(b, t, h, d), "k": draw(b, s, g, d), "v": draw(b, s, g, d)}, options

    def run(self, arrays, options, implementation):
        options = {**options}
        lengths = options.pop("lengths", None)
        if lengths is not None:
            lengths = jnp.asarray(lengths[: arrays["q"].shape[0]], jnp.int32)
        return attention(**arrays, **options, lengths=lengths, implementation=implementation)

    def exact(self, arrays, options):
        (b, t, _, d), s = arrays["q"].shape, arrays["k"].shape[1]
        options = {**options}
        scale, lengths = options.pop("scale", 1 / np.sqrt(d)), options.pop("lengths", [s] * b)
        return softmax_of(*arrays.values(), seen_of(t, s, lengths, **options), scale)


@pytest.mark.parametrize("tier", TestAttention.all_tiers())
@pytest.mark.parametrize(
    "options", [{}, {"is_causal": True}, {"is_causal": True, "window": 7, "sinks": 2}], ids=str
)
def test_gradients_in_blocks(tier, options):
    """Of q, k and v, over blocks of queries and of keys, with heads that share keys, and short sequences."""
    draw = np.random.default_rng(0)
    q, k, v = (
        jnp.asarray(draw.normal(size=(2, n, h, 20)), jnp.float32) for n, h in ((130, 4), (140, 2), (140, 2))
    )
    lengths = jnp.array([140, 66])

    def loss(q, k, v, tier):
        return jnp.sum(jnp.sin(attention(q, k, v, lengths=lengths, implementation=tier, **options)))

    ours, theirs = (
        jax.jit(jax.grad(loss, (0, 1, 2)), static_argnums=3)(q, k, v, t) for t in (tier, "reference")
    )
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, atol=3e-5)


def test_it_is_jax_nns():
    q, k, v = (jax.random.normal(jax.random.key(i), (2, 40, h, 16)) for i, h in enumerate((4, 2, 2)))
    for options in ({}, {"is_causal": True}):
        theirs = jax.nn.dot_product_attention(q, k, v, **options)
        np.testing.assert_allclose(attention(q, k, v, **options), theirs, atol=1e-5)
    theirs = jax.nn.dot_product_attention(q, k, v, is_causal=True, local_window_size=(4, 0))
    np.testing.assert_allclose(attention(q, k, v, is_causal=True, window=5), theirs, atol=1e-5)


def test_no_array_of_all_scores_is_kept():
    """Between the passes lie q, k, v, the result and a number a query: linear in the length."""
    q = jnp.ones((1, 512, 1, 8))
    _, pull = jax.vjp(lambda q: attention(q, q, q, is_causal=True, implementation="pallas_gpu"), q)
    kept = sum(a.size for a in jax.tree.leaves(pull) if hasattr(a, "size"))
    assert kept < 512 * 512 / 2, kept


@pytest.mark.parametrize("tier", TestAttention.all_tiers())
def test_a_nan_is_seen_by_those_that_see_it(tier):
    """At least: a kernel may multiply what is not seen by 0."""
    q = jnp.ones((1, 6, 1, 4))
    v = q.at[0, 3, 0, 1].set(jnp.nan)
    out = np.isnan(attention(q, q, v, is_causal=True, implementation=tier))[0, :, 0]
    assert out[3:, 1].all()


def test_what_does_not_go_together_is_refused():
    x = lambda *s: jnp.ones(s)  # noqa: E731
    q = x(2, 3, 4, 8)
    wrong = Packed(q.astype(jnp.uint8), x(2, 3, 4, 3))
    for call, message in (
        (lambda: attention(q, x(2, 3, 3, 8), x(2, 3, 3, 8)), "g a divisor of h"),
        (lambda: attention(q, q, q, window=3), "window must be from 0 and causal"),
        (lambda: attention(q, q, q, is_causal=True, sinks=3), "with a window"),
        (lambda: attention(q, q, q, lengths=jnp.ones(3, jnp.int32)), "lengths must be one for each of 2"),
        (lambda: decode_attention(q[:, 0], q[:1], q[:1], jnp.ones(2, jnp.int32)), "pages must be"),
        (lambda: decode_attention(q[:, 0], q, q[:, :2], jnp.ones(2, jnp.int32)), "keys and values must be"),
        (lambda: decode_attention(q[:, 0], q, wrong, jnp.ones(2, jnp.int32)), "scale and shift of values"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(NotImplementedError, match="keys must be float32, bfloat16 or float16"):
        decode_attention(q[:, 0], q.astype(jnp.float8_e4m3fn), q, jnp.ones(2, jnp.int32))
    big = jax.ShapeDtypeStruct((1, 2**15, 1, 64), jnp.float32)
    with pytest.raises(NotImplementedError, match="must be at most 1048576 numbers for pallas_tpu"):
        jax.eval_shape(lambda q: attention(q, q, q, implementation="pallas_tpu"), big)


def numbers_of(cache, size):
    """What a cache stands for, float64."""
    if not isinstance(cache, Packed):
        return np.asarray(cache.astype(jnp.float32), np.float64)
    bits = {size * b // 8 + (size * b % 8 > 0): b for b in (8, 4, 2)}[cache.codes.shape[-1]]
    whole = codes_of(cache.codes.reshape(-1, cache.codes.shape[-1]), bits, size).reshape(
        *cache.codes.shape[:3], size
    )
    whole = whole.astype(np.float64)
    runs = cache.scale.shape[-1]
    scale = np.repeat(np.asarray(cache.scale, np.float64), size // runs, -1)
    if cache.shift is None:
        return np.where(whole >= 2 ** (bits - 1), whole - 2**bits, whole) * scale
    return (whole - np.repeat(np.asarray(cache.shift, np.float64), size // runs, -1)) * scale


class TestDecode(KernelLaws):
    moving = ("q",)
    rows = ("q", "lengths", "pages")
    cases = {  # b, h, g, d, pages, tokens of one, pages of a sequence, form of keys and of values
        "int8": ((2, 6, 2, 24, 9, 16, 6), {"bits": 8}, {"bits": 8}, {}),
        "int4": ((2, 4, 4, 64, 5, 64, 3), {"bits": 4}, {"bits": 4, **OFF}, {"window": 70, "sinks": 3}),
        "runs": ((1, 9, 3, 64, 20, 8, 20), {"bits": 4, "group": 32, **OFF}, {"bits": 2, "group": 16}, {}),
        "floats": ((2, 3, 1, 5, 4, 7, 2), jnp.float32, jnp.bfloat16, {"window": 3}),
        "mixed": ((2, 8, 2, 16, 5, 300, 2), jnp.float16, {"bits": 8, **OFF}, {"sinks": 1, "window": 9}),
    }

    def arguments(self, case, draw):
        (b, h, g, d, n, p, m), *forms, options = case
        made = []
        for form in forms:
            x = draw(n, p, g, d)
            made.append(
                quantize_pack(x, **form) if isinstance(form, dict) else jnp.clip(x, -1e4, 1e4).astype(form)
            )
        lengths, pages = draw.whole(0, p * m + 1, b), draw.whole(0, n, b, m)
        arrays = {"q": draw(b, h, d), "keys": made[0], "values": made[1], "lengths": lengths, "pages": pages}
        return arrays, options

    def run(self, arrays, options, implementation):
        return decode_attention(**arrays, **options, implementation=implementation)

    def exact(self, arrays, options):
        q, pages = np.asarray(arrays["q"], np.float64)[:, None], np.asarray(arrays["pages"])
        k, v = (numbers_of(arrays[name], q.shape[-1])[pages] for name in ("keys", "values"))
        k, v = (a.reshape(a.shape[0], -1, *a.shape[3:]) for a in (k, v))
        seen = seen_of(1, k.shape[1], np.asarray(arrays["lengths"]), is_causal=True, **options)
        out, slack = softmax_of(q, k, v, seen, 1 / np.sqrt(q.shape[-1]))
        return out[:, 0], 2 * slack[:, 0]  # decoded numbers are rounded too


def test_a_cache_without_pages_is_attention():
    q, k, v = (jax.random.normal(jax.random.key(i), (2, 30, h, 16)) for i, h in enumerate((4, 2, 2)))
    lengths = jnp.array([30, 11])
    whole = attention(q[:, :1], k, v, lengths=lengths, is_causal=True)
    np.testing.assert_allclose(decode_attention(q[:, 0], k, v, lengths), whole[:, 0], atol=1e-5)
    eight = [quantize_pack(a, bits=8) for a in (k, v)]
    np.testing.assert_allclose(decode_attention(q[:, 0], *eight, lengths), whole[:, 0], atol=0.05)


@pytest.mark.parametrize("tier", TestDecode.all_tiers())
def test_what_lies_beyond_a_sequence_is_not_read(tier):
    k = jax.random.normal(jax.random.key(0), (1, 40, 2, 16)).at[:, 33:].set(jnp.nan)
    out = decode_attention(jnp.ones((1, 2, 16)), k, k, jnp.array([33]), implementation=tier)
    assert np.isfinite(out).all()
    none = decode_attention(jnp.ones((1, 2, 16)), k, k, jnp.array([0]), implementation=tier)
    np.testing.assert_array_equal(none, np.zeros((1, 2, 16)))


@needs_compiler
def test_a_page_that_is_not_there_is_refused():
    k = jnp.ones((3, 4, 1, 8))
    run = jax.jit(lambda pages: decode_attention(
        jnp.ones((1, 1, 8)), k, k, jnp.array([9]), pages=pages, implementation="cpu"
    ))  # fmt: skip
    for page in (-1, 3, 2**31 - 1):
        with pytest.raises(Exception, match="pages must be from 0"):
            jax.block_until_ready(run(jnp.array([[0, 1, page]], jnp.int32)))


@needs_compiler
def test_handlers_refuse_forged_arguments():
    x = lambda *s: jnp.ones(s)  # noqa: E731
    i = lambda *s: jnp.ones(s, jnp.int32)  # noqa: E731
    assert FORWARD.is_ready and BACKWARD.is_ready and NATIVE.is_ready  # noqa: PT018
    options = {"is_causal": True, "window": 0, "sinks": 0, "scale": np.float32(1)}
    q, k = (2, 3, 4, 8), (2, 5, 2, 8)

    def forward(q=q, k=k, v=k, n=(2,), out=q, sums=(2, 4, 3), **change):
        results = [jax.ShapeDtypeStruct(s, jnp.float32) for s in (out, sums)]
        return FORWARD.calls("cpu", results, x(*q), x(*k), x(*v), i(*n), **{**options, **change})

    def backward(out=q, sums=(2, 4, 3), slope=q, to=(q, k, k), n=(2,)):
        results = [jax.ShapeDtypeStruct(s, jnp.float32) for s in to]
        args = (x(*q), x(*k), x(*k), i(*n), x(*out), x(*sums), x(*slope))
        return BACKWARD.calls("cpu", results, *args, **options)

    none = (0, 0, 0, 0)

    def decode(
        q=(2, 4, 8), k=k, dtype=jnp.uint8, scale=(2, 5, 2, 1), shift=none, v=k, n=(2,), pages=(2, 1), window=0
    ):
        args = (
            x(*q),
            x(*k).astype(dtype),
            x(*scale),
            x(*shift),
            x(*v),
            x(*none),
            x(*none),
            i(*n),
            0 * i(*pages),
        )
        return NATIVE.call("cpu", q, *args, window=window, sinks=0, scale=np.float32(1))

    for call, name, changes in (
        (forward, "attention", [
            {"q": (2, 3, 5, 8)}, {"k": (2, 5, 2, 7)}, {"v": (2, 4, 2, 8)}, {"n": (3,)}, {"out": k},
            {"sums": (2, 3, 4)}, {"window": -1}, {"k": (2, 5, 0, 8), "v": (2, 5, 0, 8)},
        ]),
        (backward, "attention_backward", [
            {"out": k}, {"sums": (2, 4, 2)}, {"slope": k}, {"to": (k, k, k)}, {"to": (q, q, k)}, {"n": (1,)},
        ]),
        (decode, "decode_attention", [
            {"q": (2, 3, 8)}, {"dtype": jnp.int16}, {"scale": none}, {"scale": (2, 5, 2, 3)}, {"window": -1},
            {"shift": (2, 5, 2, 2)}, {"v": (2, 5, 2, 9)}, {"n": (3,)}, {"pages": (1, 1)}, {"k": (2, 5, 2, 7)},
            {"v": (3, 5, 2, 8)},
        ]),
    ):  # fmt: skip
        jax.block_until_ready(call())
        for change in changes:
            with pytest.raises(Exception, match=name + ": "):
                jax.block_until_ready(call(**change))
