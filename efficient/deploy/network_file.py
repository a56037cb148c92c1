"""Network file: a packed network as one file of Deep Compression's format, and back, bit for bit.

Source: Han, Mao and Dally, 2016, arXiv:1510.00149, sections 2 to 4; the bytes are `efficient.coding`'s.
"""

import os
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from efficient import coding
from efficient.coding.tensors import FLOATS, INTEGERS
from efficient.core.leaf import is_leaf
from efficient.core.paths import flatten, unflatten
from efficient.quantize import CodebookLeaf


def write_network(
    path: str | os.PathLike[str], packed: Any, *, index_bits: int | Literal["best"] = "best"
) -> coding.Report:
    """Writes packed params to a file, atomically: codebook leaves as shared weights, arrays as they are.

    The zeros of a leaf whose first shared value is 0 are not stored: the others' places are coded relative to
    each other (section 2); indices and gaps are Huffman-coded where that is smaller (section 4).

    Args:
      path: of the file.
      packed: params of NumPy or JAX arrays (bfloat16, float16 to float64, integers of 8 to 64 bits; also
        empty ones) and `CodebookLeaf`s of such floats, as `codebook(...).pack` returns them.
      index_bits: width of a gap before Huffman coding, 1 to 16, or "best".

    Returns:
      The report: bytes of every tensor before and after Huffman coding; its `file_bytes` is the file's size.

    Raises:
      ValueError: a leaf of another class or one that is stacked, or a value of another dtype (bool, 8-bit
        float, key); the message has its path.
    """
    tensors = {name: _tensor(name, value) for name, value in flatten(packed)[0].items()}
    return coding.write(path, tensors, index_bits=index_bits)


def read_network(path: str | os.PathLike[str], *, like: Any = None) -> Any:
    """Reads params that `write_network` wrote: codebook leaves and arrays, bit for bit.

    An array of a dtype that JAX is not set to hold (int64 by default) comes as NumPy's.

    Args:
      path: of the file.
      like: a tree of the same paths (packed, dense or of shapes), in whose structure they are returned; None
        returns a dict by path.

    Raises:
      CorruptFileError: the file is not what was written.
      ValueError: `like` has other paths or shapes.
    """
    values = {name: _value(tensor) for name, tensor in coding.read(path).items()}
    if like is None:
        return values
    by_path, treedef = flatten(like)
    for name in sorted(by_path.keys() | values.keys()):
        want = tuple(by_path[name].shape) if name in by_path else "nothing"
        got = tuple(values[name].shape) if name in values else "nothing"
        if want != got:
            raise ValueError(f"file must hold {want} at {name!r}, got {got}; read it without like= to look.")
    return unflatten(treedef, {name: values[name] for name in by_path})


def _tensor(name: str, value: Any) -> coding.Shared | coding.Dense:
    """One value as the coder takes it."""
    if not is_leaf(value):
        array = value if hasattr(value, "dtype") else np.asarray(value)
        _check_dtype(name, array.dtype.name, FLOATS + INTEGERS)
        return coding.Dense(np.asarray(array))
    if not isinstance(value, CodebookLeaf) or value.codebook.ndim != 1:
        raise ValueError(
            f"value {name!r} must be an array or an unstacked CodebookLeaf, got {type(value).__name__} of "
            f"shape {value.shape}; pack it with codebook(...), or make it dense."
        )
    _check_dtype(name, jnp.dtype(value.dtype).name, FLOATS)
    entries = np.asarray(value.codebook).astype(jnp.dtype(value.dtype))
    indices = np.asarray(value.indices).astype(np.int32)
    if entries.size == 0 or entries[0] != 0 or np.signbit(entries[0]):
        return coding.Shared(entries, indices)
    return coding.Shared(entries[1:], np.asarray(np.maximum(indices - 1, 0)), np.asarray(indices != 0))


def _check_dtype(name: str, dtype: str, allowed: tuple[str, ...]) -> None:
    """Refuses a value of a dtype that the format has no code for."""
    if dtype not in allowed:
        raise ValueError(
            f"value {name!r} must be of {', '.join(allowed)}, got {dtype}; cast it with .astype(...), or "
            "leave it out of what you write."
        )


def _value(tensor: coding.Shared | coding.Dense) -> Any:
    """What `_tensor` was given, up to the order of shared values that nobody uses."""
    if isinstance(tensor, coding.Dense):
        fits = jax.dtypes.canonicalize_dtype(tensor.values.dtype) == tensor.values.dtype
        return jnp.asarray(tensor.values) if fits else tensor.values
    entries, indices = tensor.codebook, tensor.indices
    if tensor.mask is not None:
        entries = np.concatenate([np.zeros(1, entries.dtype), entries])
        indices = np.where(tensor.mask, indices + 1, 0)
    if entries.size > 256:
        raise ValueError(f"codebook must have at most 256 values, got {entries.size}; this file is not ours.")
    return CodebookLeaf(
        codebook=jnp.asarray(entries),
        indices=jnp.asarray(indices.astype(np.uint8)),
        out_dtype=jnp.dtype(entries.dtype),
    )
