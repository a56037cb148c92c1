"""The decoder against NumPy, its rotary positions, causality, and stacked against separate layers."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from efficient.models import Decoder
from efficient.models.decoder import rotate

SIZES = {"vocabulary": 11, "width": 8, "depth": 2, "heads": 4, "kv_heads": 2, "hidden": 6}
TOKENS = np.array([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]])

apply = jax.jit(Decoder(**SIZES).apply)


@pytest.fixture(scope="module")
def variables():
    """Values far from where initialization leaves them."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(Decoder(**SIZES).init, jax.random.key(0), TOKENS)
    return jax.tree.map(lambda leaf: np.float32(rng.normal(size=leaf.shape)), shapes)


@pytest.fixture(scope="module")
def logits(variables):
    return apply(variables, TOKENS)


def numpy_logits(params, tokens: np.ndarray) -> np.ndarray:
    """One sequence in float64, head by head and token by token; rotations are complex products."""

    def norm(x, scale):
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * scale

    def turn(x, position):
        angles = position * 10_000.0 ** (-np.arange(len(x) // 2) * 2 / len(x))
        z = (x[: len(x) // 2] + 1j * x[len(x) // 2 :]) * np.exp(1j * angles)
        return np.concatenate([z.real, z.imag])

    params = jax.tree.map(np.float64, params)
    embedding, d, groups = params["embed"]["embedding"], 2, 2
    x = embedding[tokens]
    for index in range(SIZES["depth"]):
        layer = params[f"layer{index}"]
        part = {name: layer["attention"][name]["kernel"] for name in ("query", "key", "value", "out")}
        y = norm(x, layer["attention_norm"]["scale"])
        mixed = np.zeros_like(x)
        for head in range(SIZES["heads"]):
            mine, shared = slice(head * d, head * d + d), slice(head // groups * d, head // groups * d + d)
            queries = [turn(row, p) for p, row in enumerate((y @ part["query"])[:, mine])]
            keys = [turn(row, p) for p, row in enumerate((y @ part["key"])[:, shared])]
            values = (y @ part["value"])[:, shared]
            for now, query in enumerate(queries):
                score = np.exp([query @ key / np.sqrt(d) for key in keys[: now + 1]])
                mixed[now, mine] = score / score.sum() @ values[: now + 1]
        x = x + mixed @ part["out"]
        y = norm(x, layer["mlp_norm"]["scale"])
        gate = y @ layer["gate"]["kernel"]
        x = x + (gate / (1 + np.exp(-gate)) * (y @ layer["up"]["kernel"])) @ layer["down"]["kernel"]
    return norm(x, params["norm"]["scale"]) @ embedding.T


def test_against_numpy(variables, logits):
    expected = np.stack([numpy_logits(variables["params"], row) for row in TOKENS])
    np.testing.assert_allclose(logits, expected, atol=1e-4)


def test_later_tokens_change_nothing_before(variables, logits):
    tokens = TOKENS.copy()
    tokens[:, 3] = 7
    changed = apply(variables, tokens)
    np.testing.assert_array_equal(changed[:, :3], logits[:, :3])
    assert not np.allclose(changed[:, 3:], logits[:, 3:])


def test_stacked_layers_and_remat_give_the_same_logits_and_gradients(variables, logits):
    """The scan runs the same arithmetic on stacked arrays; remat only repeats it."""
    params = variables["params"]
    layers = [params[f"layer{index}"] for index in range(SIZES["depth"])]
    stacked = {name: leaf for name, leaf in params.items() if not name.startswith("layer")}
    stacked["layers"] = jax.tree.map(lambda *leaves: np.stack(leaves), *layers)

    def loss_of(model):
        def loss(params):
            logits = model.apply({"params": params}, jnp.asarray(TOKENS))
            return (logits**2).mean(), logits

        return jax.jit(jax.value_and_grad(loss, has_aux=True))

    (_, plain), gradient = loss_of(Decoder(**SIZES, remat=True))(params)
    (_, scanned), scanned_gradient = loss_of(Decoder(**SIZES, scan_layers=True, remat=True))(stacked)
    np.testing.assert_allclose(plain, logits, atol=1e-4)
    np.testing.assert_allclose(scanned, logits, atol=1e-4)
    for index in range(SIZES["depth"]):
        ours = jax.tree.map(lambda leaf, index=index: leaf[index], scanned_gradient["layers"])
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=1e-3 * np.abs(b).max()),
            ours,
            gradient[f"layer{index}"],
        )


def test_untied_head_is_a_matrix_of_its_own():
    shapes = jax.eval_shape(Decoder(**SIZES, tied=False).init, jax.random.key(0), TOKENS)["params"]
    assert shapes["head"]["kernel"].shape == (8, 11)


def test_rotate_by_hand():
    """At position 1 the pair (1, 0) turns by 1 radian; with d = 4 the second pair by base^(-1/2) = 0.1."""
    x = jnp.array([[[[1.0, 1.0, 0.0, 0.0]]] * 2])  # two positions, where both pairs are (1, 0)
    turned = jax.jit(partial(rotate, base=100.0))(x)[0, :, 0]
    np.testing.assert_allclose(turned[0], [1, 1, 0, 0])
    np.testing.assert_allclose(turned[1], [np.cos(1), np.cos(0.1), np.sin(1), np.sin(0.1)], rtol=1e-6)


def test_rotated_products_depend_on_distance_only():
    x = np.random.default_rng(0).normal(size=(1, 1, 2, 6)).astype(np.float32)  # a query and a key
    turned = np.array(jax.jit(partial(rotate, base=10_000.0))(x.repeat(6, axis=1)))[0]
    products = turned[:, 0] @ turned[:, 1].T  # [position of the query, position of the key]
    for distance in range(-5, 6):
        diagonal = np.diagonal(products, distance)
        np.testing.assert_allclose(diagonal, np.full_like(diagonal, diagonal[0]), atol=1e-5)
    assert np.ptp(products[0]) > 1e-2  # and they do depend on it


@pytest.mark.parametrize("change", [{"width": 10}, {"width": 12}, {"kv_heads": 3}])
def test_refuses_heads_that_do_not_divide(change):
    """Ten columns are not four heads, heads of three have no pairs, and four heads are not three groups."""
    with pytest.raises(
        ValueError, match="heads must cut width into even parts and kv_heads divide heads, got"
    ):
        Decoder(**{**SIZES, **change})
