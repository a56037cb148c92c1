"""k-means in one dimension, held against the exact optimum."""

import inspect
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from efficient.quantize import initial_centroids, kmeans, nearest, optimal_centroids

# The 5x5 tensor of MIT 6.5940's lab 2.
LAB = np.array(
    [
        [-0.3747, 0.0874, 0.3200, -0.4868, 0.4404],
        [-0.0402, 0.2322, -0.2024, -0.4986, 0.1814],
        [0.3102, -0.3942, -0.2030, 0.0883, -0.4741],
        [-0.1592, -0.0777, -0.3946, -0.2128, 0.2675],
        [0.0611, -0.1933, -0.4350, 0.2928, -0.1087],
    ]
)
VALUES = hnp.arrays(np.float64, (8,), elements=st.integers(-8, 8).map(lambda i: i / 4))


def sse(values, made):
    """The sum of squared errors of a clustering, in float64."""
    centroids = np.asarray(made.centroids, np.float64)
    return float(np.sum((np.asarray(values, np.float64) - centroids[np.asarray(made.indices)]) ** 2))


def by_brute_force(values, k):
    """The least SSE over all ways to cut the sorted values into k runs."""
    x = np.sort(np.ravel(values))
    cuts = itertools.combinations(range(1, x.size), k - 1)
    parts = (np.split(x, list(cut)) for cut in cuts)
    return min(sum(float(np.sum((p - p.mean()) ** 2)) for p in runs) for runs in parts)


class TestOptimum:
    def test_by_hand(self):
        # {0, 1}, {4, 5, 6}: means 1/2 and 5, errors 1/4 + 1/4 and 1 + 0 + 1.
        centroids, error = optimal_centroids(np.array([5.0, 0, 6, 1, 4]), 2)
        np.testing.assert_allclose(centroids, [0.5, 5])
        assert error == pytest.approx(2.5)

    def test_of_the_lab_tensor(self):
        centroids, error = optimal_centroids(LAB, 4)
        assert error == pytest.approx(0.0792215, abs=5e-8)
        np.testing.assert_allclose(centroids, [-0.4369, -0.1497, 0.1046, 0.3105], atol=5e-5)

    @settings(deadline=None, max_examples=100)
    @given(values=VALUES, k=st.integers(1, 8))
    def test_is_that_of_brute_force(self, values, k):
        centroids, error = optimal_centroids(values, k)
        assert error == pytest.approx(by_brute_force(values, k), abs=1e-12)
        # And the centroids have the error that is said of them.
        assert np.min((values[:, None] - centroids[None]) ** 2, axis=1).sum() == pytest.approx(
            error, abs=1e-12
        )
        assert np.all(np.diff(centroids) >= 0)

    @pytest.mark.parametrize("k", [0, 26])
    def test_k_out_of_range(self, k):
        with pytest.raises(ValueError, match=rf"k must be from 1 to the 25 values, got {k}; choose fewer"):
            optimal_centroids(LAB, k)


class TestStart:
    def test_linear(self):
        start = initial_centroids(jnp.array([3.0, -1.0, 0.0]), 5, initialisation="linear")
        np.testing.assert_array_equal(start, [-1, 0, 1, 2, 3])

    def test_density(self):
        # 8 values, 2 centroids at 1/4 and 3/4 of them: the third and the seventh in order.
        values = jnp.array([7.0, 0, 1, 2, 3, 4, 50, 6])
        np.testing.assert_array_equal(initial_centroids(values, 2, initialisation="density"), [2, 7])

    def test_random_is_some_of_the_values(self):
        values = jnp.array([5.0, -1, 2, 8])
        draw = lambda i: initial_centroids(values, 3, initialisation="random", key=jax.random.key(i))  # noqa: E731
        assert set(np.asarray(draw(0))) <= {5, -1, 2, 8}
        assert np.all(np.diff(draw(0)) >= 0)
        np.testing.assert_array_equal(draw(0), draw(0))
        assert any(not np.array_equal(draw(0), draw(i)) for i in range(1, 6))

    @pytest.mark.parametrize("how", ["linear", "density", "random"])
    def test_what_is_not_included_has_no_say(self, how):
        values, include = jnp.array([9.0, 1, 2, -9]), jnp.array([False, True, True, False])
        key = jax.random.key(0)
        start = initial_centroids(values, 2, initialisation=how, include=include, key=key)
        assert np.all((start >= 1) & (start <= 2))
        none = initial_centroids(values, 2, initialisation=how, include=jnp.zeros(4, bool), key=key)
        np.testing.assert_array_equal(none, [0, 0])

    def test_refusals(self):
        with pytest.raises(ValueError, match=r"key must be given for random centroids, got None; call init"):
            initial_centroids(jnp.ones(3), 2, initialisation="random")
        with pytest.raises(
            ValueError, match=r"must be 'linear', 'density' or 'random', got 'uniform'; choose"
        ):
            inspect.unwrap(initial_centroids)(jnp.ones(3), 2, initialisation="uniform")


def test_nearest():
    # Middles 1 and 3: a value on one takes the lower.
    found = nearest(jnp.array([[-9.0, 1.0, 1.5], [3.0, 3.1, 99.0]]), jnp.array([0.0, 2.0, 4.0]))
    np.testing.assert_array_equal(found, [[0, 0, 1], [1, 2, 2]])
    np.testing.assert_array_equal(nearest(jnp.array([1.0, -5.0]), jnp.array([3.0])), [0, 0])


class TestLloyd:
    def test_by_hand(self):
        # From 0, 5, 10: {0, 1, 2}, {4, 6, 7}, {10} -> 1, 17/3, 10; 2 and 7 stay where they are.
        made = kmeans(jnp.array([0.0, 1, 2, 4, 6, 7, 10]), 3)
        np.testing.assert_allclose(made.centroids, [1, 17 / 3, 10], rtol=1e-6)
        np.testing.assert_array_equal(made.indices, [0, 0, 0, 1, 1, 1, 2])
        assert made.iterations == 2  # one that moves, one that finds nothing to move

    def test_no_steps_is_the_start(self):
        """It took one step all the same."""
        values = jnp.array([0.0, 1, 2, 4, 6, 7, 10])
        made = kmeans(values, 3, iterations=0)
        np.testing.assert_array_equal(made.centroids, [0, 5, 10])
        assert made.iterations == 0
        assert kmeans(values, 3, iterations=1).iterations == 1

    def test_finds_the_optimum_of_the_lab_tensor(self):
        made = kmeans(jnp.asarray(LAB, jnp.float32), 4)
        optimum, error = optimal_centroids(LAB, 4)
        np.testing.assert_allclose(made.centroids, optimum, atol=2**-22)
        assert sse(LAB, made) == pytest.approx(error, rel=1e-6)
        assert made.indices.shape == (5, 5)

    def test_is_worse_from_a_bad_start(self):
        # Evenly in density it stops at .0825873: Lloyd's is local, which is why there is an oracle.
        made = kmeans(jnp.asarray(LAB, jnp.float32), 4, initialisation="density")
        assert sse(LAB, made) == pytest.approx(0.0825873, abs=5e-8)

    def test_never_below_the_optimum_and_never_up(self):
        """On 20 draws of 32 values, step by step."""
        draws = jax.random.normal(jax.random.key(1), (20, 32))
        optima = np.array([optimal_centroids(np.asarray(one), 4)[1] for one in draws])
        errors = []
        for steps in (0, 1, 2, 100):
            made = jax.vmap(lambda v, n=steps: kmeans(v, 4, iterations=n))(draws)
            errors.append([sse(v, jax.tree.map(lambda a, i=i: a[i], made)) for i, v in enumerate(draws)])
        slack = 32 * 2**-22  # 32 squares of float32 numbers below 4, rounded
        assert np.all(np.diff(errors, axis=0) <= slack)
        assert np.all(np.array(errors) >= optima - slack)

    @settings(deadline=None, max_examples=50)
    @given(values=VALUES)
    def test_a_fixed_point_has_means_for_centroids(self, values):
        made = kmeans(jnp.asarray(values, jnp.float32), 3)
        assert made.iterations < 100
        for j, centroid in enumerate(np.asarray(made.centroids)):
            own = values[np.asarray(made.indices) == j]
            assert own.size == 0 or centroid == pytest.approx(own.mean(), abs=1e-6)
        assert sse(values, made) >= optimal_centroids(values, 3)[1] - 1e-6

    def test_a_centroid_without_values_stays(self):
        # Evenly from 0 to 10: 0, 5, 10; nothing is near 5.
        made = kmeans(jnp.array([0.0, 1, 9, 10]), 3)
        np.testing.assert_array_equal(made.centroids, [0.5, 5, 9.5])

    def test_what_is_not_included_moves_nothing(self):
        include = jnp.array([True, True, False, True])
        made = kmeans(jnp.array([0.0, 2, 7, 10]), 2, include=include)
        np.testing.assert_array_equal(made.centroids, [1, 10])
        np.testing.assert_array_equal(made.indices, [0, 0, 1, 1])

    def test_one_centroid_is_the_mean_and_equal_values_are_no_trouble(self):
        np.testing.assert_array_equal(kmeans(jnp.array([1.0, 2, 6]), 1).centroids, [3])
        same = kmeans(jnp.full((4,), 2.5), 3)
        np.testing.assert_array_equal(same.centroids, [2.5] * 3)
        np.testing.assert_array_equal(same.centroids[same.indices], [2.5] * 4)
