"""Folding and equalization: the same function, of kernels and biases alone."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from efficient import at, lift
from efficient.models import get
from efficient.quantize import equalize, fold, linear
from efficient.quantize.equalize import pairs

KEY = jax.random.key(0)
MODELS = {
    "lenet5": {},
    "lab_vgg": {"width": 0.04},
    "resnet20": {},
    "mobilenet_v2": {"width": 0.1, "resolution": 32},
}


def built(name):
    """A model with statistics that are not the identity, and inputs."""
    model, example = get(name, **MODELS[name])
    x = jax.random.uniform(KEY, (2, *example.shape[1:]))
    variables = jax.jit(model.init)(KEY, x)
    keys = iter(jax.random.split(jax.random.key(1), 500))
    stats = jax.tree.map(
        lambda a: a + 0.2 * jax.random.uniform(next(keys), a.shape), variables.get("batch_stats", {})
    )
    return model.apply, {**variables, **({"batch_stats": stats} if stats else {})}, x


@pytest.fixture(scope="module", params=list(MODELS))
def model(request):
    fn, variables, x = built(request.param)
    return fn, variables, x, fold(fn, variables, x)


def close(got, want):
    """To float32: a few hundred roundings of the largest."""
    np.testing.assert_allclose(got, want, rtol=0, atol=300 * 2**-23 * float(jnp.max(jnp.abs(want))))


def test_the_output_is_the_models(model):
    fn, variables, x, folded = model
    want = fn(variables, x)
    close(jax.jit(folded.apply)(folded.params, x), want)
    close(folded.apply(folded.params, x[:1]), want[:1])  # another batch size
    kinds = [node.kind for node in folded.graph(x).nodes]
    assert len(folded.products) == kinds.count("conv_general_dilated") + kinds.count("dot_general")


def test_nothing_but_activations_and_biases_is_left(model):
    _, variables, _, folded = model
    absorbed = sum(len(p.absorbed) for p in folded.products)
    norms = len([1 for path in jax.tree.leaves(variables.get("batch_stats", {}))]) // 2
    biases = len(folded.products) - norms
    assert absorbed == 3 * norms + biases  # a normalization subtracts, multiplies and adds


def test_equalized_it_is_the_same_and_channels_are_level(model):
    fn, variables, x, folded = model
    made = equalize(folded, folded.params, x)
    close(jax.jit(folded.apply)(made, x), fn(variables, x))
    for pair in pairs(folded, folded.graph(x)):
        first = next(p for p in folded.products if p.name == pair.first)
        one, two = made[pair.first]["kernel"], made[pair.second]["kernel"]
        r1 = (
            np.abs(np.moveaxis(one, first.kernel_channels, 0))
            .reshape(one.shape[first.kernel_channels], -1)
            .max(1)
        )
        rows = np.abs(np.moveaxis(two, pair.axis, 0)).reshape(len(pair.channel), -1).max(1)
        r2 = np.array([rows[pair.channel == c].max() for c in range(len(r1))])
        np.testing.assert_allclose(r1, r2, rtol=0.02)


def test_transforms_apply_to_what_is_folded():
    fn, variables, x = built("lenet5")
    folded = fold(fn, variables, x)
    t = at("**/kernel", linear(8))
    packed = t.pack(folded.params, t.init(folded.params))
    got = lift(folded.apply)(packed, x)
    want = fn(variables, x)
    assert float(jnp.max(jnp.abs(got - want))) < 0.1 * float(jnp.max(jnp.abs(want)))


def test_by_hand():
    # y = 2 (x w - 1) + 3 = x (2 w) + 1, and a ReLU ends it.
    fn = lambda v, x: jnp.maximum(2 * (x @ v["w"] - v["m"][None]) + 3, 0)  # noqa: E731
    variables = {"w": jnp.array([[1.0, -2.0]]), "m": jnp.array([1.0, 1.0])}
    folded = fold(fn, variables, jnp.ones((1, 1)))
    np.testing.assert_array_equal(folded.params["w"]["kernel"], [[2, -4]])
    np.testing.assert_array_equal(folded.params["w"]["bias"], [1, 1])


def test_what_others_read_is_not_merged():
    fn = lambda v, x: (lambda y: y * 2 + y)(x @ v["w"])  # noqa: E731
    folded = fold(fn, {"w": jnp.eye(3)}, jnp.ones((2, 3)))
    assert folded.products[0].absorbed == ()
    np.testing.assert_array_equal(folded.apply(folded.params, jnp.ones((2, 3))), 3 * jnp.ones((2, 3)))


def test_a_kernel_used_twice_has_two_names():
    fn = lambda v, x: jnp.maximum(x @ v["w"], 0) @ v["w"]  # noqa: E731
    folded = fold(fn, {"w": jnp.eye(3)}, jnp.ones((2, 3)))
    assert list(folded.params) == ["w", "w#2"]


def test_what_is_refused():
    with pytest.raises(ValueError, match="fn must multiply its inputs by constant kernels"):
        fold(lambda v, x: x + v, jnp.ones(2), jnp.ones(2))
    with pytest.raises(ValueError, match="depends on its inputs, got constants"):
        fold(lambda v, x: v, jnp.ones(2), jnp.ones(2))
    lone = fold(lambda v, x: x @ v, jnp.eye(2), jnp.ones((1, 2)))
    with pytest.raises(ValueError, match="folded must have products that follow each other"):
        equalize(lone, lone.params, jnp.ones((1, 2)))


def test_under_jit_the_model_is_folded_once_more_with_its_numbers():
    module = nn.Sequential([nn.Dense(4), nn.relu, nn.Dense(2)])
    x = jnp.ones((3, 5))
    variables = module.init(KEY, x)
    folded = fold(module.apply, variables, x)
    close(jax.jit(lambda p, x: folded.apply(p, x))(folded.params, x), module.apply(variables, x))
