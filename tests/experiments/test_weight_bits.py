"""Weight bits at smoke size, and what its claims ask for."""

import pytest

from experiments import weight_bits
from experiments.frame import Progress


def test_every_arm_is_measured():
    metrics = weight_bits.run(weight_bits.Config.smoke(), progress=Progress())
    assert set(metrics) == {"baseline", "codebook_2", "linear_2"}
    arm = metrics["codebook_2"][0]
    assert set(arm) == {"untuned_accuracy", "untuned_loss", "accuracy", "loss", "size_in_memory"}
    # 266,200 weights of one index byte each and 3 codebooks of 4 float32, beside 410 float32 biases.
    stored = 266_200 + 3 * 4 * 4 + 4 * 410
    assert arm["size_in_memory"] == pytest.approx(100 * stored / (4 * 266_610))


@pytest.mark.parametrize(
    ("untuned", "tuned", "holds"), [(70.0, 1.0, True), (19.0, 1.0, False), (70.0, 3.5, False)]
)
def test_the_claim_of_two_bits_wants_collapse_and_recovery(untuned, tuned, holds):
    metrics = {"codebook_2": {0: {"untuned_loss": untuned, "loss": tuned}}}
    (claim,) = (claim for claim in weight_bits.CLAIMS if claim.id == "bits-codebook-2")
    assert claim.evaluate(metrics).holds is holds


def test_config_refuses_what_it_cannot_run():
    with pytest.raises(ValueError, match=r"bits must be of 2 to 8, got \(1,\)"):
        weight_bits.Config(bits=(1,))
    with pytest.raises(ValueError, match="tune must be positive, got 0"):
        weight_bits.Config(tune=0)
