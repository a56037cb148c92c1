"""Sealed folder: a folder whose manifest holds the size and the SHA-256 of every file in it.

    folder/manifest.json      {"files": {"arrays/d/2f1c...": [size, sha256], ...}, ...what the caller adds}
    folder/manifest.sha256    the SHA-256 of manifest.json, as `sha256sum -c` takes it
    folder/...                the files

A file that is missing, added, cut or changed in one bit is found before anybody parses it. The seal is
against accidents: who can write the folder can seal it anew, so what is read stays hostile to its reader.
"""

import hashlib
import json
import os
import stat
from pathlib import Path
from typing import Any

from efficient.coding import CorruptFileError

MANIFEST = "manifest.json"
SEAL = "manifest.sha256"


def seal(folder: Path, content: dict[str, Any]) -> None:
    """Writes the manifest of `folder`, `content` beside the files, and waits until all is on the disk.

    Args:
      folder: an unsealed folder.
      content: what JSON can say; the key "files" is the seal's own.
    """
    files = {}
    for name, path in sorted(_files(folder).items()):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            os.fsync(file.fileno())
            files[name] = [os.fstat(file.fileno()).st_size, digest]
    body = json.dumps({**content, "files": files}, indent=1, allow_nan=False).encode()
    for name, data in ((MANIFEST, body), (SEAL, _line(body))):
        with (folder / name).open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    for parent, _, _ in os.walk(folder):
        sync_directory(Path(parent))


def manifest(folder: Path) -> dict[str, Any]:
    """The manifest of `folder`, itself verified; the other files are not looked at.

    Raises:
      CorruptFileError: the manifest or its seal is missing or changed, or is no manifest.
    """
    body, line = _contents(folder, MANIFEST), _contents(folder, SEAL)
    if line != _line(body):
        raise CorruptFileError(
            f"{MANIFEST} must have the SHA-256 that {SEAL} holds, got another in {folder}; one is damaged."
        )
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise CorruptFileError(
            f"{MANIFEST} must be JSON, got {error} in {folder}; it is no manifest."
        ) from error
    if not isinstance(found, dict) or not isinstance(found.get("files"), dict):
        raise CorruptFileError(
            f"{MANIFEST} must list the files of {folder}, got none listed; it is no manifest."
        )
    return found


def verify(folder: Path) -> dict[str, Any]:
    """The manifest of `folder`, once every file has been found to be what was sealed.

    Raises:
      CorruptFileError: a file is missing, added, cut, changed or a link; the message names it.
    """
    found = manifest(folder)
    files = {name: path for name, path in _files(folder).items() if name not in (MANIFEST, SEAL)}
    for name in sorted({*files, *found["files"]}):
        if name not in files:
            raise CorruptFileError(f"{name} must be in {folder}, got no such file; the folder is incomplete.")
        if name not in found["files"]:
            raise CorruptFileError(
                f"{name} must not be in {folder}, got a file that was not saved; remove it."
            )
        with files[name].open("rb") as file:
            sealed = [os.fstat(file.fileno()).st_size, hashlib.file_digest(file, "sha256").hexdigest()]
        if sealed != found["files"][name]:
            raise CorruptFileError(
                f"{name} must be as it was saved in {folder}, got other bytes; it is damaged."
            )
    return found


def sync_directory(folder: Path) -> None:
    """Waits until the names in `folder` are on the disk, where the system can tell."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _line(body: bytes) -> bytes:
    """What the seal file holds."""
    return f"{hashlib.sha256(body).hexdigest()}  {MANIFEST}\n".encode()


def _contents(folder: Path, name: str) -> bytes:
    """A file's bytes; only regular files are read."""
    path = folder / name
    if not path.exists() or not stat.S_ISREG(path.lstat().st_mode):
        raise CorruptFileError(f"{name} must be a file in {folder}, got none; the folder is incomplete.")
    return path.read_bytes()


def _files(folder: Path) -> dict[str, Path]:
    """The files under `folder` by their names from it, "/" between the parts."""
    files = {}
    for parent, folders, names in os.walk(folder):
        for name in [*names, *folders]:
            path = Path(parent, name)
            mode, relative = path.lstat().st_mode, path.relative_to(folder).as_posix()
            if stat.S_ISREG(mode):
                files[relative] = path
            elif not stat.S_ISDIR(mode):
                raise CorruptFileError(
                    f"{relative} must be a file in {folder}, got a link or a device; remove it."
                )
    return files
