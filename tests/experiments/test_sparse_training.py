"""Sparse training at smoke size, and what its claims ask for."""

import jax
import jax.numpy as jnp
import pytest

from efficient.prune import sparse_evolutionary
from experiments import sparse_training
from experiments.frame import Progress

METHODS = ("rigl", "random_growth", "set", "static")


def test_every_arm_is_measured():
    metrics = sparse_training.run(sparse_training.Config.smoke(), progress=Progress())
    assert set(metrics) == {"baseline", *(f"{name}_95" for name in METHODS)}
    assert metrics["baseline"][0]["weights"] == 784 * 300 + 300 * 100 + 100 * 10
    for name in METHODS:
        values = metrics[f"{name}_95"][0]
        assert values["weights"] == values["asked"] == 266_200 - 252_890, name
        assert values["astray"] == 0, name
        assert sum(values["per_pixel"]) > 0, name
    # 4 steps of one epoch end at step 3: masks move once, at step 2.
    assert metrics["static_95"][0]["moved"] == 0
    assert all(0 < metrics[f"{name}_95"][0]["moved"] <= 30.1 for name in METHODS[:3])
    assert metrics["static_95"][0]["training_cost"] == pytest.approx(0.05, abs=1e-4)
    assert metrics["rigl_95"][0]["training_cost"] == pytest.approx(0.05 + 0.25 * 0.95 / 3, abs=1e-4)


def test_cost_by_hand():
    macs, density = {"a": 100, "b": 20}, {"a": 0.1}
    # f_D = 120, f_S = 10 + 20 = 30: 3 * 30 a step, half of them 2 * 30 + 120 instead.
    assert sparse_training.training_cost(macs, density, 0.0) == pytest.approx(90 / 360)
    assert sparse_training.training_cost(macs, density, 0.5) == pytest.approx((90 + 180) / 2 / 360)
    assert sparse_training.training_cost(macs, {}, 1.0) == 1


def test_masks_stay_from_the_end_on():
    params = {"w": jnp.arange(1.0, 21).reshape(4, 5)}
    t = sparse_training.until(sparse_evolutionary(0.5, every=1, fraction=1.0), 2)
    first = t.init(params, key=jax.random.key(0))
    moved = t.update(first, params, step=1)
    assert bool((moved.fixed.masks["w"] != first.fixed.masks["w"]).any())
    stayed = t.update(moved, params, step=2)
    assert bool((stayed.fixed.masks["w"] == moved.fixed.masks["w"]).all())


def test_random_growth_moves_as_many_as_rigl():
    params = {"w": jnp.arange(1.0, 101).reshape(10, 10)}
    t = sparse_training.random_growth(0.5, end=8, every=2, alpha=0.4)
    state = t.init(params, key=jax.random.key(1))
    still = t.update(state, params, step=1)
    assert bool((still.fixed.masks["w"] == state.fixed.masks["w"]).all())
    # Step 4 of 8: 0.4 / 2 (1 + cos(pi / 2)) = 0.2 of 50, and what grows may be what was dropped.
    left = int((state.fixed.masks["w"] & ~t.update(state, params, step=4).fixed.masks["w"]).sum())
    assert 0 < left <= 10


@pytest.mark.parametrize(("wrong", "holds"), [({}, True), ({"weights": 9}, False), ({"astray": 1}, False)])
def test_the_claim_of_exact_zeros_wants_no_weight_astray(wrong, holds):
    right = {"weights": 10, "asked": 10, "astray": 0}
    metrics = {"baseline": {0: {}}, "set_90": {0: right}, "rigl_90": {0: {**right, **wrong}}}
    (claim,) = (claim for claim in sparse_training.CLAIMS if claim.id == "sparse-exact")
    assert claim.evaluate(metrics).holds is holds


def test_an_ordering_wants_two_standard_errors():
    (claim,) = (claim for claim in sparse_training.CLAIMS if claim.id == "sparse-rigl-set-95")
    for gaps, holds in (((0.4, 0.5, 0.6), True), ((-0.4, 0.5, 0.6), False)):
        metrics = {
            "set_95": {seed: {"accuracy": 80.0} for seed in range(3)},
            "rigl_95": {seed: {"accuracy": 80.0 + gap} for seed, gap in enumerate(gaps)},
        }
        assert claim.evaluate(metrics).holds is holds


def test_config_refuses_what_it_cannot_run():
    with pytest.raises(ValueError, match=r"sparsities must rise within \(0, 1\), got \(0.9, 0.5\)"):
        sparse_training.Config(sparsities=(0.9, 0.5))
    with pytest.raises(ValueError, match="every must be positive, got 0"):
        sparse_training.Config(every=0)
    with pytest.raises(ValueError, match=r"end must be in \(0, 1\), got 1.0"):
        sparse_training.Config(end=1.0)
