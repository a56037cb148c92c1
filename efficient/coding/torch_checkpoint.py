"""Reads the tensors of a PyTorch checkpoint without PyTorch and without unpickling code.

Both containers are read: the zip archive of `torch.save` since version 1.6, and the older stream of five
pickles followed by raw storages. Every array is a read-only view of the bytes, so that no file, however
hostile, makes this allocate more than a small multiple of its own size.

Source: the layouts that PyTorch's `torch/serialization.py` writes.
"""

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from efficient.coding.byte_reader import ByteReader
from efficient.coding.pickle_subset import read_pickle
from efficient.coding.torch_tensor import NAMES, Storage, Tensor, storage_of

_MAGIC = 0x1950A86A20F9469CFC6C  # first value of the older stream
_PROTOCOL = 1001  # second value

_Find = Callable[[Storage], memoryview]


class TorchCheckpointError(ValueError):
    """The bytes are not a checkpoint that this module reads."""


def read_torch_checkpoint(source: str | Path | bytes, *, entry: str | None = None) -> dict[str, np.ndarray]:
    """The tensors of a state dictionary, by name, as read-only views of the file's bytes.

    Args:
        source: a path, or the bytes themselves.
        entry: the key under which a training checkpoint keeps the state dictionary, such as "state_dict";
            None when the file is the state dictionary.

    Returns:
        Arrays in the file's order, strides as stored; bfloat16 as `ml_dtypes.bfloat16`, bool as uint8.

    Raises:
        TorchCheckpointError: the file is cut, damaged, of another format, or holds anything but named tensors
            in little-endian order; tensors that overlap themselves (expanded views) are refused too. The
            message begins with the path.
        OSError: the path cannot be read.
    """
    data = source if isinstance(source, bytes) else Path(source).read_bytes()
    try:
        value, find = _read_zip(data) if data[:2] == b"PK" else _read_stream(data)
        tensors = _state_dictionary(value, entry)
        buffers = {tensor.storage: find(tensor.storage) for tensor in tensors.values()}
        return {name: tensor.array(buffers[tensor.storage], name=name) for name, tensor in tensors.items()}
    except ValueError as error:
        where = "" if isinstance(source, bytes) else f"{source}: "
        raise TorchCheckpointError(f"{where}{error}") from error


def _state_dictionary(value: Any, entry: str | None) -> dict[str, Tensor]:
    """The mapping of names to tensors in the value that a file holds."""
    if entry is not None:
        if type(value) is not dict or entry not in value:
            keys = list(value)[:20] if type(value) is dict else type(value).__name__
            raise ValueError(f"entry must be a key of the checkpoint, got {entry!r}; it holds {keys!r}.")
        value = value[entry]
    if type(value) is not dict:
        raise ValueError(
            f"the checkpoint must be a mapping of names to tensors, got {type(value).__name__}; "
            "save the state dictionary."
        )
    for name, tensor in value.items():
        if type(tensor) is not Tensor:
            raise ValueError(
                f"{name[:200]!r} must be a tensor, got {type(tensor).__name__}; "
                "where the state dictionary is inside, name its key with entry=."
            )
    return value


def _read_stream(data: bytes) -> tuple[Any, _Find]:
    """The value of the older container, and where each storage lies.

    A head of three pickles, the value, the list of storage keys; then for each key the number of elements
    (int64) and the elements.
    """
    reader = ByteReader(data)
    _check_stream_head(reader)
    storages: dict[str, Storage] = {}

    def remember(persistent_id: Any) -> Storage:
        storage = storage_of(persistent_id)
        if storages.setdefault(storage.key, storage) != storage:
            raise ValueError("a storage must keep its type and size, got two; the file is damaged.")
        return storage

    value = read_pickle(reader, names=NAMES, persistent=remember)
    keys = read_pickle(reader)
    if type(keys) is not list or any(type(key) is not str or key not in storages for key in keys):
        raise ValueError("the keys of storages must be those that tensors use, got others; save it again.")
    buffers = {}
    for key in keys:
        storage, numel = storages[key], reader.number("<q", f"size of storage {key[:200]!r}")
        if numel != storage.numel:
            raise ValueError(
                f"a storage must have the size that its tensors give, got {numel} for {storage.numel}; "
                "the file is damaged."
            )
        buffers[key] = reader.view(storage.size_bytes, f"storage {key[:200]!r}")
    if set(buffers) != set(storages):
        raise ValueError("every storage must be in the file, got fewer; fetch the file again.")
    return value, lambda storage: buffers[storage.key]


def _check_stream_head(reader: ByteReader) -> None:
    """Reads the magic number, the protocol and the mapping about the machine that wrote."""
    if read_pickle(reader) != _MAGIC:
        raise ValueError(
            "the first value must be PyTorch's magic number, got another; this is another format."
        )
    if read_pickle(reader) != _PROTOCOL:
        raise ValueError(
            f"the version of the container must be {_PROTOCOL}, got another; this is another format."
        )
    system = read_pickle(reader)
    if type(system) is not dict or system.get("little_endian") is not True:
        raise ValueError("the checkpoint must be little-endian, got another order; save it again.")


def _read_zip(data: bytes) -> tuple[Any, _Find]:
    """The value of the zip container, and how to take each storage out of it."""
    members = _stored_members(data)
    pickles = [name for name in members if name.rpartition("/")[2] == "data.pkl"]
    if len(pickles) != 1:
        raise ValueError(f"the archive must hold one data.pkl, got {len(pickles)}; is it a checkpoint?")
    folder = pickles[0][: -len("data.pkl")]
    if bytes(members.get(f"{folder}byteorder", b"little")) != b"little":
        raise ValueError("the checkpoint must be little-endian, got another order; save it again.")

    def find(storage: Storage) -> memoryview:
        block = members.get(f"{folder}data/{storage.key}", memoryview(b""))
        if len(block) != storage.size_bytes:
            raise ValueError(
                f"storage {storage.key[:200]!r} must hold {storage.numel} elements of {storage.kind}, "
                f"got {len(block)} bytes; fetch the file again."
            )
        return block

    reader = ByteReader(members[pickles[0]], name="data.pkl")
    return read_pickle(reader, names=NAMES, persistent=storage_of), find


def _stored_members(data: bytes) -> dict[str, memoryview]:
    """The members of an archive whose members are all uncompressed and together no larger than it."""
    members: dict[str, memoryview] = {}
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            infos = archive.infolist()
            is_stored = all(info.compress_type == zipfile.ZIP_STORED for info in infos)
            fits = sum(info.file_size for info in infos) <= len(data)
            if is_stored and fits:
                members = {info.filename: memoryview(archive.read(info)) for info in infos}
    except Exception as error:  # zipfile raises a dozen types on damaged archives
        raise ValueError(f"the archive must be a valid zip file ({error}); fetch it again.") from error
    if not is_stored:
        raise ValueError("the archive must be uncompressed, got compressed members; save it with torch.save.")
    if not fits:
        raise ValueError("the members must fit the archive, got larger ones; fetch it again.")
    return members
