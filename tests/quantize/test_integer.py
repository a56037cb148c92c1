"""Integer-only programs: exact arithmetic, a course's vectors, and one step from real numbers at most."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from efficient.models import get
from efficient.quantize import fold
from efficient.quantize.integer import (
    affine_of,
    calibrate,
    compile_integers,
    linear_quantize,
    multiplier,
    quantized_dense,
    requantize,
    shifted_bias,
)

KEY = jax.random.key(0)
run = jax.jit(requantize)


class TestArithmetic:
    @pytest.mark.parametrize("m", [1e-12, 2.0**-31, 1e-9, 3e-6, 0.001, 0.3, 0.5, 0.7, 1.0, 1.5, 7.3, 1000.0])
    def test_it_is_exact_for_every_int32(self, m):
        """Against Python's integers, which have no word."""
        draw = np.random.default_rng(0).integers(-(2**31), 2**31, 2000)
        acc = [*draw.tolist(), -(2**31), 2**31 - 1, -1, 0, 1]
        by = multiplier(m)
        mantissa, shift = int(by.mantissa), int(by.shift)
        whole = [(a * mantissa + (1 << (shift - 1))) >> shift for a in acc]
        want = [min(max(w, -(2**31)), 2**31 - 1) for w in whole]
        np.testing.assert_array_equal(run(jnp.array(acc, jnp.int32), by), want)

    def test_a_multiplier_is_its_number_to_31_bits(self):
        values = np.array([0.3, 0.9999999999, 1e-3, 5.0])
        by = multiplier(values)
        got = np.asarray(by.mantissa, np.float64) * 2.0 ** -np.asarray(by.shift, np.float64)
        np.testing.assert_allclose(got, values, rtol=2.0**-31)
        assert int(multiplier(0.0).mantissa) == 0

    def test_ranges_hold_zero(self):
        assert affine_of(0.0, 2.55) == (pytest.approx(0.01), -128)
        assert affine_of(1.0, 2.0).zero == -128
        assert affine_of(-1.0, 1.55).zero == -28  # steps of 0.01: -128 + 100

    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (lambda: multiplier(-1.0), "values must be from 0"),
            (lambda: multiplier(np.nan), "values must be from 0"),
            (lambda: multiplier(2.0**30), "values must be from 0 to below 2"),
            (lambda: affine_of(1.0, 0.0), "low and high must be finite and ascend"),
            (lambda: linear_quantize(jnp.ones(1), 9, 1.0, 0), "bits must be from 1 to 8, got 9"),
        ],
    )
    def test_what_is_refused(self, call, message):
        with pytest.raises(ValueError, match=message):
            call()


class TestLabVectors:
    """MIT 6.5940, Lab 2 (2023): its two test functions' numbers."""

    def test_linear_quantize(self):
        x = jnp.array([
            [0.0523, 0.6364, -0.0968, -0.0020, 0.1940], [0.7500, 0.5507, 0.6188, -0.1734, 0.4677],
            [-0.0669, 0.3836, 0.4297, 0.6267, -0.0695], [0.1536, -0.0038, 0.6075, 0.6817, 0.0601],
            [0.6446, -0.2500, 0.5376, -0.2226, 0.2333],
        ])  # fmt: skip
        want = [
            [-1, 1, -1, -1, 0],
            [1, 1, 1, -2, 0],
            [-1, 0, 0, 1, -1],
            [-1, -1, 1, 1, -1],
            [1, -2, 1, -2, 0],
        ]
        np.testing.assert_array_equal(linear_quantize(x, 2, 1 / 3, -1), want)

    def test_quantized_fc(self):
        x = np.array([
            [0.6118, 0.7288, 0.8511, 0.2849, 0.8427, 0.7435, 0.4014, 0.2794],
            [0.3676, 0.2426, 0.1612, 0.7684, 0.6038, 0.0400, 0.2240, 0.4237],
            [0.6565, 0.6878, 0.4670, 0.3470, 0.2281, 0.8074, 0.0178, 0.3999],
            [0.1863, 0.3567, 0.6104, 0.0497, 0.0577, 0.2990, 0.6687, 0.8626],
        ], np.float32)  # fmt: skip
        weight = np.array([
            [0.12626, -0.14752, 0.08191, 0.24982, -0.10495, -0.19227, -0.1855, -0.157],
            [0.27624, -0.43835, 0.05101, -0.1202, -0.20344, 0.10202, -0.20799, 0.24112],
            [-0.38216, -0.28047, 0.085238, -0.42504, -0.20952, 0.32018, -0.33619, 0.20219],
            [0.089233, -0.10124, 0.11467, 0.20091, 0.11438, -0.42427, 0.10178, -0.00030941],
            [-0.018837, -0.21256, -0.45285, 0.20949, -0.38684, -0.171, -0.45331, -0.20433],
            [-0.20038, -0.053757, 0.18997, -0.36866, 0.055484, 0.15643, -0.23538, 0.21103],
            [-0.26875, 0.24984, -0.23514, 0.25527, 0.20322, 0.37675, 0.061563, 0.17201],
            [0.33541, -0.33555, -0.43349, 0.43043, -0.20498, -0.18366, -0.091553, -0.41168],
        ], np.float32)  # fmt: skip
        bias = np.array([0.1954, -0.2756, 0.3113, 0.1149, 0.4274, 0.2429, -0.1721, -0.2502], np.float32)
        # As the lab takes them: S = (max - min) / 3, Z = round(-2 - min / S) clipped; weights by output.
        y = x @ weight.T + bias
        (s_x, z_x), (s_y, z_y) = (lab_range(a) for a in (x, y))
        assert (z_x, z_y) == (-2, 0)
        np.testing.assert_allclose((s_x, s_y), (0.2816, 0.468152), rtol=2e-4)
        s_w = np.abs(weight).max(1)  # 2^(2-1) - 1 = 1
        q_x = linear_quantize(jnp.asarray(x), 2, s_x, z_x)
        q_w = linear_quantize(jnp.asarray(weight), 2, s_w[:, None], 0)
        q_b = linear_quantize_32(bias, s_w * s_x)
        np.testing.assert_array_equal(q_b, [3, -2, 3, 1, 3, 2, -2, -2])
        shifted = shifted_bias(q_b, q_w.T, z_x)
        np.testing.assert_array_equal(shifted, [-1, 0, -3, -1, -3, 0, 2, -4])
        got = quantized_dense(q_x, q_w.T, shifted, multiplier(s_x * s_w / s_y), z_y, bits=2)
        want = [
            [0, -1, 0, -1, -1, 0, 1, -2], [0, 0, -1, 0, 0, 0, 0, -1],
            [0, 0, 0, -1, 0, 0, 0, -1], [0, 0, 0, 0, 0, 1, -1, -2],
        ]  # fmt: skip
        np.testing.assert_array_equal(got, want)


def lab_range(a):
    """The lab's scale and zero point in 2 bits: S = (max - min) / 3, Z = round(-2 - min / S), clipped."""
    scale = (a.max() - a.min()) / 3
    return scale, int(np.clip(round(float(-2 - a.min() / scale)), -2, 1))


def linear_quantize_32(x, scale):
    """A bias in 32 bits."""
    return jnp.asarray(np.round(x / scale).astype(np.int32))


class Everything(nn.Module):
    """Convolutions, a residual sum, both poolings, concatenation, a capped ReLU, dense layers."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(8, (3, 3))(x))
        x = nn.relu(x + nn.Conv(8, (3, 3), feature_group_count=8)(x))
        x = jnp.concatenate([nn.max_pool(x, (2, 2), (2, 2)), nn.avg_pool(x, (2, 2), (2, 2))], -1)
        x = nn.relu6(8 * nn.Conv(6, (1, 1))(x))
        return nn.Dense(4)(nn.relu(nn.Dense(10)(x.reshape(x.shape[0], -1))))


@pytest.fixture(scope="module")
def everything():
    x = jax.random.normal(KEY, (16, 6, 6, 3))
    variables = Everything().init(KEY, x)
    folded = fold(Everything().apply, variables, x[:1])
    ranges = calibrate(folded, folded.params, [x[:8], x[8:]])
    return Everything().apply, variables, x, folded, ranges


class TestProgram:
    def test_each_operation_is_within_one_step(self, everything):
        _, _, x, folded, ranges = everything
        program = compile_integers(folded, folded.params, ranges)
        assert {type(one).__name__ for one in program.operations} == {
            "Multiply",
            "Add",
            "Sum",
            "Move",
            "Concatenate",
        }
        assert all(steps <= 1 for _, steps in program.differences(x))

    def test_tensors_are_int8_and_the_output_is_the_models(self, everything):
        fn, variables, x, folded, ranges = everything
        program = compile_integers(folded, folded.params, ranges)
        assert all(t.dtype == jnp.int8 for t in program.tensors(x).values())
        got, want = jax.jit(program)(x), fn(variables, x)
        sqnr = 10 * np.log10(float(jnp.sum(want**2) / jnp.sum((got - want) ** 2)))
        assert sqnr > 28
        one_scale = compile_integers(folded, folded.params, ranges, per_channel=False)(x)
        few = compile_integers(folded, folded.params, ranges, bits=4)(x)
        assert float(jnp.sum((few - want) ** 2)) > 10 * float(jnp.sum((got - want) ** 2))
        assert float(jnp.sum((one_scale - want) ** 2)) < float(jnp.sum((few - want) ** 2))

    def test_integers_agree_with_the_rounded_model_from_end_to_end(self, everything):
        _, _, x, folded, ranges = everything
        program = compile_integers(folded, folded.params, ranges)
        far = jnp.abs(program(x) - program(x, simulated=True)) / program.outgoing.scale
        assert float(jnp.max(far)) <= 2.01
        assert float(jnp.mean(far)) < 0.2

    def test_sizes_are_those_of_the_model(self, everything):
        _, _, _, folded, ranges = everything
        program = compile_integers(folded, folded.params, ranges)
        weights = sum(p["kernel"].size for p in folded.params.values())
        channels = sum(p["bias"].size for p in folded.params.values())
        assert program.weight_bytes == weights + 9 * channels
        # 6x6: 3x3x3x8 and 3x3x8; 3x3: 16x6; dense 54x10, 10x4.
        assert program.macs == 36 * (216 + 72) + 9 * 96 + 540 + 40

    def test_what_has_no_operation_is_named(self):
        module = nn.Sequential([nn.Dense(4), nn.softmax])
        x = jnp.ones((2, 3))
        folded = fold(module.apply, module.init(KEY, x), x)
        ranges = calibrate(folded, folded.params, [x])
        with pytest.raises(NotImplementedError, match="an integer program has no operation for"):
            compile_integers(folded, folded.params, ranges)

    def test_what_is_refused(self, everything):
        _, _, _, folded, ranges = everything
        with pytest.raises(ValueError, match="batches must hold at least one batch"):
            calibrate(folded, folded.params, [])
        with pytest.raises(ValueError, match="bits must be from 2 to 8, got 9"):
            compile_integers(folded, folded.params, ranges, bits=9)


def test_a_residual_network_is_compiled():
    module, example = get("resnet20")
    x = jax.random.uniform(KEY, (4, *example.shape[1:]))
    variables = jax.jit(module.init)(KEY, x)
    folded = fold(module.apply, variables, x[:1])
    program = compile_integers(folded, folded.params, calibrate(folded, folded.params, [x]))
    got, want = jax.jit(program)(x), module.apply(variables, x)
    assert 10 * np.log10(float(jnp.sum(want**2) / jnp.sum((got - want) ** 2))) > 25
