"""Deep Compression at smoke size: the same path, the columns of its tables, claims that judge nothing yet."""

import dataclasses

import pytest

from experiments import deep_compression, deep_compression_fashion
from experiments.deep_compression_arms import Config
from experiments.deep_compression_recipes import COLUMNS, RECIPES
from experiments.frame import Progress

METRICS = {
    "baseline": {"accuracy", "loss", "first_accuracy"},
    "pruned": {"accuracy", "loss", "size", "curve"},
    "one_shot": {"accuracy", "loss"},
    "both": {
        "accuracy",
        "loss",
        "size",
        "curve",
        "untuned_accuracy",
        "ratio",
        "file_bytes",
        "identical",
        "layers",
    },
    "quantized": {"curve"},
    "svd": {"curve"},
}


@pytest.fixture(scope="module")
def metrics():
    config = dataclasses.replace(Config.smoke(), networks=("lenet_300_100",), bits=(2,))
    return deep_compression.run(config, progress=Progress())


def test_every_arm_and_metric(metrics):
    found = {arm: {key.split(".")[1] for key in seeds[0]} for arm, seeds in metrics.items()}
    assert found == METRICS


def test_the_file_is_read_back_bit_for_bit_and_counts_every_weight(metrics):
    both = metrics["both"][0]
    assert both["lenet_300_100.identical"] == 1
    layers = both["lenet_300_100.layers"]
    assert [row["layer"] for row in layers] == ["ip1", "ip2", "ip3", "total"]
    assert [row["weights"] for row in layers] == [235_200, 30_000, 1_000, 266_610]
    # Kept to the weight: 6 % of 235,200, 9 % of 30,000, 26 % of 1,000.
    assert [round(row["kept"] * row["weights"] / 100) for row in layers[:3]] == [14_112, 2_700, 260]
    assert both["lenet_300_100.ratio"] == pytest.approx(4 * 266_610 / both["lenet_300_100.file_bytes"])


def test_claims_without_their_arm_are_not_run(metrics):
    verdicts = {claim.id: claim.evaluate(metrics).verdict for claim in deep_compression.CLAIMS}
    assert verdicts["dc-lenet5-ratio"] == "not run"
    assert verdicts["dc-8-bit"] == "not run"
    assert verdicts["dc-lenet-300-100-ratio"] in ("holds", "does not hold")


@pytest.mark.parametrize("name", list(RECIPES))
def test_the_papers_tables_have_a_row_a_layer(name):
    recipe = RECIPES[name]
    assert [*recipe.published] == [*(layer.paper for layer in recipe.layers.values()), "total"]
    assert {len(row) for row in recipe.published.values()} == {len(COLUMNS)}


def test_fashion_is_the_same_run_of_other_data():
    assert deep_compression_fashion.run is deep_compression.run
    assert deep_compression_fashion.Config().data == "fashion_mnist"
    ids = [claim.id for claim in (*deep_compression.CLAIMS, *deep_compression_fashion.CLAIMS)]
    assert len(ids) == len(set(ids))


def test_config_refuses_what_it_cannot_run():
    with pytest.raises(ValueError, match="effort must be positive, got 0"):
        Config(effort=0)
    with pytest.raises(ValueError, match="curves must be among the networks"):
        Config(networks=("lenet5",))
