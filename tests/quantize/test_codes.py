"""Codes: quantized weights meet kernels through lift, on any axes, and say which."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from efficient.kernels.tiers import Native

from efficient import chain, lift
from efficient.core.lift import explained
from efficient.core.report import compare
from efficient.quantize import (
    channel,
    codebook,
    group,
    linear,
    quantize,
    quantize_inputs,
    quantizers,
    tile,
)
from efficient.quantize.formats import Affine, Integer

X = jax.random.normal(jax.random.key(1), (3, 96))
W = jax.random.normal(jax.random.key(0), (96, 80))
IMAGES = jax.random.normal(jax.random.key(2), (2, 8, 8, 16))


def convolved(w, x):
    """A convolution whose window is strided and dilated."""
    return jax.lax.conv_general_dilated(
        x, w, (2, 1), "SAME", rhs_dilation=(1, 2), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


PRODUCTS = {
    "x W": (lambda w, x: x @ w, W, X),
    "W x": (lambda w, x: jnp.einsum("kn,ak->na", w, x), W, X),
    "heads out": (lambda w, x: jnp.einsum("ak,khd->ahd", x, w), W.reshape(96, 10, 8), X),
    "heads in": (lambda w, x: jnp.einsum("ahd,hdn->an", x, w), W.reshape(4, 24, 80), X.reshape(3, 4, 24)),
    "convolution": (convolved, jax.random.normal(jax.random.key(3), (3, 3, 16, 20)), IMAGES),
}
TRANSFORMS = {
    "linear": linear(8),
    "linear, one scale": linear(8, axis=None),
    "codebook": codebook(4),
    "int4, runs of 8": quantize(quantizers.integer(4, group(8))),
    "affine": quantize(quantizers.affine(4, group(8))),
    "nf4, double": quantize(quantizers.nf4(8)),
    "int2": quantize(quantizers.integer(2, channel())),
    "tiles": quantize(quantizers.integer(4, tile(8, 4))),
    "fp8": quantize(quantizers.fp8()),
}


def packed_of(transform, w):
    """The packed weight and what `apply` makes of it."""
    state = transform.init({"w": w})
    return transform.pack({"w": w}, state), transform.apply({"w": w}, state)


@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize("name", TRANSFORMS)
def test_weights_meet_the_kernel_and_agree_with_apply(name, product):
    run, w, x = PRODUCTS[product]
    packed, applied = packed_of(TRANSFORMS[name], w)
    of_params = lambda params, x: run(params["w"], x)  # noqa: E731
    assert explained(of_params, packed, x).kernels["w"].startswith("quantized_matmul")
    found, want = lift(of_params)(packed, x), lift(of_params)(applied, x)
    size = run(jnp.abs(w), jnp.abs(x))
    assert (jnp.abs(found - want) <= 2.0**-20 * size).all()  # float32 sums of at most 144 terms


@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize("per_token", [False, True])
@pytest.mark.parametrize("weights", ["linear", "int4, runs of 8", "affine"])
def test_inputs_in_8_bits_meet_integers(weights, per_token, product):
    run, w, x = PRODUCTS[product]
    rule = quantize_inputs(Integer(8), is_dynamic=True, per_token=per_token)
    packed, applied = packed_of(chain(TRANSFORMS[weights], rule), w)
    of_params = lambda params, x: run(params["w"], x)  # noqa: E731
    # A patch holds places with steps of their own, which no integer product knows.
    kernel = "quantized_matmul" if per_token and product == "convolution" else "int8_matmul"
    assert explained(of_params, packed, x).kernels["w"].startswith(kernel)
    found, want = lift(of_params)(packed, x), lift(of_params)(applied, x)
    assert (jnp.abs(found - want) <= 2.0**-18 * run(jnp.abs(w), jnp.abs(x))).all()


E = jax.random.normal(jax.random.key(4), (80, 96))  # an embedding, or weights [out, in]
LAST = {
    "logits": (lambda w, x: jnp.einsum("vd,ad->av", w, x), E, X),
    "W x": (lambda w, x: jax.lax.dot_general(w, x, (((1,), (1,)), ((), ()))), E, X),
    "heads": (lambda w, x: jnp.einsum("ahd,nhd->an", x, w), E.reshape(80, 4, 24), X.reshape(3, 4, 24)),
    "heads out": (lambda w, x: jnp.einsum("ad,nhd->anh", x, w), E.reshape(10, 8, 96), X),
}
ALONG = {
    "linear": linear(8, axis=0),
    "linear, one scale": linear(8, axis=None),
    "codebook": codebook(4),
    "int4, runs of 8": quantize(quantizers.integer(4, group(8, -1))),
    "affine, runs of 16": quantize(quantizers.affine(4, group(16, -1))),
    "int8, rows": quantize(quantizers.integer(8, channel(0))),
    "fp8, one scale": quantize(quantizers.fp8()),
    "int2, ragged": quantize(quantizers.integer(2, group(40, -1))),
}


@pytest.mark.parametrize("product", LAST)
@pytest.mark.parametrize("name", ALONG)
def test_weights_whose_last_axes_are_summed_over_meet_theirs(name, product):
    run, w, x = LAST[product]
    has_no_runs = (name, product) in {
        ("int8, rows", "heads out"), ("int2, ragged", "heads"), ("affine, runs of 16", "heads")
    }  # fmt: skip
    packed, applied = packed_of(ALONG[name], w)
    of_params = lambda params, x: run(params["w"], x)  # noqa: E731
    kernels = explained(of_params, packed, x).kernels
    assert has_no_runs or kernels["w"].startswith("transposed_matmul")
    found, want = lift(of_params)(packed, x), lift(of_params)(applied, x)
    size = run(jnp.abs(w), jnp.abs(x))
    assert (jnp.abs(found - want) <= 2.0**-20 * size).all()
    rows = chain(ALONG[name], quantize_inputs(Integer(8), is_dynamic=True, per_token=True))
    packed, applied = packed_of(rows, w)
    found, want = lift(of_params)(packed, x), lift(of_params)(applied, x)
    assert (jnp.abs(found - want) <= 2.0**-18 * size).all()


def test_a_tied_embedding_is_looked_up_and_multiplied_as_it_is_kept():
    def model(params, tokens):
        x = params["table"][tokens]
        return x @ params["table"].T, jnp.einsum("td,vd->tv", x, params["table"])

    packed, applied = packed_of(quantize(quantizers.integer(4, group(32, -1))), E)
    packed, applied = {"table": packed["w"]}, {"table": applied["w"]}
    tokens = jnp.array([3, 79, 0])
    found = explained(model, packed, tokens)
    assert "transposed_matmul" in found.kernels["table"]
    for ours, theirs in zip(lift(model)(packed, tokens), lift(model)(applied, tokens), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def test_known_ranges_meet_integers_and_zero_points_do_not():
    w, x = W, jnp.abs(X)
    from efficient import observe

    stats = observe(lambda p, x: x @ p["w"], {"w": w}, [(x,)], statistics=("min", "max"))
    for grid, kernel in ((Integer(8), "int8_matmul"), (Affine(8), "quantized_matmul")):
        t = chain(linear(8), quantize_inputs(grid))
        state = t.init({"w": w}, stats=stats)
        packed = t.pack({"w": w}, state)
        run = lambda p, x: x @ p["w"]  # noqa: E731
        assert explained(run, packed, x).kernels["w"].startswith(kernel)
        want = lift(run)(t.apply({"w": w}, state), x)
        np.testing.assert_allclose(lift(run)(packed, x), want, rtol=1e-4, atol=1e-3)


def test_gradients_of_inputs_and_of_scales():
    packed, _ = packed_of(quantize(quantizers.integer(4, group(8))), W)
    run = lambda p, x: jnp.sum(lift(lambda p, x: x @ p["w"])(p, x) ** 2)  # noqa: E731
    dense = packed["w"].dense()
    np.testing.assert_allclose(
        jax.grad(run, 1)(packed, X), jax.grad(lambda x: jnp.sum((x @ dense) ** 2))(X), rtol=1e-4, atol=1e-3
    )
    slope = jax.grad(run, allow_int=True)(packed, X)["w"].scale
    through = jax.grad(
        lambda s: jnp.sum((X @ type(packed["w"])(**{**vars(packed["w"]), "scale": s}).dense()) ** 2)
    )(packed["w"].scale)
    np.testing.assert_allclose(slope, through, rtol=1e-3, atol=1e-2)


def test_what_kernels_do_not_take_is_decoded():
    """Codes of 3 bits straddle bytes; a trailing axis that is summed; and shallow products of many rows."""
    run = lambda p, x: x @ p["w"]  # noqa: E731
    packed, applied = packed_of(quantize(quantizers.integer(3, channel())), W)
    assert not explained(run, packed, X).kernels
    np.testing.assert_allclose(lift(run)(packed, X), lift(run)(applied, X), rtol=1e-5, atol=1e-5)
    packed, _ = packed_of(linear(8), W)
    assert not explained(lambda p, x: x @ p["w"].T, packed, jnp.ones((2, 80))).kernels
    packed, _ = packed_of(linear(8), W[:27])
    assert not explained(run, packed, jnp.ones((1000, 27))).kernels
    assert explained(run, packed, jnp.ones((4, 27))).kernels


def test_half_precision_keeps_the_accumulator():
    """A product of bfloat16 that asks for float32 gets it."""
    packed, _ = packed_of(linear(8), W.astype(jnp.bfloat16))
    run = lambda p, x: jnp.matmul(x, p["w"], preferred_element_type=jnp.float32)  # noqa: E731
    found = lift(run)(packed, X.astype(jnp.bfloat16))
    assert found.dtype == jnp.float32
    want = X.astype(jnp.bfloat16).astype(jnp.float32) @ (packed["w"].values * packed["w"].scale)
    np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-4)


def test_a_report_names_the_kernels():
    packed, _ = packed_of(linear(8), W)
    report = compare(lambda p, x: x @ p["w"], {"w": W}, packed, X, repeats=2, warmup=1)
    assert list(report.kernels) == ["w"]
    assert "quantized_matmul" in str(report)
    plain = compare(lambda p, x: x @ p["w"], {"w": W}, {"w": W}, X, repeats=2, warmup=1)
    assert "XLA computed the products" in str(plain)


def test_words_say_where_nothing_could_be_compiled(monkeypatch):
    monkeypatch.setattr(Native, "is_ready", property(lambda self: False))
    packed, applied = packed_of(linear(8), W)
    run = lambda p, x: x @ p["w"]  # noqa: E731
    assert explained(run, packed, X).kernels == {"w": "quantized_matmul (reference)"}
    np.testing.assert_allclose(lift(run)(packed, X), lift(run)(applied, X), rtol=1e-5, atol=1e-4)
