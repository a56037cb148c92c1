"""Blocks and packed codes: cut and spread are inverse on any shape; codes fill bytes."""

import jax.numpy as jnp
import numpy as np
import pytest

from efficient.quantize.blocks import blocked, channel, group, inside, split, spread, tensor, tile
from efficient.quantize.packing import pack_codes, unpack_codes

WAYS = {
    "tensor": tensor(),
    "channel": channel(),
    "rows": channel(0),
    "group": group(3),
    "last": group(2, -1),
    "tile": tile(2, 3),
    "wide": group(64),
}


@pytest.mark.parametrize("shape", [(7, 5), (2, 4, 5)], ids=str)
@pytest.mark.parametrize("blocks", WAYS.values(), ids=WAYS)
def test_every_element_is_in_its_block(blocks, shape):
    """Blocks numbered, spread, and cut again: each holds its own number alone, and all elements are there."""
    layout = blocks.of(shape)
    counts = blocked(shape, layout)
    numbers = jnp.arange(np.prod(counts), dtype=jnp.float32).reshape(counts)
    whole = spread(numbers, layout, shape)
    assert whole.shape == shape
    cut = np.asarray(split(whole, layout, fill=-1.0))
    there = np.asarray(inside(shape, layout))
    assert cut.shape == there.shape == (*counts, cut.shape[-1])
    assert there.sum() == np.prod(shape)
    assert np.all(np.where(there, cut == np.asarray(numbers)[..., None], cut == -1))


def test_a_group_by_hand():
    # 5 inputs in groups of 2: {0, 1}, {2, 3}, {4}; of one output.
    value = jnp.array([[1.0], [-2.0], [3.0], [0.5], [7.0]])
    layout = group(2).of(value.shape)
    np.testing.assert_array_equal(split(value, layout)[:, 0], [[1, -2], [3, 0.5], [7, 0]])


def test_what_is_refused():
    with pytest.raises(ValueError, match="axis must be one of the 1 axes of 'b', got -2"):
        group(4).of((3,), path="b")
    with pytest.raises(ValueError, match="size must be from 1, got 0"):
        group(0)
    with pytest.raises(ValueError, match="columns must be from 1, got 0"):
        tile(2, 0)


@pytest.mark.parametrize("bits", range(1, 9))
def test_codes_come_back_and_take_no_more_than_their_bits(bits):
    codes = np.random.default_rng(bits).integers(0, 2**bits, (3, 13)).astype(np.uint8)
    packed = pack_codes(jnp.asarray(codes), bits)
    np.testing.assert_array_equal(unpack_codes(packed, bits, 13), codes)
    run = 8 // np.gcd(bits, 8)
    assert packed.shape[-1] == -(-13 // run) * run * bits // 8


def test_the_first_code_is_in_the_lowest_bits():
    np.testing.assert_array_equal(pack_codes(jnp.array([3, 1], jnp.uint8), 4), [0x13])
    # 3 bits: 1, 2, 3 are 001, 010, 011 from the lowest: 0b011_010_001 is 0xD1, and 0 above.
    np.testing.assert_array_equal(pack_codes(jnp.array([1, 2, 3], jnp.uint8), 3), [0xD1, 0, 0])
