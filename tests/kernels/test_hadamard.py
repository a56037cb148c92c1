"""The Walsh-Hadamard transform: every tier is the matrix's product."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from efficient.kernels.hadamard import hadamard
from efficient.kernels.hadamard.hadamard import NATIVE

from tests.kernels.laws import KernelLaws
from tests.kernels.packed_cases import needs_compiler


class TestLaws(KernelLaws):
    cases = {  # rows, n, size: what of SmolLM2's 576, Llama-7B's 4096 and heads of 64
        "heads": (6, 64, None),
        "smollm": (3, 576, 64),
        "llama": (2, 4096, 4096),
        "two": (5, 6, 2),
        "one": (2, 3, 1),
        "eight": (33, 8, 8),
    }

    def arguments(self, case, draw):
        rows, n, size = case
        return {"x": draw(rows, n)}, {"size": size}

    def run(self, arrays, options, implementation):
        return hadamard(**arrays, **options, implementation=implementation)

    def exact(self, arrays, options):
        x = np.asarray(arrays["x"], np.float64)
        size = options["size"] or x.shape[1]
        matrix = scipy.linalg.hadamard(size) / np.sqrt(size) if size > 1 else np.ones((1, 1))
        runs = x.reshape(-1, size)
        slack = 2.0**-24 * (size.bit_length() + 160 * (size > 1)) * (np.abs(runs) @ np.abs(matrix))
        return (runs @ matrix).reshape(x.shape), slack.reshape(x.shape) + 1e-37


def test_by_hand():
    # H2 = [[1, 1], [1, -1]] / sqrt 2: (3, 1) becomes (4, 2) / sqrt 2.
    np.testing.assert_allclose(hadamard(jnp.array([3.0, 1.0])), [4 / np.sqrt(2), 2 / np.sqrt(2)], rtol=1e-6)


def test_it_is_its_own_inverse_in_half_precision_too():
    x = jax.random.normal(jax.random.key(0), (2, 3, 256)).astype(jnp.bfloat16)
    back = hadamard(hadamard(x))
    assert back.dtype == jnp.bfloat16
    np.testing.assert_allclose(back.astype(jnp.float32), x.astype(jnp.float32), atol=2**-6)
    assert hadamard(jnp.zeros((0, 8))).shape == (0, 8)


def test_second_and_forward_derivatives():
    x = jnp.arange(8.0)
    run = lambda x: jnp.sum(hadamard(x) ** 4)  # noqa: E731
    plain = lambda x: jnp.sum(hadamard(x, implementation="reference") ** 4)  # noqa: E731
    np.testing.assert_allclose(jax.hessian(run)(x), jax.hessian(plain)(x), rtol=1e-4, atol=1e-2)


def test_what_is_no_power_of_two_is_refused():
    with pytest.raises(ValueError, match="n must be a power of two, got 6; say the size"):
        hadamard(jnp.ones(6))
    for size in (0, 3, 4):
        with pytest.raises(ValueError, match="size must be a power of two that divides n=6, got"):
            hadamard(jnp.ones(6), size=size)
    with pytest.raises(NotImplementedError, match="size must be at most 32768 for pallas_gpu"):
        hadamard(jnp.ones(65536), implementation="pallas_gpu")
    with pytest.raises(NotImplementedError, match="implementation of hadamard must be one of"):
        hadamard(jnp.ones(4), implementation="cuda")


@needs_compiler
@pytest.mark.parametrize(("shape", "out"), [((2, 6), (2, 6)), ((2, 4), (4, 2)), ((2, 4, 1), (2, 4))])
def test_the_handler_refuses_forged_arguments(shape, out):
    assert NATIVE.is_ready
    with pytest.raises(Exception, match="hadamard: "):
        jax.block_until_ready(NATIVE.call("cpu", out, jnp.ones(shape)))
