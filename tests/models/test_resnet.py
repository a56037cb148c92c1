"""Residual networks against PyTorch, the parameter-free shortcut, and the refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from efficient.models import ResNet, cifar_resnet, imagenet_resnet


def torch_logits(torch, model: ResNet, variables, x: np.ndarray) -> np.ndarray:
    """The same network of plain PyTorch calls."""
    functional = torch.nn.functional
    tree = jax.tree.map(lambda leaf: torch.from_numpy(np.array(leaf)), variables)

    def layer(y, path, *, stride=1, relu=True):
        p, s = tree["params"], tree["batch_stats"]
        for name in path:
            p, s = p[name], s[name]
        kernel = p["conv"]["kernel"].permute(3, 2, 0, 1)
        y = functional.conv2d(y, kernel, stride=stride, padding=kernel.shape[-1] // 2)
        y = functional.batch_norm(
            y, s["bn"]["mean"], s["bn"]["var"], p["bn"]["scale"], p["bn"]["bias"], eps=1e-5
        )
        return torch.relu(y) if relu else y

    y = torch.from_numpy(np.array(x)).permute(0, 3, 1, 2)
    y = layer(y, ["stem"], stride=2 if model.stem == "imagenet" else 1)
    y = functional.max_pool2d(y, 3, 2, 1) if model.stem == "imagenet" else y
    for stage, blocks in enumerate(model.stages):
        for index in range(blocks):
            name, stride = f"stage{stage}_block{index}", 2 if stage and not index else 1
            count = 3 if model.bottleneck else 2
            z = y
            for part in range(count):
                strided = part == count - 2  # the 3x3 of a bottleneck, the first of a basic block
                z = layer(z, [name, f"layer{part}"], stride=stride if strided else 1, relu=part < count - 1)
            if "shortcut" in tree["params"][name]:
                y = layer(y, [name, "shortcut"], stride=stride, relu=False)
            elif stride == 2:
                y = functional.pad(y[:, :, ::2, ::2], (0, 0, 0, 0, 0, z.shape[1] - y.shape[1]))
            y = torch.relu(y + z)
    classifier = tree["params"]["classifier"]
    return (y.mean((2, 3)) @ classifier["kernel"] + classifier["bias"]).numpy()


@pytest.mark.parametrize(
    "model",
    [
        ResNet(stages=(1, 1), features=4, shortcut="A", classes=3),
        ResNet(stages=(1, 1), features=4, bottleneck=True, stem="imagenet", classes=3),
    ],
    ids=["basic, A, cifar", "bottleneck, B, imagenet"],
)
def test_against_torch(model):
    torch = pytest.importorskip("torch", reason="torch is absent: nothing to compare with")
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, 16, 16, 3)), jnp.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), x)
    variables = jax.tree.map(
        lambda leaf: jnp.asarray(rng.uniform(-0.5, 1.0, leaf.shape), jnp.float32), shapes
    )
    variables["batch_stats"] = jax.tree.map(jnp.abs, variables["batch_stats"])
    expected = torch_logits(torch, model, variables, x)
    logits = jax.jit(model.apply)(variables, x)
    np.testing.assert_allclose(logits, expected, atol=1e-5 * np.abs(expected).max())


def test_refuses():
    with pytest.raises(ValueError, match="depth must be 6n \\+ 2 with n at least 1, got 21; try 20"):
        cifar_resnet(21)
    with pytest.raises(ValueError, match=r"depth must be one of \[18, 34, 50, 101, 152\], got 20"):
        imagenet_resnet(20)
    with pytest.raises(ValueError, match="stages, features and classes must be at least 1, got \\(\\)"):
        ResNet(stages=(), features=4)


def test_refuses_an_unknown_shortcut_or_stem():
    """Where annotations are enforced (as in these tests) the type is refused first; both are errors."""
    with pytest.raises((ValueError, TypeError), match="shortcut"):
        ResNet(stages=(1,), features=4, shortcut="C")
    with pytest.raises((ValueError, TypeError), match="stem"):
        ResNet(stages=(1,), features=4, stem="mnist")
