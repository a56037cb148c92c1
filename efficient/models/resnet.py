"""Residual networks: the CIFAR family (depth 6n + 2) and the ImageNet family (18 to 152 layers).

The CIFAR networks use the paper's option A by default: a shortcut that changes shape takes every second
pixel and appends zero channels, without parameters. The ImageNet networks use option B: a 1x1 projection.

Source: He et al., 2015, arXiv:1512.03385, section 4.2 (CIFAR), table 1 (ImageNet), section 3.3 (A and B).
Differs: a bottleneck strides in its 3x3 convolution, not in its first 1x1 (the form of today's released
weights: the same parameters, 6 % more multiply-accumulates at depth 50); the zero channels of
option A all come last.
"""

from collections.abc import Callable
from functools import partial
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from efficient.models.conv_norm import ConvNorm

_IMAGENET_STAGES = {
    18: ("basic", (2, 2, 2, 2)),
    34: ("basic", (3, 4, 6, 3)),
    50: ("bottleneck", (3, 4, 6, 3)),
    101: ("bottleneck", (3, 4, 23, 3)),
    152: ("bottleneck", (3, 8, 36, 3)),
}


class ResidualBlock(nn.Module, kw_only=True):
    """Two 3x3 layers, or 1x1, 3x3, 1x1 with four times the channels at the end, plus the shortcut."""

    layer: Callable[..., nn.Module]  # ConvNorm with the model's normalization settings
    features: int  # channels of the 3x3 layers
    strides: int  # 1, or 2 to halve the image
    bottleneck: bool  # True: 1x1, 3x3, 1x1
    shortcut: Literal["A", "B"]  # where the shape changes: A without parameters, B a projection

    @nn.compact
    def __call__(self, x: Float[Array, "batch h w c"], *, train: bool) -> Float[Array, "batch H W C"]:
        """Gives relu(branch(x) + shortcut(x))."""
        same = partial(self.layer, features=self.features, padding=1)
        last = {"activation": None, "name": "layer2" if self.bottleneck else "layer1"}
        if self.bottleneck:
            y = self.layer(features=self.features, kernel=1, name="layer0")(x, train=train)
            y = same(strides=self.strides, name="layer1")(y, train=train)
            y = self.layer(features=4 * self.features, kernel=1, **last)(y, train=train)
        else:
            y = same(strides=self.strides, name="layer0")(x, train=train)
            y = same(**last)(y, train=train)
        if x.shape != y.shape:
            x = self._reshape(x, y.shape[-1], train=train)
        return nn.relu(x + y)

    def _reshape(self, x: Float[Array, "batch h w c"], channels: int, *, train: bool) -> Array:
        """The shortcut brought to the branch's shape."""
        if self.shortcut == "A":
            x = x[:, :: self.strides, :: self.strides]
            return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, channels - x.shape[-1])))
        project = self.layer(
            features=channels, kernel=1, strides=self.strides, activation=None, name="shortcut"
        )
        return project(x, train=train)


class ResNet(nn.Module, kw_only=True):
    """A stem, stages of residual blocks that double the channels and halve the image, a dense layer."""

    stages: tuple[int, ...]  # blocks in each stage
    features: int  # channels of the first stage, doubled at each next one
    bottleneck: bool = False  # True: 1x1, 3x3, 1x1 blocks
    stem: Literal["cifar", "imagenet"] = "cifar"  # a 3x3 layer, or a 7x7 layer of stride 2 and a max pooling
    shortcut: Literal["A", "B"] = "B"  # where the shape changes: A without parameters, B a projection
    classes: int = 10  # number of labels
    epsilon: float = 1e-5  # of batch normalization
    momentum: float = 0.9  # of batch normalization
    folded: bool = False  # True: the normalization is inside the convolutions

    def __post_init__(self) -> None:
        if not self.stages or min((*self.stages, self.features, self.classes)) < 1:
            raise ValueError(
                f"stages, features and classes must be at least 1, got {self.stages!r}, {self.features!r}, "
                f"{self.classes!r}; cifar_resnet(20) and imagenet_resnet(50) give the paper's."
            )
        if self.shortcut not in ("A", "B"):
            raise ValueError(
                f"shortcut must be 'A' or 'B', got {self.shortcut!r}; see section 3.3 of the paper."
            )
        if self.stem not in ("cifar", "imagenet"):
            raise ValueError(f"stem must be 'cifar' or 'imagenet', got {self.stem!r}; choose by image size.")
        super().__post_init__()

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch h w c"], *, train: bool = False
    ) -> Float[Array, "batch classes"]:
        """Logits; `train` normalizes by the batch and updates the running statistics."""
        layer = partial(ConvNorm, epsilon=self.epsilon, momentum=self.momentum, folded=self.folded)
        if self.stem == "cifar":
            x = layer(features=self.features, padding=1, name="stem")(x, train=train)
        else:
            x = layer(features=self.features, kernel=7, strides=2, padding=3, name="stem")(x, train=train)
            x = nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
        for stage, blocks in enumerate(self.stages):
            for index in range(blocks):
                x = ResidualBlock(
                    layer=layer,
                    features=self.features * 2**stage,
                    strides=2 if stage > 0 and index == 0 else 1,
                    bottleneck=self.bottleneck,
                    shortcut=self.shortcut,
                    name=f"stage{stage}_block{index}",
                )(x, train=train)
        return nn.Dense(self.classes, name="classifier")(x.mean(axis=(1, 2)))


def cifar_resnet(
    depth: int,
    *,
    width: float = 1.0,
    classes: int = 10,
    shortcut: Literal["A", "B"] = "A",
    folded: bool = False,
) -> ResNet:
    """The CIFAR network of `depth` = 6n + 2 layers: three stages of n basic blocks, 16 to 64 channels.

    Args:
        depth: 8, 14, 20, 32, 44, 56, 110...
        width: multiplies the channels; above 0.
        classes: number of labels, at least 1.
        shortcut: option A (no parameters; the paper's choice on CIFAR) or B (a projection).
        folded: True for batch normalization inside the convolutions.

    Raises:
        ValueError: `depth` is not 6n + 2 with n at least 1, or `width` is not above 0.
    """
    if depth < 8 or (depth - 2) % 6:
        raise ValueError(f"depth must be 6n + 2 with n at least 1, got {depth!r}; try 20, 32, 44, 56 or 110.")
    return ResNet(
        stages=((depth - 2) // 6,) * 3,
        features=_scaled(16, width),
        shortcut=shortcut,
        classes=classes,
        folded=folded,
    )


def imagenet_resnet(depth: int, *, width: float = 1.0, classes: int = 1000, folded: bool = False) -> ResNet:
    """The ImageNet network of table 1 with `depth` layers and projection shortcuts (option B).

    Args:
        depth: 18 or 34 (basic blocks); 50, 101 or 152 (bottlenecks).
        width: multiplies the channels; above 0.
        classes: number of labels, at least 1.
        folded: True for batch normalization inside the convolutions.

    Raises:
        ValueError: `depth` is not one of table 1, or `width` is not above 0.
    """
    if depth not in _IMAGENET_STAGES:
        raise ValueError(f"depth must be one of {sorted(_IMAGENET_STAGES)}, got {depth!r}; see table 1.")
    block, stages = _IMAGENET_STAGES[depth]
    return ResNet(
        stages=stages,
        features=_scaled(64, width),
        bottleneck=block == "bottleneck",
        stem="imagenet",
        classes=classes,
        folded=folded,
    )


def _scaled(channels: int, width: float) -> int:
    """The channels times the width, rounded, at least 1."""
    if not width > 0:
        raise ValueError(f"width must be above 0, got {width!r}; use 1.0 for the paper's channels.")
    return max(1, round(channels * width))
