"""Masks: exact budgets, and who wins a tie."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from efficient.prune import kept_of, masked, top_mask

# The 5x5 tensor of MIT 6.5940's labs 1 and 2.
LAB = np.array(
    [
        [-0.3747, 0.0874, 0.3200, -0.4868, 0.4404],
        [-0.0402, 0.2322, -0.2024, -0.4986, 0.1814],
        [0.3102, -0.3942, -0.2030, 0.0883, -0.4741],
        [-0.1592, -0.0777, -0.3946, -0.2128, 0.2675],
        [0.0611, -0.1933, -0.4350, 0.2928, -0.1087],
    ],
    np.float32,
)
SHAPES = [(1,), (7,), (3, 4), (2, 3, 2)]
# Few values, so that ties are common; every special one.
SCORES = st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.5, float("inf"), float("-inf"), float("nan"), 1e-40])


def by_sorting(score, keep):
    """NumPy's stable sort, the same rule in other words: by (is NaN, descending score, flat place)."""
    flat = np.asarray(score).ravel()
    value = np.where(
        np.isnan(flat), -np.inf, np.where(np.abs(flat) < 2**-126, 0, flat)
    )  # no denormals in XLA
    order = sorted(range(flat.size), key=lambda i: (np.isnan(flat[i]), -value[i], i))
    mask = np.zeros(flat.size, bool)
    mask[order[:keep]] = True
    return mask.reshape(np.shape(score))


def test_by_hand():
    # |w|: .4986, .4868, .4741, .4404, .4350, .3946 | .3942: all but round(.75 * 25) = 19 stay, 6.
    keep = kept_of(LAB.size, 0.75)
    assert keep == 6
    mask = top_mask(jnp.abs(LAB), keep)
    assert sorted(np.abs(LAB)[mask].tolist(), reverse=True) == pytest.approx(
        [0.4986, 0.4868, 0.4741, 0.4404, 0.4350, 0.3946], rel=1e-6
    )
    assert int(top_mask(jnp.abs(LAB), kept_of(LAB.size, 15 / 25)).sum()) == 10


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_exactly_the_budget_and_the_rule(data):
    shape = data.draw(st.sampled_from(SHAPES))
    size = int(np.prod(shape))
    score = np.array(data.draw(st.lists(SCORES, min_size=size, max_size=size)), np.float32).reshape(shape)
    keep = data.draw(st.integers(0, size))
    mask = np.asarray(top_mask(jnp.asarray(score), keep))
    assert mask.sum() == keep
    np.testing.assert_array_equal(mask, by_sorting(score, keep))
    np.testing.assert_array_equal(mask, top_mask(jnp.asarray(score), jnp.int32(keep)))  # traced alike


@pytest.mark.parametrize(
    ("score", "keep", "mask"),
    [
        ([1, 1, 1, 1], 2, [True, True, False, False]),  # all equal: the first
        ([1, 1, 1, 1], 0, [False] * 4),
        ([1, 1, 1, 1], 4, [True] * 4),
        ([np.nan, 1, np.nan, 2], 2, [False, True, False, True]),
        ([np.nan, 1, np.nan, 2], 3, [True, True, False, True]),
        ([np.nan, -np.inf], 1, [False, True]),  # minus infinity is a number, and goes before NaN
        ([np.nan, np.nan], 1, [True, False]),
        ([0.0, -0.0], 1, [True, False]),  # equal
    ],
)
def test_ties_and_nan(score, keep, mask):
    np.testing.assert_array_equal(top_mask(jnp.array(score, jnp.float32), keep), mask)


def test_ties_of_many():
    score = np.arange(3000, dtype=np.float32) * 7 % 3  # 1,000 of each of 0, 1, 2
    np.testing.assert_array_equal(top_mask(jnp.asarray(score), 1500), by_sorting(score, 1500))


def test_one_program_for_every_budget():
    traced = []

    @jax.jit
    def kept(score, keep):
        traced.append(keep)
        return top_mask(score, keep).sum()

    assert [kept(jnp.arange(9.0), keep) for keep in (1, 4, 9)] == [1, 4, 9]
    assert len(traced) == 1


def test_in_half_precision_and_empty():
    np.testing.assert_array_equal(top_mask(jnp.array([1, 3, 2], jnp.bfloat16), 2), [False, True, True])
    assert top_mask(jnp.zeros((0, 3)), 1).shape == (0, 3)


@settings(deadline=None, max_examples=200)
@given(size=st.integers(1, 5000), sparsity=st.floats(0, 0.9999))
def test_kept_is_all_but_what_was_asked(size, sparsity):
    kept = kept_of(size, sparsity)
    assert kept == max(1, size - round(sparsity * size))
    assert abs(size - kept - sparsity * size) <= 0.5 or kept == 1
    # In float32 the product is off by less than 2^-23 of it: only near a half may it round otherwise.
    traced = int(kept_of(size, jnp.float32(sparsity)))
    near_half = abs(sparsity * size % 1 - 0.5) < 2**-22 * size
    assert traced == kept or (near_half and abs(traced - kept) == 1)


def test_kept_by_hand():
    # round half even: 2.5 -> 2 and 3.5 -> 4 go; at least one stays.
    assert [kept_of(5, 0.5), kept_of(7, 0.5), kept_of(10, 0.99), kept_of(10, 0), kept_of(1, 0.9)] == [
        3,
        3,
        1,
        10,
        1,
    ]
    assert [int(kept_of(n, jnp.float32(0.5))) for n in (5, 7)] == [3, 3]
    assert int(kept_of(10, jnp.float32(0.99))) == 1


def test_masked_is_plus_zero_without_a_gradient():
    value = jnp.array([-1.0, jnp.nan, -jnp.inf, 2.0])
    mask = jnp.array([False, False, False, True])
    out = masked(value, mask)
    np.testing.assert_array_equal(out, [0, 0, 0, 2])
    assert not np.any(np.signbit(np.asarray(out)))
    np.testing.assert_array_equal(jax.grad(lambda v: jnp.sum(masked(v, mask) * 3))(value), [0, 0, 0, 3])
    assert masked(value.astype(jnp.bfloat16), mask).dtype == jnp.bfloat16
