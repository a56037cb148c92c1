"""Batch normalization: its training statistics, and that folding it changes nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from efficient.models import ConvNorm, LabVGG, fold_batch_norm


def random_statistics(variables, seed: int):
    """The same tree with scales, shifts, means and variances as training would leave them."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: np.float32(rng.uniform(0.5, 2.0, leaf.shape)), variables)


def test_fold_by_hand():
    """The scale 3 / sqrt(3 + 1) is 1.5: the kernel 2 becomes 3, the bias 1 - 2 1.5 = -2."""
    variables = {
        "params": {
            "conv": {"kernel": np.full((1, 1, 1, 1), 2.0, np.float32)},
            "bn": {"scale": np.array([3.0], np.float32), "bias": np.array([1.0], np.float32)},
        },
        "batch_stats": {"bn": {"mean": np.array([2.0], np.float32), "var": np.array([3.0], np.float32)}},
    }
    folded = fold_batch_norm(variables, epsilon=1.0)
    assert folded["params"]["conv"]["kernel"] == 3.0
    assert folded["params"]["conv"]["bias"] == -2.0
    assert set(folded["params"]) == {"conv"}


def test_folding_changes_no_logits():
    """Equal up to float32 rounding; the folded tree is the one that the folded model would initialize."""
    sizes = {"stages": ((4, 6), (5,)), "classes": 3}
    model, folded_model = LabVGG(**sizes), LabVGG(**sizes, folded=True)
    x = np.random.default_rng(1).normal(size=(2, 8, 8, 3)).astype(np.float32)
    variables = random_statistics(jax.eval_shape(model.init, jax.random.key(0), x), seed=0)
    folded = fold_batch_norm(variables, epsilon=model.epsilon)
    expected = jax.eval_shape(folded_model.init, jax.random.key(0), x)
    assert jax.tree.map(jnp.shape, folded) == jax.tree.map(jnp.shape, expected)
    both = jax.jit(lambda v, f, x: (model.apply(v, x), folded_model.apply(f, x)))
    logits, folded_logits = both(variables, folded, x)
    # Sums of at most 9 * 6 terms in each of three layers: a few hundred roundings of 2**-24 relative.
    np.testing.assert_allclose(folded_logits, logits, rtol=2.0**-15)


def test_training_normalizes_by_the_batch_and_moves_the_running_statistics():
    """The kernel 1 leaves the pixels 1, 2, 3, 6: mean 3, variance 14 / 4; the output is standardized."""
    x = np.array([1.0, 2.0, 3.0, 6.0], np.float32).reshape(1, 2, 2, 1)
    layer = ConvNorm(features=1, kernel=1, activation=None, momentum=0.75, epsilon=1e-5)
    one, zero = np.ones(1, np.float32), np.zeros(1, np.float32)
    variables = {
        "params": {"conv": {"kernel": one.reshape(1, 1, 1, 1)}, "bn": {"scale": one, "bias": zero}},
        "batch_stats": {"bn": {"mean": zero, "var": one}},
    }
    step = jax.jit(lambda variables, x: layer.apply(variables, x, train=True, mutable=["batch_stats"]))
    y, changed = step(variables, x)
    np.testing.assert_allclose(y.ravel(), (np.array([1, 2, 3, 6]) - 3) / np.sqrt(3.5 + 1e-5), rtol=1e-6)
    statistics = changed["batch_stats"]["bn"]
    np.testing.assert_allclose(statistics["mean"], [0.25 * 3], rtol=1e-6)  # from 0
    np.testing.assert_allclose(statistics["var"], [0.75 + 0.25 * 3.5], rtol=1e-6)  # from 1


def test_fold_refuses():
    with pytest.raises(ValueError, match=r"variables must be .* 'batch_stats', got \['params'\]"):
        fold_batch_norm({"params": {}}, epsilon=1e-5)
    strange = {"layer": {"bn": {"scale": 1}, "dense": {}}}
    with pytest.raises(ValueError, match=r"layer/bn must be beside one 'conv' .* got \['bn', 'dense'\]"):
        fold_batch_norm({"params": strange, "batch_stats": {}}, epsilon=1e-5)


def test_fold_leaves_a_model_without_normalization_alone():
    params = {"params": {"dense0": {"kernel": 1, "bias": 2}}, "batch_stats": {}}
    assert fold_batch_norm(params, epsilon=1e-5) == {"params": params["params"]}
