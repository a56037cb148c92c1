"""The lottery ticket: rounds of pruning, each from the early weights."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from efficient.prune import Pruned
from efficient.prune.allocations import together
from efficient.prune.lottery import all_kept, fixed_masks, next_masks, rounds, ticket
from efficient.train import create, fit, make_step
from tests.train import tiny

KEY = jax.random.key(0)


@pytest.mark.parametrize(
    ("final", "per_round", "expected"),
    [
        (0.5, 0.5, [0.5]),
        (0.488, 0.2, [0.2, 0.36, 0.488]),  # 1 - .8^3, off by a rounding
        (0.1, 0.2, [0.1]),
        (0.9, 0.5, [0.5, 0.75, 0.875, 0.9]),
    ],
)
def test_rounds_by_hand(final, per_round, expected):
    made = rounds(final, per_round=per_round)
    np.testing.assert_allclose(made, expected, rtol=1e-12)
    assert made[-1] == final


def test_rounds_of_the_paper():
    # 0.8^10 is 10.7 %, 0.8^11 is 8.6 %: to prune 90 % takes ten whole rounds and a part of one.
    made = rounds(0.9)
    assert len(made) == 11
    left = 1 - np.array([0.0, *made])
    np.testing.assert_allclose(left[1:-1] / left[:-2], 0.8)


def test_a_round_by_hand():
    # Of |w| = 4 3 2 1 5 6 the last two are gone. At 2/3, two of six stay: 4 and 3; those gone are larger.
    masks = {"x/kernel": jnp.array([1, 1, 1, 1, 0, 0], bool)}
    trained = {"x": {"kernel": jnp.array([4.0, -3, 2, 1, 5, 6]), "bias": jnp.ones(2)}}
    new = next_masks(trained, masks, 2 / 3)
    np.testing.assert_array_equal(new["x/kernel"], [1, 1, 0, 0, 0, 0])
    # One that was trained to zero stays before one that is gone; NaN goes before both.
    zero = {"x": {"kernel": jnp.array([4.0, 0, jnp.nan, 1, 5, 6])}}
    np.testing.assert_array_equal(next_masks(zero, masks, 0.5)["x/kernel"], [1, 1, 0, 1, 0, 0])
    # A lower sparsity brings nothing back.
    np.testing.assert_array_equal(next_masks(trained, masks, 0.0)["x/kernel"], masks["x/kernel"])
    # The ticket has the early weights; what has no mask is early too.
    early = {"x": {"kernel": jnp.arange(1.0, 7.0), "bias": jnp.array([7.0, 8.0])}}
    won = ticket(early, new)
    np.testing.assert_array_equal(won["x"]["kernel"], [1, 2, 0, 0, 0, 0])
    assert won["x"]["bias"] is early["x"]["bias"]


def test_all_together_by_hand():
    # Of 6 weights 3 stay: 6 5 4; on its own, b would keep one of its two.
    trained = {"a": jnp.array([6.0, 5.0, 4.0, 3.0]), "b": jnp.array([1.0, 2.0])}
    masks = all_kept(trained, where="*")
    assert {path: mask.tolist() for path, mask in masks.items()} == {"a": [True] * 4, "b": [True] * 2}
    new = next_masks(trained, masks, 0.5, allocation=together())
    assert (new["a"].tolist(), new["b"].tolist()) == ([True, True, True, False], [False, False])
    assert next_masks(trained, masks, 0.5)["b"].tolist() == [False, True]


def test_rounds_of_training_with_fit():
    early = tiny.params()
    masks = all_kept(early, where="w")
    optimizer = optax.adamw(0.05)
    history = [masks]
    for sparsity in (1 / 3, 2 / 3):
        t = fixed_masks(masks)
        state = create(ticket(early, masks), t, optimizer, key=KEY)
        step = make_step(tiny.loss, optimizer, t)
        state, _ = fit(state, step, tiny.Stream(length=6), progress=False)
        shown = t.apply(state.params, state.compress)
        assert (np.asarray(shown["w"])[~np.asarray(masks["w"])] == 0).all()
        assert float(shown["b"]) != 0.25  # no mask: it is trained
        masks = next_masks(state.params, masks, sparsity)
        assert not (masks["w"] & ~history[-1]["w"]).any()
        history.append(masks)
        assert int(masks["w"].sum()) == round(3 * (1 - sparsity))
    np.testing.assert_array_equal(
        ticket(early, masks)["w"], np.where(masks["w"], early["w"], 0)
    )  # `create` copies: the early weights are as they were


def test_fixed_masks():
    masks = {"w": jnp.array([True, False, True])}
    t = fixed_masks(masks)
    params = {"w": jnp.array([1.0, jnp.nan, 3.0]), "n": jnp.int32(2)}
    state = t.init(params)
    assert isinstance(state.fixed, Pruned)
    out = jax.jit(t.apply)(params, state)
    assert (out["w"].tolist(), int(out["n"])) == ([1, 0, 3], 2)
    assert t.update(state, params, step=1) is state
    np.testing.assert_array_equal(t.pack(params, state)["w"], out["w"])
    grads = jax.grad(lambda w: t.apply({"w": w}, state)["w"].sum())(params["w"])
    assert grads.tolist() == [1, 0, 1]
    assert repr(t) == "fixed_masks(of 1 values)"


MASKS = {"w": jnp.ones(3, bool)}
OTHER = r"masks must be those of the params, got 'w' of shape \(3,\) where they have "


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: rounds(1.0), r"final_sparsity must be in \(0, 1\), got 1.0; 0.9 prunes nine weights in ten"),
        (lambda: rounds(0.0), r"final_sparsity must be in \(0, 1\), got 0.0"),
        (lambda: rounds(0.9, per_round=0.0), r"per_round must be in \(0, 1\), got 0.0"),
        (lambda: all_kept({"w": jnp.ones(3)}), r"pattern must match at least one path, got '\*\*/kernel'"),
        (
            lambda: all_kept({"n": jnp.int32(1)}, where="n"),
            r"where must choose a floating value, got 'n' that chooses none; widen it",
        ),
        (lambda: next_masks({"w": jnp.ones(3)}, MASKS, 1.0), r"sparsity must be in \[0, 1\), got 1.0; take"),
        (lambda: next_masks({"v": jnp.ones(3)}, MASKS, 0.5), OTHER + r"no such path; start from all_kept"),
        (lambda: ticket({"w": jnp.ones(4)}, MASKS), OTHER + r"\(4,\); start from all_kept\(params\)"),
        (lambda: fixed_masks(MASKS).init({"w": jnp.ones(4)}), OTHER + r"\(4,\)"),
    ],
)
def test_out_of_range(make, message):
    with pytest.raises(ValueError, match=message):
        make()
