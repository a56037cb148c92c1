"""Quantizers: fake is encode, bit for bit; bytes are those stated; and in every chain zeros stay zero."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from efficient import at, chain, lift, load, save
from efficient.adapt import lora
from efficient.factorize import low_rank
from efficient.prune import magnitude
from efficient.quantize import (
    Plain,
    Quantizer,
    SharedExponent,
    channel,
    formats,
    group,
    quantize,
    quantizers,
    ranges,
    tensor,
    tile,
)
from efficient.quantize.block_leaf import plain
from efficient.quantize.blocks import spread
from tests.trees import TREES

KEY = jax.random.key(3)
NAMED = {
    "int8": quantizers.integer(8),
    "int4 groups": quantizers.integer(4, group(3)),
    "int3 mse": quantizers.integer(3, range=ranges.mse(8)),
    "int4 octav": quantizers.integer(4, tensor(), range=ranges.octav()),
    "int4 percentile": quantizers.integer(4, range=ranges.percentile(90)),
    "int8 tiles": quantizers.integer(8, tile(2, 3)),
    "affine4": quantizers.affine(4, group(4)),
    "affine1 tensor": quantizers.affine(1, tensor()),
    "affine8 rows": quantizers.affine(8, channel(0)),
    "fp8": quantizers.fp8(),
    "fp8 wide": quantizers.fp8(channel(), wide=True),
    "half scales": Quantizer(format=formats.Integer(4), blocks=group(4), scale=Plain("float16")),
    "nf4": quantizers.nf4(4),
    "nf4 single": quantizers.nf4(4, is_double=False),
    "mxfp8": quantizers.mxfp8(),
    "mxfp6": quantizers.mxfp6(wide=True),
    "mxfp4": quantizers.mxfp4(),
    "nvfp4": quantizers.nvfp4(),
    "vs_quant": quantizers.vs_quant(4, 4, size=4),
    "powers": Quantizer(format=formats.PowerOfTwo(4), blocks=channel()),
    "signs": Quantizer(format=formats.Table((-1.0, 1.0)), blocks=channel(), range=ranges.absmean()),
}
HOLDS_ZERO = {name: q for name, q in NAMED.items() if name != "signs"}


@pytest.mark.parametrize("q", NAMED.values(), ids=NAMED)
class TestEveryQuantizer:
    def test_what_is_shown_is_what_is_stored(self, q):
        value = jax.random.normal(KEY, (13, 7))
        fake, leaf = jax.jit(lambda v: (q.fake(v), q.encode(v)))(value)
        np.testing.assert_array_equal(fake, leaf.dense())
        assert leaf.shape == value.shape
        assert leaf.dtype == value.dtype

    def test_the_error_is_within_the_step(self, q):
        """Of what is not clipped: half the widest gap of the grid, times the block's scale."""
        value = jax.random.normal(KEY, (13, 7))
        grid = q.grid(value)
        numbers = q.format.table()
        numbers = np.unique(numbers[np.isfinite(numbers)])
        gap = np.max(np.diff(numbers[(numbers >= q.format.low) & (numbers <= q.format.high)]))
        layout = q.layout(value.shape)
        scale = spread(plain(grid.scale).astype(jnp.float32), layout, value.shape)
        zero = 0.0 if grid.zero is None else spread(grid.zero, layout, value.shape)
        is_inside = ~np.asarray(q.format.saturates(value / scale + zero))
        error = np.abs(np.asarray(q.fake(value, grid) - value))
        most = (
            1 - 2**-0.5 if isinstance(q.format, formats.PowerOfTwo) else gap / 2
        )  # nearest in the logarithm
        assert np.all((error <= most * np.asarray(scale) * (1 + 2**-20))[is_inside])

    def test_zeros_alone_and_nan(self, q):
        zeros = np.asarray(q.fake(jnp.zeros((4, 4))))
        assert np.all(zeros == 0)
        value = jnp.ones((8, 4)).at[2, 1].set(jnp.nan)
        assert np.isnan(np.asarray(q.fake(value))[2, 1])

    def test_it_is_a_value(self, q):
        assert hash(q.format) == hash(q.format)
        assert repr(q.format) in repr(q)


@pytest.mark.parametrize(
    ("q", "bits"),
    [
        (quantizers.integer(8, group(64)), 8.5),
        (quantizers.integer(4, group(64)), 4.5),
        (quantizers.integer(3, group(128)), 3.25),
        (quantizers.affine(4, group(64)), 4.625),
        (quantizers.nf4(64, is_double=False), 4.5),
        (quantizers.nf4(64), 4 + 8 / 64 + 32 / (64 * 256)),
        (quantizers.mxfp8(), 8.25),
        (quantizers.mxfp6(), 6.25),
        (quantizers.mxfp4(), 4.25),
        (quantizers.nvfp4(), 4.5 + 32 / (256 * 256)),
        (quantizers.vs_quant(4, 4), 4.25 + 32 / 256),
        (quantizers.integer(1 + 1, tensor()), 2 + 32 / (256 * 256)),
    ],
    ids=str,
)
def test_bits_a_weight_with_all_metadata(q, bits):
    leaf = q.encode(jnp.ones((256, 256)))
    assert leaf.nbytes * 8 / leaf.size == bits


def test_double_quantization_saves_0_373_bits():
    saved = (32 - 8) / 64 - 32 / (64 * 256)  # arXiv:2305.14314, section 3
    assert round(saved, 3) == 0.373
    ones = jnp.ones((256, 256))
    one, two = (quantizers.nf4(64, is_double=double).encode(ones).nbytes for double in (False, True))
    assert (one - two) * 8 / 256**2 == saved


def test_a_shared_exponent_by_hand():
    # Largest 5, E2M1's 6: floor(log2 5) - floor(log2 6) = 0, so the scale is 1; largest 8: 2^(3 - 2) = 2.
    q = Quantizer(format=formats.E2M1, blocks=channel(), scale=SharedExponent())
    value = jnp.array([[5.0, 8.0], [0.7, 1.2]])
    np.testing.assert_array_equal(q.grid(value).scale.astype(jnp.float32), [[1.0, 2.0]])
    # 5 is half-way between 4 and 6 and goes to the even mantissa, 4; 0.7 -> 0.5; 8/2 = 4; 1.2/2 = 0.6 -> 0.5.
    np.testing.assert_array_equal(q.fake(value), [[4.0, 8.0], [0.5, 1.0]])


def test_an_affine_grid_by_hand():
    # 2 bits over -1..2: scale 1, zero point 1, codes 0..3.
    q = quantizers.affine(2, tensor())
    value = jnp.array([-1.0, 0.0, 0.4, 2.0])
    grid = q.grid(value)
    assert float(grid.scale[0]) == 1
    assert float(grid.zero[0]) == 1
    leaf = q.encode(value)
    np.testing.assert_array_equal(leaf.dense(), [-1, 0, 0, 2])
    np.testing.assert_array_equal(leaf.unpacked(), [0, 1, 1, 3])


GRID = [(kind, name) for i, name in enumerate(HOLDS_ZERO) for j, kind in enumerate(TREES) if (i + j) % 2 == 0]


@pytest.mark.parametrize(("kind", "name"), GRID, ids=lambda v: v)
def test_on_every_kind_of_tree_zeros_stay_zero_and_the_model_sees_them(kind, name, tmp_path):
    """Half of the combinations, so that every format meets two kinds and every kind half of the formats."""
    tree = TREES[kind]()
    t = tree.scope(chain(magnitude(0.5), quantize(NAMED[name])))
    state = t.init(tree.params, key=KEY)
    pruned = tree.scope(magnitude(0.5))
    before = pruned.apply(tree.params, pruned.init(tree.params))
    weights, packed = t.apply(tree.params, state), t.pack(tree.params, state)
    for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(weights), strict=True):
        assert np.all(np.asarray(new)[np.asarray(old) == 0] == 0)
    out = lift(tree.fn)(packed, tree.x)
    want = tree.fn(weights, tree.x)
    np.testing.assert_allclose(out, want, rtol=0, atol=1e-5 * float(jnp.max(jnp.abs(want)) + 1))
    save(tmp_path / "packed", packed)
    again = load(tmp_path / "packed", like=jax.eval_shape(lambda: packed))
    for old, new in zip(jax.tree.leaves(packed), jax.tree.leaves(again), strict=True):
        assert np.asarray(old).tobytes() == np.asarray(new).tobytes()


@pytest.mark.parametrize(
    "make", [lambda q: chain(q, lora(2)), lambda q: chain(low_rank(2), q)], ids=["lora", "low rank"]
)
def test_in_chains_with_adapters_and_factors(make):
    tree = TREES["linen"]()
    t = at("**/kernel", make(quantize(quantizers.nf4(4))))
    state = t.init(tree.params, key=KEY)
    out = lift(tree.fn)(t.pack(tree.params, state), tree.x)
    want = lift(tree.fn)(t.apply(tree.params, state), tree.x)
    np.testing.assert_allclose(out, want, rtol=0, atol=1e-5 * float(jnp.max(jnp.abs(want)) + 1))


def test_frozen_grids_clip_what_grows_beyond():
    t = quantize(quantizers.integer(4, tensor()), is_frozen=True)
    params = {"w": jnp.array([7.0, -3.0])}
    state = t.init(params)
    np.testing.assert_array_equal(t.apply({"w": jnp.array([9.0, -2.2])}, state)["w"], [7, -2])
    grad = jax.grad(lambda w: jnp.sum(t.apply({"w": w}, state)["w"]))(jnp.array([9.0, -2.2]))
    np.testing.assert_array_equal(grad, [0, 1])


def test_rows_of_a_packed_embedding():
    table = jax.random.normal(KEY, (6, 8))
    for q in (quantizers.integer(4, group(4, -1)), quantizers.affine(8, channel(0))):
        leaf = q.encode(table)
        tokens = jnp.array([[1, 5], [0, 9]])
        got = lift(lambda w, t: jnp.take(w, t, axis=0), strict=True)(leaf, tokens)
        np.testing.assert_array_equal(got[0], leaf.dense()[tokens[0]])
        assert np.isnan(np.asarray(got[1, 1])).all()


def test_transposed_it_stays_packed():
    leaf = quantizers.nvfp4().encode(jax.random.normal(KEY, (6, 5)))
    x = jax.random.normal(KEY, (2, 5))
    got = lift(lambda w, x: x @ w.T, strict=True)(leaf, x)
    np.testing.assert_allclose(got, x @ leaf.dense().T, rtol=1e-5, atol=1e-5)
