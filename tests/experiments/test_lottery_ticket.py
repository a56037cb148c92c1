"""Lottery tickets at smoke size, how rounds prune, and what the claims ask for."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import pytest

from experiments import lottery_ticket
from experiments.frame import Progress, style

CLAIMS = {claim.id: claim for claim in lottery_ticket.CLAIMS}


@pytest.fixture(scope="module")
def metrics():
    return lottery_ticket.run(lottery_ticket.Config.smoke(), progress=Progress())


def test_every_arm_is_measured(metrics):
    assert set(metrics) == {"baseline", *lottery_ticket.ARMS}
    for arm in lottery_ticket.ARMS:
        values = metrics[arm][0]
        (point,) = values["curve"]
        assert point["round"] == 2
        # On 8x8 digits: 84 % of 19,200 + 30,000 weights and, at half the rate, 51 % of 1,000.
        assert point["sparsity"] == pytest.approx(100 * (0.84 * 49_200 + 510) / 50_200)
        assert values["eighty_accuracy"] == point["accuracy"]
        assert "ninety_five_accuracy" not in values


def test_tables_and_figures_show_it(metrics):
    record = types.SimpleNamespace(metrics=metrics, config=dataclasses.asdict(lottery_ticket.Config.smoke()))
    assert all(table.row_count for table in lottery_ticket.tables(record))
    for figure in lottery_ticket.figures(record).values():
        assert style.render(figure, "png")


def test_a_round_prunes_the_last_layer_at_half_the_rate():
    trained = {
        "dense0": {"kernel": jnp.array([[4.0, -3.0], [2.0, -1.0]])},
        "classifier": {"kernel": jnp.array([[4.0, -3.0], [2.0, -1.0]])},
    }
    masks = {"dense0/kernel": jnp.ones((2, 2), bool), "classifier/kernel": jnp.ones((2, 2), bool)}
    made = lottery_ticket.pruned(trained, masks, 1, 0.5)
    # Half of four go, and a quarter of four: the smallest.
    assert made["dense0/kernel"].tolist() == [[True, True], [False, False]]
    assert made["classifier/kernel"].tolist() == [[True, True], [True, False]]
    assert lottery_ticket.zeros(made) == pytest.approx(100 * 3 / 8)


def test_shuffled_masks_keep_as_many_weights_of_each_layer():
    masks = {"a": jnp.arange(60).reshape(6, 10) < 6, "b": jnp.arange(20) < 10}
    made = lottery_ticket.shuffled(masks, jax.random.key(0))
    assert {path: m.shape for path, m in made.items()} == {"a": (6, 10), "b": (20,)}
    assert {path: int(m.sum()) for path, m in made.items()} == {"a": 6, "b": 10}
    assert any((made[path] != mask).any() for path, mask in masks.items())


def test_a_band_is_the_mean_of_its_rounds():
    accuracy, sparsity = {1: 90.0, 2: 80.0, 3: 70.0, 4: 60.0}, {1: 79.9, 2: 80.0, 3: 90.0, 4: 95.5}
    made = lottery_ticket.summary(accuracy, sparsity)
    assert made["eighty_accuracy"] == 75.0
    assert made["ninety_five_accuracy"] == 60.0
    assert [point["round"] for point in made["curve"]] == [1, 2, 3, 4]


def banded(band, **accuracies):
    """Metrics of arms from their accuracies by seed in a band."""
    return {arm: {i: {f"{band}_accuracy": a} for i, a in enumerate(v)} for arm, v in accuracies.items()}


@pytest.mark.parametrize(("ours", "holds"), [((88.0, 88.2, 88.1), True), ((87.0, 87.4, 86.9), False)])
@pytest.mark.parametrize(
    ("claim", "band", "better", "worse"),
    [
        ("ticket-reinitialized-80", "eighty", "ticket", "reinitialized"),
        ("ticket-reinitialized-95", "ninety_five", "ticket", "reinitialized"),
        ("ticket-random-80", "eighty", "ticket", "random"),
        ("ticket-rewound-80", "eighty", "rewound", "reinitialized"),
    ],
)
def test_tickets_must_be_better_by_two_standard_errors(claim, band, better, worse, ours, holds):
    metrics = banded(band, **{better: ours, worse: (87.0, 87.1, 87.0)})
    assert CLAIMS[claim].evaluate(metrics).holds is holds


def test_one_seed_shows_no_ordering():
    metrics = banded("eighty", ticket=(90.0,), reinitialized=(10.0,))
    assert CLAIMS["ticket-reinitialized-80"].evaluate(metrics).holds is False


@pytest.mark.parametrize(("ticket", "holds"), [((87.6, 87.5), True), ((87.4, 87.4), False)])
def test_tickets_may_lose_half_a_point_against_dense(ticket, holds):
    metrics = {"baseline": {i: {"accuracy": 88.0} for i in range(2)}, **banded("eighty", ticket=ticket)}
    assert CLAIMS["ticket-dense"].evaluate(metrics).holds is holds


def test_a_claim_without_its_arm_is_not_run():
    metrics = banded("eighty", ticket=(88.0, 88.0), reinitialized=(87.0, 87.0))  # rewind=0
    assert CLAIMS["ticket-rewound-80"].evaluate(metrics).verdict == "not run"


def test_config_refuses_what_it_cannot_run():
    with pytest.raises(ValueError, match="rounds must be positive, got 0"):
        lottery_ticket.Config(rounds=0)
    with pytest.raises(ValueError, match=r"per_round must be in \(0, 1\), got 1.0"):
        lottery_ticket.Config(per_round=1.0)
    with pytest.raises(ValueError, match="rewind must be from 0 to 1, got 2"):
        lottery_ticket.Config(epochs=2, rewind=2)
    with pytest.raises(ValueError, match=r"shown must be rounds from 1 to 16, got \(17,\)"):
        lottery_ticket.Config(shown=(17,))
    with pytest.raises(ValueError, match="data must be digits"):
        lottery_ticket.Config(data="cifar")
