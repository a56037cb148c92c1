"""Sparse storage at smoke size, and what its claims ask for."""

import jax.numpy as jnp
import numpy as np
import pytest

from efficient.prune.leaves import BitmapLeaf, CSRLeaf
from experiments import sparse_storage, sparse_storage_arms
from experiments.frame import Progress
from experiments.sparse_storage import CLAIMS
from experiments.sparse_storage_arms import FORMATS, PACKED, SCIPY, Config, crossing


@pytest.fixture(scope="module")
def metrics():
    return sparse_storage.run(Config.smoke(), progress=Progress())


def outcomes(metrics):
    return {claim.id: claim.evaluate(metrics) for claim in CLAIMS}


def test_every_arm_is_measured(metrics):
    assert set(metrics) == {"baseline", *FORMATS, *SCIPY}
    assert metrics["baseline"][0]["time_1@50"] == 1
    for arm in (*PACKED, *SCIPY):
        assert metrics[arm][0]["time_1@90"] > 0
    assert all(metrics["csr"][0][f"40x64.packed_1@{at}"] for at in (50, 90))
    assert "time_1@90" not in metrics["relative"][0]
    found = outcomes(metrics)
    assert found["sparse-round-trip"].ours == 6 * 2 + 1  # 90 % is no number of 4
    assert all(outcome.holds is not None for outcome in found.values())


def test_bytes_by_hand(metrics):
    """40 x 64 weights; at 90 %, 256 of them stay."""
    size = 40 * 64
    ratios = {
        arm: [metrics[arm][0][f"bytes{bits}@90"] for bits in (32, 16)] for arm in FORMATS if arm != "n_m"
    }
    indices, pointers = 256, 41 * 2  # a byte each; pointers hold 256: two bytes
    assert ratios["csr"] == [(256 * b + indices + pointers) / (size * b) for b in (4, 2)]
    assert ratios["csc"] == [(256 * b + indices + 65 * 2) / (size * b) for b in (4, 2)]
    assert ratios["bitmap"] == [(256 * b + size // 8) / (size * b) for b in (4, 2)]
    assert ratios["block_4"] == [(16 * (16 * b + 1) + 11) / (size * b) for b in (4, 2)]
    assert metrics["n_m"][0]["bytes16@50"] == 9 / 16
    assert metrics["scipy_csr"][0]["bytes32@90"] == (256 * 8 + 41 * 4) / (size * 4)


def test_products_are_the_matrix_s():
    rng = np.random.default_rng(0)
    dense = jnp.asarray(np.where(rng.random((12, 8)) < 0.3, rng.normal(size=(12, 8)), 0), jnp.float32)
    x = jnp.asarray(rng.normal(size=(1, 12)), jnp.float32)
    arms = sparse_storage_arms.products(dense, dict.fromkeys(PACKED, CSRLeaf.from_dense(dense)), x)
    bound = 13 * np.finfo(np.float32).eps * np.abs(x) @ np.abs(dense)
    for call in arms.values():
        assert np.all(np.abs(np.asarray(call()) - np.asarray(x @ dense)) <= bound)


def test_what_is_made_dense_is_seen():
    """Compressed rows have a rule; a bitmap has none."""
    matrix = np.eye(12, 8, dtype=np.float32)
    assert sparse_storage_arms.is_packed(CSRLeaf.from_dense(matrix), jnp.ones((1, 12)))
    assert not sparse_storage_arms.is_packed(BitmapLeaf.from_dense(matrix), jnp.ones((32, 12)))


def test_a_leaf_that_differs_stops_the_run(monkeypatch):
    monkeypatch.setattr(BitmapLeaf, "dense", lambda self: jnp.zeros(self.shape))
    with pytest.raises(AssertionError, match="bitmap must come back bit for bit, got another matrix"):
        sparse_storage_arms.leaves({"weights": jnp.eye(4)}, 0.75, 0.5)


def test_crossing_by_hand():
    # From 2 to 1/2 in equal steps of logarithms: half way from 0.1 to 0.025 is 0.05.
    assert crossing([0.9, 0.975], [2.0, 0.5]) == pytest.approx(95)
    assert crossing([0.5, 0.9, 0.975], [0.5, 2.0, 0.5]) == pytest.approx(95)  # the last time
    assert crossing([0.5, 0.9], [0.8, 0.5]) == 50
    assert crossing([0.5, 0.9], [0.8, 1.0]) is None


@pytest.mark.parametrize(
    ("found", "ours", "holds"), [((92, 94), 93, True), ((70, 80), 75, False), ((92, None), "never", False)]
)
def test_the_crossing_must_be_in_the_band(found, ours, holds):
    metrics = {"csr": {seed: {"crossing_1": value} for seed, value in enumerate(found)}}
    outcome = outcomes(metrics)["sparse-time-csr"]
    assert (outcome.ours, outcome.holds) == (ours, holds)


def test_claims_of_bytes_and_blocks_by_their_rules():
    def arm(**values):
        return dict.fromkeys((0, 1), values)

    metrics = {
        "n_m": arm(**{"a.bytes16@50": 9 / 16, "b.bytes16@50": 0.57}),
        "relative": arm(**{"a.bytes32@90": 0.1, "a.bytes16@90": 0.21}),
        "csr": arm(**{"a.bytes32@90": 0.2, "a.bytes16@90": 0.2, "time_1@90": 3.0}),
        "block_16": arm(**{"time_1@90": 1.5}),
    }
    found = outcomes(metrics)
    assert found["sparse-two-of-four"].holds is False
    assert (found["sparse-relative-index"].ours, found["sparse-relative-index"].holds) == (
        pytest.approx(1.05),
        False,
    )
    assert (found["sparse-time-block"].ours, found["sparse-time-block"].holds) == (2, True)
    assert found["sparse-round-trip"].holds is None


def test_tables_and_figure(metrics):
    figure = pytest.importorskip("matplotlib.figure")

    class Shown:
        config = {"sparsities": [0.5, 0.9], "batches": [1]}

    Shown.metrics = metrics
    titles = [table.title for table in sparse_storage.tables(Shown)]
    assert titles == [
        "Bytes over dense, float32",
        "Bytes over dense, float16",
        "Time over dense, 1 rows (*: made dense)",
    ]
    made = sparse_storage.figures(Shown)["ratios"]
    assert isinstance(made, figure.Figure)
    assert [axes.get_title("left") or axes.get_title() for axes in made.axes] == [
        "bytes over dense, float32",
        "time over dense, batch 1",
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shapes": ("784",)}, "shapes must be INPUTSxOUTPUTS, got '784'"),
        ({"sparsities": (0.9, 0.5)}, r"sparsities must rise and be in \(0, 1\), got \(0.9, 0.5\)"),
        ({"sparsities": (0.5, 1.0)}, r"sparsities must rise and be in \(0, 1\), got \(0.5, 1.0\)"),
        ({"rounds": 0}, "rounds must be at least 1, got 0"),
        ({"batches": (0, 1)}, r"batches must be at least 1, got \(0, 1\)"),
    ],
)
def test_config_refuses_what_it_cannot_run(options, message):
    with pytest.raises(ValueError, match=message):
        Config(**options)
