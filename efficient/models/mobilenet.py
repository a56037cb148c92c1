"""MobileNet V1 (depthwise separable convolutions) and V2 (inverted residuals with linear bottlenecks).

Source: Howard et al., 2017, arXiv:1704.04861, table 1; Sandler et al., 2018, arXiv:1801.04381, table 2.
Padding, the rounding of channels and the constants of batch normalization are those of the authors'
TensorFlow code. Any image size works: the resolution multiplier is the size of what you feed.
Differs: V1 uses the paper's ReLU, where that code caps it at 6; no dropout before the classifier.
"""

from collections.abc import Callable
from functools import partial
from typing import Literal

import flax.linen as nn
from jaxtyping import Array, Float

from efficient.models.conv_norm import ConvNorm

# V1, after a stem of 32 channels and stride 2: output channels, strides.
_V1_BLOCKS = (
    *((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2)),
    *((512, 1),) * 5,
    *((1024, 2), (1024, 1)),
)
# V2: expansion, output channels, repeats, strides of the first.
_V2_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def round_channels(channels: float, *, multiple: int = 8) -> int:
    """The nearest multiple of `multiple`, at least that, and never below 90 % of `channels`.

    Half a multiple rounds up. Source: the authors' V2 code; the 90 % rule keeps narrow layers from
    losing more than a tenth.

    Example:
        >>> round_channels(64 * 0.35), round_channels(32 * 0.35)  # 22.4; 11.2, of which 8 is below 90 %
        (24, 16)
    """
    nearest = max(multiple, int(channels + multiple / 2) // multiple * multiple)
    return nearest + multiple if nearest < 0.9 * channels else nearest


class MobileNetV1(nn.Module, kw_only=True):
    """A 3x3 stem and 13 pairs of depthwise 3x3 and pointwise 1x1; 4,231,976 parameters, 569 M MACs at 224."""

    width: float = 1.0  # multiplies every channel count (truncated, at least 8)
    classes: int = 1000  # number of labels
    epsilon: float = 1e-3  # of batch normalization
    momentum: float = 0.9997  # of batch normalization; short trainings want less, such as 0.9
    folded: bool = False  # True: the normalization is inside the convolutions

    def __post_init__(self) -> None:
        _check(self.width, self.classes)
        super().__post_init__()

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch h w c"], *, train: bool = False
    ) -> Float[Array, "batch classes"]:
        """Logits; `train` normalizes by the batch and updates the running statistics."""
        layer = partial(ConvNorm, epsilon=self.epsilon, momentum=self.momentum, folded=self.folded)
        x = layer(features=max(8, int(32 * self.width)), strides=2, name="stem")(x, train=train)
        for index, (channels, strides) in enumerate(_V1_BLOCKS):
            c = x.shape[-1]
            x = layer(features=c, groups=c, strides=strides, name=f"block{index}_depthwise")(x, train=train)
            features = max(8, int(channels * self.width))
            x = layer(features=features, kernel=1, name=f"block{index}_pointwise")(x, train=train)
        return nn.Dense(self.classes, name="classifier")(x.mean(axis=(1, 2)))


class InvertedResidual(nn.Module, kw_only=True):
    """Expand by a 1x1 layer, filter depthwise, project linearly; add the input where the shape allows it."""

    layer: Callable[..., nn.Module]  # ConvNorm with the model's normalization settings
    features: int  # output channels
    expansion: int  # hidden channels over input channels; 1 leaves out the expanding layer
    kernel: int = 3  # side of the depthwise window, pixels
    strides: int = 1  # step of the depthwise window, pixels

    @nn.compact
    def __call__(self, x: Float[Array, "batch h w c"], *, train: bool) -> Float[Array, "batch H W C"]:
        """Gives x + project(depthwise(expand(x))), without the sum where the shape changes."""
        hidden = x.shape[-1] * self.expansion
        y = x
        if self.expansion > 1:
            y = self.layer(features=hidden, kernel=1, activation=nn.relu6, name="expand")(y, train=train)
        y = self.layer(
            features=hidden,
            kernel=self.kernel,
            strides=self.strides,
            groups=hidden,
            activation=nn.relu6,
            name="depthwise",
        )(y, train=train)
        y = self.layer(features=self.features, kernel=1, activation=None, name="project")(y, train=train)
        return x + y if self.strides == 1 and x.shape[-1] == self.features else y


class MobileNetV2(nn.Module, kw_only=True):
    """A 3x3 stem, 17 inverted residuals, a 1x1 head; 3,504,872 parameters, 300,774,272 MACs at 224.

    For `width` below 1 two conventions of the head exist. `head="keep"` leaves its 1280 channels (the
    paper's text, and most libraries). `head="scale"` multiplies them too, as networks for
    microcontrollers do: 448 channels and 750,280 parameters at width 0.35, 23,499,152 MACs at 144.
    Both multiply above 1.
    """

    width: float = 1.0  # multiplies every channel count (then `round_channels`)
    head: Literal["keep", "scale"] = "keep"  # the last convolution for width < 1
    classes: int = 1000  # number of labels
    epsilon: float = 1e-3  # of batch normalization
    momentum: float = 0.997  # of batch normalization; short trainings want less, such as 0.9
    folded: bool = False  # True: the normalization is inside the convolutions

    def __post_init__(self) -> None:
        _check(self.width, self.classes)
        if self.head not in ("keep", "scale"):
            raise ValueError(f"head must be 'keep' or 'scale', got {self.head!r}; 'keep' is the paper's.")
        super().__post_init__()

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch h w c"], *, train: bool = False
    ) -> Float[Array, "batch classes"]:
        """Logits; `train` normalizes by the batch and updates the running statistics."""
        layer = partial(ConvNorm, epsilon=self.epsilon, momentum=self.momentum, folded=self.folded)
        stem = layer(features=round_channels(32 * self.width), strides=2, activation=nn.relu6, name="stem")
        x = stem(x, train=train)
        index = 0
        for expansion, channels, repeats, first in _V2_STAGES:
            for repeat in range(repeats):
                x = InvertedResidual(
                    layer=layer,
                    features=round_channels(channels * self.width),
                    expansion=expansion,
                    strides=first if repeat == 0 else 1,
                    name=f"block{index}",
                )(x, train=train)
                index += 1
        scale = self.width if self.head == "scale" else max(1.0, self.width)
        head = layer(features=round_channels(1280 * scale), kernel=1, activation=nn.relu6, name="head")
        return nn.Dense(self.classes, name="classifier")(head(x, train=train).mean(axis=(1, 2)))


def _check(width: float, classes: int) -> None:
    """Refuses a width or a number of classes that builds no network."""
    if not width > 0:
        raise ValueError(f"width must be above 0, got {width!r}; use 1.0 for the paper's channels.")
    if classes < 1:
        raise ValueError(f"classes must be at least 1, got {classes!r}; give the number of labels.")
