import contextlib
import dataclasses
import json
import os
import shutil
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import NamedSharding, PartitionSpec

from efficient import chain
from efficient.coding import CorruptFileError
from efficient.core import sealed_folder
from efficient.core.leaf import Leaf, leaf, static
from efficient.core.store import load, load_metadata, save
from efficient.core.transform import State
from efficient.core.tree_record import build, check_form, entries, record
from efficient.core.tree_value import DTYPES
from efficient.quantize import quantize, quantize_inputs, quantizers
from efficient.quantize.formats import Affine


@leaf
class Scaled(Leaf):
    """A scale and what it scales, an array or a leaf."""

    values: Any
    scale: jax.Array
    axes: tuple[int, ...] = static(default=(0, -1))
    gain: float = static(default=0.1)
    out_dtype: Any = static(default=jnp.dtype("float32"))

    @property
    def shape(self):
        return tuple(self.values.shape)

    @property
    def dtype(self):
        return self.out_dtype

    def dense(self):
        values = self.values.dense() if isinstance(self.values, Leaf) else self.values
        return (values * self.scale).astype(self.out_dtype)


def bits(value: Any) -> bytes:
    if jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key):
        value = jax.random.key_data(value)
    return np.asarray(value).tobytes()


def assert_same(got: Any, expected: Any) -> None:
    """The same structure, classes and bits."""
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert type(one) is type(other)
        if hasattr(other, "dtype"):
            assert (one.dtype, one.shape, bits(one)) == (other.dtype, other.shape, bits(other))
        else:
            assert one == other


def packed_tree() -> dict[str, Any]:
    inner = Scaled(values=jnp.arange(6, dtype=jnp.int8).reshape(2, 3), scale=jnp.float32(0.5))
    outer = Scaled(
        values=inner, scale=jnp.ones((1, 3)), axes=(), gain=float("inf"), out_dtype=jnp.dtype("bfloat16")
    )
    state = State({"a/kernel": jnp.ones(2)}, ({"a/kernel": (), "b": None}, [jnp.zeros((0, 3)), jnp.int32(3)]))
    return {
        "params": {"a/kernel": outer, "a": {"kernel": jnp.ones((2, 2))}},
        "state": state,
        "step": 7,
        "name": "é",
    }


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A saved packed tree, to be copied before it is damaged."""
    folder = tmp_path_factory.mktemp("saved") / "tree"
    save(folder, packed_tree(), metadata={"loss": 0.25, "tags": ["a"]})
    return folder


def test_a_tree_comes_back_as_it_was(saved):
    got = load(saved)
    assert_same(got, packed_tree())
    assert type(got["state"]) is State
    assert got["params"]["a/kernel"].axes == ()
    np.testing.assert_array_equal(
        got["params"]["a/kernel"].dense(), packed_tree()["params"]["a/kernel"].dense()
    )
    assert load_metadata(saved) == {"loss": 0.25, "tags": ["a"]}
    assert not list(saved.parent.glob(".*"))


def test_every_dtype_comes_back_bit_for_bit(tmp_path):
    assert {"bfloat16", "int4", "uint2", "float8_e4m3fn", "float8_e8m0fnu", "complex64"} <= set(DTYPES)
    tree: dict[str, Any] = {"host": {}}
    for name, dtype in DTYPES.items():
        pattern = np.arange(256, dtype=np.uint8)
        if name == "bool":
            raw = pattern % 2 == 0
        elif name in ("int2", "int4", "uint2", "uint4"):
            info = ml_dtypes.iinfo(dtype)
            raw = np.arange(info.min, int(info.max) + 1).astype(dtype)
        elif name == "float4_e2m1fn":
            raw = (pattern % 16).view(dtype)
        else:  # every byte pattern: NaN payloads, infinities, subnormals, -0.0
            raw = np.concatenate([pattern, pattern[::-1]]).view(dtype)
        tree["host"][name] = raw
        if jax.dtypes.canonicalize_dtype(dtype) == dtype:
            tree[name] = [jnp.asarray(one) for one in (raw, raw[1:2].reshape(()), raw[:0].reshape(2, 0))]
            assert bits(tree[name][0]) == raw.tobytes()
    tree["negative zeros"] = jnp.full((4, 4), -0.0)  # a whole chunk that equals a fill value of 0
    tree["NaNs"] = jnp.asarray(np.array([0x7FC00001, 0xFFC12345, 0x7F800001], np.uint32).view(np.float32))
    tree["keys"] = {
        "one": jax.random.key(3),
        "many": jax.random.split(jax.random.key(4, impl="rbg"), 3),
        "none": jax.random.split(jax.random.key(5), 3)[:0],
    }
    tree["host"]["zero"] = np.array(-0.0)
    tree["host"]["views"] = [np.arange(6.0)[::-2], np.arange(6).astype(ml_dtypes.int4).reshape(2, 3).T]
    tree["empty"] = [{}, [], (), None, {"a": {}}]
    save(tmp_path / "tree", tree)
    got = load(tmp_path / "tree")
    assert_same(got, tree)
    assert_same(load(tmp_path / "tree", like=tree), tree)
    assert jax.random.key_impl(got["keys"]["many"]) == "rbg"


@pytest.mark.parametrize(
    "tree",
    [{}, None, 3, jnp.zeros((0, 3), jnp.int4), jnp.asarray(-1.5, jnp.float8_e4m3fn), jax.random.key(0)],
    ids=["dict", "None", "int", "size 0", "0-d", "key"],
)
def test_the_smallest_trees_come_back(tmp_path, tree):
    save(tmp_path / "tree", tree)
    assert_same(load(tmp_path / "tree"), tree)
    assert_same(load(tmp_path / "tree", like=tree), tree)


def test_numpy_scalars_come_back_as_arrays(tmp_path):
    scalars = [np.float32(-0.0), np.bool_(True), np.int64(3), ml_dtypes.bfloat16(1.5), ml_dtypes.int4(-3)]
    save(tmp_path / "tree", scalars)
    expected = [np.asarray(one) for one in scalars]
    assert_same(load(tmp_path / "tree"), expected)
    assert_same(load(tmp_path / "tree", like=scalars), expected)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nnx.state(nnx.BatchNorm(2, rngs=nnx.Rngs(0))),
         r"like must be a tree to restore into, got None for the tree, a flax\S+:State, for 'bias', a "
         r"flax\S+:Param, for 'mean', a flax\S+:BatchStat; pass a tree of the same classes, such as "
         r"like=nnx\.state\(model\)\."),
        (lambda: {"a": jnp.ones(1), "opt": optax.adam(0.1).init(jnp.ones(1))},
         r"got None for 'opt/0', a optax\S+:ScaleByAdamState; pass a tree of the same classes"),
    ],
    ids=["nnx", "optax"],
)  # fmt: skip
def test_what_only_like_can_make_is_named(tmp_path, make, message):
    save(tmp_path / "tree", make())
    with pytest.raises(ValueError, match=message):
        load(tmp_path / "tree")
    assert_same(load(tmp_path / "tree", like=make()), make())


def test_like_restores_into_any_pytree(tmp_path):
    _, state = nnx.split(nnx.Linear(2, 3, rngs=nnx.Rngs(0)))
    tree = {"model": state, "opt": optax.adam(1e-3).init({"w": jnp.ones(3)}), "leaf": packed_tree()}
    save(tmp_path / "tree", tree)
    assert_same(load(tmp_path / "tree", like=tree), tree)
    shapes = jax.eval_shape(lambda: {key: tree[key] for key in ("model", "opt")}) | {"leaf": tree["leaf"]}
    assert_same(load(tmp_path / "tree", like=shapes), tree)
    with pytest.raises(
        ValueError, match=r"like must be a tree to restore into, got None for 'model', a flax.*State"
    ):
        load(tmp_path / "tree")


def test_arrays_go_where_those_of_like_are(tmp_path):
    mesh = jax.make_mesh((2,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    halves, second = (
        NamedSharding(mesh, PartitionSpec("x")),
        jax.sharding.SingleDeviceSharding(jax.devices()[1]),
    )
    tree = {
        "f32": jax.device_put(jnp.arange(8.0), halves),
        "int4": jax.device_put(jnp.arange(8, dtype=jnp.int4), halves),
        "key": jax.device_put(jax.random.key(0), second),
        "free": jnp.ones(3),
    }
    save(tmp_path / "tree", tree)
    shapes = {k: jax.ShapeDtypeStruct(v.shape, v.dtype, sharding=v.sharding) for k, v in tree.items()}
    for like in (tree, shapes):
        got = load(tmp_path / "tree", like=like)
        assert_same(got, tree)
        assert {k: v.sharding for k, v in got.items()} == {k: v.sharding for k, v in tree.items()}
    assert not load(tmp_path / "tree", like=tree)["free"].committed
    assert load(tmp_path / "tree")["f32"].sharding.num_devices == 1
    uneven = jax.ShapeDtypeStruct((3,), jnp.float32, sharding=halves)
    with pytest.raises(ValueError, match="divi") as caught:  # JAX's own words; nothing is damaged or read
        load(tmp_path / "tree", like=shapes | {"free": uneven})
    assert not isinstance(caught.value, CorruptFileError)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t["params"]["a"].update(kernel=jnp.ones((2, 3))),
         r"params/a/kernel must be float32\[2, 2\], as it was saved, got float32\[2, 3\] in like"),
        (lambda t: t["params"]["a"].update(kernel=jnp.ones((2, 2), jnp.bfloat16)),
         r"params/a/kernel must be float32\[2, 2\], .* got bfloat16\[2, 2\] in like"),
        (lambda t: t["params"].pop("a"), r"params must be a dict with 'a', as it was saved, got a dict in"),
        (lambda t: t.update(step=7.0), r"step must be a Python int, as it was saved, got a Python float"),
        (lambda t: t.update(step=None), r"step must be a Python int, as it was saved, got None in"),
        (lambda t: t.update(state=State((), ())), r"state/train must be a dict.*got a tuple of 0"),
        (lambda t: t["params"].update({"a/kernel": dataclasses.replace(t["params"]["a/kernel"], gain=0.5)}),
         r"params/a/kernel must be a .*Scaled of .*inf.*, as it was saved, got a .*Scaled of .*0.5"),
        (lambda t: t["state"].fixed[1].append(jnp.ones(1)), r"state/fixed/1 must be a list of 2.*list of 3"),
    ],
)  # fmt: skip
def test_a_like_of_another_form_is_refused(saved, change, message):
    like = packed_tree()
    change(like)
    with pytest.raises(ValueError, match=message):
        load(saved, like=like)


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"a": {(1, 2): 0}}, r"keys of a must be str or int, got \(1, 2\); rename it\."),
        ({"a": {"b": 1j}}, r"a/b must be an array, bool, int, float or str, got complex; make it an array\."),
        ({"a": np.array(["x"])}, r"a must be of a dtype of JAX, got <U1; convert it\."),
        (np.arange(2, dtype=">i4"), r"^the tree must be of a dtype of JAX, got >i4; convert it\."),
        ([np.zeros(2, jax.dtypes.float0)], r"0 must be of a dtype of JAX, got .*float0"),
        ({"a": np.ma.masked_array([1.0, 2.0], [False, True])},
         r"a must be an array without a mask, got MaskedArray; save its data and mask\."),
        (1j, r"^the tree must be an array, bool, int, float or str, got complex; make it an array\."),
        ([jax.ShapeDtypeStruct((2,), jnp.float32)], r"0 must be an array, got ShapeDtypeStruct"),
        ({"a": Scaled(values=jnp.ones(2), scale=jnp.ones(2), gain=object())},
         r"gain of 'a' must be None, a bool, int, float, str or dtype, or a tuple.*, got <object"),
    ],
)  # fmt: skip
def test_what_cannot_be_saved_is_refused(tmp_path, tree, message):
    with pytest.raises(ValueError, match=message):
        save(tmp_path / "tree", tree)
    assert not list(tmp_path.iterdir())


def test_a_tracer_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"a must be an array, got a tracer; call this outside of jit."):
        jax.jit(lambda x: save(tmp_path / "tree", {"a": x}))(jnp.ones(2))


@pytest.mark.parametrize("metadata", [{"a": jnp.ones(2)}, {"a": (1, 2)}, {"a": {1: 2}}, {"a": float("nan")}])
def test_metadata_that_json_changes_is_refused(tmp_path, metadata):
    with pytest.raises(ValueError, match=r"metadata must be a dict that JSON returns unchanged, got"):
        save(tmp_path / "tree", {}, metadata=metadata)


def test_overwrite(tmp_path):
    folder = tmp_path / "tree"
    save(folder, {"a": jnp.zeros(2)})
    with pytest.raises(
        FileExistsError, match=r"path must be new, got .*tree', which exists; pass overwrite=True"
    ):
        save(folder, {"a": jnp.ones(2)})
    save(folder, {"a": jnp.ones(2)}, overwrite=True)
    assert load(folder)["a"].tolist() == [1, 1]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.tex").touch()
    with pytest.raises(FileExistsError, match=r"path must be a saved tree to be replaced, got .*mine'"):
        save(tmp_path / "mine", {}, overwrite=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine", "tree"]
    with pytest.raises(
        FileNotFoundError, match=r"path must be a saved tree, got .*none', which does not exist"
    ):
        load(tmp_path / "none")


def test_a_save_that_fails_leaves_no_trace(tmp_path, monkeypatch):
    save(tmp_path / "tree", {"a": jnp.zeros(2)})
    monkeypatch.setattr(sealed_folder, "seal", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save(tmp_path / "tree", {"a": jnp.ones(2)}, overwrite=True)
    assert load(tmp_path / "tree")["a"].tolist() == [0, 0]
    assert [p.name for p in tmp_path.iterdir()] == ["tree"]


def test_several_processes_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(
        NotImplementedError, match=r"save must run in one process, got 2; gather the tree first."
    ):
        save(tmp_path / "tree", {})


def test_64_bits_need_x64(tmp_path):
    with jax.enable_x64(True):
        save(tmp_path / "tree", {"a": jnp.full(2, 1e-300)})
        assert load(tmp_path / "tree")["a"].tolist() == [1e-300, 1e-300]
    with pytest.raises(
        ValueError, match=r"jax_enable_x64 must be on to load float64 at 'a', got it off; turn it on."
    ):
        load(tmp_path / "tree")
    assert load(tmp_path / "tree", like={"a": np.zeros(2)})["a"].tolist() == [1e-300, 1e-300]


KILLED = """
import os, signal, sys
import numpy as np
from efficient.core.store import load, save

def tree(i):
    return {str(k): np.full((64, 64), i, np.float32) for k in range(8)}

def dies(folder, event, ends, after):
    seen = [0]
    def hook(name, args):
        if name == event and str(args[0]).endswith(ends):
            seen[0] += 1
            if seen[0] > after:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)
    save(folder, tree(2), overwrite=True)

def loops(folder, pipe):
    for i in range(2, 1000):
        save(folder, tree(i), overwrite=True)
        os.write(pipe, b".")

root = sys.argv[1]
points = {"unsealed": ("open", ".saving/manifest.json", 0), "renamed": ("os.rename", ".saving", 0),
          "cleaning": ("shutil.rmtree", ".previous", 1)}
for old in ("fresh", "over"):
    for point, how in points.items():
        child = os.fork()
        if child == 0:
            folder = f"{root}/{old}_{point}"
            if old == "over":
                save(folder, tree(1))
            dies(folder, *how)
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        assert os.WIFSIGNALED(status), (old, point, status)
reading, writing = os.pipe()
child = os.fork()
if child == 0:
    loops(f"{root}/loop", writing)
for _ in range(3):
    os.read(reading, 1)
import time; time.sleep(float(sys.argv[2]))
os.kill(child, signal.SIGKILL)
os.waitpid(child, 0)
"""


def test_a_killed_save_leaves_the_old_tree_or_nothing(tmp_path):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONWARNINGS": "ignore"}
    delay = str(np.random.default_rng().uniform(0, 0.1))
    subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path), delay], env=environment, check=True, timeout=120
    )
    values = {name: load(tmp_path / name)["3"] for name in ("over_unsealed", "over_renamed", "over_cleaning")}
    assert {name: float(value.mean()) for name, value in values.items()} == {
        "over_unsealed": 1, "over_renamed": 1, "over_cleaning": 2
    }  # fmt: skip
    for name in ("fresh_unsealed", "fresh_renamed"):
        with pytest.raises(FileNotFoundError):
            load(tmp_path / name)
        save(tmp_path / name, {"a": jnp.ones(1)})
    with pytest.raises(FileExistsError):  # the old tree is put back before anything else
        save(tmp_path / "over_renamed", {})
    save(tmp_path / "over_cleaning", {}, overwrite=True)
    hidden = {path.name for path in tmp_path.iterdir() if path.name.startswith(".")}
    assert hidden <= {".over_unsealed.saving", ".over_renamed.saving", ".loop.saving", ".loop.previous"}
    looped = load(tmp_path / "loop")
    assert len({float(v) for value in looped.values() for v in value.ravel()}) == 1


def damaged(saved, folder):
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(saved, folder)
    return sorted(path for path in folder.rglob("*") if path.is_file())


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_any_damage_is_found_and_named(saved, tmp_path_factory, data):
    folder = tmp_path_factory.getbasetemp() / "damaged"
    files = damaged(saved, folder)
    file = files[data.draw(st.integers(0, len(files) - 1), "file")]
    content = bytearray(file.read_bytes())
    if data.draw(st.booleans(), "flip") and content:
        content[data.draw(st.integers(0, len(content) - 1), "offset")] ^= data.draw(
            st.integers(1, 255), "bits"
        )
    elif data.draw(st.booleans(), "cut") and content:
        del content[data.draw(st.integers(0, len(content) - 1), "size") :]
    else:
        content += b"\0"
    file.write_bytes(bytes(content))
    with pytest.raises(CorruptFileError) as caught:
        load(folder)
    assert file.relative_to(folder).as_posix() in str(caught.value)


def test_missing_added_and_linked_files_are_found_and_named(saved, tmp_path):
    for index, file in enumerate(damaged(saved, tmp_path / "tree")):
        damaged(saved, tmp_path / "tree")
        name = file.relative_to(tmp_path / "tree").as_posix()
        kept = file.rename(tmp_path / str(index))
        with pytest.raises(CorruptFileError, match=f"{name} must be (in|a file in)"):
            load(tmp_path / "tree")
        file.symlink_to(kept)
        with pytest.raises(CorruptFileError, match=f"{name} must be a file in .*, got"):
            load(tmp_path / "tree")
    damaged(saved, tmp_path / "tree")
    (tmp_path / "tree/arrays/d/more").touch()
    with pytest.raises(
        CorruptFileError, match=r"arrays/d/more must not be in .*, got a file that was not saved"
    ):
        load(tmp_path / "tree")


def forged(saved, folder, change):
    """A copy of a saved tree whose manifest is changed and sealed anew."""
    damaged(saved, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest = change(manifest) or manifest
    for name in ("manifest.json", "manifest.sha256"):
        (folder / name).unlink()
    del manifest["files"]
    sealed_folder.seal(folder, manifest)
    return folder


def places(node, path=()):
    """Every place in a JSON value."""
    yield path
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, child in children:
        yield from places(child, (*path, key))


def quantized_tree():
    """Leaves whose structure holds constants: formats, blocks within blocks, a rule."""
    weights = quantizers.nf4(4).encode(jnp.ones((8, 4)))
    inputs = chain(quantize(quantizers.affine(4)), quantize_inputs(Affine(4), is_dynamic=True))
    return {"weights": weights, "inputs": inputs.pack({"w": jnp.eye(4)}, inputs.init({"w": jnp.eye(4)}))}


RECORDS = [json.dumps(record(tree)[0]) for tree in (packed_tree(), quantized_tree())]


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_a_forged_record_is_refused_or_makes_another_tree(data):
    """Whatever the manifest says, only the errors that `load` documents come out of it."""
    whole = data.draw(st.sampled_from(RECORDS), "record")
    recorded = json.loads(whole)
    *parents, last = data.draw(st.sampled_from(list(places(recorded))[1:]), "place")
    node: Any = recorded
    for key in parents:
        node = node[key]
    values = [None, 3, -1, "x", [], {}, [[]], [None], {"is": "list", "children": []}, {"is": "dict"}, 10**6]
    values += [{"float": "0x1p99999"}, {"is": "scalar", "type": "int", "value": 1, "children": 3}]
    node[last] = data.draw(st.sampled_from(values), "value")
    with contextlib.suppress(ValueError):  # CorruptFileError is one
        expected = list(entries(recorded))
        with contextlib.suppress(ValueError):
            build(recorded, iter([np.zeros(1)] * len(expected)))
        check_form(recorded, json.loads(whole))


def grid_of(recorded):
    """The format in a record of `quantized_tree`."""
    return recorded["children"][1]["static"]["grid"]


@pytest.mark.parametrize(
    "change",
    [
        lambda grid: grid.update(constant="os:system"),
        lambda grid: grid.update(constant="efficient.quantize.formats.table:Missing"),
        lambda grid: grid.update(fields={}),
        lambda grid: grid["fields"].update(numbers=3),
        lambda grid: grid["fields"].update(numbers={"tuple": []}),
        lambda grid: grid["fields"].update(more=3),
        lambda grid: grid.update(constant="efficient.quantize.formats.integer:Integer", fields={"width": 99}),
    ],
)
def test_a_forged_constant_is_refused(change, tmp_path):
    """No class outside the constants that are imported is built, and none from fields that it refuses."""
    save(tmp_path / "tree", quantized_tree())
    np.testing.assert_array_equal(load(tmp_path / "tree")["weights"].dense(), jnp.ones((8, 4)))
    folder = forged(
        tmp_path / "tree", tmp_path / "forged", lambda manifest: change(grid_of(manifest["tree"]))
    )
    with pytest.raises(ValueError, match=r"manifest\.json must|class"):
        load(folder)


NONE = {"is": "none", "children": []}


def test_a_record_too_deep_to_walk_is_refused():
    recorded = NONE
    for _ in range(sys.getrecursionlimit()):
        recorded = {"is": "list", "children": [recorded]}
    with pytest.raises(
        CorruptFileError, match=r"manifest.json must describe a tree that can be walked, got one too deep"
    ):
        entries(recorded)


def packed_leaf(manifest):
    return manifest["tree"]["children"][1]["children"][1]


def kernel(manifest):
    return manifest["tree"]["children"][1]["children"][0]["children"][0]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda m: m.update(format="efficient tree 9"), CorruptFileError,
         "manifest.json must be of format 'efficient tree 1', got 'efficient tree 9'"),
        (lambda m: m.update(metadata=None), CorruptFileError, "manifest.json must hold a tree and metadata"),
        (lambda m: packed_leaf(m).update({"class": "acme.fine:Leaf"}), ValueError,
         "params/a/kernel must be of a leaf class that is imported, got 'acme.fine:Leaf'; import acme.fine"),
        (lambda m: packed_leaf(m)["static"].update(rank=2), ValueError,
         r"params/a/kernel must have the fields \['axes'.*got .*'rank'.*another version of that class"),
        (lambda m: packed_leaf(m).update(fields=["values", "scale", "gain"],
                                         children=[*packed_leaf(m)["children"], NONE]),
         ValueError, r"params/a/kernel must have the fields \['axes'.*got .*'gain', 'gain'.*another version"),
        (lambda m: packed_leaf(m)["static"].update(gain={"float": "0x1p99999"}), CorruptFileError,
         r"manifest.json must describe params/a/kernel, got no description of one; save it anew\."),
        (lambda m: kernel(m).update(children=3), CorruptFileError,
         r"manifest.json must describe params/a/kernel, got no description of one; save it anew\."),
        (lambda m: kernel(m).update(shape=[0, 2**62]), CorruptFileError,
         r"manifest.json must describe params/a/kernel, got no description of one; save it anew\."),
        (lambda m: kernel(m).update(shape=[0] * 65), CorruptFileError,
         r"manifest.json must describe params/a/kernel, got no description of one; save it anew\."),
        (lambda m: kernel(m).update(shape=[0]), CorruptFileError,
         r"arrays must hold the 5 arrays that manifest.json lists, got 6 that are not those; save the tree"),
        (lambda m: kernel(m).update(shape=[4]), CorruptFileError,
         r"params/a/kernel must be float32\(4,\) as in manifest.json, got float32\(2, 2\) in arrays"),
        (lambda m: kernel(m).update(dtype="int4", shape=[2, 8]), CorruptFileError,
         r"params/a/kernel must be int4\(2, 8\) as in manifest.json, got float32\(2, 2\) in arrays"),
    ],
)  # fmt: skip
def test_a_forged_manifest_is_refused(saved, tmp_path, change, error, message):
    with pytest.raises(error, match=message):
        load(forged(saved, tmp_path / "tree", change))


def test_a_manifest_that_is_no_json_is_refused(saved, tmp_path):
    damaged(saved, tmp_path / "tree")
    for body, message in ((b"{", "manifest.json must be JSON"), (b"[]", "manifest.json must list the files")):
        (tmp_path / "tree/manifest.json").write_bytes(body)
        (tmp_path / "tree/manifest.sha256").write_bytes(sealed_folder._line(body))
        with pytest.raises(CorruptFileError, match=message):
            load(tmp_path / "tree")
