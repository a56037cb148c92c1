import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from efficient.core.schedules import constant, cubic_ramp, staircase

sparsities = st.floats(0, 0.999)


def test_cubic_ramp_by_hand():
    # s_i = .2, s_f = .8, t0 = 100, t1 = 300: at t = 150, (1 - 1/4)^3 = 27/64, s = .8 - .6 * 27/64 = .546875;
    # at t = 200, 1/8: .725; at t = 250, 1/64: .790625.
    ramp = cubic_ramp(initial=0.2, final=0.8, begin=100, end=300)
    got = [float(ramp(t)) for t in (0, 100, 150, 200, 250, 300, 1000)]
    np.testing.assert_allclose(got, [0.2, 0.2, 0.546875, 0.725, 0.790625, 0.8, 0.8], rtol=1e-6)


@settings(deadline=None, max_examples=100)
@given(initial=sparsities, final=sparsities, begin=st.integers(0, 50), length=st.integers(1, 50))
def test_cubic_ramp_is_the_papers_equation_between_its_ends(initial, final, begin, length):
    steps = jnp.arange(110)
    got = cubic_ramp(initial=initial, final=final, begin=begin, end=begin + length)(steps)
    share = np.clip((np.arange(110) - begin) / length, 0, 1)
    # float32: the power, the product, the sum of numbers below 1 round three times, the inputs once.
    np.testing.assert_allclose(got, final + (initial - final) * (1 - share) ** 3, atol=8 * 2**-24)
    assert float(got.max()) < 1
    assert float(got[begin + length]) == float(got[-1])


def test_staircase_and_constant():
    stairs = jax.jit(staircase((0.0, 0.5, 0.9), (3, 5)))
    np.testing.assert_array_equal(
        [float(stairs(t)) for t in range(7)], np.float32([0, 0, 0, 0.5, 0.5, 0.9, 0.9])
    )
    assert constant(0.5)(7) == 0.5
    assert float(staircase((0.25,), ())(9)) == 0.25


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: constant(1.0), r"value must be in \[0, 1\), got 1.0; 0.9 keeps one weight in ten"),
        (lambda: constant(float("nan")), r"value must be in \[0, 1\), got nan"),
        (lambda: cubic_ramp(initial=-0.1, final=0.5, end=1), r"initial must be in \[0, 1\), got -0.1"),
        (lambda: cubic_ramp(final=1.5, end=1), r"final must be in \[0, 1\), got 1.5"),
        (
            lambda: cubic_ramp(final=0.5, begin=3, end=3),
            r"begin must be in \[0, end\) with end 3, got 3; a ramp",
        ),
        (lambda: cubic_ramp(final=0.5, begin=-1, end=3), r"begin must be in \[0, end\) with end 3, got -1"),
        (
            lambda: staircase((0.5, 0.6), ()),
            r"values must be one more than the 0 boundaries, got 2; the first",
        ),
        (lambda: staircase((0.5, 1.0), (1,)), r"values must be in \[0, 1\), got 1.0"),
        (
            lambda: staircase((0.5, 0.6, 0.7), (4, 4)),
            r"boundaries must be positive and rise, got \(4, 4\); sort",
        ),
        (lambda: staircase((0.5, 0.6), (0,)), r"boundaries must be positive and rise, got \(0,\); sort"),
    ],
)
def test_out_of_range(make, message):
    with pytest.raises(ValueError, match=message):
        make()
