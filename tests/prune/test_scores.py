"""Scores: each by hand, against brute force or an independent implementation, and through `prune`."""

import inspect
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from efficient.core.gradients import observe_gradients
from efficient.core.observe import observe
from efficient.core.schedules import cubic_ramp
from efficient.core.scope import stacked
from efficient.core.statistics import Statistics
from efficient.prune.allocations import together
from efficient.prune.patterns import channel, per_output
from efficient.prune.prune import prune
from efficient.prune.scores import (
    absolute,
    activation_norm,
    grasp,
    group_norm,
    movement,
    optimal_brain_damage,
    optimal_brain_surgeon,
    random,
    slimming,
    snip,
    taylor,
    wanda,
    zero_fraction,
)
from efficient.prune.scores.features import along_features

W = jnp.array([[1.0, -2.0], [3.0, 0.5]])
G = jnp.array([[2.0, 1.0], [-1.0, 4.0]])


def gradients(**sums: Any) -> Statistics:
    """Statistics of two batches whose sums these are."""
    return Statistics(path="w", gradient_count=jnp.float32(2), **{name: 2 * v for name, v in sums.items()})


def scored(score: Any, value: Any, stats: Any = None, key: Any = None) -> Any:
    return score.of(score.start(value, path="w", stats=stats, key=key), value)


def masks(score: Any, params: Any, sparsity: float = 0.5, *, stats: Any = None, **kwargs: Any) -> Any:
    return prune(score, sparsity, **kwargs).init(params, stats=stats).fixed.masks


# By hand. W = [[1, -2], [3, .5]], mean gradient G = [[2, 1], [-1, 4]]: G W = [[2, -2], [-3, 2]].

BY_HAND = {
    "absolute": (absolute(), None, [[1, 2], [3, 0.5]]),
    "group_norm_1": (group_norm(1), None, [[1, 2], [3, 0.5]]),
    "group_norm_2": (group_norm(2), None, [[1, 4], [9, 0.25]]),
    "snip": (snip(), gradients(gradient=G), [[2, 2], [3, 2]]),
    "grasp": (grasp(), gradients(hessian_gradient=G), [[2, -2], [-3, 2]]),
    "taylor": (taylor(), gradients(gradient=G), [[4, 4], [9, 4]]),
    "taylor_absolute": (taylor(squared=False), gradients(gradient=G), [[2, 2], [3, 2]]),
    # A gate an output: (2 - 3)^2 and (-2 + 2)^2. An input: (2 - 2)^2 and (-3 + 2)^2.
    "taylor_gates": (taylor(axis=-1), gradients(gradient=G), [[1, 0], [1, 0]]),
    "taylor_gates_of_inputs": (taylor(axis=0), gradients(gradient=G), [[0, 0], [1, 1]]),
    "taylor_gates_absolute": (taylor(axis=-1, squared=False), gradients(gradient=G), [[1, 0], [1, 0]]),
    "taylor_knows_nothing": (taylor(), None, [[0, 0], [0, 0]]),
    "movement": (movement(), None, [[0, 0], [0, 0]]),
    # h w^2 / 2: 2*1/2, 1*4/2, 8*9/2, 4*.25/2.
    "damage_fisher": (
        optimal_brain_damage(),
        gradients(gradient_squares=jnp.abs(G).at[1, 0].set(8)),
        [[1, 2], [36, 0.5]],
    ),
    "damage_hessian": (
        optimal_brain_damage("hessian"),
        gradients(hessian_diagonal=G),
        [[1, 2], [-4.5, 0.5]],
    ),
    # Norms of the two inputs: sqrt(4) and sqrt(9).
    "wanda": (
        wanda(),
        Statistics(path="w", features=(-2,), squares=jnp.array([4.0, 9.0])),
        [[2, 4], [9, 1.5]],
    ),
    "wanda_transposed": (
        wanda(),
        Statistics(path="w", features=(-1,), squares=jnp.array([4.0, 9.0])),
        [[2, 6], [6, 1.5]],
    ),
    "slimming": (slimming({"w": jnp.array([-0.5, 0.25])}), None, [[0.5, 0.25], [0.5, 0.25]]),
    # Three quarters and none of the samples are zero; of a flattened image of two places, the mean.
    "zero_fraction": (
        zero_fraction({"w": Statistics(path="v", count=jnp.float32(8), zeros=jnp.array([6.0, 0.0]))}),
        None,
        [[0.25, 1], [0.25, 1]],
    ),
    "zero_fraction_flattened": (
        zero_fraction({"w": Statistics(path="v", count=jnp.float32(8), zeros=jnp.array([6.0, 0, 2, 4]))}),
        None,
        [[0.5, 0.75], [0.5, 0.75]],
    ),
    "activation_norm": (
        activation_norm({"w": Statistics(path="v", count=jnp.float32(2), abstotal=jnp.array([6.0, 1.0]))}),
        None,
        [[3, 0.5], [3, 0.5]],
    ),
    "activation_norm_2": (
        activation_norm(
            {"w": Statistics(path="v", count=jnp.float32(2), squares=jnp.array([18.0, 8.0]))}, order=2
        ),
        None,
        [[3, 2], [3, 2]],
    ),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_by_hand(name: str) -> None:
    score, stats, expected = BY_HAND[name]
    np.testing.assert_array_equal(scored(score, W, stats), expected)
    half = scored(score, W.astype(jnp.bfloat16), stats)
    assert half.dtype == jnp.float32
    np.testing.assert_array_equal(half, expected)  # all these numbers are bfloat16's


def test_the_surgeon_by_hand() -> None:
    # H = [[2, 1], [1, 2]] has the inverse [[2, -1], [-1, 2]] / 3, whose diagonal is 2/3: w^2 / (4/3). The
    # damping of 1e-7 moves it by less than 1e-6.
    stats = Statistics(
        path="w", contracted=(-2,), gram=5 * jnp.array([[2.0, 1.0], [1.0, 2.0]]), gram_count=jnp.float32(5)
    )
    np.testing.assert_allclose(
        scored(optimal_brain_surgeon(damping=1e-7), W, stats), np.square(W) * 0.75, rtol=2e-6
    )


# Scores that learn: two steps.


def test_taylor_over_two_steps() -> None:
    # (g w)^2 = 4 and then, of g = 1 and w = 3, 9: 0.5 * (0.5 * 0 + 0.5 * 4) + 0.5 * 9 = 5.5.
    t = prune(taylor(decay=0.5), lambda step: 0.0)
    state = t.init({"w": jnp.array([2.0])})
    state = t.update(state, {"w": jnp.array([2.0])}, grads={"w": jnp.array([-1.0])}, step=1)
    assert state.fixed.memory["w"].tolist() == [2]
    state = t.update(state, {"w": jnp.array([3.0])}, grads={"w": jnp.array([1.0])}, step=2)
    assert state.fixed.memory["w"].tolist() == [5.5]
    # With statistics it starts at theirs, (1 * 2)^2 = 4: 0.5 * 4 + 0.5 * 4.
    state = t.init({"w": jnp.array([2.0])}, stats={"w": gradients(gradient=jnp.array([1.0]))})
    state = t.update(state, {"w": jnp.array([2.0])}, grads={"w": jnp.array([-1.0])}, step=1)
    assert state.fixed.memory["w"].tolist() == [4]


def test_movement_over_two_steps() -> None:
    """Weights that grew away from zero stay, large or not; the one gone moves on, and stays gone."""
    t = prune(movement(), lambda step: jnp.where(step < 2, 0.0, 0.5))
    state = t.init({"w": jnp.array([4.0, 4.0, -0.5, 0.5])})
    assert state.fixed.masks["w"].all()
    # A descent step adds -g: the first two shrink, the last two grow. -g w = -4, -8, .5, .5.
    grads = {"w": jnp.array([1.0, 2.0, 1.0, -1.0])}
    state = t.update(state, {"w": jnp.array([4.0, 4.0, -0.5, 0.5])}, grads=grads, step=1)
    assert state.fixed.memory["w"].tolist() == [-4, -8, 0.5, 0.5]
    assert state.fixed.masks["w"].all()
    # -g w = 0, 14, 1, -.25 more: -4, 6, 1.5, .25.
    grads = {"w": jnp.array([0.0, -7.0, 1.0, 0.5])}
    state = t.update(state, {"w": jnp.array([3.0, 2.0, -1.0, 0.5])}, grads=grads, step=2)
    assert state.fixed.memory["w"].tolist() == [-4, 6, 1.5, 0.25]
    assert state.fixed.masks["w"].tolist() == [False, True, True, False]


# Theorems.


def test_the_surgeon_is_the_least_error_by_brute_force() -> None:
    """The least d^T H d / 2 over all d with d_q = -w_q, the other places free."""
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(12, 4)).astype(np.float32), rng.normal(size=(4, 3)).astype(np.float32)
    stats = observe(lambda p, x: x @ p["w"], {"w": w}, [x], statistics="gram")
    h = (x.T @ x / 12).astype(np.float64)
    h += 0.01 * np.trace(h) / 4 * np.eye(4)
    least = np.zeros((4, 3))
    for q, o in itertools.product(range(4), range(3)):
        others = [i for i in range(4) if i != q]
        d = np.zeros(4)
        d[q] = -w[q, o]
        d[others] = np.linalg.solve(h[np.ix_(others, others)], h[others, q] * w[q, o])
        least[q, o] = 0.5 * d @ h @ d
    found = scored(optimal_brain_surgeon(), jnp.asarray(w), stats["w"])
    np.testing.assert_allclose(found, least, rtol=1e-4)
    # Inputs that do not depend on each other, undamped: OBS is OBD, h w^2 / 2.
    diagonal = Statistics(
        path="w", contracted=(-2,), gram=jnp.diag(jnp.array([2.0, 4.0])), gram_count=jnp.float32(1)
    )
    damage = optimal_brain_damage("hessian")
    curvature = gradients(hessian_diagonal=jnp.array([[2.0, 2.0], [4.0, 4.0]]))
    np.testing.assert_allclose(
        scored(optimal_brain_surgeon(damping=1e-7), W, diagonal), scored(damage, W, curvature), rtol=1e-6
    )


def test_the_surgeon_survives_inputs_that_are_dependent_or_never_on() -> None:
    gram = jnp.array([[4.0, 4.0, 0.0], [4.0, 4.0, 0.0], [0.0, 0.0, 0.0]])
    w = jnp.ones((3, 1))
    found = scored(
        optimal_brain_surgeon(), w, Statistics(path="w", contracted=(-2,), gram=gram, gram_count=jnp.ones(()))
    )
    # The twin makes up for the loss but for the damping; the dead input costs only the damping.
    damp = 0.01 * 8 / 3
    np.testing.assert_allclose(found[:, 0], [damp, damp, damp / 2], rtol=0.01)
    nothing = Statistics(path="w", contracted=(-2,), gram=jnp.zeros((3, 3)), gram_count=jnp.zeros(()))
    np.testing.assert_allclose(scored(optimal_brain_surgeon(), w, nothing), 0, atol=1e-30)


def test_wanda_with_equal_inputs_is_magnitude() -> None:
    w = jax.random.normal(jax.random.key(0), (6, 4))
    stats = {"w": Statistics(path="w", features=(-2,), squares=jnp.full(6, 4.0))}
    for pattern in (per_output(), channel()):
        np.testing.assert_array_equal(
            masks(wanda(), {"w": w}, stats=stats, pattern=pattern)["w"],
            masks(absolute(), {"w": w}, pattern=pattern)["w"],
        )
    unequal = {"w": Statistics(path="w", features=(-2,), squares=jnp.array([1e6, 1, 1, 1, 1, 1]))}
    kept = masks(wanda(), {"w": w}, stats=unequal, pattern=per_output())["w"]
    assert kept.sum(axis=0).tolist() == [3] * 4
    assert kept[0].all()


def test_damage_is_what_the_loss_rises_by_on_a_diagonal_quadratic() -> None:
    """L = sum(c w^2) / 2 at its minimum has no slope: without w_i it rises by c_i (w_i)^2 / 2 exactly."""
    c, w = jnp.array([1.0, 3.0, 0.5]), jnp.array([2.0, -1.0, 4.0])
    loss = lambda p, x: 0.5 * jnp.sum(c * (p["w"] - x) ** 2)  # noqa: E731
    stats = observe_gradients(loss, {"w": w}, [w], statistics="hessian_diagonal", key=jax.random.key(0))
    rise = [loss({"w": w.at[i].set(0)}, w) - loss({"w": w}, w) for i in range(3)]
    np.testing.assert_array_equal(scored(optimal_brain_damage("hessian"), w, stats["w"]), rise)


def test_grasp_is_half_the_first_order_loss_of_gradient_norm() -> None:
    """On a quadratic |g|^2 changes by -2 w (H g) + w^2 |H_i|^2 when w_i goes: the first term is -2 scores."""
    a = np.array([[2.0, 1.0], [1.0, 3.0]], np.float32)
    loss = lambda p, b: 0.5 * p["w"] @ a @ p["w"] - b @ p["w"]  # noqa: E731
    w, b = np.array([1.0, -2.0], np.float32), np.array([3.0, 1.0], np.float32)
    stats = observe_gradients(loss, {"w": jnp.asarray(w)}, [b], statistics="hessian_gradient")
    score = scored(grasp(), jnp.asarray(w), stats["w"])
    norm = lambda w: np.sum((a @ w - b) ** 2)  # noqa: E731
    for i in range(2):
        without = np.where(np.arange(2) == i, 0, w)
        assert norm(without) - norm(w) == -2 * score[i] + w[i] ** 2 * np.sum(a[i] ** 2)


def test_snip_through_observe_gradients_ranks_layers_together() -> None:
    # L = u v x: both gradients times weights are u v x, so all weights of both layers are worth the same
    # path by path: of two paths u = (1, 3), v = (2, 1) the second is worth 3 and the first 2.
    loss = lambda p, x: jnp.sum(p["u"] * p["v"]) * x  # noqa: E731
    params = {"u": jnp.array([1.0, 3.0]), "v": jnp.array([2.0, 1.0])}
    stats = observe_gradients(loss, params, [1.0, 1.0])
    found = masks(snip(), params, stats=stats, allocation=together())
    assert {p: m.tolist() for p, m in found.items()} == {"u": [False, True], "v": [False, True]}


# Convolutions, layers and experts.


def test_features_along_any_weight() -> None:
    values = jnp.arange(1.0, 5.0)
    np.testing.assert_array_equal(  # four inputs in two groups, of two outputs each
        along_features(values, axes=(-2,), shape=(3, 2, 4), path="w")[0], [[1, 1, 3, 3], [2, 2, 4, 4]]
    )
    both = along_features(jnp.arange(6.0), axes=(-3, -2), shape=(2, 3, 5), path="w")
    np.testing.assert_array_equal(both[..., 0], [[0, 1, 2], [3, 4, 5]])
    experts = jnp.arange(6.0).reshape(2, 3)
    assert along_features(experts, axes=(-2,), shape=(2, 3, 5), path="w").shape == (2, 3, 1)
    np.testing.assert_array_equal(
        along_features(experts, axes=(-1,), shape=(2, 5, 3), path="w")[:, 0], experts
    )
    np.testing.assert_array_equal(  # features stand before the axis that leads
        along_features(experts, axes=(-3,), shape=(3, 2, 5), path="w")[..., 0], experts.T
    )


@pytest.mark.parametrize("groups", [2, 4])
def test_wanda_and_the_surgeon_of_grouped_convolutions(groups: int) -> None:
    """Of a 1 x 1 kernel, each group is a dense layer."""
    rng = np.random.default_rng(groups)
    x, w = rng.normal(size=(2, 3, 3, 4)), rng.normal(size=(1, 1, 4 // groups, 8))

    def conv(p: Any, x: Any) -> Any:
        sides = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            x, p["w"], (1, 1), "SAME", dimension_numbers=sides, feature_group_count=groups
        )

    w = jnp.asarray(w, jnp.float32)
    stats = observe(conv, {"w": w}, [x.astype(np.float32)], statistics=("second_moment", "gram"))["w"]
    by_wanda, by_surgeon = scored(wanda(), w, stats)[0, 0], scored(optimal_brain_surgeon(), w, stats)[0, 0]
    n_in, n_out = 4 // groups, 8 // groups
    for i in range(groups):
        own = x.reshape(-1, 4)[:, i * n_in : (i + 1) * n_in]
        outs = slice(i * n_out, (i + 1) * n_out)
        kernel = np.asarray(w[0, 0, :, outs], np.float64)
        norms = np.sqrt((own**2).sum(0))
        np.testing.assert_allclose(by_wanda[:, outs], np.abs(kernel) * norms[:, None], rtol=1e-5)
        h = own.T @ own / len(own)
        inverse = np.linalg.inv(h + 0.01 * np.trace(h) / n_in * np.eye(n_in))
        least = kernel**2 / (2 * np.diag(inverse)[:, None])
        np.testing.assert_allclose(by_surgeon[:, outs], least, rtol=1e-4)


def test_layers_that_are_stacked_have_their_own_statistics() -> None:
    """Under `stacked` a layer is scored by its slice; a count of batches has no axes: it is every layer's."""
    w = jnp.stack([W, 2 * W[::-1]])
    gram = jnp.stack([jnp.array([[2.0, 1.0], [1.0, 2.0]]), jnp.array([[3.0, 0.0], [0.0, 1.0]])])
    stats = Statistics(
        path="w",
        features=(-2,),
        contracted=(-2,),
        squares=jnp.array([[4.0, 9.0], [1.0, 25.0]]),
        gram=gram,
        gram_count=jnp.ones(2),
        gradient_count=jnp.float32(2),
        gradient=jnp.stack([G, 3 * G]),
    )
    slices = [jax.tree.map(lambda a, i=i: a[i] if a.ndim else a, stats) for i in range(2)]
    for score in (wanda(), optimal_brain_surgeon(), snip()):
        ramp = cubic_ramp(final=0.5, end=9)  # with a constant sparsity the memory is not kept
        state = stacked(prune(score, ramp)).init({"w": w}, stats={"w": stats})
        for i in range(2):
            found = score.of(jax.tree.map(lambda a, i=i: a[i], state.fixed.memory["w"]), w[i])
            np.testing.assert_allclose(found, scored(score, w[i], slices[i]), rtol=1e-6)
            np.testing.assert_allclose(scored(score, w, stats)[i], scored(score, w[i], slices[i]), rtol=1e-6)


def test_layers_of_a_stack_have_outputs_of_their_own() -> None:
    kernels = jnp.ones((2, 3, 2))
    found = scored(slimming({"w": jnp.array([[1.0, -2.0], [3.0, 4.0]])}), kernels)
    np.testing.assert_array_equal(found[:, 0], [[1, 2], [3, 4]])
    assert found.shape == (2, 3, 2)
    assert scored(slimming({"w": jnp.array([1.0, 2.0])}), jnp.zeros(2)).tolist() == [1, 2]  # a bias


def test_whole_channels_go_by_what_follows_them() -> None:
    params = {"up": jnp.ones((2, 3)), "down": jnp.ones((3, 1))}
    model = lambda p, x: jax.nn.relu(x @ p["up"] - jnp.array([[9.0, 0.0, 1.0]])) @ p["down"]  # noqa: E731
    x = jnp.array([[1.0, 0.0], [3.0, 1.0]])  # sums 1 and 4: the outputs are on 0, 2 and 1 times
    stats = observe(model, params, [x], statistics=("zeros", "absmean", "second_moment"))
    consumers = {"up": stats["down"]}
    for score in (zero_fraction(consumers), activation_norm(consumers), activation_norm(consumers, order=2)):
        mask = masks(score, {"up": params["up"]}, 2 / 3, pattern=channel())["up"]
        np.testing.assert_array_equal(mask, [[False, True, False]] * 2)


# Random.


def test_random_is_the_key_s_and_no_other() -> None:
    w = jnp.zeros((8, 8))
    one, same, other = (scored(random(), w, key=jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()
    state = prune(random(), 0.75).init({"a": w, "b": w}, key=jax.random.key(2))
    assert {p: int(m.sum()) for p, m in state.fixed.masks.items()} == {"a": 16, "b": 16}
    assert (state.fixed.masks["a"] != state.fixed.masks["b"]).any()


# Against torch.


def test_masks_of_magnitude_and_snip_are_torch_s() -> None:
    torch = pytest.importorskip("torch")
    from torch.nn.utils import prune as torch_prune

    rng = np.random.default_rng(5)
    w, x, y = (rng.normal(size=s).astype(np.float32) for s in ((6, 4), (5, 6), (5, 4)))

    layer = torch.nn.Linear(6, 4, bias=False)
    layer.weight.data = torch.tensor(w.T.copy())
    ((layer(torch.tensor(x)).tanh() - torch.tensor(y)) ** 2).mean().backward()
    importance = (layer.weight.grad * layer.weight.data).abs()
    wanted = []
    for scores in (None, importance):
        copy = torch.nn.Linear(6, 4, bias=False)
        copy.weight.data = layer.weight.data.clone()
        torch_prune.l1_unstructured(copy, "weight", amount=15, importance_scores=scores)
        wanted.append(copy.weight_mask.numpy().T == 1)

    loss = lambda p, x, y: jnp.mean((jnp.tanh(x @ p["w"]) - y) ** 2)  # noqa: E731
    stats = observe_gradients(loss, {"w": jnp.asarray(w)}, [(x, y)])
    for score, mask in zip((absolute(), snip()), wanted, strict=True):
        np.testing.assert_array_equal(masks(score, {"w": jnp.asarray(w)}, 15 / 24, stats=stats)["w"], mask)
    assert (wanted[0] != wanted[1]).any()


# Names, and wrong requests.


def test_scores_print_as_their_calls() -> None:
    assert repr(taylor(axis=-1)) == "taylor(axis=-1)"
    assert repr(slimming({"conv": jnp.ones(2)})) == "slimming({'conv': float32[2]})"
    consumers = {"up": Statistics(path="down", count=jnp.ones(()), zeros=jnp.ones(2))}
    assert repr(zero_fraction(consumers)) == (
        "zero_fraction({'up': <Statistics of what enters 'down': count [], zeros [2]>})"
    )


NEEDS = {
    "snip": (snip(), "mean_gradient", r"observe_gradients\(..., statistics='gradient'\)"),
    "grasp": (grasp(), "mean_hessian_gradient", r"observe_gradients\(..., statistics='hessian_gradient'\)"),
    "damage_fisher": (
        optimal_brain_damage(),
        "mean_gradient_square",
        r"observe_gradients\(..., statistics='gradient_squares'\)",
    ),
    "damage_hessian": (
        optimal_brain_damage("hessian"),
        "mean_hessian_diagonal",
        r"observe_gradients\(..., statistics='hessian_diagonal'\)",
    ),
    "wanda": (wanda(), "squares", r"observe\(..., statistics='second_moment'\)"),
    "surgeon": (optimal_brain_surgeon(), "gram", r"observe\(..., statistics='gram'\)"),
}


@pytest.mark.parametrize("name", NEEDS)
def test_what_a_score_needs_is_named(name: str) -> None:
    score, field, call = NEEDS[name]
    others = Statistics(path="w", count=jnp.float32(1), absmax=jnp.ones(2), gradient_count=jnp.float32(1))
    for stats, got in ((None, "None"), ({"w": others}, "<Statistics of what enters 'w'.*>")):
        message = rf"stats of 'w' must have '{field}', got {got}; call {call}\."
        with pytest.raises(ValueError, match=message):
            prune(score, 0.5).init({"w": W}, stats=stats)


def of_three(**sums: Any) -> Statistics:
    return Statistics(path="w", features=(-2,), contracted=(-2,), **sums)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: inspect.unwrap(group_norm)(3), r"order must be 1 or 2, got 3; 2 ranks units by"),
        (lambda: inspect.unwrap(activation_norm)({}, order=3), r"order must be 1 or 2, got 3; 1 is the mean"),
        (
            lambda: inspect.unwrap(optimal_brain_damage)("gauss"),
            r"curvature must be 'fisher' or 'hessian', got 'gauss'; choose one",
        ),
        (lambda: optimal_brain_surgeon(damping=0.0), r"damping must be above 0, got 0.0; 0.01 adds"),
        (lambda: optimal_brain_surgeon(damping=float("nan")), r"damping must be above 0, got nan"),
        (lambda: taylor(decay=1.0), r"decay must be in \[0, 1\), got 1.0; 0.9 remembers about ten steps"),
        (
            lambda: masks(taylor(axis=2), {"w": W}),
            r"axis must be one of the 2 axes of 'w', got 2; exclude the leaf",
        ),
        (
            lambda: prune(taylor(), lambda step: 0.0).update(
                prune(taylor(), lambda step: 0.0).init({"w": W}), {"w": W}, step=1
            ),
            r"grads must be given to a score that learns from them, got None; pass update\(grads=...\)",
        ),
        (
            lambda: movement().track(jnp.zeros((2, 2)), W, None),
            r"grads must be given to a score that learns from them, got None",
        ),
        (lambda: masks(random(), {"w": W}), r"key must be given to score 'w' at random, got None; pass init"),
        (
            lambda: zero_fraction({"w": Statistics(path="v", count=jnp.float32(1))}),
            r"stats of 'w' must have 'zero_fraction', got .*; call observe\(..., statistics='zeros'\)\.",
        ),
        (
            lambda: activation_norm({"w": Statistics(path="v", count=jnp.float32(1))}),
            r"stats of 'w' must have 'absmean', got .*; call observe\(..., statistics='absmean'\)\.",
        ),
        (
            lambda: activation_norm({"w": Statistics(path="v", count=jnp.float32(1))}, order=2),
            r"must have 'second_moment', got .*; call observe\(..., statistics='second_moment'\)\.",
        ),
        (
            lambda: masks(slimming({"a": jnp.ones(2)}), {"w": W}),
            r"scales must have 'w', got 'a'; add it, or scope with at\(...\)",
        ),
        (lambda: masks(zero_fraction({}), {"w": W}), r"consumers must have 'w', got nothing; add it"),
        (
            lambda: masks(slimming({"w": jnp.ones(3)}), {"w": W}),
            r"scales of 'w' must have a number for each output, the last axis of \[2, 2\], got shape \[3\]; "
            "give that of what follows the weight",
        ),
        (
            lambda: masks(slimming({"w": jnp.ones((3, 2))}), {"w": W}),
            r"for each output, the last axis of \[2, 2\], got shape \[3, 2\]",
        ),
        (
            lambda: scored(wanda(), W, of_three(squares=jnp.ones(3))),
            r"stats of 'w' must be those of a weight of shape \[2, 2\], got \[3\] over axes \(-2,\); observe "
            "these params",
        ),
        (  # two groups of two inputs, and three outputs
            lambda: scored(wanda(), jnp.ones((2, 3)), of_three(squares=jnp.ones(4))),
            r"those of a weight of shape \[2, 3\], got \[4\]",
        ),
        (
            lambda: scored(wanda(), W, of_three(squares=jnp.ones((5, 2)))),
            r"those of a weight of shape \[2, 2\], got \[5, 2\]",
        ),
        (
            lambda: scored(wanda(), jnp.ones(2), of_three(squares=jnp.ones(2))),
            r"those of a weight of shape \[2\], got \[2\] over axes \(-2,\)",
        ),
        (
            lambda: scored(optimal_brain_surgeon(), W, of_three(gram=jnp.eye(3), gram_count=jnp.ones(()))),
            r"those of a weight of shape \[2, 2\], got \[3\]",
        ),
    ],
)
def test_wrong_requests_say_what_to_do(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
