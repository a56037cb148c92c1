"""The tensors of a PyTorch checkpoint: what the names in its pickle build, and the arrays that they are.

The stream chose every argument that a function here gets, so all are checked, and no code of it runs.

Source: what PyTorch's `torch/_utils.py` rebuilds, and the persistent ids of its `torch/serialization.py`.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

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


class Storage(NamedTuple):
    """A named block of numbers, the data of one or more tensors."""

    kind: str  # a key of _DTYPES
    key: str  # its name in the container
    numel: int  # how many numbers

    @property
    def dtype(self) -> np.dtype:
        """Of its numbers."""
        return _DTYPES[self.kind]

    @property
    def size_bytes(self) -> int:
        """Of all its numbers."""
        return self.numel * self.dtype.itemsize


class Tensor(NamedTuple):
    """A window on a storage; offset, shape and stride in numbers."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def array(self, buffer: memoryview, *, name: str) -> np.ndarray:
        """A read-only view of the storage's bytes, every element of which was checked to lie inside.

        Raises:
            ValueError: elements outside of the storage, or more of them than it has; the message has `name`.
        """
        dtype = self.storage.dtype
        last = self.offset + sum((n - 1) * step for n, step in zip(self.shape, self.stride, strict=True))
        count = math.prod(self.shape)
        if count > self.storage.numel or (count and last >= self.storage.numel):
            raise ValueError(
                f"{name[:200]!r} must lie inside its storage without overlap, got {count} elements up to "
                f"index {min(last, 2**63)} of {self.storage.numel}; the file is damaged, or save a "
                "contiguous copy."
            )
        steps = [
            step * dtype.itemsize if n > 1 else dtype.itemsize
            for n, step in zip(self.shape, self.stride, strict=True)
        ]
        try:
            if count == 0:
                view = np.empty(self.shape, dtype)
            else:
                view = np.ndarray(self.shape, dtype, buffer, self.offset * dtype.itemsize, steps)
        except (ValueError, OverflowError, MemoryError) as error:
            raise ValueError(
                f"{name[:200]!r} must have a shape that fits NumPy, got a larger one; the file is damaged."
            ) from error
        view.flags.writeable = False
        return view


def storage_of(persistent_id: Any) -> Storage:
    """("storage", type, key, location, numel[, None]), the persistent ids that PyTorch writes."""
    fields = persistent_id if type(persistent_id) is tuple else ()
    if len(fields) not in (5, 6) or fields[0] != "storage" or fields[5:] not in ((), (None,)):
        raise ValueError("a persistent id must be that of a whole storage, got another; save it again.")
    _, kind, key, _, numel = fields[:5]
    if type(kind) is not _Kind or type(key) is not str or not _is_count(numel):
        raise ValueError("a storage must have a type, a key and a size, got others; the file is damaged.")
    return Storage(kind.name, key, numel)


def _rebuild_tensor(*arguments: Any) -> Tensor:
    """torch._utils._rebuild_tensor_v2(storage, offset, shape, stride, requires_grad, hooks[, metadata])."""
    if len(arguments) not in (6, 7):
        raise ValueError(f"a tensor must have 6 or 7 fields, got {len(arguments)}; the file is damaged.")
    storage, offset, shape, stride = arguments[:4]
    sizes_are_counts = (
        type(shape) is tuple and type(stride) is tuple and all(map(_is_count, (*shape, *stride)))
    )
    if type(storage) is not Storage or not _is_count(offset) or not sizes_are_counts:
        raise ValueError(
            "a tensor must have a storage, an offset, a shape and strides, none negative, got other fields; "
            "the file is damaged."
        )
    if len(shape) != len(stride) or len(shape) > _MAX_DIMENSIONS:
        raise ValueError(
            f"a tensor must have as many strides as dimensions, at most {_MAX_DIMENSIONS}, "
            f"got {len(stride)} and {len(shape)}; the file is damaged."
        )
    return Tensor(storage, offset, shape, stride)


def _rebuild_parameter(*arguments: Any) -> Tensor:
    """torch._utils._rebuild_parameter(tensor, requires_grad, hooks)."""
    if len(arguments) != 3 or type(arguments[0]) is not Tensor:
        raise ValueError("a parameter must hold a tensor, got something else; the file is damaged.")
    return arguments[0]


def _ordered_dict(*arguments: Any) -> dict[str, Any]:
    """collections.OrderedDict(), which streams then fill item by item."""
    if arguments:
        raise ValueError("an OrderedDict must start empty, got arguments; save it with torch.save.")
    return {}


class _Kind(NamedTuple):
    """What a name such as "torch FloatStorage" stands for."""

    name: str


NAMES: Mapping[str, Any] = {
    "collections OrderedDict": _ordered_dict,
    "torch._utils _rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils _rebuild_parameter": _rebuild_parameter,
    **{f"torch {kind}": _Kind(kind) for kind in _DTYPES},
}


def _is_count(value: Any) -> bool:
    """Whether the value is an integer in [0, 2**63)."""
    return type(value) is int and 0 <= value < 2**63
