"""Lift: any program, any leaf, the same numbers as the dense program; nothing patched, nothing hidden."""

import dataclasses
import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from efficient import dense, explain, lift
from efficient.adapt import LoRALeaf
from efficient.core.interpret import DenseError
from efficient.factorize import LowRankLeaf
from efficient.quantize import CodebookLeaf, ProductLeaf, ProductRule, QuantizedLeaf, channel, quantizers

EPS = float(jnp.finfo(jnp.float32).eps)
KEY = jax.random.key(0)


def quantized(shape, axis=-1):
    """One scale a channel, along `axis`; one scale in all where it is None."""
    ones = [n if axis is not None and i == axis % len(shape) else 1 for i, n in enumerate(shape)]
    values = jax.random.randint(KEY, shape, -127, 128).astype(jnp.int8)
    return QuantizedLeaf(
        values=values, scale=jax.random.uniform(KEY, ones) / 64, out_dtype=jnp.dtype("float32")
    )


def shared(shape):
    indices = jax.random.randint(KEY, shape, 0, 8).astype(jnp.uint8)
    return CodebookLeaf(
        codebook=jax.random.normal(KEY, (8,)), indices=indices, out_dtype=jnp.dtype("float32")
    )


def low(shape, out_ndim=1, rank=2):
    keys = jax.random.split(KEY)
    u = jax.random.normal(keys[0], (*shape[: len(shape) - out_ndim], rank))
    v = jax.random.normal(keys[1], (rank, *shape[len(shape) - out_ndim :]))
    return LowRankLeaf(u=u, v=v, out_ndim=out_ndim, out_dtype=jnp.dtype("float32"))


def adapted(shape, out_ndim=1):
    change = low(shape, out_ndim)
    return LoRALeaf(
        base=quantized(shape),
        a=change.u,
        b=change.v,
        scale=0.5,
        out_ndim=out_ndim,
        out_dtype=change.out_dtype,
    )


def blocks(shape):
    return quantizers.affine(4, channel(0)).encode(jax.random.normal(KEY, shape))


def product(shape):
    return ProductLeaf(weight=quantized(shape), args=(), rule=Untouched(), axis=-2)


@dataclasses.dataclass(frozen=True)
class Untouched(ProductRule):
    """Nothing is done around the product."""


MAKERS = {
    "quantized": quantized,
    "codebook": shared,
    "low_rank": low,
    "lora": adapted,
    "blocks": blocks,
    "product": product,
}


def check(fn, weight, *args, packed=True):
    """Lifted on the leaf equals plain on the dense weight; and, if `packed`, without making it dense."""
    plain = fn(weight.dense(), *args)
    lifted = lift(fn, strict=packed)(weight, *args)
    jitted = jax.jit(lift(fn))(weight, *args)
    scale = EPS * 64 * (1 + max(float(jnp.max(jnp.abs(leaf))) for leaf in jax.tree.leaves(plain)))
    chex.assert_trees_all_equal_shapes_and_dtypes(plain, lifted)
    chex.assert_trees_all_close(plain, lifted, jitted, rtol=0, atol=scale)


X = jax.random.normal(jax.random.key(1), (4, 6))


@pytest.mark.parametrize("maker", MAKERS.values(), ids=MAKERS)
class TestEveryLeaf:
    def test_matmul_from_either_side(self, maker):
        check(lambda w, x: x @ w, maker((6, 5)), X)
        check(lambda w, x: w @ x.T, maker((3, 6)), X)
        check(lambda w, x: jnp.einsum("bi,oi->bo", x, w), maker((5, 6)), X)  # tied: (out, in)
        check(lambda w, x: jnp.einsum("io,bi->ob", w, x), maker((6, 5)), X)

    def test_transposed(self, maker):
        check(lambda w, x: x @ w.T, maker((5, 6)), X)

    def test_convolution(self, maker):
        x = jax.random.normal(KEY, (2, 7, 7, 3))
        conv = functools.partial(
            jax.lax.conv_general_dilated, window_strides=(2, 1), padding="SAME", rhs_dilation=(1, 2),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )  # fmt: skip
        check(lambda w, x: conv(x, w), maker((3, 3, 3, 5)), x)

    def test_embedding_rows(self, maker):
        tokens = jnp.array([[0, 3], [4, 1]])
        check(lambda w, t: jnp.take(w, t, axis=0), maker((5, 6)), tokens)

    def test_embedding_row_out_of_bounds_is_nan_as_in_jax(self, maker):
        fn = lambda w, t: jnp.take(w, t, axis=0)  # noqa: E731
        out = lift(fn)(maker((5, 6)), jnp.array([1, 9]))
        assert np.isnan(np.asarray(out[1])).all()
        assert np.isfinite(np.asarray(out[0])).all()

    def test_cast(self, maker):
        weight = maker((6, 5))
        out = lift(lambda w, x: x.astype(jnp.bfloat16) @ w.astype(jnp.bfloat16), strict=True)(weight, X)
        assert out.dtype == jnp.bfloat16
        want = np.asarray(X @ weight.dense(), np.float32)
        # Operands and result rounded to 8 bits, sums of 6: a few units of 2^-8 of the largest terms.
        slack = 6 * 2**-8 * float(jnp.max(jnp.abs(X)) * jnp.max(jnp.abs(weight.dense()))) * 6
        np.testing.assert_allclose(np.asarray(out, np.float32), want, atol=slack)

    def test_what_has_no_rule_is_dense_and_said_so(self, maker, capsys):
        weight = maker((6, 5))
        fn = lambda w, x: x @ jnp.sin(w)  # noqa: E731
        check(fn, weight, X, packed=False)
        explanation = explain(lambda p, x: fn(p["w"], x), {"w": weight}, X)
        assert explanation.dense == ("w",)
        assert "sin" in capsys.readouterr().out
        with pytest.raises(DenseError, match=r"leaf 'w' .* must stay packed .* 'sin'"):
            lift(lambda p, x: fn(p["w"], x), strict=True)({"w": weight}, X)

    def test_scanned_over(self, maker):
        layers = jax.tree.map(lambda *ws: jnp.stack(ws), *[maker((6, 6)) for _ in range(3)])

        def fn(w, x):
            return jax.lax.scan(jax.checkpoint(lambda c, layer: (jnp.tanh(c @ layer), jnp.sum(c))), x, w)

        check(fn, layers, X)

    def test_gradient_reaches_inputs_and_leaf(self, maker):
        weight = maker((6, 5))
        fn = lambda w, x: jnp.sum(jnp.sin(x @ w))  # noqa: E731
        grad = jax.grad(lift(fn), argnums=1)(weight, X)
        want = jax.grad(fn, argnums=1)(weight.dense(), X)
        chex.assert_trees_all_close(grad, want, rtol=0, atol=256 * EPS * (1 + float(jnp.max(jnp.abs(want)))))
        whole = jax.grad(lift(fn), allow_int=True)(weight, X)
        through = jax.grad(lambda w: fn(w.dense(), X), allow_int=True)(weight)
        floats = lambda tree: [leaf for leaf in jax.tree.leaves(tree) if leaf.dtype == jnp.float32]  # noqa: E731
        for one, two in zip(floats(whole), floats(through), strict=True):
            np.testing.assert_allclose(one, two, rtol=0, atol=256 * EPS * (1 + float(jnp.max(jnp.abs(two)))))

    def test_mapped_over(self, maker):
        weights = jax.tree.map(lambda *ws: jnp.stack(ws), *[maker((6, 5)) for _ in range(2)])
        out = jax.vmap(lift(lambda w, x: x @ w), in_axes=(0, None))(weights, X)
        want = jnp.stack([X @ jax.tree.map(lambda a, i=i: a[i], weights).dense() for i in range(2)])
        chex.assert_trees_all_close(out, want, rtol=0, atol=64 * EPS * float(jnp.max(jnp.abs(want))))


class TestLayouts:
    @pytest.mark.parametrize("axis", [0, -1, None])
    @pytest.mark.parametrize(
        "fn",
        [
            lambda w, x: x @ w[:, :, None, None].squeeze((2, 3)),
            lambda w, x: x @ jnp.reshape(w, (6, 1, 5))[:, 0],
            lambda w, x: x[:, 1:4] @ w[1:4, ::2],
            lambda w, x: x[:, :3] @ jax.lax.dynamic_slice(w, (2, 1), (3, 3)),
            lambda w, x: x @ jnp.broadcast_to(w, (2, 6, 5)).transpose(0, 2, 1)[1].T,
        ],
        ids=["squeeze", "reshape", "slice", "dynamic_slice", "broadcast"],
    )
    def test_quantized(self, axis, fn):
        check(fn, quantized((6, 5), axis), X, packed=False)

    def test_quantized_stays_packed_through_slices(self):
        check(lambda w, x: x[:, 1:4] @ w[1:4, ::2], quantized((6, 5)), X)

    def test_batched_matmul(self):
        x = jax.random.normal(KEY, (3, 4, 6))
        for axis in (0, -1, None):
            check(lambda w, x: jnp.einsum("ebd,edh->ebh", x, w), quantized((3, 6, 5), axis), x)
            check(lambda w, x: jnp.einsum("edh,ebd->ehb", w, x), quantized((3, 6, 5), axis), x)
        check(lambda w, x: jnp.einsum("ebd,edh->ebh", x, w), quantized((3, 6, 5), 1), x, packed=False)

    def test_grouped_and_depthwise_convolution(self):
        x = jax.random.normal(KEY, (2, 5, 5, 4))
        for groups, shape in ((4, (3, 3, 1, 8)), (2, (3, 3, 2, 6))):
            conv = functools.partial(
                jax.lax.conv_general_dilated, window_strides=(1, 1), padding="VALID",
                dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups,
            )  # fmt: skip
            check(lambda w, x, conv=conv: conv(x, w), quantized(shape), x)

    def test_many_heads(self):
        x = jax.random.normal(KEY, (2, 3, 8))
        model = nn.MultiHeadDotProductAttention(num_heads=2, qkv_features=8)
        params = model.init(KEY, x)
        packed = jax.tree.map(lambda w: low(w.shape, 2) if w.ndim == 3 and w.shape[0] == 8 else w, params)
        assert any(
            isinstance(v, LowRankLeaf) for v in jax.tree.leaves(packed, is_leaf=lambda v: hasattr(v, "dense"))
        )
        out = lift(model.apply, strict=True)(packed, x)
        want = model.apply(dense(packed), x)
        chex.assert_trees_all_close(out, want, rtol=0, atol=1024 * EPS * float(jnp.max(jnp.abs(want))))

    def test_tied_embedding(self):
        def fn(table, tokens):
            hidden = jnp.take(table, tokens, axis=0)
            return hidden @ table.T

        check(fn, quantized((7, 6), 0), jnp.array([1, 5]))


class TestControl:
    def test_cond_and_while_keep_leaves(self):
        def fn(w, x, flag):
            x = jax.lax.cond(flag, lambda w, x: x @ w, lambda w, x: x - 1, w, x)
            return jax.lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, jnp.tanh(c[1] @ w)), (0, x))[1]

        for flag in (True, False):
            check(fn, quantized((6, 6)), X, jnp.array(flag))

    def test_fori_scan_constant(self):
        check(lambda w, x: jax.lax.fori_loop(0, 3, lambda i, c: jnp.tanh(c @ w), x), quantized((6, 6)), X)

    def test_jitted_inside(self):
        check(lambda w, x: jax.jit(lambda x, w: x @ w.T)(x, w), quantized((5, 6)), X)

    def test_a_leaf_carried_round_a_loop_is_dense(self):
        fn = lambda w, x: jax.lax.fori_loop(0, 2, lambda i, c: (c[0] * 1.0, jnp.tanh(c[1] @ c[0])), (w, x))[1]  # noqa: E731
        check(fn, quantized((6, 6)), X, packed=False)
        with pytest.raises(DenseError, match="carried round a loop"):
            lift(fn, strict=True)(quantized((6, 6)), X)

    def test_shard_map_gets_dense_weights(self):
        mesh = jax.make_mesh((2,), ("i",), axis_types=(jax.sharding.AxisType.Auto,))
        spec = PartitionSpec("i")
        fn = jax.shard_map(
            lambda w, x: x @ w, mesh=mesh, in_specs=(PartitionSpec(), spec), out_specs=spec, axis_names={"i"}
        )
        weight = quantized((6, 5))
        np.testing.assert_allclose(lift(fn)(weight, X), fn(weight.dense(), X), atol=64 * EPS * 20)
        with pytest.raises(DenseError, match="shard_map"):
            lift(fn, strict=True)(weight, X)

    def test_custom_vjp_keeps_its_own_gradient(self):
        @jax.custom_vjp
        def double_gradient(w, x):
            return x @ w

        double_gradient.defvjp(lambda w, x: (x @ w, (w, x)), lambda r, g: (2 * r[1].T @ g, 2 * g @ r[0].T))
        weight = quantized((6, 5))
        check(double_gradient, weight, X)
        fn = lambda w, x: jnp.sum(double_gradient(w, x))  # noqa: E731
        for jit in (lambda f: f, jax.jit):
            grad = jit(jax.grad(lift(fn), argnums=1))(weight, X)
            np.testing.assert_array_equal(grad, jax.grad(fn, argnums=1)(weight.dense(), X))

    def test_custom_jvp_keeps_its_own_tangent(self):
        @jax.custom_jvp
        def fn(w, x):
            return jnp.sum(x @ w)

        fn.defjvp(lambda primals, tangents: (fn(*primals), 5 * jnp.sum(tangents[1])))
        grad = jax.grad(lift(fn), argnums=1)(quantized((6, 5)), X)
        np.testing.assert_array_equal(grad, jnp.full_like(X, 5))


class TestLift:
    def test_a_baseline_is_the_same_before_and_after(self):
        """Nothing that lift does can change a program that was never given a leaf."""
        model = nn.Sequential([nn.Dense(8), nn.relu, nn.Dense(3)])
        params = model.init(KEY, X)
        baseline = lambda: np.asarray(jax.jit(model.apply)(params, X)).tobytes()  # noqa: E731
        before = baseline()
        packed = jax.tree.map(lambda w: quantized(w.shape) if w.ndim == 2 else w, params)
        treated = np.asarray(jax.jit(lift(model.apply))(packed, X)).tobytes()
        jax.clear_caches()
        assert baseline() == before != treated

    def test_without_leaves_it_is_the_function(self):
        seen = []
        assert lift(lambda x, flag: seen.append(type(x)) or flag)(3, flag="as it is") == "as it is"
        assert seen == [int]

    def test_static_arguments_stay_static(self):
        model = nn.Dropout(0.5)
        fn = lambda w, x, *, train: model.apply({}, x @ w, deterministic=not train, rngs={"dropout": KEY})  # noqa: E731
        out = lift(fn)(quantized((6, 5)), X, train=False)
        np.testing.assert_allclose(out, X @ quantized((6, 5)).dense(), atol=64 * EPS * 10)
        assert np.any(np.asarray(lift(fn)(quantized((6, 5)), X, train=True)) == 0)

    def test_results_of_any_structure(self):
        out = lift(lambda w, x: {"a": (x @ w, None), "w": w})(quantized((6, 5)), X)
        assert set(out) == {"a", "w"}
        np.testing.assert_array_equal(out["w"], quantized((6, 5)).dense())

    def test_traced_once(self):
        chex.clear_trace_counter()
        step = jax.jit(chex.assert_max_traces(n=1)(lift(lambda w, x: x @ w)))
        for i in range(3):
            step(quantized((6, 5)), X + i)

    def test_hlo_is_no_larger(self):
        """Lifted with a leaf against plain on its dense() inside: no more instructions in 48 layers."""
        layers = [quantized((6, 6)) for _ in range(48)]

        def mlp(ws, x):
            for w in ws:
                x = jnp.maximum(x @ w, 0)
            return x

        size = lambda fn: len(jax.jit(fn).lower(layers, X).compile().as_text().splitlines())  # noqa: E731
        assert size(lift(mlp)) <= 1.1 * size(lambda ws, x: mlp(dense(ws), x))

    def test_explain_names_every_leaf(self, capsys):
        params = {"used": quantized((6, 5)), "idle": quantized((6, 5)), "plain": X}
        explanation = explain(lambda p, x: x @ p["used"], params, X)
        assert explanation.unused == ("idle",)
        assert [(c.path, c.primitive, c.how) for c in explanation.consumptions] == [
            ("used", "dot_general", "rule")
        ]
        assert "dot_general" in capsys.readouterr().out
        assert "used" in str(explanation)

    def test_a_wrong_rule_is_caught(self):
        class Wrong(QuantizedLeaf):
            def dot_general(self, site):
                return jnp.zeros((1, 1))

        jax.tree_util.register_dataclass(Wrong, ["values", "scale"], ["out_dtype"])
        weight = quantized((6, 5))
        wrong = Wrong(values=weight.values, scale=weight.scale, out_dtype=weight.out_dtype)
        with pytest.raises(
            TypeError, match=r"rule Wrong\.dot_general must return float32\[4,5\], got float32\[1, 1\]"
        ):
            lift(lambda w, x: x @ w)(wrong, X)

    def test_a_leaf_used_as_an_array_names_lift(self):
        weight = quantized((6, 5))
        for use in (jnp.asarray, lambda w: X @ w, lambda w: w + 1, lambda w: w[0], np.asarray):
            with pytest.raises(TypeError, match="QuantizedLeaf must meet a model through lift"):
                use(weight)


def test_an_explanation_repeats_in_a_line():
    params = {"w": quantized((2, 2))}
    explanation = explain(lambda p, x: jnp.sin(p["w"]) + x, params, jnp.ones((2, 2)))
    assert repr(explanation) == "<1 equations met a leaf, made dense: w, 0 leaves unused>"
