"""Tuning: the fastest is kept on disk and chosen from then on; a file that is none changes nothing."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest
from efficient.kernels.quantized_matmul import pallas_gpu, quantized_matmul
from efficient.kernels.quantized_matmul.tuning import CANDIDATES, tune_quantized_matmul
from efficient.kernels.tune import chosen, device_kind, shape_class, tuned
from hypothesis import given, settings
from hypothesis import strategies as st


@dataclasses.dataclass(frozen=True, kw_only=True)
class Blocks:
    """Two sizes, the first even."""

    a: int = 2
    b: int = 1

    def __post_init__(self):
        if self.a % 2:
            raise ValueError("a must be even")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where what is tuned is kept."""
    monkeypatch.setenv("EFFICIENT_CACHE", str(tmp_path))
    return tmp_path


def test_the_fastest_is_chosen_from_then_on(folder):
    assert chosen("op", "8x8", Blocks()) == Blocks()
    times = {Blocks(a=2, b=1): 3.0, Blocks(a=4, b=1): 1.0, Blocks(a=6, b=1): 2.0}
    assert tuned("op", "8x8", times, times.get) == Blocks(a=4, b=1)
    assert chosen("op", "8x8", Blocks()) == Blocks(a=4, b=1)
    assert chosen("op", "16x8", Blocks()) == Blocks()
    assert chosen("other", "8x8", Blocks()) == Blocks()
    tuned("op", "16x8", [Blocks(a=8)], lambda blocks: 1.0)
    assert chosen("op", "8x8", Blocks()) == Blocks(a=4, b=1)


def test_candidates_that_do_not_run_are_passed_over(folder):
    def seconds(blocks):
        if blocks.a == 2:
            raise NotImplementedError("not here")
        return 1.0

    assert tuned("op", "8", [Blocks(), Blocks(a=4)], seconds) == Blocks(a=4)
    with pytest.raises(RuntimeError, match="one candidate for op must run"):
        tuned("op", "8", [Blocks()], seconds)


def test_classes_are_powers_of_two():
    assert shape_class(1, 3, 4096, 4097) == "1x4x4096x8192"
    assert shape_class(0) == "1"


@pytest.mark.parametrize(
    "fields",
    [{"a": 4}, {"a": 4, "b": 1, "c": 1}, {"a": 3, "b": 1}, {"a": 4, "b": "1"}, {"a": 4, "b": True}, [4], 7],
)
def test_fields_that_are_none_of_the_blocks_are_left(folder, fields):
    (folder / "tuned.json").write_text(json.dumps({device_kind(): {"op": {"8": fields}}}))
    assert chosen("op", "8", Blocks()) == Blocks()


def test_a_broken_file_changes_nothing(folder):
    @settings(max_examples=60, deadline=None, derandomize=True, database=None)
    @given(content=st.one_of(st.binary(max_size=60), st.text(max_size=60).map(str.encode)))
    def law(content):
        (folder / "tuned.json").write_bytes(content)
        assert chosen("op", "8", Blocks()) == Blocks()

    law()
    (folder / "tuned.json").write_text("[" * 100_000)
    assert chosen("op", "8", Blocks()) == Blocks()
    assert tuned("op", "8", [Blocks(a=6)], lambda blocks: 1.0) == Blocks(a=6)
    assert chosen("op", "8", Blocks()) == Blocks(a=6)


def test_products_take_what_was_tuned(folder, monkeypatch):
    tried = iter(range(10, 0, -1))
    some = [pallas_gpu.Blocks(rows=16, depth=32, width=16), pallas_gpu.Blocks(rows=32, depth=16, width=16)]
    best = tune_quantized_matmul(3, 40, 24, group=32, candidates=some, seconds=lambda call: next(tried))
    assert best == some[1]
    packing = pallas_gpu.Packing(4, 24, 32, True)
    assert pallas_gpu.blocks_for(4, 60, packing) == best  # of the same class
    assert pallas_gpu.blocks_for(17, 40, packing) == pallas_gpu.MANY
    assert pallas_gpu.blocks_for(2, 400, packing) == pallas_gpu.FEW
    x, codes = jnp.ones((3, 40)), jnp.full((40, 12), 0x21, jnp.uint8)
    found = quantized_matmul(
        x, codes, jnp.ones((2, 1)), bits=4, columns=24, group=32, is_signed=True, implementation="pallas_gpu"
    )
    np.testing.assert_array_equal(found, np.tile([40.0, 80.0], (3, 12)))


def test_every_candidate_is_a_kernels():
    assert len(set(CANDIDATES)) == len(CANDIDATES) == 72
