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


def test_stacked_layers_give_the_same_logits(variables, logits):
    """The scan runs the same arithmetic on stacked arrays, and remat changes none of it."""
    params = variables["params"]
    layers = [params[f"layer{index}"] for index in range(SIZES["depth"])]
    stacked = {name: leaf for name, leaf in params.items() if not name.startswith("layer")}
    stacked["layers"] = jax.tree.map(lambda *leaves: np.stack(leaves), *layers)
    model = Decoder(**SIZES, scan_layers=True, remat=True)
    np.testing.assert_allclose(jax.jit(model.apply)({"params": stacked}, TOKENS), logits, atol=1e-4)


@pytest.mark.parametrize("scan_layers", [False, True])
@pytest.mark.parametrize("remat", [False, True])
def test_one_layer_is_compiled_when_scanned_and_recomputed_under_remat(scan_layers, remat):
    model = Decoder(**SIZES, scan_layers=scan_layers, remat=remat)
    shapes = jax.eval_shape(model.init, jax.random.key(0), TOKENS)
    names = primitives(jax.make_jaxpr(model.apply)(shapes, TOKENS).jaxpr)
    layers = 1 if scan_layers else SIZES["depth"]  # how often a layer is written down
    assert names.count("scan") == (1 if scan_layers else 0)
    assert sum(name in ("checkpoint", "remat", "remat2") for name in names) == (layers if remat else 0)
    assert names.count("dot_general") == 9 * layers + 1  # seven dense and two of attention; the output


def primitives(jaxpr) -> list[str]:
    """The names of the operations of a jaxpr and of those inside it."""
    names = []
    for equation in jaxpr.eqns:
        names.append(equation.primitive.name)
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            names += primitives(inner) if hasattr(inner, "eqns") else []
    return names


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
