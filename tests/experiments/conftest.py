"""Smoke runs compile much and compute little: they do without most of XLA's optimizations."""

import jax
import pytest


@pytest.fixture(scope="module", autouse=True)
def compiled_quickly():
    """Half of the time of a smoke run is LLVM's, at full effort. What is computed stays."""
    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)
