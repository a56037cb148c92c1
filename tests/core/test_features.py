"""Features: what products take in and give out, from models that know nothing of it."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from efficient.core.features import features
from tests.trees import TREES

KEY = jax.random.key(0)


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(4, (3, 3), name="conv")(x))
        return nn.Dense(3, name="head")(jnp.mean(x, (1, 2)))


@pytest.fixture(scope="module")
def net():
    x = jax.random.normal(KEY, (2, 5, 5, 3))
    return Net().apply, Net().init(KEY, x), x


def test_outputs_and_inputs_are_the_products(net):
    apply, params, x = net
    out, found = jax.jit(features(apply, where="**/kernel"))(params, x)
    np.testing.assert_array_equal(out, apply(params, x))
    conv = params["params"]["conv"]
    want = nn.Conv(4, (3, 3), use_bias=False).apply({"params": {"kernel": conv["kernel"]}}, x)
    np.testing.assert_allclose(found["params/conv/kernel"], want, rtol=1e-5, atol=1e-6)
    _, inputs = features(apply, where="**/head/kernel", side="inputs")(params, x)
    bias = conv["bias"].reshape(1, 1, 1, -1)
    np.testing.assert_allclose(
        inputs["params/head/kernel"], jnp.mean(nn.relu(want + bias), (1, 2)), atol=1e-6
    )


def test_gradients_flow_through_features(net):
    apply, params, x = net
    tapped = features(apply, where="**/conv/kernel")
    grad = jax.grad(lambda p: jnp.sum(tapped(p, x)[1]["params/conv/kernel"] ** 2))(params)["params"]
    assert float(jnp.max(jnp.abs(grad["conv"]["kernel"]))) > 0
    assert float(jnp.max(jnp.abs(grad["head"]["kernel"]))) == 0  # what comes after does not enter


def test_scanned_layers_have_one_each():
    tree = TREES["scanned"]()
    out, found = features(tree.fn, where="**/kernel")(tree.params, tree.x)
    (feature,) = found.values()
    assert feature.shape == (3, *tree.x.shape)
    np.testing.assert_array_equal(out, tree.fn(tree.params, tree.x))


def test_what_is_refused(net):
    apply, params, x = net
    with pytest.raises(ValueError, match="side must be 'outputs' or 'inputs', got 'both'"):
        features(apply, side="both")
    with pytest.raises(ValueError, match="where must choose a weight that a product consumes"):
        features(apply, where="**/bias")(params, x)
    twice = lambda p, x: (x @ p["w"]) @ p["w"]  # noqa: E731
    with pytest.raises(ValueError, match="'w' must be used once to have a feature"):
        features(twice, where="w")({"w": jnp.eye(3)}, jnp.ones((1, 3)))
    loop = lambda p, x: jax.lax.fori_loop(0, 3, lambda _, y: y @ p["w"], x)  # noqa: E731
    with pytest.raises(NotImplementedError, match="'w' is used inside a loop"):
        features(loop, where="w")({"w": jnp.eye(3)}, jnp.ones((1, 3)))
