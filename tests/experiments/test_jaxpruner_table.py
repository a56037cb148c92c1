"""The table of methods at smoke size, and what its claims ask for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from efficient.core.schedules import cubic_ramp
from efficient.prune import magnitude
from experiments import jaxpruner_table
from experiments.frame import Progress


def test_every_arm_is_measured():
    config = jaxpruner_table.Config.smoke()
    metrics = jaxpruner_table.run(config, progress=Progress())
    assert set(metrics) == {"baseline", *(f"{name}_80" for name in config.methods)}
    assert metrics["baseline"][0]["zeros"] < 1
    for name in config.methods:
        assert metrics[f"{name}_80"][0]["zeros"] == pytest.approx(80, abs=1.5), name


def test_a_sparsity_in_the_state_is_the_one_in_the_schedule():
    params = {"a": jnp.arange(1.0, 41).reshape(5, 8), "b": jnp.arange(60.0, 0, -1)}
    # 1 - (1 - t / 10)^3, the cubic ramp to 1.
    aimed = [
        jaxpruner_table.aimed(magnitude, final, lambda step: 1 - (1 - step / 10) ** 3) for final in (0.5, 0.9)
    ]
    plain = magnitude(cubic_ramp(final=0.9, end=10))
    state, expected = aimed[1].init(params), plain.init(params)
    for step in (3, 6, 10):
        # The other's update, for it looks at the state alone: masks of 0.9.
        state, expected = aimed[0].update(state, params, step=step), plain.update(expected, params, step=step)
        for path, mask in expected.fixed.masks.items():
            assert bool((state.fixed.inner.masks[path] == mask).all()), (step, path)
    shown = aimed[0].apply(params, state)
    assert [int((v != 0).sum()) for v in shown.values()] == [4, 6]  # a tenth of 40 and of 60


def test_every_method_takes_its_sparsity_from_its_state():
    config = jaxpruner_table.Config(prune_every=2, move_every=2)
    made = jaxpruner_table.methods(config, 8)
    assert set(made) == set(jaxpruner_table.PUBLISHED)
    drawn = jax.random.normal(jax.random.key(0), (10, 10))
    params = {"a": drawn, "b": jnp.arange(100.0, 0, -1).reshape(10, 10)}
    for name, method in made.items():
        few, t = method(0.9), method(0.5)  # as the one program that is made for all
        state, update = few.init(params, key=jax.random.key(1)), jax.jit(t.update)
        for step in (2, 4, 6, 8):
            state = update(state, params, grads=params, step=step)
        left = sum(int((v != 0).sum()) for v in t.apply(params, state).values())
        if name in jaxpruner_table.GROWN:  # params stood still: what grew shows as zero
            left = sum(int(mask.sum()) for mask in state.fixed.masks.values())
        assert left == 20, name  # a tenth of 200


def test_pixels_are_means_of_squares():
    images = np.array([[0, 4, 9], [8, 12, 9], [9, 9, 9]], np.uint8)[None, :, :, None]
    assert jaxpruner_table.pooled(images, 2).tolist() == [[[[6]]]]  # (0 + 4 + 8 + 12) / 4
    assert np.array_equal(jaxpruner_table.pooled(images, 1), images)


def test_agreement_by_hand():
    theirs = {"a": 3.0, "b": 2.0, "c": 1.0}
    assert jaxpruner_table.agreement(theirs, theirs) == 1
    # a > b stands, a > c stands, b > c is turned around: (2 - 1) / 3.
    assert jaxpruner_table.agreement({"a": 3.0, "b": 1.0, "c": 2.0}, theirs) == pytest.approx(1 / 3)
    assert jaxpruner_table.agreement(dict.fromkeys("abc", 0.0), theirs) == 0


def outcome(name, **accuracies):
    """What a claim says of accuracies at 95 %, a tuple over seeds each."""
    metrics = {f"{k}_95": {i: {"accuracy": v} for i, v in enumerate(vs)} for k, vs in accuracies.items()}
    (claim,) = (claim for claim in jaxpruner_table.CLAIMS if claim.id == name)
    return claim.evaluate(metrics)


def test_claims_at_their_bars():
    assert outcome("jaxpruner-magnitude-random", magnitude=(80, 81, 80), random=(70, 70, 70)).holds
    assert not outcome("jaxpruner-magnitude-random", magnitude=(70, 75, 60), random=(70, 70, 70)).holds
    assert outcome("jaxpruner-straight-through", magnitude=(80, 81), straight_through=(78, 77)).holds
    assert not outcome("jaxpruner-straight-through", magnitude=(80, 81), straight_through=(77, 76)).holds
    published = {name: (value,) for name, value in jaxpruner_table.PUBLISHED.items()}
    assert outcome("jaxpruner-order", **published).ours == 1
    assert not outcome("jaxpruner-order", **{name: (-value,) for name, (value,) in published.items()}).holds


def test_config_refuses_what_it_cannot_run():
    with pytest.raises(ValueError, match=r"sparsities must rise within \(0, 1\), got \(0.9, 1.0\)"):
        jaxpruner_table.Config(sparsities=(0.9, 1.0))
    with pytest.raises(ValueError, match=r"begin and end must be 0 <= begin < end < 1, got 0.8 and 0.6"):
        jaxpruner_table.Config(begin=0.8)
    with pytest.raises(ValueError, match=r"methods must be among .* got \['none'\]"):
        jaxpruner_table.Config(methods=("none",))
    with pytest.raises(ValueError, match="width must be positive, got 0"):
        jaxpruner_table.Config(width=0)
