"""Derivatives of a loss by path: against the Hessian by hand and by jax.hessian; streamed, and merged."""

from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.flatten_util import ravel_pytree

from efficient.core.gradients import observe_gradients
from efficient.core.observe import observe
from efficient.core.statistics import Statistics, combined
from efficient.core.transform import State
from efficient.quantize import linear

ALL = ("gradient", "gradient_squares", "hessian_gradient", "hessian_diagonal")
A = np.array([[2.0, 1.0, 0.0], [1.0, 3.0, -1.0], [0.0, -1.0, 4.0]], np.float32)


def quadratic(params: Any, b: Any) -> Any:
    """The loss w A w / 2 - b w: the gradient is A w - b, the Hessian A."""
    return 0.5 * params["w"] @ A @ params["w"] - b @ params["w"]


def test_a_quadratic_by_hand() -> None:
    # w = (1, 0, -1): A w = (2, 1+1, -4) = (2, 2, -4). With b = (1, 0, 0): g = (1, 2, -4), and
    # H g = (2+2, 1+6+4, -2-16) = (4, 11, -18). With b = (0, 2, -4): g = (2, 0, 0), H g = (4, 2, 0).
    w = {"w": jnp.array([1.0, 0.0, -1.0])}
    batches = [jnp.array([1.0, 0.0, 0.0]), jnp.array([0.0, 2.0, -4.0])]
    s = observe_gradients(quadratic, w, batches, statistics=ALL, key=jax.random.key(0))["w"]
    assert s.gradient_count == 2
    assert s.gradient.tolist() == [3, 2, -4]
    assert s.gradient_squares.tolist() == [1 + 4, 4 + 0, 16 + 0]
    assert s.hessian_gradient.tolist() == [8, 13, -18]
    assert s.mean_gradient.tolist() == [1.5, 1, -2]
    assert s.mean_gradient_square.tolist() == [2.5, 2, 8]
    assert s.mean_hessian_gradient.tolist() == [4, 6.5, -9]
    assert s.count is None
    assert s.mean is None
    assert repr(s) == (
        "<Statistics of what enters 'w': gradient_count [], gradient [3], gradient_squares [3], "
        "hessian_gradient [3], hessian_diagonal [3]>"
    )


def test_the_estimate_of_the_diagonal_is_unbiased() -> None:
    """Its variance in place i is the sum of H_ij^2 over j != i: 1, 2 and 1; five sigma of 200 batches."""
    w, b = {"w": jnp.zeros(3)}, jnp.zeros(3)
    s = observe_gradients(quadratic, w, [b] * 200, statistics="hessian_diagonal", key=jax.random.key(1))["w"]
    error = np.abs(np.asarray(s.mean_hessian_diagonal) - np.diag(A))
    assert (error <= 5 * np.sqrt(np.array([1, 2, 1]) / 200)).all()
    assert (error > 0).any()  # signs were drawn anew for each batch
    other = observe_gradients(quadratic, w, [b], statistics="hessian_diagonal", key=jax.random.key(2))["w"]
    one = observe_gradients(quadratic, w, [b], statistics="hessian_diagonal", key=jax.random.key(2))["w"]
    chex.assert_trees_all_equal(one, other)
    assert s.gradient is None


def test_a_diagonal_hessian_is_exact_with_any_signs() -> None:
    curvature = jnp.array([[1.0, 2.0], [-3.0, 0.5]])
    loss = lambda p, x: 0.5 * jnp.sum(x * curvature * p["w"] ** 2)  # noqa: E731
    s = observe_gradients(
        loss, {"w": jnp.ones((2, 2))}, [2.0, 4.0], statistics="hessian_diagonal", key=jax.random.key(3)
    )["w"]
    np.testing.assert_array_equal(s.mean_hessian_diagonal, 3 * curvature)


class Mlp(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        return nn.Dense(2)(jnp.tanh(nn.Dense(3)(x)))


def mlp_loss(params: Any, x: Any, y: Any) -> Any:
    return jnp.mean((Mlp().apply(params, x) - y) ** 2)


def test_a_linen_model_against_jax_hessian() -> None:
    """Of the chosen kernels alone, in blocks that meet: H runs over both."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(5, 4)).astype(np.float32), rng.normal(size=(5, 2)).astype(np.float32)
    params = Mlp().init(jax.random.key(0), x)
    stats = observe_gradients(
        mlp_loss, params, [(x, y)], where="**/kernel", statistics=ALL, key=jax.random.key(4)
    )
    names = ["params/Dense_0/kernel", "params/Dense_1/kernel"]
    assert list(stats) == names
    layers = params["params"]
    flat, back = ravel_pytree([layers["Dense_0"]["kernel"], layers["Dense_1"]["kernel"]])

    def of_flat(v: Any) -> Any:
        kernels = back(v)
        own = {
            name: {"kernel": k, "bias": layers[name]["bias"]}
            for name, k in zip(("Dense_0", "Dense_1"), kernels, strict=True)
        }
        return mlp_loss({"params": own}, x, y)

    g, h = jax.jit(lambda v: (jax.grad(of_flat)(v), jax.hessian(of_flat)(v)))(flat)
    joined = lambda field: np.concatenate([np.ravel(getattr(stats[n], field)) for n in names])  # noqa: E731
    close = {"rtol": 1e-4, "atol": 1e-5 * float(jnp.abs(h).max())}
    np.testing.assert_allclose(joined("gradient"), g, **close)
    np.testing.assert_allclose(joined("gradient_squares"), g**2, **close)
    np.testing.assert_allclose(joined("hessian_gradient"), h @ g, **close)
    # z * (H z) for one z: within the greatest that any signs give.
    rest = np.abs(h).sum(1) - np.abs(np.diag(h))
    assert (np.abs(joined("hessian_diagonal") - np.diag(h)) <= rest + close["atol"]).all()


def test_an_nnx_state_and_integers_beside() -> None:
    graph, state = nnx.split(nnx.Linear(3, 2, rngs=nnx.Rngs(0)))

    def loss(state: Any, x: Any) -> Any:
        return jnp.sum(nnx.merge(graph, state)(x))

    x = jnp.array([[1.0, 2.0, 3.0], [0.0, 0.0, 1.0]])
    stats = observe_gradients(loss, state, [x])
    assert set(stats) == {"kernel", "bias"}
    assert stats["kernel"].gradient.tolist() == [[1, 1], [2, 2], [4, 4]]  # columns of x, summed
    assert stats["bias"].gradient.tolist() == [2, 2]
    counted = {"n": jnp.int32(2), "w": jnp.ones(2, jnp.bfloat16)}
    found = observe_gradients(lambda p, x: p["n"] * jnp.sum(x * p["w"]), counted, [jnp.bfloat16(3)])
    assert list(found) == ["w"]
    assert found["w"].gradient.dtype == jnp.float32
    assert found["w"].gradient.tolist() == [6, 6]


def test_streaming_is_the_sum_of_its_batches_and_traces_once_a_shape() -> None:
    traces = []

    def loss(params: Any, x: Any) -> Any:
        traces.append(x.shape)
        return jnp.sum((x @ params["w"]) ** 2)

    params = {"w": jnp.array([1.0, -2.0])}
    xs = np.random.default_rng(1).integers(-3, 4, (6, 2, 2)).astype(np.float32)
    streamed = observe_gradients(loss, params, iter(xs), statistics=ALL[:3])
    once = len(traces)
    again = len(traces)
    parts = [observe_gradients(loss, params, [x], statistics=ALL[:3])["w"] for x in xs[:2]]
    assert once * 3 == len(traces)  # six batches took as many traces as one
    observe_gradients(loss, params, [xs[0], xs[0][:1], xs[1]], statistics=ALL[:3])
    assert len(traces) == again * 5
    g = [2 * x.T @ x @ np.array([1.0, -2.0]) for x in xs]
    hg = [2 * x.T @ x @ one for x, one in zip(xs, g, strict=True)]
    assert streamed["w"].gradient_count == 6
    np.testing.assert_array_equal(streamed["w"].gradient, sum(g))
    np.testing.assert_array_equal(streamed["w"].gradient_squares, sum(one**2 for one in g))
    np.testing.assert_array_equal(streamed["w"].hessian_gradient, sum(hg))
    np.testing.assert_array_equal(parts[0].merge(parts[1]).gradient, g[0] + g[1])


def test_progress_shows(capsys: Any) -> None:
    observe_gradients(quadratic, {"w": jnp.ones(3)}, [jnp.ones(3)], progress=True)
    assert "gradients" in capsys.readouterr().out


# Together with what enters.


def test_both_kinds_of_statistics_of_a_path_merge() -> None:
    model = lambda p, x: x @ p["w"] + p["b"]  # noqa: E731
    loss = lambda p, x: jnp.sum(model(p, x))  # noqa: E731
    params, x = {"w": jnp.ones((2, 1)), "b": jnp.zeros((1, 1))}, jnp.array([[1.0, -4.0], [3.0, 2.0]])
    entering = observe(model, params, [x], statistics=("mean", "gram"))
    both = combined(entering, observe_gradients(loss, params, [x]))
    assert set(both) == {"w", "b"}
    w = both["w"]
    assert w.features == (-2,)
    assert w.mean.tolist() == [2, -1]
    assert w.gram.tolist() == [[10, 2], [2, 20]]
    assert w.mean_gradient.tolist() == [[4], [-2]]
    twice = combined(both, both)["w"]
    assert (twice.count, twice.gradient_count) == (4, 2)
    assert twice.mean.tolist() == [2, -1]
    assert twice.mean_gradient.tolist() == [[4], [-2]]
    assert combined() == {}
    empty = w.identity()
    chex.assert_trees_all_equal(empty.merge(w), w)


def test_sums_over_other_batches_are_not_mixed() -> None:
    """Merged, one count would have divided both sums."""
    w, b = {"w": jnp.ones(3)}, [jnp.ones(3)]
    one = observe_gradients(quadratic, w, b, statistics="gradient")
    other = observe_gradients(quadratic, w, b, statistics="gradient_squares")
    message = (
        r"statistics of 'w' must have the same sums to merge, got \['gradient'\] and "
        r"\['gradient_squares'\]; ask for all of them at once"
    )
    with pytest.raises(ValueError, match=message):
        combined(one, other)
    few, more = (Statistics(path="w", count=jnp.ones(()), **{f: jnp.ones(2)}) for f in ("total", "zeros"))
    with pytest.raises(ValueError, match=r"the same sums to merge, got \['total'\] and \['zeros'\]"):
        few.merge(more)


# Wrong requests.


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"statistics": "grad"},
            r"statistics must be one or more of gradient, .*hessian_diagonal, got 'grad'",
        ),
        ({"statistics": ()}, r"statistics must be one or more of gradient, .*, got \(\); name those"),
        (
            {"statistics": "hessian_diagonal"},
            r"key must be given for 'hessian_diagonal', got None; pass jax.random.key\(seed\)",
        ),
        ({"where": "v"}, r"pattern must match at least one path, got 'v'"),
        ({"where": "n"}, r"where must choose a floating weight, got 'n'; choose others"),
        (
            {"where": "packed"},
            r"params must have an array at 'packed', got QuantizedLeaf; call dense\(params\)",
        ),
        ({"batches": []}, r"batches must hold at least one batch, got \[\]; is it used up\?"),
        (
            {"loss": lambda p, b: p["w"]},
            r"loss must return a floating scalar, got float32\[3\]; take its mean",
        ),
        ({"loss": lambda p, b: (quadratic(p, b), 1)}, r"loss must return a floating scalar, got tuple"),
    ],
)
def test_wrong_requests_say_what_to_do(change: Any, message: str) -> None:
    packed = linear(8).pack({"w": jnp.ones((2, 2))}, State({"w": ()}, {"w": ()}))["w"]
    request = {
        "loss": quadratic,
        "params": {"w": jnp.ones(3), "n": jnp.int32(1), "packed": packed},
        "batches": [jnp.ones(3)],
        "where": "w",
        **change,
    }
    loss, params, batches = (request.pop(name) for name in ("loss", "params", "batches"))
    with pytest.raises(ValueError, match=message):
        observe_gradients(loss, params, batches, **request)


def test_a_packed_weight_that_is_not_chosen_may_stand_beside() -> None:
    packed = linear(8).pack({"w": jnp.ones((2, 2))}, State({"w": ()}, {"w": ()}))["w"]
    s = observe_gradients(
        quadratic, {"w": jnp.zeros(3), "packed": packed}, [jnp.array([1.0, 2.0, 3.0])], where="w"
    )
    assert s["w"].gradient.tolist() == [-1, -2, -3]
