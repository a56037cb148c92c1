"""Ranking: the order of channels, by the scores that `structured` goes by."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from efficient.core.dependencies import dependencies
from efficient.prune import ranking, structured
from efficient.prune.mask import kept_of
from efficient.prune.scores import absolute, group_norm, random

KEY = jax.random.key(0)
X = jnp.ones((1, 2))
PARAMS = {
    "a": {"kernel": jax.random.normal(KEY, (2, 6)), "bias": jnp.ones(6)},
    "b": {"kernel": jax.random.normal(KEY, (6, 5))},
    "c": {"kernel": jax.random.normal(KEY, (5, 2))},
}


def fn(p, x):
    x = jnp.tanh(x @ p["a"]["kernel"] + p["a"]["bias"][None])
    return jnp.tanh(x @ p["b"]["kernel"]) @ p["c"]["kernel"]


FOUND = dependencies(fn, PARAMS, X)


def test_by_hand():
    # Mean |w| of the 3 weights of each channel of a:1, two that make it one that takes it: 7/3, 4/3, 8/3.
    p = {"a": jnp.array([[1.0, 2.0, 3.0], [4.0, 1.0, 0.0]]), "b": jnp.array([[2.0], [1.0], [5.0]])}
    ranked = ranking(dependencies(lambda p, x: x @ p["a"] @ p["b"], p, X), absolute(), p)
    assert ranked.order["a:1"].tolist() == [2, 0, 1]
    assert ranked.keep({"a:1": 1})["a:1"].tolist() == [False, False, True]
    assert ranked.keep({})["a:1"].all()
    assert repr(ranked) == "<Ranking: a:1: 3>"


@pytest.mark.parametrize("score", [absolute(), group_norm(2), random()])
def test_the_best_counts_are_what_structured_keeps(score):
    ranked = ranking(FOUND, score, PARAMS, key=KEY)
    assert ranked.sizes == {"a/kernel:1": 6, "b/kernel:1": 5}
    for sparsity in (0.2, 0.5, 0.8):
        keep = structured(FOUND, score, sparsity).init(PARAMS, key=KEY).fixed.keep
        own = ranked.keep({name: kept_of(size, sparsity) for name, size in ranked.sizes.items()})
        for name, mask in keep.items():
            np.testing.assert_array_equal(own[name], mask)


def test_what_it_keeps_shrinks_and_masks():
    keep = ranking(FOUND, absolute(), PARAMS, where="b/**").keep({"b/kernel:1": 2})
    assert list(keep) == ["b/kernel:1"]
    assert FOUND.shrink(PARAMS, keep)["c"]["kernel"].shape == (2, 2)
    assert int(FOUND.masks(keep)["c/kernel"].sum()) == 4


def test_nan_goes_last_and_a_tie_keeps_the_lower_index_first():
    p = {**PARAMS, "a": {"kernel": jnp.ones((2, 6)).at[0, 1].set(jnp.nan), "bias": jnp.ones(6)}}
    p["b"] = {"kernel": jnp.ones((6, 5))}
    assert ranking(FOUND, absolute(), p).order["a/kernel:1"].tolist() == [0, 2, 3, 4, 5, 1]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ranking(FOUND, absolute(), PARAMS, where="z"), "where must choose a free group, got 'z'"),
        (lambda: ranking(FOUND, absolute(), {"z": X}), "params must hold the weights of the groups"),
        (
            lambda: ranking(FOUND, absolute(), PARAMS, where="b/**").keep({"a/kernel:1": 1}),
            r"counts must name ranked groups, got 'a/kernel:1'; these are b/kernel:1, ...",
        ),
        (
            lambda: ranking(FOUND, absolute(), PARAMS).keep({"a/kernel:1": 7}),
            r"counts\['a/kernel:1'\] must be a whole number from 1 to 6, got 7; keep one index",
        ),
        (lambda: ranking(FOUND, absolute(), PARAMS).keep({"a/kernel:1": 0}), "from 1 to 6, got 0"),
    ],
)
def test_wrong_requests_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
