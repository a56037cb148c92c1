"""What enters each weight: against NumPy by hand, through layouts and loops; the model is left alone."""

import itertools
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from efficient.core.leaf import Leaf, leaf
from efficient.core.observe import observe, observed
from efficient.core.per_leaf import per_leaf
from efficient.core.scope import at, stacked
from efficient.core.statistics import (
    BINS_AN_OCTAVE,
    MAGNITUDES,
    Statistics,
    _histogram,
    asked_for,
    bin_edges,
)
from efficient.core.tap import Atom, regrouped
from efficient.core.transform import State

ALL = ("absmax", "min", "max", "mean", "absmean", "second_moment", "zeros", "gram", "histogram")
U = 2.0**-24


def integers(seed: int, *shape: int) -> np.ndarray:
    """Small integers as floats: their sums, squares and products are exact in float32."""
    return np.random.default_rng(seed).integers(-4, 5, shape).astype(np.float32)


def check(stats: Statistics, x: Any, *, rtol: float = 0.0) -> None:
    """All per-feature statistics of the samples `x`, [samples, features]."""
    x = np.asarray(x, np.float64)
    assert stats.count == len(x)
    close = {"rtol": rtol, "atol": rtol * np.abs(x).max()}
    np.testing.assert_allclose(stats.absmax, np.abs(x).max(0), **close)
    np.testing.assert_allclose(stats.min, x.min(0), **close)
    np.testing.assert_allclose(stats.max, x.max(0), **close)
    np.testing.assert_allclose(stats.mean, x.mean(0), rtol=rtol + 2 * U, atol=close["atol"])
    np.testing.assert_allclose(stats.absmean, np.abs(x).mean(0), rtol=rtol + 2 * U, atol=close["atol"])
    np.testing.assert_allclose(stats.second_moment, (x**2).mean(0), rtol=2 * rtol + 2 * U)
    if not rtol:
        np.testing.assert_array_equal(stats.zeros, (x == 0).sum(0))
    if stats.histogram is not None:
        assert np.asarray(stats.histogram).sum() == x.size


def parameters(model: nn.Module, x: Any) -> Any:
    """Values for the parameters of a model, drawn outside of JAX: nothing to compile."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(model.init, jax.random.key(0), x)
    return jax.tree.map(lambda s: rng.normal(size=s.shape).astype(np.float32) / 2, shapes)


QS = (0.0, 12.5, 25.0, 50.0, 75.0, 87.5, 99.9, 100.0)
percentiles = jax.jit(
    lambda histogram: {q: Statistics(path="w", histogram=histogram).percentile(q) for q in QS}
)
histogram_of = jax.jit(_histogram)


def jitted(fn: Any, *args: Any, statistics: Any = ALL, **kwargs: Any) -> tuple[Any, dict[str, Statistics]]:
    return jax.jit(observed(fn, statistics=statistics, **kwargs))(*args)


# By hand.


def test_a_dense_layer_by_hand() -> None:
    # x = [[1, -4], [3, 2]]. Feature 0: mean (1+3)/2 = 2, mean square (1+9)/2 = 5. Feature 1: (-4+2)/2 = -1
    # and (16+4)/2 = 10. X^T X: 1+9 = 10, 16+4 = 20, and off the diagonal 1*-4 + 3*2 = 2.
    x = jnp.array([[1.0, -4.0], [3.0, 2.0]])
    out, stats = jitted(lambda p, x: x @ p["w"] + p["b"], {"w": jnp.ones((2, 3)), "b": jnp.zeros((1, 3))}, x)
    assert list(stats) == ["w"]  # the bias enters no product
    s = stats["w"]
    assert (s.path, s.features, s.contracted) == ("w", (-2,), (-2,))
    assert s.count == 2
    assert s.gram_count == 2
    assert s.absmax.tolist() == [3, 4]
    assert s.min.tolist() == [1, -4]
    assert s.max.tolist() == [3, 2]
    assert s.mean.tolist() == [2, -1]
    assert s.absmean.tolist() == [2, 3]  # (1+3)/2 and (4+2)/2
    assert s.second_moment.tolist() == [5, 10]
    assert s.gram.tolist() == [[10, 2], [2, 20]]
    assert s.histogram[0].sum() == 3
    assert s.histogram[1].sum() == 1
    # The greatest of four magnitudes is 4, in the bin [4, 4 * 17/16), whose middle is 4.125; 75 % is 3.
    middle = percentiles(s.histogram)
    assert middle[100.0] == 4.125
    assert middle[75.0] == 3 + 2 / 32
    assert out.tolist() == [[-3] * 3, [5] * 3]


def test_zeros_by_hand() -> None:
    # Feature 0 is zero in two of four samples, a negative zero among them; feature 1 in none; 1e-30 is not.
    x = jnp.array([[0.0, 1.0], [-0.0, -1.0], [1e-30, 2.0], [5.0, 3.0]])
    _, stats = jitted(lambda p, x: x @ p["w"], {"w": jnp.ones((2, 1))}, x, statistics="zeros")
    assert stats["w"].zeros.tolist() == [2, 0]
    assert stats["w"].zero_fraction.tolist() == [0.5, 0]
    assert stats["w"].absmean is None


# Convolutions.

CONVS = {
    "same_strided": {"strides": (2, 1), "padding": "SAME"},
    "valid_dilated": {"padding": "VALID", "rhs_dilation": (2, 1)},
    "grouped": {"groups": 2, "padding": "SAME"},
    "depthwise": {"groups": 4, "strides": (2, 2), "padding": "VALID"},
    "transposed": {"lhs_dilation": (2, 2), "padding": ((2, 1), (1, 2))},
}


def patches_by_hand(x: np.ndarray, window: Any, strides: Any, pads: Any, rhs_dilation: Any) -> np.ndarray:
    """[patches, kh, kw, channels] of NHWC `x`, by slicing."""
    x = np.pad(x, ((0, 0), *pads, (0, 0)))
    reach = [(k - 1) * d + 1 for k, d in zip(window, rhs_dilation, strict=True)]
    rows = range(0, x.shape[1] - reach[0] + 1, strides[0])
    columns = range(0, x.shape[2] - reach[1] + 1, strides[1])
    return np.concatenate(
        [
            x[:, i : i + reach[0] : rhs_dilation[0], j : j + reach[1] : rhs_dilation[1]]
            for i, j in itertools.product(rows, columns)
        ]
    )


def same_padding(size: int, window: int, stride: int, dilation: int) -> tuple[int, int]:
    """TensorFlow's rule for SAME."""
    total = max((-(-size // stride) - 1) * stride + (window - 1) * dilation + 1 - size, 0)
    return total // 2, total - total // 2


@pytest.mark.parametrize("name", CONVS)
def test_a_convolution_sees_channels_and_patches(name: str) -> None:
    spec = {"strides": (1, 1), "rhs_dilation": (1, 1), "lhs_dilation": (1, 1), "groups": 1, **CONVS[name]}
    groups, window = spec["groups"], (3, 2)
    x, kernel = integers(0, 2, 6, 5, 4), integers(1, *window, 4 // groups, 4)

    def conv(p: Any, x: Any) -> Any:
        return jax.lax.conv_general_dilated(
            x,
            p["kernel"],
            spec["strides"],
            spec["padding"],
            lhs_dilation=spec["lhs_dilation"],
            rhs_dilation=spec["rhs_dilation"],
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )

    out, stats = jitted(conv, {"kernel": kernel}, x)
    s = stats["kernel"]
    assert (s.features, s.contracted) == ((-2,), (-4, -3, -2))
    check(s, x.reshape(-1, 4))

    spread = np.zeros((2, *((n - 1) * d + 1 for n, d in zip((6, 5), spec["lhs_dilation"], strict=True)), 4))
    spread[:, :: spec["lhs_dilation"][0], :: spec["lhs_dilation"][1]] = x
    pads = spec["padding"]
    if isinstance(pads, str):
        sizes = zip((6, 5), window, spec["strides"], spec["rhs_dilation"], strict=True)
        pads = [same_padding(*one) if pads == "SAME" else (0, 0) for one in sizes]
    patches = patches_by_hand(spread, window, spec["strides"], pads, spec["rhs_dilation"])
    assert s.gram_count == len(patches)
    by_group = patches.reshape(len(patches), *window, groups, 4 // groups).transpose(3, 0, 1, 2, 4)
    rows = by_group.reshape(groups, len(patches), -1)
    expected = np.einsum("gsf,gsk->gfk", rows, rows)
    np.testing.assert_array_equal(s.gram, expected if groups > 1 else expected[0])
    # Theorem: with features in the kernel's order, |conv(x, K)|^2 = sum over groups of tr(K_g^T G_g K_g).
    k = kernel.reshape(-1, groups, 4 // groups).transpose(1, 0, 2)
    assert np.einsum("gfo,gfk,gko->", k, expected, k) == (np.asarray(out, np.float64) ** 2).sum()


# Layouts.

W = integers(2, 4, 6)
X = integers(3, 5, 4)
EXPERTS = integers(4, 3, 4, 2)
LAYOUTS = {
    "swapped": (lambda w, x: (w.T @ x.T).T, W, X, (-2,)),
    "attended": (lambda w, x: x @ w.T, integers(5, 6, 4), X, (-1,)),
    "cast": (lambda w, x: x @ w.astype(jnp.bfloat16).astype(jnp.float32), W, X, (-2,)),
    "fused_parts": (lambda w, x: [x @ w[:, :2], x @ w[:, 2:]], W, np.concatenate([X, X]), (-2,)),
    "split_and_joined": (lambda w, x: x @ w.reshape(2, 2, 3, 2).reshape(4, 6), W, X, (-2,)),
    "two_axes": (
        lambda w, x: jnp.einsum("sab,bao->so", x.reshape(5, 2, 2), w),
        W.reshape(2, 2, 6),
        None,
        (-3, -2),
    ),
    "repeated": (lambda w, x: jax.vmap(jnp.matmul)(x, jnp.broadcast_to(w, (5, 4, 6))), W, X, (-2,)),
    "unrolled": (lambda w, x: [x @ w[0], x @ w[2]], EXPERTS, np.concatenate([X, X]), (-2,)),
    "counted_loop": (
        lambda w, x: jax.lax.fori_loop(0, 3, lambda i, y: y + x @ w[i], jnp.zeros((5, 2))),
        EXPERTS,
        np.concatenate([X] * 3),
        (-2,),
    ),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts_keep_features_in_the_order_of_the_weight(name: str) -> None:
    fn, w, expected, axes = LAYOUTS[name]
    _, stats = jitted(lambda p, x: fn(p["w"], x), {"w": w}, X)
    s = stats["w"]
    # two_axes contracts x's (a, b) with w's (b, a): features run over w's, so x's last axis leads.
    x = X.reshape(5, 2, 2).transpose(0, 2, 1).reshape(5, 4) if expected is None else expected
    assert s.contracted == axes
    check(s, x)
    np.testing.assert_array_equal(s.gram, x.T @ x)


def test_axes_that_the_product_keeps_apart_lead() -> None:
    x = integers(6, 5, 3, 4)  # [tokens, experts, features]
    _, stats = jitted(lambda p, x: jnp.einsum("ted,edf->tef", x, p["w"]), {"w": EXPERTS}, x)
    assert stats["w"].count.shape == (3,)
    assert stats["w"].histogram.shape == (3, 2, MAGNITUDES)
    for e in range(3):
        check(jax.tree.map(lambda a, e=e: a[e], stats["w"]), x[:, e])
        np.testing.assert_array_equal(stats["w"].gram[e], x[:, e].T @ x[:, e])


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_atoms_name_the_places_of_the_weight(data: Any) -> None:
    """Theorem: after any reshapes and transposes, the atoms say where each element of the weight went."""
    shape = data.draw(st.sampled_from([(4, 6), (2, 3, 4), (1, 12, 2), (24,)]))
    places = np.arange(24).reshape(shape)
    axes: Any = [(Atom(i - len(shape), 1, n),) for i, n in enumerate(shape)]
    for _ in range(data.draw(st.integers(1, 4))):
        if data.draw(st.booleans()):
            order = data.draw(st.permutations(range(places.ndim)))
            places, axes = places.transpose(order), [axes[i] for i in order]
        else:
            sizes = data.draw(
                st.sampled_from([(24,), (4, 6), (2, 12), (2, 2, 6), (3, 1, 8), (8, 3), (1, 24, 1)])
            )
            regroup = regrouped(tuple(itertools.chain(*axes)), sizes)
            if regroup is not None:
                places, axes = places.reshape(sizes), regroup
    strides = np.array([*np.cumprod((*shape[1:], 1)[::-1])[::-1]])  # of the weight, row-major
    atoms = list(itertools.chain(*axes))
    assert [int(np.prod([a.size for a in axis], initial=1)) for axis in axes] == list(places.shape)
    index = np.indices([a.size for a in atoms])
    flat = sum(i * a.stride * strides[a.axis] for i, a in zip(index, atoms, strict=True))
    np.testing.assert_array_equal(np.asarray(flat).reshape(places.shape), places)


def test_a_reshape_across_an_atom_is_given_up() -> None:
    assert regrouped((Atom(-2, 1, 6), Atom(-1, 1, 2)), (4, 3)) is None


def test_a_part_of_the_contracted_axis_and_a_reversed_kernel_are_not_guessed_at() -> None:
    with pytest.raises(ValueError, match="'w' meets dot_general"):
        jitted(lambda p, x: x[:, :2] @ p["w"][:2], {"w": W}, X)
    with pytest.raises(ValueError, match="'w' meets mul"):
        jitted(lambda p, x: x @ (p["w"] * 2), {"w": W}, X)


# Flax models.


def test_attention_of_flax() -> None:
    model = nn.MultiHeadDotProductAttention(num_heads=2, qkv_features=4, use_bias=False)
    x = integers(7, 2, 3, 6)
    params = parameters(model, x)
    out, stats = jitted(model.apply, params, x)
    at_ = "params/{}/kernel".format
    assert set(stats) == {at_(name) for name in ("query", "key", "value", "out")}
    assert stats[at_("query")].contracted == (-3,)
    assert stats[at_("out")].contracted == (-3, -2)
    for name in ("query", "key", "value"):
        check(stats[at_(name)], x.reshape(-1, 6))
    # There are no biases, so |out|^2 = tr(K^T G K) with K as [heads * head features, out].
    k = np.asarray(params["params"]["out"]["kernel"], np.float64).reshape(4, 6)
    energy = np.einsum("fo,fk,ko->", k, np.asarray(stats[at_("out")].gram, np.float64), k)
    np.testing.assert_allclose(energy, (np.asarray(out, np.float64) ** 2).sum(), rtol=1e-5)


class Block(nn.Module):
    @nn.compact
    def __call__(self, x: Any, _: Any) -> Any:
        return x + nn.Dense(4)(jnp.tanh(x)), None


class Scanned(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        layers = nn.scan(nn.remat(Block), variable_axes={"params": 0}, split_rngs={"params": True}, length=3)
        return nn.Dense(2, name="head")(layers(name="layers")(x, None)[0])


def test_scanned_layers_lead_and_stacked_takes_them() -> None:
    x = integers(8, 5, 4)
    params = parameters(Scanned(), x)
    _, stats = jitted(Scanned().apply, params, x)
    s = stats["params/layers/Dense_0/kernel"]
    assert s.count.tolist() == [5, 5, 5]
    assert s.gram.shape == (3, 4, 4)
    own, h = params["params"]["layers"]["Dense_0"], np.asarray(x, np.float64)
    for i in range(3):
        entering = np.tanh(h)
        check(jax.tree.map(lambda a, i=i: a[i], s), entering, rtol=1e-5)
        h = h + entering @ np.asarray(own["kernel"][i], np.float64) + np.asarray(own["bias"][i])
    check(stats["params/head/kernel"], h, rtol=1e-5)

    def norms(value: Any, *, path: str, stats: Any, key: Any) -> State:
        return State(fixed=jnp.sqrt(stats.squares))

    scaled = at("**/layers/**/kernel", stacked(per_leaf(init=norms, apply=lambda w, state: w)))
    state = scaled.init(params, stats={"params/layers/Dense_0/kernel": s})
    chex.assert_trees_all_close(state.fixed["params/layers/Dense_0/kernel"], jnp.sqrt(s.squares), rtol=2**-22)


class Nnx(nnx.Module):
    def __init__(self, *, rngs: nnx.Rngs) -> None:
        self.up = nnx.Linear(4, 3, rngs=rngs)
        self.norm = nnx.LayerNorm(3, rngs=rngs)
        self.embed = nnx.Embed(7, 4, rngs=rngs)

    def __call__(self, tokens: Any) -> Any:
        return self.norm(self.up(self.embed(tokens)))


def test_an_nnx_model_and_the_rows_of_its_embedding() -> None:
    graph, state = nnx.split(Nnx(rngs=nnx.Rngs(0)))
    tokens = np.array([[1, 1, 6], [0, 6, 1]])
    fn = lambda state, tokens: nnx.merge(graph, state)(tokens)  # noqa: E731
    _, stats = jitted(fn, state, tokens, statistics=(*ALL, "rows"))
    assert set(stats) == {"up/kernel", "embed/embedding"}
    assert stats["embed/embedding"].rows.tolist() == [1, 3, 0, 0, 0, 0, 2]
    assert stats["embed/embedding"].count is None
    assert stats["embed/embedding"].mean is None
    check(stats["up/kernel"], np.asarray(state["embed"]["embedding"][...])[tokens.reshape(-1)], rtol=4 * U)


@pytest.mark.parametrize(("mode", "rows"), [("clip", [2, 0, 2]), ("fill", [1, 0, 1])])
def test_rows_out_of_bounds(mode: Any, rows: list[int]) -> None:
    def look_up(p: Any, i: Any) -> Any:
        numbers = jax.lax.GatherDimensionNumbers(
            offset_dims=(1,), collapsed_slice_dims=(0,), start_index_map=(0,)
        )
        return jax.lax.gather(p, i[:, None], numbers, (1, 2), mode=mode)

    _, stats = jitted(
        lambda p, i: look_up(p["w"], i), {"w": jnp.ones((3, 2))}, jnp.array([0, 9, -1, 2]), statistics="rows"
    )
    assert stats["w"].rows.tolist() == rows


def test_a_tied_embedding_merges_rows_and_features() -> None:
    fn = lambda p, i: p["w"][i] @ p["w"].T  # noqa: E731
    table = integers(9, 3, 4)
    _, stats = jitted(fn, {"w": table}, jnp.array([0, 2, 2]), statistics=("rows", *ALL))
    assert stats["w"].rows.tolist() == [1, 0, 2]
    assert stats["w"].contracted == (-1,)
    check(stats["w"], table[[0, 2, 2]])


# Control flow.

SQUARE = np.array([[0, 1], [1, 1]], np.float32)


def steps(x: np.ndarray, count: int) -> np.ndarray:
    """What enters SQUARE in `count` steps of x -> x @ SQUARE."""
    return np.concatenate([x @ np.linalg.matrix_power(SQUARE, i) for i in range(count)])


def test_a_weight_shared_by_the_steps_of_a_scan() -> None:
    x = integers(10, 3, 2)
    run = lambda p, x: jax.lax.scan(lambda h, _: (h @ p["w"], None), x, None, length=4)[0]  # noqa: E731
    _, stats = jitted(run, {"w": SQUARE}, x)
    check(stats["w"], steps(x, 4))
    np.testing.assert_array_equal(stats["w"].gram, steps(x, 4).T @ steps(x, 4))


def test_a_recurrent_layer_of_flax() -> None:
    model = nn.RNN(nn.SimpleCell(3))
    x = integers(11, 2, 5, 4)
    params = parameters(model, x)
    out, stats = jitted(model.apply, params, x)
    check(stats["params/cell/i/kernel"], x.reshape(-1, 4))
    hidden = np.concatenate([np.zeros((2, 1, 3)), np.asarray(out)[:, :-1]], axis=1)
    check(stats["params/cell/h/kernel"], hidden.reshape(-1, 3), rtol=8 * U)


def test_a_while_loop_counts_the_steps_that_it_took() -> None:
    x = integers(12, 3, 2)

    def run(p: Any, x: Any, n: Any) -> Any:
        return jax.lax.while_loop(lambda c: c[0] < n, lambda c: (c[0] + 1, c[1] @ p["w"]), (0, x))[1]

    fn = jax.jit(observed(run, statistics=ALL))
    check(fn({"w": SQUARE}, x, 3)[1]["w"], steps(x, 3))
    nothing = fn({"w": SQUARE}, x, 0)[1]["w"]
    assert nothing.count == 0
    assert nothing.absmax.tolist() == [0, 0]
    assert nothing.mean.tolist() == [0, 0]
    assert nothing.min.tolist() == [np.inf] * 2
    assert nothing.max.tolist() == [-np.inf] * 2
    assert percentiles(nothing.histogram)[50.0] == 0


def test_a_branch_that_saw_nothing_adds_nothing() -> None:
    x = integers(13, 3, 2)

    def run(p: Any, x: Any, i: Any) -> Any:
        branches = [lambda x: x @ p["a"], lambda x: (2 * x) @ p["a"] @ p["b"], lambda x: x]
        return jax.lax.switch(i, branches, x)

    fn = jax.jit(observed(run, statistics=ALL))
    params = {"a": SQUARE, "b": SQUARE}
    first, second, third = (fn(params, x, i)[1] for i in range(3))
    check(first["a"], x)
    check(second["a"], 2 * x)
    check(second["b"], 2 * x @ SQUARE)
    assert first["b"].count == 0
    assert third["a"].count == 0
    assert third["b"].count == 0


def test_branches_that_take_different_statistics_of_a_weight() -> None:
    def run(p: Any, x: Any) -> Any:
        return jax.lax.cond(x[0, 0] > 0, lambda x: x @ p["w"], lambda x: p["w"][jnp.array([1, 1])], x)

    fn = jax.jit(observed(run, statistics=("absmax", "rows")))
    for sign, rows, count in ((1.0, [0, 0], 2), (-1.0, [0, 2], 0)):
        s = fn({"w": SQUARE}, jnp.full((2, 2), sign))[1]["w"]
        assert s.rows.tolist() == rows
        assert s.count == count


def test_two_taps_meet_and_both_are_seen() -> None:
    latents = integers(14, 3, 2)
    _, stats = jitted(
        lambda p, x: x + p["latents"] @ p["w"], {"latents": latents, "w": SQUARE}, jnp.zeros((3, 2))
    )
    check(stats["w"], latents)
    check(stats["latents"], SQUARE.T)


def test_observed_composes_with_vmap() -> None:
    x = integers(15, 3, 5, 4)
    fn = observed(lambda p, x: x @ p["w"], statistics=ALL)
    stats = jax.jit(jax.vmap(fn, in_axes=(None, 0)))({"w": W}, x)[1]["w"]
    for i in range(3):
        check(jax.tree.map(lambda a, i=i: a[i], stats), x[i])


@leaf
class Doubled(Leaf):
    """Twice an array."""

    half: Any

    @property
    def shape(self) -> Any:
        return self.half.shape

    @property
    def dtype(self) -> Any:
        return self.half.dtype

    def dense(self) -> Any:
        return 2 * self.half


def test_a_packed_weight_is_observed_as_it_stands() -> None:
    params = {"a": Doubled(half=jnp.asarray(SQUARE)), "b": jnp.asarray(SQUARE)}
    x = integers(16, 3, 2)
    out, stats = jitted(lambda p, x: x @ p["a"] @ p["b"], params, x, where="*")
    check(stats["a"], x)
    check(stats["b"], 2 * x @ SQUARE)
    _, stats = jitted(lambda p, x: x @ p["a"] @ p["b"], params, x, where="b")
    check(stats["b"], 2 * x @ SQUARE)
    np.testing.assert_array_equal(out, 2 * x @ SQUARE @ SQUARE)


# The model is not disturbed; memory and traces are bounded.


class Vision(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        x = nn.gelu(nn.Conv(8, (3, 3), strides=2, feature_group_count=2)(x))
        x = nn.LayerNorm()(x.reshape(x.shape[0], -1, 8))
        return nn.softmax(nn.Dense(5)(jnp.tanh(nn.Dense(16)(x)).mean(1)))


def test_the_output_is_bit_identical_and_the_baseline_stays_so() -> None:
    x = np.random.default_rng(1).normal(size=(3, 8, 8, 4)).astype(np.float32)
    params = parameters(Vision(), x)
    baseline = lambda: np.asarray(jax.jit(lambda p, x: Vision().apply(p, x))(params, x))  # noqa: E731
    before = baseline()
    fn = jax.jit(observed(Vision().apply, statistics=ALL))
    one, first = fn(params, x)
    between = baseline()
    two, second = fn(params, x)
    after = baseline()
    for other in (one, between, two, after):
        np.testing.assert_array_equal(before, other)
    chex.assert_trees_all_equal(first, second)
    assert len(first) == 3


def test_streaming_is_one_big_batch_in_bounded_memory_and_one_trace() -> None:
    x = integers(17, 40, 4)
    live, params = [], {"w": jnp.asarray(W), "v": jnp.ones((6, 2))}

    def batches() -> Any:
        for i in range(10):
            live.append(len(jax.live_arrays()))
            yield (x[4 * i : 4 * i + 4],)

    traced = chex.assert_max_traces(lambda p, x: x @ p["w"] @ p["v"], n=1)
    streamed = observe(traced, params, batches(), statistics=ALL)
    assert len(set(live[1:])) == 1  # after the first batch, the statistics live and nothing more
    whole = observe(lambda p, x: x @ p["w"] @ p["v"], params, [x], statistics=ALL)
    check(streamed["w"], x)
    chex.assert_trees_all_equal(streamed, whole)


def test_progress_shows_and_changes_nothing(capsys: Any) -> None:
    fn = lambda p, x: x @ p["w"]  # noqa: E731
    shown = observe(fn, {"w": W}, [X], progress=True)
    assert "observe" in capsys.readouterr().out
    chex.assert_trees_all_equal(shown, observe(fn, {"w": W}, [X]))


# The histogram.


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.floats(-(2.0**100), 2.0**100, width=32, allow_subnormal=False), min_size=12, max_size=12),
    st.sampled_from([q for q in QS if q != 99.9]),  # those that float32 has exactly
)
def test_percentile_is_within_its_bound(values: list[float], q: float) -> None:
    x = np.array(values, np.float32)
    rank = max(int(np.ceil(len(x) * q / 100)), 1)
    exact = float(np.sort(np.abs(x))[rank - 1])
    assert (
        abs(float(percentiles(histogram_of(x.reshape(3, 4)))[q]) - exact)
        <= exact / (2 * BINS_AN_OCTAVE) + 2.0**-126
    )


def test_bins_hold_their_edges_and_the_signs_are_apart() -> None:
    edges = np.asarray(bin_edges())
    finite = edges[np.isfinite(edges)]
    assert len(edges) == MAGNITUDES + 1
    assert (np.diff(finite) > 0).all()
    assert finite[0] == 0
    counts = np.asarray(
        histogram_of(jnp.array([[1.0, np.nextafter(np.float32(1), 0), -1.0, np.inf, np.nan]]))
    )
    at_one = int(np.searchsorted(finite, 1.0))
    assert counts[0, at_one] == 1
    assert counts[0, at_one - 1] == 1
    assert counts[1, at_one] == 1
    assert counts[:, len(finite) :].sum() == 2
    assert counts.sum() == 5
    assert (np.diff(finite[finite >= 2.0**-126]) <= finite[finite >= 2.0**-126][:-1] / BINS_AN_OCTAVE).all()


def test_a_high_percentile_survives_more_counts_than_float32_has_integers() -> None:
    histogram = np.zeros((2, MAGNITUDES), np.float32)
    one, two = (int(np.searchsorted(np.asarray(bin_edges()), v)) for v in (1.0, 2.0))
    histogram[0, one], histogram[0, two] = 2.0**30, 1
    middle = percentiles(histogram)
    assert middle[100.0] == 2 + 2 / 32
    assert middle[99.9] == 1 + 1 / 32


# Wrong requests.


def test_wrong_requests_say_what_to_do() -> None:
    fn = lambda p, x: x @ p["kernel"]  # noqa: E731
    params = {"kernel": W}
    with pytest.raises(ValueError, match=r"statistics must be one or more of absmax, .*, got \('median',\)"):
        observed(fn, statistics=("median",))
    with pytest.raises(ValueError, match=r"statistics must be one or more of"):
        asked_for(())
    with pytest.raises(
        ValueError, match=r"pattern must match at least one path, got 'kernal'.*did you mean 'kernel'"
    ):
        observe(fn, params, [X], where="kernal")
    with pytest.raises(
        ValueError, match=r"a weight that a product consumes, got '\*\*', of which 'kernel' meets add"
    ):
        observe(lambda p, x: p["kernel"] + x, params, [jnp.ones((4, 6))])
    with pytest.raises(ValueError, match=r"got '\*\*', of which none is used; choose others"):
        observe(lambda p, x: x, params, [X])
    with pytest.raises(ValueError, match=r"batches must hold at least one batch, got \[\]"):
        observe(fn, params, [])
    with pytest.raises(
        ValueError, match=r"weight 'kernel' must be contracted over the same axes.*\(-2,\).*\(-1,\)"
    ):
        observe(lambda p, x: x @ p["kernel"] @ p["kernel"].T, params, [X])
    with pytest.raises(ValueError, match=r"q must be in \[0, 100\], got 101"):
        Statistics(path="w").percentile(101)
    with pytest.raises(ValueError, match=r"histogram must be observed, got None at 'w'"):
        Statistics(path="w").percentile(50)


def test_statistics_print_their_shapes():
    stats = observe(lambda w, x: x @ w["a"], {"a": jnp.ones((2, 3))}, [jnp.ones((1, 2))], statistics="absmax")
    assert repr(stats["a"]) == "<Statistics of what enters 'a': count [], absmax [2]>"
