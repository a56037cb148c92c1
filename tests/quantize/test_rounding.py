"""Methods that look at the inputs: GPTQ, AdaRound, AWQ, smoothing, rotation, bias correction."""

import dataclasses
import itertools
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from efficient import at, chain, lift, observe
from efficient.core.statistics import Statistics
from efficient.quantize import (
    Quantizer,
    adaround,
    awq,
    bias_corrected,
    channel,
    formats,
    gptq,
    group,
    hadamard,
    linear,
    quantize,
    quantize_inputs,
    quantizers,
    rotate,
    smooth,
)
from efficient.quantize.formats import Integer

KEY = jax.random.key(0)
STATISTICS = ("min", "max", "absmax", "absmean", "mean", "gram")


def apply(params, x):
    return x @ params["kernel"]


def layer(seed, inputs=24, outputs=16):
    """A layer and inputs that go together, as those of networks do."""
    keys = jax.random.split(jax.random.key(seed), 4)
    mixed = jax.random.normal(keys[0], (200, inputs)) @ jax.random.normal(keys[1], (inputs, inputs)) / 4
    x = mixed + 0.2 * jax.random.normal(keys[2], mixed.shape)
    params = {"kernel": jax.random.normal(keys[3], (inputs, outputs))}
    return params, x, observe(apply, params, [x], statistics=STATISTICS)


def errors(t, params, x, stats, **kwargs):
    """|X (W' - W)|^2 of each output, in float64."""
    state = t.init(params, stats=stats, **kwargs)
    change = np.asarray(t.apply(params, state)["kernel"], np.float64) - np.asarray(
        params["kernel"], np.float64
    )
    return np.sum((np.asarray(x, np.float64) @ change) ** 2, 0)


@pytest.mark.parametrize("bits", [2, 4])
def test_gptq_and_adaround_lose_less_than_the_nearest(bits):
    q = quantizers.integer(bits)
    for seed in range(3):
        params, x, stats = layer(seed)
        nearest = errors(quantize(q), params, x, stats)
        assert errors(gptq(q, block=10), params, x, stats).sum() < 0.9 * nearest.sum()
        assert errors(gptq(q, is_ordered=True), params, x, stats).sum() < 0.9 * nearest.sum()
        # AdaRound: never worse for any output, by construction, to the rounding of float32 sums.
        assert np.all(errors(adaround(q, steps=300), params, x, stats) <= nearest * (1 + 1e-4))
        assert errors(adaround(q, steps=300), params, x, stats).sum() < 0.9 * nearest.sum()


def test_gptqs_bound():
    """Babai: without damping and clipping, at most sum_j s^2 / (4 U_jj^2) an output, U from H^-1 = U^T U."""
    params, x, stats = layer(5)
    q = quantizers.integer(8)
    found = errors(gptq(q, damping=0.0), params, x, stats)
    inverse = np.linalg.inv(np.asarray(x, np.float64).T @ np.asarray(x, np.float64))
    upper = np.linalg.cholesky(inverse).T
    scale = np.asarray(q.grid(params["kernel"]).scale, np.float64)[0]
    bound = scale**2 / 4 * np.sum(1 / np.diagonal(upper) ** 2)
    assert np.all(found <= bound * 1.01)


def test_inputs_that_do_not_meet_are_rounded_to_the_nearest():
    params, _, _ = layer(1)
    gram = jnp.diag(jnp.arange(1.0, 25.0))
    own = Statistics(
        path="kernel",
        features=(-2,),
        contracted=(-2,),
        count=jnp.float32(9),
        gram=gram,
        gram_count=jnp.float32(9),
    )
    q = quantizers.integer(3)
    t = gptq(q)
    got = t.apply(params, t.init(params, stats={"kernel": own}))["kernel"]
    np.testing.assert_allclose(got, q.fake(params["kernel"]), rtol=1e-6)


def test_adaround_against_brute_force_on_six_weights():
    """Of 2^6 ways to round one output's weights up or down, the best in most layers, near it in all."""
    hits = 0
    q = quantizers.integer(4)
    t = adaround(q)
    for seed in range(10):
        params, x, stats = layer(seed, inputs=6, outputs=1)
        w = np.asarray(params["kernel"], np.float64)[:, 0]
        scale = float(q.grid(params["kernel"]).scale[0, 0])
        choices = [
            np.clip(np.floor(w / scale) + np.array(up), -7, 7) * scale
            for up in itertools.product((0, 1), repeat=6)
        ]
        best = min(np.sum((np.asarray(x, np.float64) @ (c - w)) ** 2) for c in choices)
        found = errors(t, params, x, stats)[0]
        assert found <= 1.5 * best
        hits += found <= best * 1.001
    assert hits >= 6


def test_with_groups_and_zero_points_what_is_packed_is_what_is_shown():
    params, x, stats = layer(2)
    for q in (quantizers.integer(3, group(10)), quantizers.affine(3), quantizers.nf4(8)):
        t = gptq(q)
        state = t.init(params, stats=stats)
        np.testing.assert_array_equal(
            t.apply(params, state)["kernel"], t.pack(params, state)["kernel"].dense()
        )
        assert errors(t, params, x, stats).sum() < errors(quantize(q), params, x, stats).sum()


def test_awq_is_never_worse_than_no_scaling_and_helps_where_channels_differ():
    params, x, _ = layer(3)
    x = x * jnp.where(jnp.arange(24) == 7, 30.0, 1.0)[None]
    stats = observe(apply, params, [x], statistics=STATISTICS)
    q = quantizers.integer(3)
    t = awq(q)
    state = t.init(params, stats=stats)
    change = np.asarray(lift(lambda p: p["kernel"] + 0)(t.apply(params, state))) - params["kernel"]
    found = float(jnp.sum((x @ change) ** 2))
    assert found < 0.7 * errors(quantize(q), params, x, stats).sum()


def test_hadamard_is_its_matrix():
    # H2 = [[1, 1], [1, -1]] / sqrt 2, H4 = H2 (x) H2.
    h2 = np.array([[1, 1], [1, -1]]) / np.sqrt(2)
    np.testing.assert_allclose(hadamard(jnp.eye(4)), np.kron(h2, h2), atol=1e-6)
    x = jax.random.normal(KEY, (3, 8))
    np.testing.assert_allclose(hadamard(hadamard(x)), x, atol=1e-6)
    with pytest.raises(ValueError, match="n must be a power of two, got 6"):
        hadamard(jnp.ones(6))


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(6, (3, 3))(x))
        return nn.Dense(5)(nn.relu(nn.Dense(20)(x.reshape(x.shape[0], -1))))


@pytest.fixture(scope="module")
def net():
    model, x = Net(), jax.random.normal(KEY, (32, 4, 4, 3)) * jnp.array([[[[1.0, 20.0, 0.1]]]])
    params = model.init(jax.random.key(1), x)
    stats = observe(model.apply, params, [x], where="**/kernel", statistics=STATISTICS)
    return model.apply, params, x, stats


def run(net, t):
    apply, params, x, stats = net
    t = at("**/kernel", t)
    state = t.init(params, stats=stats, key=KEY)
    shown, packed = (lift(apply)(made(params, state), x) for made in (t.apply, t.pack))
    np.testing.assert_allclose(shown, packed, rtol=0, atol=1e-4 * float(jnp.max(jnp.abs(shown))))
    return shown


@pytest.mark.parametrize("make", [smooth, rotate], ids=["smooth", "rotate"])
def test_a_change_of_basis_changes_nothing(net, make):
    apply, params, x, _ = net
    want = apply(params, x)
    np.testing.assert_allclose(
        run(net, make(chain())), want, rtol=0, atol=1e-5 * float(jnp.max(jnp.abs(want)))
    )


def test_gptq_runs_in_a_turned_basis(net):
    """Gram matrices of patches are turned too: it loses less there than the nearest does."""
    apply, params, x, _ = net
    want = apply(params, x)
    q = quantizers.integer(4)
    loss = [float(jnp.mean((run(net, rotate(inner(q))) - want) ** 2)) for inner in (gptq, quantize)]
    assert loss[0] < loss[1]


def test_smoothing_makes_outliers_smaller_and_w8a8_better():
    """A channel a hundred times the others: smoothed, largest over median falls, and so does the error."""
    params, x, _ = layer(4)
    x = x * jnp.where(jnp.arange(24) == 3, 100.0, 1.0)[None]
    stats = observe(apply, params, [x], statistics=STATISTICS)
    naive = chain(linear(8), quantize_inputs(Integer(8)))
    want, losses = apply(params, x), []
    for t in (naive, smooth(naive)):
        state = t.init(params, stats=stats)
        losses.append(float(jnp.mean((lift(apply)(t.pack(params, state), x) - want) ** 2)))
    assert losses[1] < losses[0] / 4
    s = smooth(chain()).init(params, stats=stats).fixed[0]["kernel"]
    before = stats["kernel"].absmax
    ratio = lambda a: float(jnp.max(a) / jnp.median(a))  # noqa: E731
    assert ratio(before / s) < ratio(before) / 5


def test_smoothing_by_hand():
    # max|x| = (4, 1), max|w| of the rows (1, 4): s = sqrt(4/1), sqrt(1/4).
    params = {"kernel": jnp.array([[1.0, -0.5], [4.0, 2.0]])}
    stats = observe(apply, params, [jnp.array([[4.0, 0.5], [-2.0, -1.0]])], statistics="absmax")
    np.testing.assert_allclose(smooth(chain()).init(params, stats=stats).fixed[0]["kernel"], [2.0, 0.5])


def test_biases_make_up_for_shifted_means(net):
    apply, params, x, stats = net
    inner = at("**/kernel", quantize(quantizers.integer(3)))
    t = bias_corrected(inner)
    state = t.init(params, stats=stats)
    made = t.apply(params, state)
    plain = inner.apply(params, inner.init(params))
    # By hand, of the first dense layer: b - E[x] (W' - W).
    change = plain["params"]["Dense_0"]["kernel"] - params["params"]["Dense_0"]["kernel"]
    want = params["params"]["Dense_0"]["bias"] - stats["params/Dense_0/kernel"].mean @ change
    np.testing.assert_allclose(made["params"]["Dense_0"]["bias"], want, rtol=1e-4, atol=1e-5)
    shift = lambda weights: float(jnp.mean(jnp.abs(jnp.mean(apply(weights, x) - apply(params, x), 0))))  # noqa: E731
    assert shift(made) < 0.6 * shift(plain)  # a convolution's padding is left out of account


def test_what_is_refused(net):
    params, _, stats = layer(0)
    no_stats = {"kernel": stats["kernel"]}
    q = quantizers.integer(4)
    cases = [
        (lambda: gptq(q, block=0), "block must be at least 1, got 0"),
        (lambda: gptq(q, damping=-1.0), "damping must be finite and at least 0"),
        (lambda: gptq(q).init(params), "stats of 'kernel' must have 'gram'"),
        (lambda: adaround(quantizers.nf4()), "format must be evenly spaced for adaround"),
        (lambda: adaround(q, steps=0), "steps must be from 1"),
        (lambda: awq(q, points=0), "points must be from 1, got 0"),
        (lambda: awq(q).init(params), "stats of 'kernel' must have 'abstotal'"),
        (lambda: smooth(chain(), alpha=2.0), r"alpha must be in \[0, 1\], got 2.0"),
        (lambda: smooth(chain()).init(params), "stats of 'kernel' must have 'absmax'"),
        (lambda: rotate(chain()).init(params, stats=no_stats), "key must be given to rotate 'kernel'"),
        (lambda: rotate(chain()).init({"b": jnp.ones(3)}, key=KEY), "'b' must have inputs along axis -2"),
        (
            lambda: bias_corrected(quantize(q)).init(params, stats=stats),
            "must have a bias beside weights of stats",
        ),
        (
            lambda: quantize(quantizers.integer(4, channel(3))).init(params),
            "axis must be one of the 2 axes of 'kernel'",
        ),
    ]
    for call, message in cases:
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.parametrize(("channels", "groups"), [(6, 6), (6, 2)])
def test_bias_correction_of_a_grouped_convolution_keeps_means(channels, groups):
    key = jax.random.key(4)
    kernel = jax.random.normal(key, (3, 3, channels // groups, 2 * channels))
    params = {"kernel": kernel, "bias": jnp.zeros(2 * channels)}
    # Constant images: padding is left out of account, so there is none.
    x = jnp.broadcast_to(jax.random.normal(key, (channels,)), (2, 5, 5, channels))

    def fn(p, x):
        out = jax.lax.conv_general_dilated(
            x, p["kernel"], (1, 1), "VALID", feature_group_count=groups,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )  # fmt: skip
        return out + jnp.broadcast_to(p["bias"], out.shape)

    stats = observe(fn, params, [x], where="kernel", statistics="mean")
    inner = at("kernel", quantize(quantizers.integer(2)))
    t = bias_corrected(inner)
    shown = t.apply(params, t.init(params, stats=stats))
    rounded = inner.apply(params, inner.init(params))
    assert float(jnp.max(jnp.abs(fn(rounded, x) - fn(params, x)))) > 0.1
    np.testing.assert_allclose(fn(shown, x), fn(params, x), atol=2e-5)


@dataclasses.dataclass(frozen=True)
class Counted(formats.Integer):
    """Integers that count how often they are traced."""

    traced: ClassVar[list[int]] = []

    def round(self, x):
        self.traced.append(1)
        return super().round(x)


def test_gptq_compiles_once_a_shape():
    t = at("**/kernel", gptq(Quantizer(format=Counted(4), blocks=channel())))
    fn = lambda p, x: jax.nn.relu(x @ p["a"]["kernel"]) @ p["b"]["kernel"]  # noqa: E731
    made = {}
    for seed in range(3):
        a, b = jax.random.normal(jax.random.key(seed), (2, 12, 12))
        params = {"a": {"kernel": a}, "b": {"kernel": b}}
        stats = observe(fn, params, [jax.random.normal(KEY, (20, 12))], statistics="gram", where="**/kernel")
        Counted.traced.clear()
        t.init(params, stats=stats)
        made[seed] = len(Counted.traced)
    # What is not compiled, the nearest of the change that is stored, is counted each time.
    assert made[0] > made[1] == made[2]
