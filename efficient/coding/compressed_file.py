"""The file of a compressed network: pruned, quantized and Huffman-coded tensors, one file a network.

Bytes: magic `EFNT`, version (a byte), the number of tensors (varint); for each its name and its record
(`tensor_record`); a CRC-32 of everything before it (4 bytes, little-endian). A name is two varints, bytes
shared with the name before and bytes that follow, and those in UTF-8.

Why CRC-32: for 4 bytes it finds every burst of up to 32 wrong bits, hence every flipped bit or byte, and
misses other damage once in 2**32. SHA-256 takes 32 bytes and stops no forger either, who can compute it as
well. A forged file is what the bounds are for: every size is checked before anything is allocated.

Source: Han, Mao, Dally, 2016, arXiv:1510.00149.
"""

import os
import secrets
import zlib
from collections.abc import Iterator, Mapping
from io import BufferedIOBase
from itertools import takewhile
from pathlib import Path

import numpy as np

from efficient.coding.byte_reader import ByteReader, varint
from efficient.coding.report import Report, TensorReport
from efficient.coding.symbol_stream import fixed_width
from efficient.coding.tensor_record import (
    IndexBits,
    TensorRecord,
    check_index_bits,
    pack_tensor,
    unpack_tensor,
)
from efficient.coding.tensors import Dense, Shared

MAGIC = b"EFNT"
VERSION = 1
_CRC_BYTES = 4
_OBJECT_BYTES = 1024  # About what Python holds of a tensor beside its values; a file can declare many of 0.


class CorruptFileError(ValueError):
    """The file is damaged, truncated, forged, over the limit, or no compressed network at all."""


def write(
    path_or_file: str | os.PathLike[str] | BufferedIOBase,
    tensors: Mapping[str, Shared | Dense],
    *,
    index_bits: IndexBits = "best",
    huffman_coded: bool = True,
) -> Report:
    """Writes a network. A path is replaced at once or not at all.

    Args:
        path_or_file: where to write, or an open binary file.
        tensors: the tensors by path name, in the order they are to be read.
        index_bits: bits of the code of a gap between kept weights, in 1 to 16 (a step longer than
            2**bits - 1 places takes fillers), or "best": for each tensor what makes it smallest.
        huffman_coded: True: each stream has Huffman codes if that is smaller, table included. False: all
            have fixed-width codes (the paper's P+Q).

    Returns:
        Sizes and bits of every tensor, for both codings; `report.file_bytes` is the size of the file.

    Raises:
        ValueError: a gap width out of range, a tensor of neither kind, an empty one whose other sizes
            multiply to 2**60 or more, or a name that UTF-8 cannot hold.
    """
    check_index_bits(index_bits)
    parts, rows = [MAGIC, bytes([VERSION]), varint(len(tensors))], []
    overhead = sum(map(len, parts)) + _CRC_BYTES
    for (name, tensor), head in zip(tensors.items(), _pack_names(tensors), strict=True):
        if not isinstance(tensor, Shared | Dense):
            raise ValueError(f"{name} must be Shared or Dense, got {type(tensor).__name__}; wrap the array.")
        fixed, coded = _pack_both(name, tensor, index_bits=index_bits)
        rows.append(_row(name, tensor, fixed=fixed, coded=coded, head_bytes=len(head)))
        parts += [head, coded.data if huffman_coded else fixed.data]
    body = b"".join(parts)
    data = body + zlib.crc32(body).to_bytes(_CRC_BYTES, "little")
    if isinstance(path_or_file, str | os.PathLike):
        _replace(Path(path_or_file), data)
    else:
        path_or_file.write(data)
    return Report(rows=tuple(rows), overhead_bytes=overhead, file_bytes=len(data))


def read(
    path_or_file: str | os.PathLike[str] | BufferedIOBase, *, max_bytes: int = 1 << 31
) -> dict[str, Shared | Dense]:
    """Reads a network that `write` wrote; every array is bit-identical, NaN payloads and -0.0 included.

    Of a `Shared` tensor the indices come as int32, 0 where the mask is False, and a mask that is True
    everywhere comes as None.

    Args:
        path_or_file: where to read, or an open binary file (read to its end).
        max_bytes: most bytes that the file, and that the tensors made from it, may take (1 KiB each beside
            names and values). Few bytes can declare many pruned weights, so this bounds memory; the peak is
            a few times as much.

    Raises:
        CorruptFileError: a damaged, truncated or forged file, another format, or one over `max_bytes`.
        OSError: a file that cannot be read.
    """
    if isinstance(path_or_file, str | os.PathLike):
        with open(path_or_file, "rb") as file:
            data, source = file.read(max_bytes + 1), os.fspath(path_or_file)
    else:
        data, source = path_or_file.read(max_bytes + 1), "file"
    try:
        return _parse(_checked_body(data, max_bytes), max_bytes)
    except ValueError as error:
        raise CorruptFileError(f"{source}: {error}") from error


def _checked_body(data: bytes, max_bytes: int) -> bytes:
    """What stands before the checksum; ValueError where that or the magic is wrong."""
    if len(data) > max_bytes:
        raise ValueError(
            f"file must be at most {max_bytes} bytes, got more; raise max_bytes if you trust it."
        )
    if data[: len(MAGIC)] != MAGIC:
        raise ValueError(
            f"file must begin with {MAGIC!r}, got {data[: len(MAGIC)]!r}; it is no compressed network."
        )
    body, checksum = data[:-_CRC_BYTES], data[-_CRC_BYTES:]
    if zlib.crc32(body).to_bytes(_CRC_BYTES, "little") != checksum:
        raise ValueError(
            f"file must have the checksum of its bytes, got {checksum.hex()}; damaged or truncated."
        )
    return body


def _parse(body: bytes, max_bytes: int) -> dict[str, Shared | Dense]:
    """The tensors of a body; ValueError for any other bytes."""
    reader = ByteReader(body, position=len(MAGIC))
    version = reader.byte("version")
    if version != VERSION:
        raise ValueError(f"version must be {VERSION}, got {version}; read it with the release that wrote it.")
    tensors: dict[str, Shared | Dense] = {}
    room, previous = max_bytes, b""
    for _ in range(reader.varint("number of tensors")):
        previous = _unpack_name(reader, previous)
        name = ByteReader(previous, name="a name").text(len(previous))
        if name in tensors:
            raise ValueError(f"names must be distinct, got {name[:200]!r} twice; the data is corrupt.")
        room -= _OBJECT_BYTES + len(previous)
        if room < 0:
            raise ValueError(f"tensors must take at most {max_bytes} bytes, got more; raise it if trusted.")
        try:
            tensors[name] = unpack_tensor(reader, max_bytes=room)
        except ValueError as error:
            raise ValueError(f"{name[:200]!r}: {error}") from error
        room -= _nbytes(tensors[name])
    if reader.left:
        raise ValueError(
            f"file must end after its tensors, got {reader.left} more bytes; the data is corrupt."
        )
    return tensors


def _pack_both(
    name: str, tensor: Shared | Dense, *, index_bits: IndexBits
) -> tuple[TensorRecord, TensorRecord]:
    """The records of a tensor with fixed-width codes, and with Huffman codes where they are smaller."""
    try:
        return (
            pack_tensor(tensor, index_bits=index_bits, huffman_coded=False),
            pack_tensor(tensor, index_bits=index_bits, huffman_coded=True),
        )
    except ValueError as error:
        raise ValueError(f"{name!r}: {error}") from error


def _pack_names(names: Mapping[str, object]) -> Iterator[bytes]:
    """Each name without the beginning that it shares with the one before."""
    previous = b""
    for name in names:
        encoded = name.encode()
        same = (a == b for a, b in zip(previous, encoded, strict=False))
        shared = sum(1 for _ in takewhile(bool, same))
        yield varint(shared) + varint(len(encoded) - shared) + encoded[shared:]
        previous = encoded


def _unpack_name(reader: ByteReader, previous: bytes) -> bytes:
    """The next name, given the one before."""
    shared, more = reader.varint("shared bytes of a name"), reader.varint("other bytes of a name")
    if shared > len(previous):
        raise ValueError(f"name must share at most {len(previous)} bytes, got {shared}; the data is corrupt.")
    return previous[:shared] + reader.take(more, "name")


def _nbytes(tensor: Shared | Dense) -> int:
    """Bytes of the arrays of a tensor."""
    if isinstance(tensor, Dense):
        return tensor.values.nbytes
    return tensor.codebook.nbytes + tensor.indices.nbytes + (0 if tensor.mask is None else tensor.mask.nbytes)


def _row(
    name: str, tensor: Shared | Dense, *, fixed: TensorRecord, coded: TensorRecord, head_bytes: int
) -> TensorReport:
    """What one tensor costs under either coding."""
    sizes = {"fixed_bytes": head_bytes + len(fixed.data), "huffman_bytes": head_bytes + len(coded.data)}
    if isinstance(tensor, Dense):
        bits, count = 8 * tensor.values.itemsize, tensor.values.size
        return TensorReport(
            name=name, is_shared=False, weights=count, kept=count, codebook=0, weight_bits=bits, index_bits=0,
            fillers=0, weight_entropy=np.nan, index_entropy=0.0, weight_bits_huffman=float(bits),
            index_bits_huffman=0.0, **sizes,
        )  # fmt: skip
    kept, weights, gaps = tensor.kept_indices().size, coded.weights, coded.gaps
    assert weights is not None  # A shared tensor always has this stream.
    return TensorReport(
        name=name,
        is_shared=True,
        weights=tensor.indices.size,
        kept=kept,
        codebook=tensor.codebook.size,
        weight_bits=fixed_width(tensor.codebook.size),
        index_bits=fixed.index_bits,
        fillers=fixed.fillers,
        weight_entropy=weights.entropy_bits / max(kept, 1),
        index_entropy=gaps.entropy_bits / max(kept, 1) if gaps else 0.0,
        weight_bits_huffman=weights.code_bits / max(kept, 1),
        index_bits_huffman=gaps.code_bits / max(kept, 1) if gaps else 0.0,
        **sizes,
    )


def _replace(path: Path, data: bytes) -> None:
    """Puts a file of `data` in the place of `path`, or leaves that as it was."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
