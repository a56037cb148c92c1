"""Reads the tensors of a PyTorch checkpoint without PyTorch and without unpickling code.

Both containers are read: the zip archive of `torch.save` since version 1.6, and the older stream of five
pickles followed by raw storages. Every array is a read-only view of the bytes, so that no file, however
hostile, makes this allocate more than a small multiple of its own size.

Source: the layouts that PyTorch's `torch/serialization.py` writes.
"""

import io
import math
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from efficient.coding.pickle_subset import Cursor, PickleSubsetError, read_pickle

_MAGIC = 0x1950A86A20F9469CFC6C  # first value of the older stream
_MAX_DIMENSIONS = 32
_DTYPES = {
    "DoubleStorage": np.dtype("<f8"),
    "FloatStorage": np.dtype("<f4"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("u1"),  # left as bytes: a NumPy bool may only be 0 or 1, and these may not
}


class TorchCheckpointError(ValueError):
    """The bytes are not a checkpoint that this module reads."""


class _Storage(NamedTuple):
    """A named block of numbers, the data of one or more tensors."""

    kind: str  # a key of _DTYPES
    key: str  # its name in the container
    numel: int  # how many numbers


class _Tensor(NamedTuple):
    """A window on a storage; offset, shape and stride in numbers."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


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
            in little-endian order; tensors that overlap themselves (expanded views) are refused too.
        OSError: the path cannot be read.
    """
    data = source if isinstance(source, bytes) else Path(source).read_bytes()
    try:
        value, find = _read_zip(data) if data[:2] == b"PK" else _read_stream(data)
    except PickleSubsetError as error:
        raise TorchCheckpointError(str(error)) from error
    tensors = _state_dictionary(value, entry)
    buffers: dict[_Storage, memoryview] = {}
    for tensor in tensors.values():
        if tensor.storage not in buffers:
            buffers[tensor.storage] = find(tensor.storage)
    return {name: _array(tensor, buffers[tensor.storage]) for name, tensor in tensors.items()}


def _state_dictionary(value: Any, entry: str | None) -> dict[str, _Tensor]:
    """The mapping of names to tensors in the value that a file holds."""
    if entry is not None:
        if type(value) is not dict or entry not in value:
            keys = list(value)[:20] if type(value) is dict else type(value).__name__
            raise TorchCheckpointError(
                f"entry must be a key of the checkpoint, got {entry!r}; it holds {keys!r}."
            )
        value = value[entry]
    if type(value) is not dict:
        raise TorchCheckpointError(
            f"the checkpoint must be a mapping of names to tensors, got {type(value).__name__}; "
            "save the state dictionary."
        )
    for name, tensor in value.items():
        if type(tensor) is not _Tensor:
            raise TorchCheckpointError(
                f"{name[:200]!r} must be a tensor, got {type(tensor).__name__}; "
                "where the state dictionary is inside, name its key with entry=."
            )
    return value


def _array(tensor: _Tensor, buffer: memoryview) -> np.ndarray:
    """A tensor as a view of its storage, every element of which was checked to lie inside."""
    storage, offset, shape, stride = tensor
    dtype = _DTYPES[storage.kind]
    last = offset + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
    count = math.prod(shape)
    if count > storage.numel or (count and last >= storage.numel):
        raise TorchCheckpointError(
            f"a tensor must lie inside its storage without overlap, got {count} elements up to index "
            f"{min(last, 2**63)} of {storage.numel}; the file is damaged, or save a contiguous copy."
        )
    steps = [
        step * dtype.itemsize if size > 1 else dtype.itemsize
        for size, step in zip(shape, stride, strict=True)
    ]
    try:
        if count == 0:
            view = np.empty(shape, dtype)
        else:
            view = np.ndarray(shape, dtype, buffer, offset * dtype.itemsize, steps)
    except (ValueError, OverflowError, MemoryError) as error:
        raise TorchCheckpointError("a tensor must have a shape that fits NumPy, got a larger one.") from error
    view.flags.writeable = False
    return view


# What the pickled names that build tensors mean here; the stream chose their arguments, so all are checked.


def _rebuild_tensor(*arguments: Any) -> _Tensor:
    """torch._utils._rebuild_tensor_v2(storage, offset, shape, stride, requires_grad, hooks[, metadata])."""
    if len(arguments) not in (6, 7):
        raise TorchCheckpointError(
            f"a tensor must have 6 or 7 fields, got {len(arguments)}; the file is damaged."
        )
    storage, offset, shape, stride = arguments[:4]
    sizes_are_counts = (
        type(shape) is tuple and type(stride) is tuple and all(map(_is_count, (*shape, *stride)))
    )
    if type(storage) is not _Storage or not _is_count(offset) or not sizes_are_counts:
        raise TorchCheckpointError(
            "a tensor must have a storage, an offset, a shape and strides, none negative, got other fields; "
            "the file is damaged."
        )
    if len(shape) != len(stride) or len(shape) > _MAX_DIMENSIONS:
        raise TorchCheckpointError(
            f"a tensor must have as many strides as dimensions, at most {_MAX_DIMENSIONS}, "
            f"got {len(stride)} and {len(shape)}; the file is damaged."
        )
    return _Tensor(storage, offset, shape, stride)


def _rebuild_parameter(*arguments: Any) -> _Tensor:
    """torch._utils._rebuild_parameter(tensor, requires_grad, hooks)."""
    if len(arguments) != 3 or type(arguments[0]) is not _Tensor:
        raise TorchCheckpointError("a parameter must hold a tensor, got something else; the file is damaged.")
    return arguments[0]


def _ordered_dict(*arguments: Any) -> dict[str, Any]:
    """collections.OrderedDict(), which streams then fill item by item."""
    if arguments:
        raise TorchCheckpointError("an OrderedDict must start empty, got arguments; save it with torch.save.")
    return {}


def _storage(persistent_id: Any) -> _Storage:
    """("storage", type, key, location, numel[, None]), the persistent ids that PyTorch writes."""
    fields = persistent_id if type(persistent_id) is tuple else ()
    if len(fields) not in (5, 6) or fields[0] != "storage" or fields[5:] not in ((), (None,)):
        raise TorchCheckpointError(
            "a persistent id must be that of a whole storage, got another; save it again."
        )
    _, kind, key, _, numel = fields[:5]
    if type(kind) is not _Kind or type(key) is not str or not _is_count(numel):
        raise TorchCheckpointError(
            "a storage must have a type, a key and a size, got others; the file is damaged."
        )
    return _Storage(kind.name, key, numel)


class _Kind(NamedTuple):
    """What a name such as "torch FloatStorage" stands for."""

    name: str


_NAMES: Mapping[str, Any] = {
    "collections OrderedDict": _ordered_dict,
    "torch._utils _rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils _rebuild_parameter": _rebuild_parameter,
    **{f"torch {kind}": _Kind(kind) for kind in _DTYPES},
}


def _is_count(value: Any) -> bool:
    """Whether the value is an integer in [0, 2**63)."""
    return type(value) is int and 0 <= value < 2**63


_Find = Callable[[_Storage], memoryview]


def _read_stream(data: bytes) -> tuple[Any, _Find]:
    """The value of the older container, and where each storage lies.

    Magic, protocol, a mapping about the writing machine, the value, the list of storage keys; then for each
    key the number of elements (int64) and the elements.
    """
    cursor = Cursor(data)
    if read_pickle(cursor) != _MAGIC:
        raise TorchCheckpointError("the first value must be PyTorch's magic number; this is another format.")
    if read_pickle(cursor) != 1001:
        raise TorchCheckpointError("the version of the container must be 1001; this is another format.")
    system = read_pickle(cursor)
    if type(system) is not dict or system.get("little_endian") is not True:
        raise TorchCheckpointError("the checkpoint must be little-endian, got another order; save it again.")
    kinds: dict[str, _Storage] = {}

    def remember(persistent_id: Any) -> _Storage:
        storage = _storage(persistent_id)
        if kinds.setdefault(storage.key, storage) != storage:
            raise TorchCheckpointError("a storage must keep its type and size, got two; the file is damaged.")
        return storage

    value = read_pickle(cursor, names=_NAMES, persistent=remember)
    keys = read_pickle(cursor)
    if type(keys) is not list or any(type(key) is not str or key not in kinds for key in keys):
        raise TorchCheckpointError("the keys of storages must be those that tensors use, got others.")
    buffers = {}
    for key in keys:
        storage, numel = kinds[key], cursor.number("<q")
        if numel != storage.numel:
            raise TorchCheckpointError(
                f"a storage must have the size that its tensors give, got {numel} for {storage.numel}; "
                "the file is damaged."
            )
        buffers[key] = cursor.take(numel * _DTYPES[storage.kind].itemsize)
    if set(buffers) != set(kinds):
        raise TorchCheckpointError("every storage must be in the file, got fewer; fetch the file again.")
    return value, lambda storage: buffers[storage.key]


def _read_zip(data: bytes) -> tuple[Any, _Find]:
    """The value of the zip container, and how to take each storage out of it."""
    members = _stored_members(data)
    pickles = [name for name in members if name.rpartition("/")[2] == "data.pkl"]
    if len(pickles) != 1:
        raise TorchCheckpointError(
            f"the archive must hold one data.pkl, got {len(pickles)}; is it a checkpoint?"
        )
    folder = pickles[0][: -len("data.pkl")]
    if bytes(members.get(f"{folder}byteorder", b"little")) != b"little":
        raise TorchCheckpointError("the checkpoint must be little-endian, got another order; save it again.")

    def find(storage: _Storage) -> memoryview:
        block = members.get(f"{folder}data/{storage.key}", memoryview(b""))
        if len(block) != storage.numel * _DTYPES[storage.kind].itemsize:
            raise TorchCheckpointError(
                f"a storage must hold {storage.numel} elements of {storage.kind}, got {len(block)} bytes; "
                "fetch the file again."
            )
        return block

    return read_pickle(Cursor(members[pickles[0]]), names=_NAMES, persistent=_storage), find


def _stored_members(data: bytes) -> dict[str, memoryview]:
    """The members of an archive whose members are all uncompressed and together no larger than it."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            infos = archive.infolist()
            if any(info.compress_type != zipfile.ZIP_STORED for info in infos):
                raise TorchCheckpointError("the archive must be uncompressed, as torch.save writes it.")
            if sum(info.file_size for info in infos) > len(data):
                raise TorchCheckpointError(
                    "the members must fit the archive, got larger ones; fetch it again."
                )
            return {info.filename: memoryview(archive.read(info)) for info in infos}
    except TorchCheckpointError:
        raise
    except Exception as error:  # zipfile raises a dozen types on damaged archives
        raise TorchCheckpointError(
            f"the archive must be a valid zip file ({error}); fetch it again."
        ) from error
