"""The two errors of data: the source is not on this machine, or its bytes are not what they must be."""

from collections.abc import Sequence


class DataFormatError(ValueError):
    """The bytes of a file are not what its format or its name promises; the message names the file."""


class MissingDataError(FileNotFoundError):
    """The source is not on this machine; the message lists every way to get it.

    It is a `FileNotFoundError` also where the source is a file inside a Python package.
    """

    def __init__(self, what: str, ways: Sequence[str]):
        lines = "".join(f"\n  {number}. {way}" for number, way in enumerate(ways, start=1))
        super().__init__(f"{what}. Nothing is downloaded here; get it in one of these ways:{lines}")
