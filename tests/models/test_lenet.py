"""LeNet-300-100 by hand, LeNet-5 against PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from efficient.models import LeNet5, LeNet300


def test_lenet_300_by_hand():
    """relu(0.5 (1 + 2 + 3 + 4) - 1) = 4, then 2 4 + 1 = 9; the second label's -1 0.5 (...) stays linear."""
    params = {
        "dense0": {"kernel": np.full((4, 1), 0.5), "bias": np.array([-1.0])},
        "classifier": {"kernel": np.array([[2.0, -1.0]]), "bias": np.array([1.0, 0.0])},
    }
    params = jax.tree.map(np.float32, params)
    x = jnp.array([1.0, 2.0, 3.0, 4.0]).reshape(1, 2, 2, 1)
    logits = LeNet300(hidden=(1,), classes=2).apply({"params": params}, x)
    np.testing.assert_allclose(logits, [[9.0, -4.0]])


def test_lenet5_against_torch():
    torch = pytest.importorskip("torch", reason="torch is absent: nothing to compare with")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 20, 20, 1)).astype(np.float32)
    shapes = jax.eval_shape(LeNet5().init, jax.random.key(1), x)
    variables = jax.tree.map(lambda leaf: rng.normal(0, 0.1, leaf.shape).astype(np.float32), shapes)
    logits = jax.jit(LeNet5().apply)(variables, x)
    p = jax.tree.map(torch.from_numpy, variables["params"])
    y = torch.from_numpy(x).permute(0, 3, 1, 2)
    for layer in ("conv0", "conv1"):
        y = torch.nn.functional.conv2d(y, p[layer]["kernel"].permute(3, 2, 0, 1), p[layer]["bias"])
        y = torch.nn.functional.max_pool2d(y, 2)
    y = y.permute(0, 2, 3, 1).flatten(1)
    y = torch.relu(y @ p["dense"]["kernel"] + p["dense"]["bias"])
    expected = y @ p["classifier"]["kernel"] + p["classifier"]["bias"]
    np.testing.assert_allclose(logits, expected.numpy(), atol=1e-4)


def test_lenet5_refuses_images_that_two_poolings_use_up():
    with pytest.raises(ValueError, match=r"x must be at least 16x16 pixels, got \(15, 28\)"):
        jax.eval_shape(LeNet5().init, jax.random.key(0), jax.ShapeDtypeStruct((1, 15, 28, 1), jnp.float32))
