"""Dependencies and resize: what moves together; a shrunk model is the masked one, for any program."""

import functools
import math

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from efficient.core.dependencies import dependencies
from efficient.core.paths import map_with_path
from efficient.core.resize import resized
from efficient.models import zoo

KEY = jax.random.key(0)
W = lambda *shape: jax.random.normal(jax.random.fold_in(KEY, sum(shape)), shape)  # noqa: E731


def some(found, seed=0):
    """Some of every free group, one index at least."""
    draw = np.random.default_rng(seed)
    masks = {name: draw.random(group.size) < 0.6 for name, group in found.free.items()}
    for mask in masks.values():
        mask[0] = True
    return masks


def check(fn, params, *args, tolerance=1e-5):
    """The shrunk function gives what the function on masked weights gives; returns the groups."""
    found = dependencies(fn, params, *args)
    keep = some(found)
    masks = found.masks(keep)
    masked = map_with_path(lambda path, v: v * masks[path] if path in masks else v, params)
    expected = jax.jit(fn)(masked, *args)
    small = found.shrink(params, keep)
    shapes = {path: tuple(v.shape) for path, v in _by_path(small).items()}
    assert shapes == found.shapes_left(keep)
    out = jax.jit(resized(fn, found, keep))(small, *args)
    np.testing.assert_allclose(out, expected, atol=tolerance * float(jnp.abs(expected).max()))
    return found


def _by_path(tree):
    found = {}
    map_with_path(lambda path, v: found.__setitem__(path, v), tree)
    return found


def names(found):
    return set(found.free)


def test_by_hand_a_perceptron():
    params = {"a": W(3, 5), "b": W(5), "c": W(5, 2)}
    found = check(lambda p, x: jax.nn.relu(x @ p["a"] + p["b"][None]) @ p["c"], params, W(4, 3))
    assert names(found) == {"a:1"}
    assert {(m.path, m.axis) for m in found.groups["a:1"].members} == {("a", 1), ("b", 0), ("c", 0)}
    assert found.groups["a:0"].locked == "it is an axis of the input"
    assert found.groups["c:1"].locked == "it is an axis of the result"


def test_a_residual_add_ties_what_it_adds():
    params = {"a": W(3, 4), "b": W(4, 4), "c": W(4, 2)}

    def fn(p, x):
        x = x @ p["a"]
        return (x + jnp.tanh(x @ p["b"])) @ p["c"]

    assert len(names(check(fn, params, W(2, 3)))) == 1


def test_a_gate_split_from_one_product():
    params = {"in": W(3, 10), "out": W(5, 2)}

    def fn(p, x):
        gate, value = jnp.split(x @ p["in"], 2, axis=-1)
        return (jax.nn.silu(gate) * value) @ p["out"]

    found = check(fn, params, W(2, 3))
    (group,) = found.free.values()
    assert group.size == 5


def test_a_concatenation_that_is_flattened():
    params = {"a": W(3, 4), "b": W(3, 6), "c": W(2 * 10, 2)}

    def fn(p, x):  # [batch, 2, 3]
        joined = jnp.concatenate([x @ p["a"], jax.nn.relu(x @ p["b"])], axis=-1)
        return joined.reshape(len(x), -1) @ p["c"]

    found = check(fn, params, W(5, 2, 3))
    assert {group.size for group in found.free.values()} == {4, 6}


@pytest.mark.parametrize(("groups", "sizes"), [(1, {8, 6}), (2, {2, 4, 3}), (8, {8})])
def test_convolutions_by_groups(groups, sizes):
    """Of 2 groups: the groups, the channels of each before (8 = 2 x 4) and after (6 = 2 x 3)."""
    out = 8 if groups == 8 else 6
    params = {"a": W(3, 3, 3, 8), "b": W(3, 3, 8 // groups, out), "c": W(out, 2)}
    conv = functools.partial(
        jax.lax.conv_general_dilated,
        window_strides=(1, 1),
        padding="SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )

    def fn(p, x):
        x = conv(jax.nn.relu(conv(x, p["a"])), p["b"], feature_group_count=groups)
        return x.sum((1, 2)) @ p["c"]

    found = check(fn, params, W(2, 6, 6, 3))
    assert {group.size for group in found.free.values()} == sizes


def test_scanned_layers_are_cut_alike_and_may_go_whole():
    params = {"in": W(3, 4), "up": W(5, 4, 6), "down": W(5, 6, 4), "out": W(4, 2)}

    def fn(p, x):
        def layer(x, w):
            return x + jnp.tanh(x @ w["up"]) @ w["down"], None

        x, _ = jax.lax.scan(layer, x @ p["in"], {"up": p["up"], "down": p["down"]})
        return x @ p["out"]

    found = check(fn, params, W(2, 3))
    assert {group.size for group in found.free.values()} == {4, 5, 6}  # width, layers, hidden


def test_loops_and_branches():
    params = {"a": W(3, 4), "b": W(4, 4), "c": W(4, 2)}

    def fn(p, x):
        x = jax.lax.fori_loop(0, 3, lambda i, x: jnp.tanh(x @ p["b"]), x @ p["a"])
        return jax.lax.cond(jnp.bool(True), lambda x: x @ p["c"], lambda x: -x @ p["c"], x)

    assert len(names(check(fn, params, W(2, 3)))) == 1


def test_a_mean_over_channels_keeps_its_divisor():
    """Layer normalization of masked weights divides by the full width, and so does the shrunk one."""
    params = {"a": W(3, 8), "scale": 1 + W(8), "shift": W(8), "b": W(8, 2)}

    def fn(p, x):
        x = x @ p["a"]
        centred = x - x.mean(-1, keepdims=True)
        spread = jnp.sqrt((x * x).mean(-1, keepdims=True) + 1e-6)
        return (centred / spread * p["scale"][None] + p["shift"][None]) @ p["b"]

    assert names(check(fn, params, W(4, 3))) == {"a:1"}


def test_a_sum_of_what_is_not_zero_locks():
    params = {"a": W(3, 8), "b": W(8, 2)}

    def fn(p, x):
        x = x @ p["a"]
        return (x / jnp.exp(x).sum(-1, keepdims=True)) @ p["b"]

    found = dependencies(fn, params, W(4, 3))
    assert not found.free
    assert found.groups["a:1"].locked.startswith(
        "reduce_sum sums over it where it is not zero at 'reduce_sum'"
    )


def test_an_equation_without_a_rule_locks_and_is_named():
    params = {"a": W(4, 4), "b": W(4, 2)}
    found = dependencies(lambda p, x: jnp.linalg.qr(x @ p["a"])[0] @ p["b"], params, W(4, 4))
    with pytest.raises(ValueError, match=r"group 'a:1' must stay whole, got a mask of it: .*'\w*qr"):
        found.shrink(params, {"a:1": np.array([True, False, True, True])})


def test_custom_derivatives_stay_their_own():
    """A straight-through rounding has its gradient, not that of what it computes."""

    @jax.custom_jvp
    def rounded(x):
        return jnp.round(x)

    rounded.defjvp(lambda primals, tangents: (rounded(*primals), 10 * tangents[0]))
    params = {"a": W(3, 6), "b": W(6, 2)}
    fn = lambda p, x: rounded(x @ p["a"]) @ p["b"]  # noqa: E731
    found = check(fn, params, W(2, 3))
    keep = some(found)
    small = found.shrink(params, keep)
    grads = jax.grad(lambda p: resized(fn, found, keep)(p, W(2, 3)).sum())(small)
    expected = 10 * W(2, 3).sum(0)[:, None] * small["b"].sum(1)[None, :]
    np.testing.assert_allclose(grads["a"], expected, rtol=1e-5)


def test_constants_of_a_closure_are_cut_too():
    mean, params = W(6), {"a": W(3, 6), "scale": W(6), "b": W(6, 2)}
    check(lambda p, x: ((x @ p["a"] - mean[None]) * p["scale"][None]) @ p["b"], params, W(2, 3))


class Block(nn.Module):
    """Batch normalization, squeeze and excite, group normalization."""

    @nn.compact
    def __call__(self, x):
        x = nn.BatchNorm(use_running_average=True)(nn.Conv(8, (3, 3))(x))
        gate = nn.sigmoid(nn.Dense(8)(nn.relu(nn.Dense(4)(x.mean((1, 2))))))
        x = nn.GroupNorm(num_groups=2)(nn.Conv(8, (1, 1))(x * gate[:, None, None, :]))
        return nn.Dense(3)(x.mean((1, 2)))


def noisy(tree):
    """Every value moved, so that norms are not at their start."""
    return jax.tree.map(lambda v: v + 0.1 * jnp.abs(jax.random.normal(KEY, v.shape)), tree)


def test_norms_and_squeeze_excite():
    model, x = Block(), W(2, 6, 6, 3)
    found = check(model.apply, noisy(model.init(KEY, x)), x)
    # Convolution, squeeze, and the second convolution as groups (2) x channels of a group (4).
    assert sorted(group.size for group in found.free.values()) == [2, 4, 4, 8]


MODELS = {
    "lenet5": {},
    "resnet20": {"resolution": 16},
    "mobilenet_v2": {"resolution": 32, "width": 0.35},
    "vit_tiny": {"resolution": 32, "depth": 1, "classes": 10},
    "decoder_tiny": {"scan_layers": True, "remat": True},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_models_of_the_zoo_shrink_to_the_masked_model(name):
    model, example = zoo.get(name, **MODELS[name])
    x = W(2, *example.shape[1:]) if example.dtype == jnp.float32 else jnp.arange(32).reshape(2, 16)
    found = check(model.apply, noisy(jax.jit(model.init)(KEY, x)), x)
    assert found.free


@pytest.mark.parametrize(
    ("name", "options", "free"),
    [
        ("lab_vgg", {}, 8),  # eight convolutions
        ("resnet50", {"resolution": 64}, 37),  # 16 blocks of 2, 4 stages' widths and the stem
        ("efficientnet_lite0", {"resolution": 64}, 24),
    ],
)
def test_groups_of_large_models_from_shapes_alone(name, options, free):
    model, example = zoo.get(name, **options)
    variables = jax.eval_shape(model.init, KEY, example)
    assert len(dependencies(model.apply, variables, example).free) == free


def test_thirty_percent_of_a_vgg_is_the_labs_count():
    """Lab 1: 30 % of the channels of all convolutions but the last; MACs of these and the classifier."""
    from efficient import cost

    model, example = zoo.get("lab_vgg")
    variables = jax.eval_shape(model.init, KEY, example)
    found = dependencies(model.apply, variables, example)
    pruned = {name: group for name, group in found.free.items() if "layer7" not in name}
    keep = {name: np.arange(group.size) < round(0.7 * group.size) for name, group in pruned.items()}
    shapes = found.shapes_left(keep)
    small = map_with_path(lambda path, v: jax.ShapeDtypeStruct(shapes[path], v.dtype), variables)
    assert cost(resized(model.apply, found, keep), small, example).macs == 305_097_920


def test_nnx_models_and_their_optimizers():
    graph, state = nnx.split(
        nnx.Sequential(nnx.Linear(3, 8, rngs=nnx.Rngs(0)), nnx.Linear(8, 2, rngs=nnx.Rngs(1)))
    )
    fn = lambda params, x: nnx.merge(graph, params)(x)  # noqa: E731
    found = check(fn, state, W(4, 3))
    keep = some(found)
    optimizer = optax.adam(1e-2)
    moments = found.shrink(optimizer.init(state), keep)
    small, run = found.shrink(state, keep), resized(fn, found, keep)

    @chex.assert_max_traces(n=1)
    def step(params, moments, x):
        grads = jax.grad(lambda p: jnp.sum(run(p, x) ** 2))(params)
        updates, moments = optimizer.update(grads, moments)
        return optax.apply_updates(params, updates), moments

    step = jax.jit(step)
    before = jnp.sum(run(small, W(4, 3)) ** 2)
    for _ in range(3):
        small, moments = step(small, moments, W(4, 3))
    assert jnp.sum(run(small, W(4, 3)) ** 2) < before


def test_one_set_of_groups_serves_other_batches_and_part_of_the_tree():
    params = {"params": {"a": W(3, 5), "b": W(5, 2)}, "stats": {"m": W(5)}}
    fn = lambda p, x: ((x @ p["params"]["a"] - p["stats"]["m"][None]) ** 3) @ p["params"]["b"]  # noqa: E731
    found = dependencies(fn, params, W(4, 3))
    keep = some(found)
    assert resized(fn, found, keep)(found.shrink(params, keep), W(9, 3)).shape == (9, 2)
    inner = found.under("params")
    assert set(inner.shapes) == {"a", "b"}
    chex.assert_trees_all_equal(inner.shrink(params["params"], keep), found.shrink(params, keep)["params"])
    with pytest.raises(ValueError, match="prefix must hold weights, got 'nothing' among"):
        found.under("nothing")


def test_pool_sums_scores_by_channel():
    # a:1 has columns of a and rows of b: |a| = [1 2; 3 4], |b| = [5; 6] -> 1 + 3 + 5 and 2 + 4 + 6.
    params = {"a": jnp.array([[1.0, 2.0], [3.0, 4.0]]), "b": jnp.array([[5.0], [6.0]])}
    found = dependencies(lambda p, x: x @ p["a"] @ p["b"], params, W(1, 2))
    np.testing.assert_array_equal(found.pool(params)["a:1"], [9, 12])


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        ({"a:9": np.ones(5, bool)}, r"keep must name groups, got 'a:9'; print the dependencies: a:1"),
        (
            {"a:0": np.ones(3, bool)},
            r"group 'a:0' must stay whole, got a mask of it: it is an axis of the input",
        ),
        ({"a:1": np.ones(4, bool)}, r"keep\['a:1'\] must be bool \[5\] with a True, got bool\[4\] with 4"),
        ({"a:1": np.zeros(5, bool)}, r"must be bool \[5\] with a True, got bool\[5\] with 0; keep one index"),
    ],
)
def test_wrong_masks_are_refused(keep, message):
    params = {"a": W(3, 5), "b": W(5, 2)}
    found = dependencies(lambda p, x: x @ p["a"] @ p["b"], params, W(4, 3))
    with pytest.raises(ValueError, match=message):
        found.axis_masks(keep)


def joined(p, x):
    """Two branches, concatenated and flattened with the positions: a sum times a product."""
    x = jnp.concatenate([x @ p["a"], jnp.tanh(x @ p["b"])], axis=-1)
    return x.reshape(2, -1) @ p["c"]


JOINED = {"a": W(3, 4), "b": W(3, 2), "c": W(5 * 6, 2)}


def test_sizes_left_are_those_of_any_masks_of_these_counts():
    for fn, params, x in ((joined, JOINED, W(2, 5, 3)), (Block().apply, None, W(2, 4, 4, 6))):
        params = jax.eval_shape(Block().init, KEY, x) if params is None else params
        found = dependencies(fn, params, x)
        assert len(found.free) >= 2
        for seed in range(3):
            keep = some(found, seed)
            counts = {name: int(mask.sum()) for name, mask in keep.items()}
            left = found.sizes_left(counts)
            assert left == found.shapes_left(keep)
            for path, shape in left.items():
                terms = found.elements(path).items()
                total = sum(math.prod([k, *(counts[name] for name in names)]) for names, k in terms)
                assert total == math.prod(shape)
    assert found.sizes_left({}) == found.shapes
    assert dependencies(joined, JOINED, W(2, 5, 3)).elements("c") == {("a:1",): 10, ("b:1",): 10}


def test_groups_stand_in_the_order_of_the_program():
    params = {"a": W(8, 2), "m": {"z": W(5, 8)}, "z": W(3, 5)}
    fn = jax.jit(lambda p, x: jnp.tanh(x @ p["z"]) @ p["m"]["z"] @ p["a"])
    assert list(dependencies(fn, params, W(4, 3)).free) == ["z:1", "m/z:1"]


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({"z:1": 1}, "counts must name groups, got 'z:1'; print the dependencies: a:1"),
        ({"a:0": 1}, "group 'a:0' must stay whole, got a count of it: it is an axis of the input"),
        ({"a:1": 0}, r"counts\['a:1'\] must be a whole number from 1 to 4, got 0; keep one"),
        ({"a:1": 5}, r"counts\['a:1'\] must be a whole number from 1 to 4, got 5"),
    ],
)
def test_wrong_counts_are_refused(counts, message):
    with pytest.raises(ValueError, match=message):
        dependencies(joined, JOINED, W(2, 5, 3)).sizes_left(counts)


def test_another_function_must_group_alike():
    params = {"a": W(3, 6), "b": W(6, 2)}
    found = dependencies(lambda p, x: x @ p["a"] @ p["b"], params, W(4, 3))
    keep = {"a:1": np.array([1, 0, 1, 1, 1, 1], bool)}
    other = lambda p, x: (x @ p["a"]).reshape(4, 2, 3).sum(1) @ p["b"].reshape(2, 3, 2).sum(0)  # noqa: E731
    with pytest.raises(ValueError, match="fn must use 'a' as the function that was traced, got other groups"):
        resized(other, found, keep)(found.shrink(params, keep), W(4, 3))


def test_groups_print_as_a_table():
    found = dependencies(lambda p, x: x @ p["a"] @ p["b"], {"a": W(3, 6), "b": W(6, 2)}, W(4, 3))
    assert repr(found) == "<Dependencies: 3 groups, 1 of them free>"
    assert "a:1, b:0" in str(found)
