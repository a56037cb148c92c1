"""Strict settings for every test: two CPU devices, no silent rank promotion, results of kernels nan first."""

import gc
import itertools
import os
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=2"
os.environ["EFFICIENT_CXXFLAGS"] = os.environ.get("EFFICIENT_CXXFLAGS", "") + " -DEFFICIENT_POISON"

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")

MAPS = Path("/proc/self/maps")  # Linux allows a process 65,530; a compiled program takes several
TESTS = itertools.count()


@pytest.fixture(autouse=True)
def programs_are_forgotten():
    """Before a process has more compiled programs than can be mapped, where compiling crashes."""
    yield
    if next(TESTS) % 50 == 49 and MAPS.exists() and MAPS.read_bytes().count(b"\n") > 15_000:
        jax.clear_caches()
        gc.collect()
