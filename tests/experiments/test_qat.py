"""Training in few bits at smoke size, and what the claims ask for."""

import pytest

from experiments import qat
from experiments.frame import Progress
from tests.experiments.shown import assert_shown, made, verdict


@pytest.fixture(scope="module")
def metrics():
    return qat.run(qat.Config.smoke(), progress=Progress())


def test_every_arm_is_measured(metrics):
    assert set(metrics) == {"baseline", "rounded_2", *(f"{name}_2" for name in qat.METHODS)}
    assert_shown(qat, metrics)


@pytest.mark.parametrize(("pact", "holds"), [((80.0, 80.2, 79.9), True), ((81.0, 81.2, 81.1), False)])
def test_lsq_may_be_level_with_pact_but_not_below(pact, holds):
    both = made(lsq_2=(80.0, 80.0, 80.0), pact_2=pact)
    assert verdict(qat, "qat-lsq-pact-2", both) is holds
