"""EfficientNet-Lite0: EfficientNet-B0 made ready for integer hardware (ReLU6, no squeeze-and-excitation).

Source: Tan and Le, 2019, arXiv:1905.11946, table 1; the Lite variant is TensorFlow's
`tpu/models/official/efficientnet/lite` (2020), with its padding and constants of batch normalization.
Differs: no dropout and no stochastic depth, which the reference trains with at 0.2.
"""

from functools import partial

import flax.linen as nn
from jaxtyping import Array, Float

from efficient.models.conv_norm import ConvNorm
from efficient.models.mobilenet import InvertedResidual

# Expansion, output channels, repeats, strides of the first, depthwise window.
STAGES = (
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)


class EfficientNetLite0(nn.Module, kw_only=True):
    """A 3x3 stem, 16 inverted residuals, a 1x1 head; 4,652,008 parameters, 385,187,552 MACs at 224.

    The weights of the reference expect RGB pixels (0 to 255) as (pixel - 127) / 128.
    """

    classes: int = 1000  # number of labels
    epsilon: float = 1e-3  # of batch normalization
    momentum: float = 0.99  # of batch normalization
    folded: bool = False  # True: the normalization is inside the convolutions; 4,631,000 parameters

    def __post_init__(self) -> None:
        if self.classes < 1:
            raise ValueError(f"classes must be at least 1, got {self.classes!r}; give the number of labels.")
        super().__post_init__()

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch h w c"], *, train: bool = False
    ) -> Float[Array, "batch classes"]:
        """Logits; `train` normalizes by the batch and updates the running statistics."""
        layer = partial(ConvNorm, epsilon=self.epsilon, momentum=self.momentum, folded=self.folded)
        x = layer(features=32, strides=2, activation=nn.relu6, name="stem")(x, train=train)
        index = 0
        for expansion, channels, repeats, first, kernel in STAGES:
            for repeat in range(repeats):
                x = InvertedResidual(
                    layer=layer,
                    features=channels,
                    expansion=expansion,
                    kernel=kernel,
                    strides=first if repeat == 0 else 1,
                    name=f"block{index}",
                )(x, train=train)
                index += 1
        x = layer(features=1280, kernel=1, activation=nn.relu6, name="head")(x, train=train)
        return nn.Dense(self.classes, name="classifier")(x.mean(axis=(1, 2)))
