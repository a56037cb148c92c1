"""Network file: what was packed is what is read, bit for bit, and the report is the file."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from efficient import State, at, chain, coding, dense, lift, stacked
from efficient.coding import CorruptFileError
from efficient.core.leaf import is_leaf
from efficient.core.paths import flatten
from efficient.deploy import read_network, write_network
from efficient.prune import magnitude
from efficient.quantize import CodebookLeaf, codebook, linear

KEY = jax.random.key(0)
F32 = jnp.dtype("float32")
MODEL = nn.Sequential([nn.Dense(12), nn.relu, nn.Dense(3)])
X = jax.random.normal(jax.random.key(1), (5, 8))


@functools.lru_cache
def trained_network():
    """Pruned to 1 in 4, shared in 3 bits, and trained on: of each codebook two values came to +0 and -0."""
    params = jax.jit(MODEL.init)(KEY, X)
    t = at("**/kernel", chain(magnitude(0.75), codebook(3)))
    state = jax.jit(t.init)(params)
    of_pruning, of_codebook = state.train
    moved = {path: c.at[1].set(0.0).at[2].set(-0.0) for path, c in of_codebook.items()}
    return params, t.pack(params, State((of_pruning, moved), state.fixed))


def leaf(entries, indices, dtype=F32):
    return CodebookLeaf(
        codebook=jnp.asarray(entries, jnp.float32), indices=jnp.asarray(indices, jnp.uint8), out_dtype=dtype
    )


def assert_same_bits(got, want):
    """The same paths and the same bits in every weight; leaves come as leaves."""
    got, want = flatten(got)[0], flatten(want)[0]
    assert list(got) == list(want)
    for path in want:
        assert is_leaf(got[path]) == is_leaf(want[path])
        a, b = np.asarray(dense(got[path])), np.asarray(dense(want[path]))
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert a.tobytes() == b.tobytes()


@pytest.mark.parametrize("index_bits", ["best", 4])
def test_logits_of_a_trained_network_are_bit_identical(tmp_path, index_bits):
    params, packed = trained_network()
    report = write_network(tmp_path / "net", packed, index_bits=index_bits)
    read = read_network(tmp_path / "net", like=params)
    assert jax.tree.structure(read, is_leaf=is_leaf) == jax.tree.structure(params)
    assert_same_bits(read, packed)
    logits = jax.jit(lift(MODEL.apply))
    assert np.asarray(logits(read, X)).tobytes() == np.asarray(logits(packed, X)).tobytes()
    # Zeros that were trained are shared values, and no pruned weights: of 96, 24 are kept.
    (kernel,) = (row for row in report.rows if row.name == "params/layers_0/kernel")
    assert (kernel.kept, kernel.weights, kernel.codebook) == (24, 96, 7)


def test_the_report_is_the_file(tmp_path):
    _, packed = trained_network()
    path = tmp_path / "net"
    report = write_network(path, packed)
    assert report.file_bytes == path.stat().st_size == report.huffman_bytes
    by_name = {row.name: row for row in report.rows}
    assert set(by_name) == set(flatten(packed)[0])
    assert not by_name["params/layers_0/bias"].is_shared
    assert report.original_bytes == 4 * (8 * 12 + 12 + 12 * 3 + 3)


@pytest.mark.parametrize("like", ["packed", "dense", "shapes"])
def test_like_may_be_any_tree_of_those_shapes(tmp_path, like):
    params, packed = trained_network()
    write_network(tmp_path / "net", packed)
    trees = {"packed": packed, "dense": params, "shapes": jax.eval_shape(lambda: params)}
    assert_same_bits(read_network(tmp_path / "net", like=trees[like]), packed)


def test_without_like_it_is_a_dict_by_path(tmp_path):
    _, packed = trained_network()
    write_network(tmp_path / "net", packed)
    assert_same_bits(read_network(tmp_path / "net"), flatten(packed)[0])


# By name: a leaf, and how many of its weights the file keeps.
EDGES = {
    "all pruned": (leaf([0, 1, 2], [[0, 0], [0, 0]]), 0),
    "all pruned but one": (leaf([0, 1, 2], [[0, 0, 0], [0, 2, 0]]), 1),
    "nothing pruned": (leaf([0, 1, 2], [[1, 2], [2, 1]]), 4),
    "a trained +0": (leaf([0, -1, 0.0, 2], [[1, 2], [0, 3]]), 3),
    "a trained -0": (leaf([0, -0.0, 2], [[1, 2], [0, 1]]), 3),
    "no zero entry": (leaf([-1, 2], [[1, 0], [0, 0]]), 4),
    "no zero entry, its first came to -0": (leaf([-0.0, 2], [[1, 0], [0, 0]]), 4),
    "no zero entry, its first came to +0": (leaf([0.0, 2], [[1, 0], [0, 0]]), 1),
    "one entry of nothing": (leaf([0], [[0, 0]]), 0),
    "all entries of a byte": (leaf(np.arange(256), np.arange(256).reshape(16, 16)), 255),
    "all entries of a byte, none of them zero": (leaf(np.arange(256) - 0.5, np.arange(256)), 256),
    "not finite": (leaf([0, np.nan, np.inf, -np.inf], [1, 2, 3, 0, 1]), 4),
    "half": (leaf([0, 1 / 3, -1 / 3], [0, 1, 2, 1], jnp.dtype("float16")), 3),
    "brain": (leaf([0, 1 / 3, -1 / 3], [0, 1, 2, 1], jnp.dtype("bfloat16")), 3),
    "empty": (leaf([0, 1, 2], np.zeros((0, 3))), 0),
    "empty, and nothing but zero": (leaf([0], np.zeros((3, 0))), 0),
    "a scalar": (leaf([0, 3], 1), 1),
}


@pytest.mark.parametrize("name", EDGES)
def test_edges(tmp_path, name):
    packed, kept = EDGES[name]
    report = write_network(tmp_path / "net", {"w": packed})
    assert report.rows[0].kept == kept
    read = read_network(tmp_path / "net", like={"w": packed})
    assert_same_bits(read, {"w": packed})
    assert read["w"].indices.dtype == jnp.uint8
    # What was read can be written again, to the same bytes.
    write_network(tmp_path / "again", read)
    assert (tmp_path / "again").read_bytes() == (tmp_path / "net").read_bytes()


def test_arrays_of_every_dtype(tmp_path):
    """A 64-bit array came back in 32, cut: 2^40 was 0."""
    arrays = {
        "f16": jnp.array([1.5, jnp.nan], jnp.float16),
        "bf16": jnp.array([1 / 3, -0.0, jnp.nan, 3e38], jnp.bfloat16),
        "f32": jnp.array([[-0.0, jnp.inf]]),
        "i8": jnp.array([-128, 127], jnp.int8),
        "u32": jnp.array(2**32 - 1, jnp.uint32),
        "i64": np.array([2**40, -1]),
        "f64": np.array([1e300]),
        "empty": jnp.zeros((0, 3)),
        "empty bf16": jnp.zeros((2, 0, 3), jnp.bfloat16),
        "empty i64": np.zeros((0, 2**40), np.int64),
    }
    write_network(tmp_path / "net", arrays)
    read = read_network(tmp_path / "net", like=arrays)
    assert_same_bits(read, arrays)
    assert isinstance(read["f32"], jax.Array)
    assert isinstance(read["bf16"], jax.Array)
    assert isinstance(read["i64"], np.ndarray)


@pytest.mark.parametrize(
    ("value", "got"),
    [
        (jnp.ones(2, bool), "bool"),
        (jnp.ones(2, jnp.float8_e4m3fn), "float8_e4m3fn"),
        (jnp.ones(2, jnp.int4), "int4"),
        (np.ones(2, np.complex64), "complex64"),
        (KEY, "key<fry>"),
        ("a word", "str192"),
    ],
)
def test_values_of_other_dtypes_are_refused(tmp_path, value, got):
    message = (
        rf"value 'a/w' must be of float16, float32, float64, bfloat16, int8, .*, uint64, got {got}; "
        r"cast it with \.astype\(\.\.\.\), or leave it out"
    )
    with pytest.raises(ValueError, match=message):
        write_network(tmp_path / "net", {"a": {"b": jnp.ones(2), "w": value}})
    assert not (tmp_path / "net").exists()


def test_shared_values_of_other_dtypes_are_refused(tmp_path):
    packed = {"w": leaf([0, 1], [0, 1], jnp.dtype("float8_e5m2"))}
    with pytest.raises(
        ValueError, match=r"value 'w' must be of float16, .*, bfloat16, got float8_e5m2; cast it"
    ):
        write_network(tmp_path / "net", packed)


def test_a_damaged_file_is_refused(tmp_path):
    path = tmp_path / "net"
    write_network(path, trained_network()[1])
    data = path.read_bytes()
    damaged = [data[:i] + bytes([data[i] ^ (1 << i % 8)]) + data[i + 1 :] for i in range(0, len(data), 7)]
    for wrong in [*damaged, data[:-1], data[: len(data) // 2], b"", data + b"\0"]:
        path.write_bytes(wrong)
        with pytest.raises(CorruptFileError, match=r"net: "):
            read_network(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"new": jnp.ones(3)},
            r"file must hold \(3,\) at 'new', got nothing; read it without like= to look\.",
        ),
        ({"w": None}, r"file must hold nothing at 'w', got \(2, 2\); read it without like="),
        ({"w": jnp.ones((2, 3))}, r"file must hold \(2, 3\) at 'w', got \(2, 2\); read it without like="),
    ],
)
def test_like_of_other_paths_or_shapes(tmp_path, change, message):
    write_network(tmp_path / "net", {"b": jnp.ones(2), "w": EDGES["a trained +0"][0]})
    with pytest.raises(ValueError, match=message):
        read_network(tmp_path / "net", like={"b": jnp.ones(2), "w": jnp.ones((2, 2))} | change)


def test_leaves_of_other_kinds_are_refused(tmp_path):
    params = {"a": {"w": jax.random.normal(KEY, (2, 4, 3))}}
    for t, kind in ((linear(8), "QuantizedLeaf"), (stacked(codebook(2)), "CodebookLeaf")):
        message = (
            rf"value 'a/w' must be an array or an unstacked CodebookLeaf, got {kind} of shape \(2, 4, 3\); "
        )
        with pytest.raises(ValueError, match=message):
            write_network(tmp_path / "net", t.pack(params, t.init(params)))
    assert not (tmp_path / "net").exists()


def test_a_codebook_of_more_values_than_a_byte_has(tmp_path):
    values = np.arange(300, dtype=np.float32)
    coding.write(tmp_path / "net", {"w": coding.Shared(values, np.arange(300))})
    with pytest.raises(ValueError, match=r"codebook must have at most 256 values, got 300; this file is not"):
        read_network(tmp_path / "net")
