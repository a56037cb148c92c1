"""The reader of PyTorch checkpoints: worked files, PyTorch's own files, every refusal, and damaged bytes."""

import io
import pickle
import struct
import tracemalloc
import zipfile

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from efficient.coding.byte_reader import ByteReader
from efficient.coding.pickle_subset import _OPCODES, read_pickle
from efficient.coding.torch_checkpoint import TorchCheckpointError, read_torch_checkpoint

# --- A writer of checkpoints, opcode by opcode, so that a test can write what PyTorch never would ---


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def integer(value: int) -> bytes:
    data = value.to_bytes((value.bit_length() + 8) // 8, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def name(module: str, attribute: str) -> bytes:
    return b"c" + f"{module}\n{attribute}\n".encode()


def sequence(*items: bytes) -> bytes:
    return b"(" + b"".join(items) + b"t"


def mapping(**items: bytes) -> bytes:
    return b"}(" + b"".join(text(key) + value for key, value in items.items()) + b"u"


def storage(kind: str = "FloatStorage", key: str = "0", numel: int = 6) -> bytes:
    return sequence(text("storage"), name("torch", kind), text(key), text("cpu"), integer(numel)) + b"Q"


def tensor(where: bytes, offset: int, shape: tuple[int, ...], stride: tuple[int, ...]) -> bytes:
    fields = (
        *(where, integer(offset), sequence(*map(integer, shape)), sequence(*map(integer, stride))),
        *(b"\x89", name("collections", "OrderedDict") + b")R"),
    )
    return name("torch._utils", "_rebuild_tensor_v2") + sequence(*fields) + b"R"


def stream(value: bytes) -> bytes:
    return b"\x80\x02" + value + b"."


def old(value: bytes, storages: dict[str, bytes], *, itemsize: int = 4) -> bytes:
    """The container of five pickles and raw storages."""
    magic, version = stream(integer(0x1950A86A20F9469CFC6C)), stream(integer(1001))
    head = magic + version + stream(mapping(little_endian=b"\x88"))
    keys = stream(b"](" + b"".join(map(text, storages)) + b"e")
    blocks = (struct.pack("<q", len(data) // itemsize) + data for data in storages.values())
    return head + stream(value) + keys + b"".join(blocks)


def new(
    value: bytes, storages: dict[str, bytes], *, compression: int = zipfile.ZIP_STORED, **more: bytes
) -> bytes:
    """The zip container."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        archive.writestr("archive/data.pkl", stream(value))
        for key, data in storages.items():
            archive.writestr(f"archive/data/{key}", data)
        for path, data in more.items():
            archive.writestr(f"archive/{path}", data)
    return buffer.getvalue()


NUMBERS = {"0": np.arange(6, dtype="<f4").tobytes()}
# The 2x3 matrix [[0, 2, 4], [1, 3, 5]] is stored by columns; its last two numbers are a tensor too.
VALUE = mapping(a=tensor(storage(), 0, (2, 3), (1, 2)), b=tensor(storage(), 4, (2,), (1,)))


@pytest.mark.parametrize("container", [old, new])
def test_worked_file(container):
    tensors = read_torch_checkpoint(container(VALUE, NUMBERS))
    assert list(tensors) == ["a", "b"]
    np.testing.assert_array_equal(tensors["a"], np.array([[0, 2, 4], [1, 3, 5]], np.float32))
    np.testing.assert_array_equal(tensors["b"], np.array([4, 5], np.float32))
    assert tensors["a"].dtype == np.float32
    assert not tensors["a"].flags.writeable
    assert not tensors["a"].flags.owndata  # a view: reading cost no copy


@pytest.mark.parametrize("container", [old, new])
def test_scalar_and_empty_tensors(container):
    value = mapping(scalar=tensor(storage(), 5, (), ()), empty=tensor(storage(), 0, (3, 0), (0, 1)))
    tensors = read_torch_checkpoint(container(value, NUMBERS))
    assert tensors["scalar"].shape == ()
    assert tensors["scalar"] == 5
    assert tensors["empty"].shape == (3, 0)


def test_path_and_entry(tmp_path):
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(new(mapping(epoch=integer(3), state_dict=VALUE), NUMBERS))
    assert list(read_torch_checkpoint(path, entry="state_dict")) == ["a", "b"]
    with pytest.raises(
        TorchCheckpointError,
        match=r"checkpoint\.pt: the checkpoint must be a mapping of names to tensors, got int",
    ):
        read_torch_checkpoint(path, entry="epoch")
    with pytest.raises(TorchCheckpointError, match=r"'epoch' must be a tensor, got int; .* entry="):
        read_torch_checkpoint(path)
    with pytest.raises(
        TorchCheckpointError, match=r"entry must be a key .* got 'model'; it holds \['epoch', 'state"
    ):
        read_torch_checkpoint(path, entry="model")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            mapping(a=tensor(storage(), 1, (6,), (1,))),
            "'a' must lie inside its storage .* 6 elements up to index 6 of 6",
        ),
        (mapping(a=tensor(storage(), 0, (2, 3), (1, 3))), "inside its storage .* up to index 7 of 6"),
        (mapping(a=tensor(storage(), 0, (10**9,), (0,))), "without overlap, got 1000000000 elements"),
        (mapping(a=tensor(storage(), 0, (0, 2**62, 2**62), (1, 1, 1))), "shape that fits NumPy"),
        (mapping(a=tensor(storage(), -1, (1,), (1,))), "none negative"),
        (mapping(a=tensor(storage(), 0, (2,), (-1,))), "none negative"),
        (
            mapping(a=tensor(storage(), 0, (2,), (1, 1))),
            "as many strides as dimensions, at most 32, got 2 and 1",
        ),
        (mapping(a=tensor(storage(), 0, (1,) * 33, (1,) * 33)), "at most 32, got 33 and 33"),
        (mapping(a=tensor(integer(1), 0, (1,), (1,))), "none negative, got other fields"),
        (mapping(a=tensor(storage(numel=2**63), 0, (1,), (1,))), "a type, a key and a size"),
        (mapping(a=name("torch._utils", "_rebuild_tensor_v2") + b")R"), "6 or 7 fields, got 0"),
        (mapping(a=name("torch._utils", "_rebuild_parameter") + b")R"), "a parameter must hold a tensor"),
        (name("collections", "OrderedDict") + sequence(integer(1)) + b"R", "OrderedDict must start empty"),
        (mapping(a=integer(1) + b"Q"), "must be that of a whole storage"),
        (
            mapping(a=name("os", "system") + sequence(text("true")) + b"R"),
            "name must be one of .* 'os system'",
        ),
        (mapping(a=name("torch", "QInt8Storage")), "name must be one of .* 'torch QInt8Storage'"),
        (b"c" + b"x" * 400 + b"\n\n", "must hold a newline within 256 bytes for name at byte"),
        (b"\x93", "opcode must be one that PyTorch writes, got 0x93"),
        (integer(1) + b"R", "the stack must hold 2 values"),
        (integer(1) + b")R", "a call must be of a known function"),
        (b"t", "a mark must come before"),
        (b"h\x00", "memo index must have been stored before, got 0"),
        (b"}" + integer(1) + integer(2) + b"s", "pairs with text keys"),
        (b"}" + integer(1) + b"a", "values must be added to a list"),
        (b"]" + integer(1) + b"b", "attributes must be those of a mapping"),
        (b"}}", "the stream must leave one value, got 2"),
        (b"(}", "the stream must leave one value"),
        (b"\x80\x04}", "protocol must be 2, got 4"),
        (b"X\x01\x00\x00\x00\xff", "must hold UTF-8 for text before byte"),
    ],
)
def test_refuses_values_and_streams(value, message):
    for container in (old, new):
        with pytest.raises(TorchCheckpointError, match=message):
            read_torch_checkpoint(container(value, NUMBERS))


def test_refuses_containers():
    value = mapping(a=tensor(storage(), 0, (6,), (1,)))
    short = {"0": NUMBERS["0"][:-4]}
    cases = {
        "data must hold 1 more bytes for opcode at byte 0, got 0": b"",
        r"data must hold 24 more bytes for storage '0' at byte \d+, got 23": old(value, NUMBERS)[:-1],
        r"data\.pkl must hold 255 more bytes for text at byte 7, got 1": new(b"X\xff\0\0\0", NUMBERS),
        "first value must be PyTorch's magic number": stream(integer(7)),
        "version of the container must be 1001": old(value, NUMBERS).replace(integer(1001), integer(1002)),
        "must be little-endian": old(value, NUMBERS).replace(b"\x88", b"\x89", 1),
        "size that its tensors give, got 5 for 6": old(value, short),
        "every storage must be in the file": old(value, {}),
        "keys of storages must be those that tensors use": old(value, {"1": b""}),
        "keep its type and size": old(mapping(a=storage(), b=storage(numel=5)), NUMBERS),
        "storage '0' must hold 6 elements of FloatStorage, got 20 bytes": new(value, short),
        "must hold 6 elements of FloatStorage, got 0 bytes": new(value, {}),
        "must be uncompressed": new(value, NUMBERS, compression=zipfile.ZIP_DEFLATED),
        "must hold one data.pkl, got 2": new(value, NUMBERS, **{"b/data.pkl": b""}),
        "checkpoint must be little-endian, got another": new(value, NUMBERS, byteorder=b"big"),
        "must be a valid zip file": b"PK" + bytes(40),
    }
    for message, data in cases.items():
        with pytest.raises(TorchCheckpointError, match=message):
            read_torch_checkpoint(data)


def test_refuses_an_archive_whose_members_share_bytes():
    """Directory entries that all point at one block would multiply the file's size in memory."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", stream(b"}"))
        archive.writestr("archive/data/0", bytes(100_000))
        archive.filelist.extend(archive.filelist[-1:] * 50)
    with pytest.raises(TorchCheckpointError, match="members must fit the archive"):
        read_torch_checkpoint(buffer.getvalue())


def test_never_runs_what_a_pickle_asks_for(tmp_path):
    class Mischief:
        def __reduce__(self):
            return (open, (str(tmp_path / "made"), "w"))

    data = pickle.dumps({"a": Mischief()}, protocol=2)
    with pytest.raises(ValueError, match="name must be one of"):
        read_pickle(ByteReader(data))
    assert not (tmp_path / "made").exists()


def test_shared_references_do_not_unfold():
    """Thirty doublings of a tuple would print or copy as 2**30 items; the error names only their type."""
    value = integer(1) + b"\x85" + b"".join(b"q\x00h\x00\x86" for _ in range(30))
    with pytest.raises(TorchCheckpointError, match="must be a tensor, got tuple"):
        read_torch_checkpoint(new(mapping(a=value), NUMBERS))


@pytest.mark.parametrize(
    "value", [None, True, -5, 300, 70_000, 1.5, "naïve", (1, 2), (1, 2, 3, 4), [1, [2]], {"a": {}}]
)
def test_reads_what_pickle_writes(value):
    assert read_pickle(ByteReader(pickle.dumps(value, protocol=2))) == value


SEEDS = [VALUE, mapping(a=tensor(storage(), 0, (2, 3), (3, 1)))]


@st.composite
def damaged(draw) -> bytes:
    """A checkpoint with bytes changed in its value or anywhere, or cut."""
    value, container = draw(st.sampled_from(SEEDS)), draw(st.sampled_from([old, new]))

    def flip(data: bytes) -> bytes:
        data = bytearray(data)
        for _ in range(draw(st.integers(1, 4))):
            data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
        return bytes(data)

    where = draw(st.sampled_from(["value", "file", "cut"]))
    data = container(flip(value) if where == "value" else value, NUMBERS)
    if where == "file":
        return flip(data)
    return data[: draw(st.integers(0, len(data) - 1))] if where == "cut" else data


SNIPPETS = [
    *_OPCODES,
    integer(2),
    text("0"),
    storage(),
    tensor(storage(), 0, (2,), (1,)),
    b"q\x00",
    b"h\x00",
    b".",
]


def refused_or_small(data: bytes) -> None:
    """Either a TorchCheckpointError, or arrays inside the file; little memory in both cases."""
    refusal = "it must be whole"
    tracemalloc.start()
    try:
        tensors = read_torch_checkpoint(data)
        assert all(array.nbytes <= len(data) for array in tensors.values())
        for array in tensors.values():
            array.tobytes()  # touches every element: none lies outside; a sum would warn of inf - inf
    except TorchCheckpointError as error:
        refusal = str(error)
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 2**20
    assert " must " in refusal  # ours, and no stray error of a library


@settings(max_examples=150, deadline=None)
@given(damaged())
def test_damaged_files_are_refused_or_read(data):
    refused_or_small(data)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.one_of(st.sampled_from(SNIPPETS), st.binary(min_size=1, max_size=3)), max_size=20))
def test_random_opcodes_are_refused_or_read(parts):
    refused_or_small(new(b"".join(parts), NUMBERS))


@pytest.mark.parametrize("zipped", [True, False])
def test_reads_what_torch_writes(tmp_path, zipped):
    torch = pytest.importorskip("torch", reason="torch is absent: its own files cannot be written here")
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 2), torch.nn.BatchNorm2d(4))
    base = torch.arange(24.0).reshape(2, 3, 4)
    kinds = (torch.float64, torch.float16, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
    state = {
        **model.state_dict(),
        **{str(kind): torch.arange(-3, 5).to(kind) for kind in kinds},
        "last": model.to(memory_format=torch.channels_last)[0].weight.detach(),
        "turned": base.permute(2, 0, 1),
        "slice": base[1, :, 1:3],
        "parameter": torch.nn.Parameter(base[0]),
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 3),
    }
    path = tmp_path / "state.pt"
    special = {"half": base.to(torch.bfloat16), "flags": base > 5}
    torch.save({**state, **special}, path, _use_new_zipfile_serialization=zipped)
    tensors = read_torch_checkpoint(path)
    assert list(tensors) == [*state, *special]
    for key, value in state.items():
        expected = value.detach().numpy()
        assert tensors[key].dtype == expected.dtype
        np.testing.assert_array_equal(tensors[key], expected)
    assert tensors["half"].dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(tensors["half"].astype(np.float32), base.numpy())
    np.testing.assert_array_equal(tensors["flags"], (base > 5).numpy().astype(np.uint8))
    torch.save(
        model.state_dict(), path, _use_new_zipfile_serialization=zipped
    )  # an OrderedDict with _metadata
    assert list(read_torch_checkpoint(path)) == list(model.state_dict())
