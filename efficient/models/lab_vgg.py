"""The small VGG for CIFAR-10 on which a well-known course on efficient deep learning prunes and quantizes.

Source: Simonyan and Zisserman, 2014, arXiv:1409.1556, for the shape (3x3 convolutions, 2x2 pooling);
MIT 6.5940 (Fall 2023), labs 1 and 2, for the widths: 64, 128, M, 256, 256, M, 512, 512, M, 512, 512, M.
"""

from functools import partial

import flax.linen as nn
from jaxtyping import Array, Float

from efficient.models.conv_norm import ConvNorm


class LabVGG(nn.Module, kw_only=True):
    """Eight ConvNorm layers in four pooled stages, global average, one dense layer; 9,228,362 parameters."""

    stages: tuple[tuple[int, ...], ...] = (
        (64, 128),
        (256, 256),
        (512, 512),
        (512, 512),
    )  # channels; a pool ends each
    width: float = 1.0  # multiplies every channel count, which is then rounded
    classes: int = 10  # number of labels
    epsilon: float = 1e-5  # of batch normalization (PyTorch's default, as in the labs)
    momentum: float = 0.9  # of batch normalization (PyTorch's 0.1, counted the other way)
    folded: bool = False  # True: the normalization is inside the convolutions

    def __post_init__(self) -> None:
        if not self.width > 0 or self.classes < 1:
            raise ValueError(
                f"width and classes must be above 0, got {self.width!r} and {self.classes!r}; "
                "use 1.0 for the widths of the labs."
            )
        super().__post_init__()

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch h w c"], *, train: bool = False
    ) -> Float[Array, "batch classes"]:
        """Logits; `train` normalizes by the batch and updates the running statistics."""
        layer = partial(ConvNorm, epsilon=self.epsilon, momentum=self.momentum, folded=self.folded)
        index = 0
        for stage in self.stages:
            for channels in stage:
                features = max(1, round(channels * self.width))
                x = layer(features=features, name=f"layer{index}")(x, train=train)
                index += 1
            x = nn.max_pool(x, (2, 2), strides=(2, 2))
        return nn.Dense(self.classes, name="classifier")(x.mean(axis=(1, 2)))
