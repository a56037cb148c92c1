"""Store: params, states and packed trees on the disk, bit for bit.

    save("run/packed", packed)
    packed = load("run/packed")                          # dicts, lists, tuples, States and leaves
    nnx_state = load("run/nnx", like=jax.eval_shape(make_state))   # into any other pytree

A saved tree is a folder: the arrays as Orbax writes them, numbered, and a manifest that says what tree
they are of (`tree_record`) and holds the SHA-256 of every file (`sealed_folder`), looked at before
anything else is parsed. It appears under its name at once or not at all.

Weak types are not kept: a restored array has its dtype strongly.
"""

import json
import math
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from efficient.coding import CorruptFileError
from efficient.core import sealed_folder
from efficient.core.tree_record import build, check_form, entries, record
from efficient.core.tree_value import Entry, is_key

FORMAT = "efficient tree 1"
_ARRAYS = "arrays"
_STORED = {f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)}
_STORED |= {"bool", "bfloat16", "float16", "float32", "float64", "complex64", "complex128"}
# All other dtypes have a byte an element, and are stored as uint8.


def save(
    path: str | os.PathLike[str],
    tree: Any,
    *,
    metadata: dict[str, Any] | None = None,
    overwrite: bool = False,
) -> None:
    """Writes `tree` to the folder `path`.

    A save that is killed leaves what was there: nothing, or the tree that it was to replace. JAX arrays are
    copied to the host about 1 GB at a time (at least one array); NumPy arrays are all copied once.

    Args:
      path: a folder on a local disk, one writer at a time. Until the end `.NAME.saving` stands beside it.
      tree: a pytree of arrays (JAX, NumPy, typed PRNG keys), leaves and Python scalars; NumPy scalars come
        back as NumPy arrays. Static fields of leaves are dtypes or what JSON can say.
      metadata: what JSON can say; `load_metadata` returns it.
      overwrite: replace the tree that is there.

    Raises:
      FileExistsError: there is something at `path`, and `overwrite` is False or it is no saved tree.
      ValueError: a value, static field or `metadata` cannot be saved; the message names it.
      NotImplementedError: JAX runs in several processes.
    """
    folder = Path(path).absolute()
    saving, previous = _beside(folder, "saving"), _beside(folder, "previous")
    if jax.process_count() > 1:
        raise NotImplementedError(
            f"save must run in one process, got {jax.process_count()}; gather the tree first."
        )
    recorded, arrays = record(tree)
    content = {"format": FORMAT, "tree": recorded, "metadata": _plain(metadata or {})}
    if previous.exists() and not folder.exists():
        previous.rename(folder)  # a save was killed between the two renames below
    _check_free(folder, overwrite)
    for leftover in (saving, previous):
        shutil.rmtree(leftover, ignore_errors=True)
    saving.mkdir(parents=True)
    try:
        _write_arrays(saving / _ARRAYS, arrays)
        sealed_folder.seal(saving, content)
    except BaseException:
        shutil.rmtree(saving, ignore_errors=True)
        raise
    if folder.exists():
        folder.rename(previous)
    saving.rename(folder)
    sealed_folder.sync_directory(folder.parent)
    shutil.rmtree(previous, ignore_errors=True)


def load(path: str | os.PathLike[str], *, like: Any = None) -> Any:
    """The tree that was saved at `path`.

    Args:
      path: as given to `save`.
      like: a tree of arrays or `jax.ShapeDtypeStruct`s to restore into: any pytree. Arrays go where those
        of `like` are (their sharding; NumPy arrays stay on the host). Without it arrays go to the default
        device, and the nodes may be dicts, lists, tuples, None, `State`s and imported leaf classes. Arrays
        for which `like` names a sharding are read straight to it; all others are read to the host first, so
        that both copies exist for a while.

    Returns:
      The tree; the arrays are bit for bit those that were saved.

    Raises:
      FileNotFoundError: there is nothing at `path`.
      CorruptFileError: a file is missing, added, cut or changed; the message names it.
      ValueError: `like` differs from what was saved (the message names the path and both sides), or is None
        where only it can make a node (the message names the first of each class); a leaf class is not
        imported; 64 bits without `jax_enable_x64`.
    """
    folder = _standing(path)
    found = sealed_folder.verify(folder)
    recorded = _content(found)["tree"]
    expected = entries(recorded)
    likes = [None] * len(expected)
    if like is not None:
        wanted, likes = record(like, shapes=True)
        check_form(recorded, wanted)
    return build(recorded, _read_arrays(folder / _ARRAYS, expected, likes), like)


def load_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The `metadata` that was saved at `path`; raises as `load` does, for a damaged manifest."""
    return _content(sealed_folder.manifest(_standing(path)))["metadata"]


def _write_arrays(folder: Path, arrays: list[Any]) -> None:
    """Writes the arrays that have elements, each under its number."""
    stored = {str(i): _as_stored(array) for i, array in enumerate(arrays) if array.size}
    largest = max((array.nbytes for array in stored.values()), default=0)
    if stored:
        with _checkpointer(largest) as checkpointer:
            checkpointer.save(folder, stored)


def _read_arrays(folder: Path, expected: list[Entry], likes: list[Any]) -> Iterator[Any]:
    """The arrays in order; each is let go of on the host as soon as it is placed."""
    import orbax.checkpoint as ocp

    homes = [_home(entry, like) for entry, like in zip(expected, likes, strict=True)]
    how = {
        str(i): ocp.ArrayRestoreArgs(sharding=home) if direct else ocp.RestoreArgs(restore_type=np.ndarray)
        for i, (entry, (home, direct)) in enumerate(zip(expected, homes, strict=True))
        if entry.size
    }
    largest = max((entry.size * entry.dtype.itemsize for entry in expected), default=0)
    restored = _restored(folder, how, largest) if how else {}
    for i, (entry, (home, _)) in enumerate(zip(expected, homes, strict=True)):
        stored = restored.pop(str(i)) if entry.size else np.zeros(entry.shape, entry.dtype)
        yield _placed(stored, entry, home)


def _restored(folder: Path, how: dict[str, Any], largest_bytes: int) -> dict[str, Any]:
    """The stored arrays by their numbers."""
    with _checkpointer(largest_bytes) as checkpointer:
        try:
            return checkpointer.restore(folder, restore_args=how)
        except (ValueError, FileNotFoundError) as error:
            found = checkpointer.metadata(folder).item_metadata.tree if folder.exists() else {}
            if {*found} == {*how}:
                raise
            raise CorruptFileError(
                f"{_ARRAYS} must hold the {len(how)} arrays that manifest.json lists, got {len(found)} that "
                "are not those; save the tree anew."
            ) from error


def _home(entry: Entry, like: Any) -> tuple[Any, bool]:
    """Where an array goes (a sharding; "host"; None: the default device), and whether Orbax puts it there."""
    if isinstance(like, np.ndarray | np.generic) or (like is None and entry.on_host):
        return "host", False
    if jax.dtypes.canonicalize_dtype(entry.dtype) != entry.dtype:
        raise ValueError(
            f"jax_enable_x64 must be on to load {entry.dtype} at {entry.path!r}, got it off; turn it on."
        )
    is_placed = isinstance(like, jax.ShapeDtypeStruct) or (isinstance(like, jax.Array) and like.committed)
    sharding = like.sharding if is_placed else None
    if sharding is None or entry.impl is not None or entry.dtype.name not in _STORED:
        return sharding, False
    sharding.shard_shape(entry.shape)  # raises where it does not divide: before anything is read
    return sharding, True


def _placed(stored: Any, entry: Entry, home: Any) -> Any:
    """A stored array as it was, at its home."""
    if stored.dtype == np.uint8 and entry.dtype.name not in _STORED:
        stored = stored.view(entry.dtype)
    if (stored.shape, stored.dtype) != (entry.shape, entry.dtype):
        raise CorruptFileError(
            f"{entry.path} must be {entry.dtype}{entry.shape} as in manifest.json, got {stored.dtype}"
            f"{stored.shape} in {_ARRAYS}; save the tree anew."
        )
    if home == "host":
        return stored
    value = stored if isinstance(stored, jax.Array) else jnp.asarray(stored)
    if entry.impl is not None:
        try:
            value = jax.random.wrap_key_data(value, impl=entry.impl)
        except (TypeError, ValueError) as error:
            raise CorruptFileError(
                f"{entry.path} must be PRNG keys, got {error}; save the tree anew."
            ) from error
    return value if home is None else jax.device_put(value, home)


def _as_stored(array: Any) -> Any:
    """What Orbax is given for an array: of a dtype that it knows."""
    if is_key(array):
        return jax.random.key_data(array)
    if isinstance(array, np.generic):
        array = np.asarray(array)  # Orbax takes only some of the scalars
    return array if array.dtype.name in _STORED else np.asarray(array).view(np.uint8)


def _checkpointer(largest_bytes: int) -> Any:
    """Orbax's, made to have about 1 GB in flight at a time, or the largest array."""
    import orbax.checkpoint as ocp

    limit = 1 + math.ceil(largest_bytes / 1e9)
    return ocp.Checkpointer(
        ocp.PyTreeCheckpointHandler(
            save_concurrent_gb=limit, save_device_host_concurrent_gb=limit, restore_concurrent_gb=limit
        )
    )


def _beside(folder: Path, word: str) -> Path:
    """The hidden neighbour of a folder."""
    return folder.with_name(f".{folder.name}.{word}")


def _standing(path: str | os.PathLike[str]) -> Path:
    """Where the tree of `path` is: there, or aside if a save was killed while it replaced it."""
    folder = Path(path).absolute()
    for place in (folder, _beside(folder, "previous")):
        if place.exists():
            return place
    raise FileNotFoundError(
        f"path must be a saved tree, got {str(folder)!r}, which does not exist; save one there."
    )


def _check_free(folder: Path, overwrite: bool) -> None:
    """Refuses to replace what must stay."""
    if not folder.exists() and not folder.is_symlink():
        return
    if not overwrite:
        raise FileExistsError(
            f"path must be new, got {str(folder)!r}, which exists; pass overwrite=True to replace it."
        )
    if folder.is_symlink() or not (folder / sealed_folder.MANIFEST).is_file():
        raise FileExistsError(
            f"path must be a saved tree to be replaced, got {str(folder)!r}; choose another path."
        )


def _plain(metadata: dict[str, Any]) -> dict[str, Any]:
    """`metadata`, if JSON returns it unchanged."""
    try:
        same = isinstance(metadata, dict) and json.loads(json.dumps(metadata, allow_nan=False)) == metadata
    except (TypeError, ValueError):
        same = False
    if not same:
        raise ValueError(
            f"metadata must be a dict that JSON returns unchanged, got {metadata!r}; use lists and str keys."
        )
    return metadata


def _content(found: dict[str, Any]) -> dict[str, Any]:
    """A manifest that is one of ours."""
    if found.get("format") != FORMAT:
        raise CorruptFileError(
            f"manifest.json must be of format {FORMAT!r}, got {found.get('format')!r}; update efficient."
        )
    if not isinstance(found.get("metadata"), dict) or "tree" not in found:
        raise CorruptFileError("manifest.json must hold a tree and metadata, got one without; save it anew.")
    return found
