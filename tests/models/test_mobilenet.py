"""MobileNets: the rounding of channels and the residual sum."""

from functools import partial

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from efficient.models import ConvNorm, InvertedResidual, MobileNetV2, round_channels


@pytest.mark.parametrize(
    ("channels", "rounded"),
    # 12 is half way and goes up; 11.2 would go to 8, which is below 90 % of it.
    [(1, 8), (8.4, 8), (11.2, 16), (12, 16), (22.4, 24), (33.6, 32), (56, 56), (448, 448)],
)
def test_round_channels_by_hand(channels, rounded):
    assert round_channels(channels) == rounded


@given(st.floats(1, 4096))
def test_round_channels_is_a_near_multiple_that_keeps_90_percent(channels):
    rounded = round_channels(channels)
    assert rounded % 8 == 0
    assert rounded >= 0.9 * channels
    assert rounded < channels + 8


def test_inverted_residual_adds_its_input_only_where_shapes_agree():
    """With a projection that normalization scales to nothing, the block is the identity, or zero."""
    x = np.random.default_rng(0).normal(size=(1, 4, 4, 8)).astype(np.float32)
    block = partial(InvertedResidual, layer=partial(ConvNorm, epsilon=1e-3), expansion=2)
    blocks = [block(features=8), block(features=8, strides=2), block(features=6)]

    def silenced(block):
        variables = jax.eval_shape(partial(block.init, train=False), jax.random.key(0), x)
        variables = jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), variables)
        norm = variables["params"]["project"]["bn"]
        variables["params"]["project"]["bn"] = jax.tree.map(np.zeros_like, norm)
        return variables

    same, halved, narrowed = jax.jit(
        lambda trees, x: [
            block.apply(tree, x, train=False) for block, tree in zip(blocks, trees, strict=True)
        ]
    )([silenced(block) for block in blocks], x)
    np.testing.assert_array_equal(same, x)
    np.testing.assert_array_equal(halved, np.zeros((1, 2, 2, 8)))
    np.testing.assert_array_equal(narrowed, np.zeros((1, 4, 4, 6)))


def test_refuses_an_unknown_head():
    """Where annotations are enforced (as in these tests) the type is refused first; both are errors."""
    with pytest.raises((ValueError, TypeError), match="head"):
        MobileNetV2(head="none")
