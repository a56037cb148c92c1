"""Sparse leaves: bit for bit the array, of the bytes that the format says, multiplied as the array is."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from efficient.kernels.tiers import Native
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from efficient import lift, load, save
from efficient.core.interpret import DenseError
from efficient.core.lift import explained
from efficient.prune.leaves import BitmapLeaf, BlockSparseLeaf, CSRLeaf, NMLeaf, RelativeIndexLeaf
from efficient.prune.leaves.sparse import index_dtype, padded
from tests.kernels.packed_cases import needs_compiler

EPS = float(jnp.finfo(jnp.float32).eps)
BY_HAND = np.array([[0, 5, 0, 0], [0, 0, 0, 0], [7, 0, 0, 8]], np.float32)
FORMATS = {
    "csr": (CSRLeaf, {}),
    "csc": (CSRLeaf, {"axis": 1}),
    "bitmap": (BitmapLeaf, {}),
    "n_m": (NMLeaf, {"n": 4, "m": 4, "axis": 0}),  # holds every array
    "block": (BlockSparseLeaf, {"block": (2, 3)}),
    "relative": (RelativeIndexLeaf, {}),
    "relative of 1 bit": (RelativeIndexLeaf, {"bits": 1}),
}
EVERY = pytest.mark.parametrize("name", list(FORMATS))


def made(name, array):
    cls, options = FORMATS[name]
    return cls.from_dense(array, **options)


def room(name, shape, dtype, sparsity=0.0):
    cls, options = FORMATS[name]
    return cls.room(shape, dtype, **options, **({} if name == "n_m" else {"sparsity": sparsity}))


def some(shape, *, keep=0.2, seed=0, dtype=np.float32):
    """Normal numbers, of which a fraction stays."""
    rng = np.random.default_rng(seed)
    return np.where(rng.random(shape) < keep, rng.normal(size=shape), 0).astype(dtype)


def same(got, want):
    got, want = np.asarray(got), np.asarray(want)
    assert (got.shape, got.dtype) == (want.shape, want.dtype)
    assert got.tobytes() == want.tobytes()


def arrays(leaf):
    """The stored arrays, each with its dtype's name."""
    fields = [f.name for f in dataclasses.fields(leaf) if not f.metadata.get("static")]
    return {name: (a.dtype.name, a.tolist()) for name in fields for a in [np.asarray(getattr(leaf, name))]}


class TestByHand:
    def test_csr(self):
        leaf = CSRLeaf.from_dense(BY_HAND)
        assert arrays(leaf) == {
            "values": ("float32", [5, 7, 8]),
            "indices": ("uint8", [1, 0, 3]),  # columns
            "pointers": ("uint8", [0, 1, 1, 3]),
        }
        assert leaf.nbytes == 3 * 4 + 3 + 4

    def test_csc(self):
        leaf = CSRLeaf.from_dense(BY_HAND, axis=1)
        assert arrays(leaf) == {
            "values": ("float32", [7, 5, 8]),
            "indices": ("uint8", [2, 0, 2]),  # rows
            "pointers": ("uint8", [0, 1, 2, 2, 3]),
        }
        assert leaf.nbytes == 3 * 4 + 3 + 5

    def test_bitmap(self):
        leaf = BitmapLeaf.from_dense(BY_HAND)  # 0100 0000, 1001 and four bits of nothing
        assert arrays(leaf) == {"values": ("float32", [5, 7, 8]), "bits": ("uint8", [0x40, 0x90])}
        assert leaf.nbytes == 3 * 4 + 2

    def test_two_of_four(self):
        # Places 0 (a zero that fills up) and 1; 0 and 1, all zeros; 0 and 3: 00 01, 00 01, 00 11.
        leaf = NMLeaf.from_dense(BY_HAND, axis=1)
        assert arrays(leaf) == {
            "values": ("float32", [[[0, 5]], [[0, 0]], [[7, 8]]]),  # [rows, groups, n]
            "positions": ("uint8", [0x11, 0x30]),
        }
        assert leaf.nbytes == 6 * 4 + 2

    def test_block(self):
        leaf = BlockSparseLeaf.from_dense(BY_HAND, block=(2, 2))  # the last row of blocks is filled up
        assert arrays(leaf) == {
            "values": ("float32", [[[0, 5], [0, 0]], [[7, 0], [0, 0]], [[0, 8], [0, 0]]]),
            "columns": ("uint8", [0, 0, 1]),
            "pointers": ("uint8", [0, 1, 3]),
        }
        assert leaf.nbytes == 3 * (4 * 4 + 1) + 3

    def test_relative(self):
        leaf = RelativeIndexLeaf.from_dense(BY_HAND)  # gaps 1; 0 and 2
        assert arrays(leaf) == {
            "values": ("float32", [5, 7, 8]),
            "gaps": ("uint8", [0x10, 0x20]),
            "pointers": ("uint8", [0, 1, 1, 3]),
        }
        assert leaf.nbytes == 3 * 4 + 2 + 4

    def test_relative_as_the_paper_shows(self):
        """EIE, section 3: a column with 18 zeros in a row is v = 1, 2, 0, 3 and z = 2, 0, 15, 2."""
        column = np.array([0, 0, 1, 2, *[0] * 18, 3], np.float32)
        leaf = RelativeIndexLeaf.from_dense(column)
        assert arrays(leaf) == {
            "values": ("float32", [1, 2, 0, 3]),
            "gaps": ("uint8", [0x20, 0xF2]),
            "pointers": ("uint8", [0, 4]),
        }
        same(leaf.dense(), column)


def test_two_of_four_is_nine_sixteenths():
    """Of float16: 4 weights are 8 bytes; 2 values and 2 places of 2 bits are 4.5."""
    array = some((64, 24), keep=1, dtype=np.float16) * (np.arange(64) % 4 < 2)[:, None]
    leaf = NMLeaf.from_dense(array)
    assert leaf.nbytes * 16 == array.nbytes * 9


def test_bytes_of_every_format():
    """300 x 1000 weights of float16 of which 30,000 stay: indices and pointers of 2 bytes."""
    flat = np.zeros(300_000, np.float16)
    flat[::10] = 1  # 100 a row, each after 9 zeros
    array = flat.reshape(300, 1000)
    kept = 30_000
    assert CSRLeaf.from_dense(array).nbytes == kept * (2 + 2) + 301 * 2
    assert CSRLeaf.from_dense(array, axis=1).nbytes == kept * (2 + 2) + 1001 * 2
    assert BitmapLeaf.from_dense(array).nbytes == kept * 2 + 300_000 // 8
    assert RelativeIndexLeaf.from_dense(array).nbytes == kept * 2 + kept // 2 + 301 * 2
    assert RelativeIndexLeaf.from_dense(array, bits=3).nbytes == (
        59_700 * 2 + -(-59_700 * 3 // 8) + 301 * 2  # a filler each, but for the first of a row
    )
    # Each block of 2 x 10 has two of them; 150 x 100 blocks, whose columns are of a byte.
    assert BlockSparseLeaf.from_dense(array, block=(2, 10)).nbytes == 15_000 * (20 * 2 + 1) + 151 * 2


@EVERY
@settings(deadline=None, max_examples=25)
@given(data=st.data(), shape=st.sampled_from([(5, 7), (2, 3, 4), (0, 3), (40,)]))
def test_round_trip_bit_for_bit(name, data, shape):
    elements = st.floats(width=32, allow_nan=True, allow_subnormal=True) | st.sampled_from([0.0, 0.0, 1e-42])
    array = data.draw(hnp.arrays(np.float32, shape, elements=elements, fill=st.just(0.0)))
    array = np.where(array == 0, np.float32(0), array)  # a zero has no sign
    leaf = made(name, array)
    expected = room(name, shape, array.dtype, sparsity=0.0)
    filled = padded(leaf, expected, "array")
    assert leaf.nbytes <= expected.nbytes == filled.nbytes
    assert jax.tree.structure(filled) == jax.tree.structure(expected)
    shapes = [[(a.shape, a.dtype) for a in jax.tree.leaves(one)] for one in (filled, expected)]
    assert shapes[0] == shapes[1]
    same(filled.dense(), array)  # of one shape, so that it is compiled once; what fills up is dropped


@EVERY
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.int8])
def test_dtypes(name, dtype):
    array = np.asarray(jnp.asarray(some((5, 7), keep=0.5) * 10, dtype))
    leaf = made(name, array)
    assert leaf.dtype == dtype
    same(leaf.dense(), array)


@EVERY
def test_jit_layers_and_dtype(name):
    """Layers of one padded shape are stacked; `vmap` and `scan` see one each, and a cast casts the values."""
    layers = [some((5, 7), seed=seed) for seed in (1, 2)]
    size = room(name, (5, 7), np.float32)
    stack = jax.tree.map(lambda *a: jnp.stack(a), *(padded(made(name, a), size, "w") for a in layers))
    assert stack.shape == (2, 5, 7)
    assert stack.stack(2) is stack
    assert made(name, layers[0]).stack(2) is NotImplemented
    same(stack.dense(), np.stack(layers))
    same(jax.jit(jax.vmap(lambda leaf: leaf.dense()))(stack), np.stack(layers))
    summed = lift(lambda w: jax.lax.scan(lambda total, one: (total + one, None), jnp.zeros((5, 7)), w)[0])
    same(summed(stack), layers[0] + layers[1])
    cast = lift(lambda w: w.astype(jnp.bfloat16), strict=True)(stack)
    same(cast, jnp.stack([jnp.asarray(a) for a in layers]).astype(jnp.bfloat16))


@EVERY
def test_saved_and_loaded(name, tmp_path):
    leaf = jax.tree.map(jnp.asarray, made(name, some((5, 7))))
    save(tmp_path / "leaf", {"w": leaf})
    again = load(tmp_path / "leaf")["w"]
    assert jax.tree.structure(again) == jax.tree.structure(leaf)
    same(again.dense(), leaf.dense())
    assert again.nbytes == leaf.nbytes


def test_zeros_of_either_sign_are_absent():
    """A weight times a mask leaves -0.0: that must not be stored, nor break two of four."""
    array = np.array([[-1, -2, -3, -4]], np.float32) * np.array([[0, 1, 0, 1]], np.float32)
    assert np.signbit(array).all()
    for leaf in (CSRLeaf.from_dense(array), BitmapLeaf.from_dense(array), NMLeaf.from_dense(array, axis=1)):
        assert leaf.values.size == 2
        same(leaf.dense(), np.array([[0, -2, 0, -4]], np.float32))
    half = BitmapLeaf.from_dense(array.astype(jnp.bfloat16))
    assert half.values.size == 2
    assert BitmapLeaf.from_dense(np.array([-128, 0, 64], np.int8)).values.tolist() == [-128, 64]
    # In a block with a weight that stays -0.0 is stored, and stays.
    same(BlockSparseLeaf.from_dense(array, block=(1, 4)).dense(), array)


def test_as_scipy_stores():
    sparse = pytest.importorskip("scipy.sparse")
    array = some((12, 18), keep=0.3)
    for leaf, theirs in (
        (CSRLeaf.from_dense(array), sparse.csr_array(array)),
        (CSRLeaf.from_dense(array, axis=1), sparse.csc_array(array)),
    ):
        for name, other in (("values", "data"), ("indices", "indices"), ("pointers", "indptr")):
            np.testing.assert_array_equal(getattr(leaf, name), getattr(theirs, other))
    blocks = some((4, 6), keep=0.4, seed=1).astype(bool)
    array = np.where(np.kron(blocks, np.ones((3, 3), bool)), array, 0) + np.kron(
        blocks, np.eye(3, dtype=np.float32)
    )
    leaf, theirs = BlockSparseLeaf.from_dense(array, block=(3, 3)), sparse.csr_array(array).tobsr((3, 3))
    theirs.sort_indices()
    np.testing.assert_array_equal(leaf.values, theirs.data)
    np.testing.assert_array_equal(leaf.columns, theirs.indices)
    np.testing.assert_array_equal(leaf.pointers, theirs.indptr)


ORIENTATIONS = {
    "x @ w": (lambda x, w: x @ w, (3, 40)),
    "x @ w.T": (lambda x, w: jax.lax.dot_general(x, w, (((1,), (1,)), ((), ()))), (3, 30)),
    "w @ x": (lambda x, w: w @ x, (30, 3)),
    "w.T @ x": (lambda x, w: jax.lax.dot_general(w, x, (((0,), (1,)), ((), ()))), (3, 40)),
    "x of three axes": (lambda x, w: jnp.einsum("aib,io->abo", x, w), (2, 40, 2)),
    "a vector": (lambda x, w: w @ x, (30,)),
}


@pytest.mark.parametrize("how", list(ORIENTATIONS))
@pytest.mark.parametrize("name", ["csr", "csc", "block"])
def test_matmul_stays_packed(name, how):
    """Sums of 40 products of float32: in whatever order, two of them are each 40 roundings of EPS / 2 off."""
    fn, shape = ORIENTATIONS[how]
    w = some((40, 30), keep=0.1)
    x = jnp.asarray(some(shape, keep=1, seed=3))
    leaf = made(name, w)
    want = fn(x, jnp.asarray(w))
    bound = 41 * EPS * np.asarray(fn(jnp.abs(x), jnp.abs(w)))
    for packed in (leaf, padded(leaf, room(name, w.shape, w.dtype, 0.2 if name == "block" else 0.8), "w")):
        got = lift(fn, strict=True)(x, packed)
        assert got.dtype == want.dtype
        assert np.all(np.abs(np.asarray(got) - np.asarray(want)) <= bound)


def test_sums_of_halves_are_in_float32():
    """256 and 256 times 1 make 512; added one by one in bfloat16, 256 + 1 is 256 again."""
    column = np.array([256] + [1] * 256, np.float32)[:, None]
    for name in ("csr", "block"):
        leaf = made(name, np.pad(column, [(0, 0), (0, 7)]).astype(jnp.bfloat16))
        got = lift(jnp.matmul, strict=True)(jnp.ones((1, 257), jnp.bfloat16), leaf)
        assert (got.dtype, float(got[0, 0])) == (jnp.bfloat16, 512)


def test_absent_weights_meet_nothing():
    """Of a matrix made dense, 0 times infinity would be NaN."""
    x = jnp.array([[jnp.inf, 1, 2]])
    array = np.zeros((3, 9), np.float32)
    array[1, 0] = 3
    for leaf in (CSRLeaf.from_dense(array), BlockSparseLeaf.from_dense(array, block=(1, 1))):
        np.testing.assert_array_equal(lift(jnp.matmul, strict=True)(x, leaf)[0], [3] + [0] * 8)


@needs_compiler
def test_matmuls_and_convolutions_by_kernels():
    """At any number of rows, where the format has a kernel; `explained` names it."""
    w, x = some((8, 6)), jnp.ones((64, 8))
    image = jnp.ones((2, 5, 5, 8))
    window = some((3, 3, 8, 6))
    convolved = lambda x, w: jax.lax.conv_general_dilated(  # noqa: E731
        x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    kernels = {"csr": "csr_matmul", "csc": "csr_matmul", "block": "block_sparse_matmul", "n_m": "n_m_matmul"}
    for name, kernel in kernels.items():
        for fn, array, other in ((jnp.matmul, w, x), (convolved, window, image)):
            if name == "n_m":
                array = np.where(np.indices(array.shape)[-2] % 4 < 2, array, 0)
            packed = NMLeaf.from_dense(array) if name == "n_m" else made(name, array)
            assert explained(lambda p, x, fn=fn: fn(x, p["w"]), {"w": packed}, other).kernels["w"] == (
                f"{kernel} (cpu)"
            )
            bound = 73 * EPS * np.asarray(fn(jnp.abs(other), jnp.abs(array)))
            got, want = lift(fn, strict=True)(other, packed), fn(other, jnp.asarray(array))
            assert np.all(np.abs(np.asarray(got) - np.asarray(want)) <= bound)


def test_matmuls_that_are_made_dense(monkeypatch):
    """Without kernels, where the rule would be slower, or the format has none; `strict` says so."""
    monkeypatch.setattr(Native, "is_ready", property(lambda self: False))
    w, x = some((8, 6)), jnp.ones((64, 8))
    for name in FORMATS:
        leaf = made(name, w)
        with pytest.raises(DenseError, match="dot_general"):
            lift(jnp.matmul, strict=True)(x, leaf)
        same(lift(jnp.matmul)(x, leaf), x @ w)
    batched = some((2, 8, 6), keep=0.05)
    for name in ("csr", "block"):
        got = lift(lambda x, w: jnp.einsum("bi,bio->bo", x, w))(x[:2], made(name, batched))
        same(got, jnp.einsum("bi,bio->bo", x[:2], batched))
    integers = CSRLeaf.from_dense((some((8, 6)) * 9).astype(np.int8))
    same(lift(jnp.matmul)(x[:1].astype(jnp.int8), integers), x[:1].astype(jnp.int8) @ integers.dense())
    nothing = CSRLeaf.from_dense(np.zeros((8, 6), np.float32))
    same(lift(jnp.matmul, strict=True)(x[:1], nothing), jnp.zeros((1, 6)))


def test_transposed_rows_are_columns():
    w = some((8, 6))
    transposed = lift(lambda w: jnp.transpose(w), strict=True)
    same(transposed(CSRLeaf.from_dense(w)), w.T)
    same(
        lift(lambda x, w: x @ w.T, strict=True)(jnp.ones((1, 6)), CSRLeaf.from_dense(w)),
        jnp.ones((1, 6)) @ w.T,
    )
    same(
        lift(lambda w: jnp.transpose(w, (1, 2, 0)))(made("csr", some((2, 8, 6)))),
        some((2, 8, 6)).transpose(1, 2, 0),
    )


def test_gradients_reach_the_values():
    """d/dv of sum(a * W) is a where v stands."""
    weights = np.arange(12, dtype=np.float32).reshape(3, 4)
    leaf = CSRLeaf.from_dense(BY_HAND)
    values = jnp.asarray(leaf.values)
    loss = lambda v: jnp.sum(weights * dataclasses.replace(leaf, values=v).dense())  # noqa: E731
    np.testing.assert_array_equal(jax.grad(loss)(values), [1, 8, 11])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: NMLeaf.from_dense(np.ones((4, 4)), path="k"),
            r"'k' must have at most 2 of every 4 along axis 0, got 4 in one group; prune it by the pattern "
            r"n_m\(2, 4, axis=0\)",
        ),
        (lambda: NMLeaf.from_dense(np.ones(4), path="b"), r"axis must be one of the 1 axes of 'b', got -2"),
        (lambda: NMLeaf.from_dense(np.ones((4, 4)), n=0), r"n must be from 1 to m, .*, got n=0 and m=4; 2:4"),
        (lambda: NMLeaf.from_dense(np.ones((4, 4)), n=5), r"n must be from 1 to m, .*, got n=5 and m=4"),
        (lambda: NMLeaf.from_dense(np.ones((4, 4)), n=1, m=257), r"m at most 256, got n=1 and m=257"),
        (
            lambda: CSRLeaf.from_dense(np.ones(()), path="s"),
            r"shape of 's' must have an axis, got \(\); excl",
        ),
        (lambda: BitmapLeaf.from_dense(np.ones(()), path="s"), r"shape of 's' must have an axis"),
        (lambda: CSRLeaf.from_dense(BY_HAND, axis=2), r"axis must be 0 \(compressed rows\) or 1 .*, got 2"),
        (
            lambda: BlockSparseLeaf.from_dense(BY_HAND, block=(0, 4)),
            r"block must be a height and a width of at least 1, got \(0, 4\); \(4, 4\) is one",
        ),
        (
            lambda: RelativeIndexLeaf.from_dense(BY_HAND, bits=9),
            r"bits must be from 1 to 8, got 9; the paper",
        ),
        (
            lambda: padded(
                CSRLeaf.from_dense(BY_HAND, path="k"), CSRLeaf.room((3, 4), np.float32, sparsity=0.9), "k"
            ),
            r"'k' must have at most 1 entries to store, as its sparsity says, got 3; prune it further",
        ),
        (lambda: index_dtype(2**32), r"indices must be below 2\*\*32, got 4294967296; split the array"),
    ],
)
def test_what_does_not_fit(make, message):
    with pytest.raises(ValueError, match=message):
        make()
