"""Gzip, expanded to a bound that the caller states: a small file never becomes a large array unasked."""

import gzip
import io
import zlib

from efficient.data.errors import DataFormatError

MAGIC = b"\x1f\x8b"
_CHUNK_BYTES = 1 << 20


def is_gzip(data: bytes) -> bool:
    """True when `data` starts with the two bytes of RFC 1952, section 2.3.1."""
    return data[:2] == MAGIC


def expand(data: bytes, *, limit: int) -> bytes:
    """Expands gzip `data` (any number of members), reading at most `limit` + 1 bytes of what is inside.

    Args:
      data: the compressed bytes.
      limit: the most bytes that the caller accepts, >= 0.

    Returns:
      At most `limit` + 1 bytes. `limit` + 1 of them say that there is more than the limit; with `limit` or
      fewer the stream has ended, and its checksum was right.

    Raises:
      DataFormatError: the stream is cut short, damaged, or followed by bytes that are not gzip.

    Source: RFC 1952 (container), RFC 1951 (deflate), through Python's `gzip`.
    """
    chunks: list[bytes] = []
    left = limit + 1
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as stream:
            while chunk := stream.read(min(left, _CHUNK_BYTES)):  # reading 0 bytes ends it
                chunks.append(chunk)
                left -= len(chunk)
    except (OSError, EOFError, zlib.error) as error:
        raise DataFormatError(
            f"gzip data must be a whole, undamaged stream, got {error!s}; copy the file again."
        ) from error
    return b"".join(chunks)
