"""Tests that a class inherits from `KernelLaws` run on its own tiers and cases."""

from tests.kernels.laws import KernelLaws


def pytest_generate_tests(metafunc):
    own = metafunc.cls
    if own is None or not issubclass(own, KernelLaws):
        return
    if "tier" in metafunc.fixturenames:
        tiers = own.pallas if "lower" in metafunc.function.__name__ else own.all_tiers()
        metafunc.parametrize("tier", tiers)
    if "case" in metafunc.fixturenames:
        metafunc.parametrize("case", own.cases)
