"""LeNet-300-100 and LeNet-5, the two networks on which pruning papers report MNIST.

Source: LeCun et al., 1998, Proceedings of the IEEE 86(11), sections III.C and II.B; LeNet-5 in the form of
Caffe's `lenet_train_test.prototxt` (20-50-500-10), which Han et al., 2015, arXiv:1506.02626, prune.
Differs: LeNet-5 flattens its features as height, width, channel, where Caffe has channel first: the same
network up to the order of the first dense layer's rows.
"""

import flax.linen as nn
from jaxtyping import Array, Float


class LeNet300(nn.Module, kw_only=True):
    """LeNet-300-100: two hidden dense layers on a flattened image; 266,610 parameters at 28x28x1."""

    hidden: tuple[int, ...] = (300, 100)  # units of each hidden layer
    classes: int = 10  # number of labels

    def __post_init__(self) -> None:
        if min((*self.hidden, self.classes)) < 1:
            raise ValueError(
                f"hidden and classes must be at least 1, got {self.hidden!r} and {self.classes!r}; "
                "give every layer one unit or more."
            )
        super().__post_init__()

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch h w c"], *, train: bool = False
    ) -> Float[Array, "batch classes"]:
        """Logits; `train` belongs to the contract of every model here and changes nothing in this one."""
        x = x.reshape(x.shape[0], -1)
        for index, units in enumerate(self.hidden):
            x = nn.relu(nn.Dense(units, name=f"dense{index}")(x))
        return nn.Dense(self.classes, name="classifier")(x)


class LeNet5(nn.Module, kw_only=True):
    """LeNet-5 of Caffe: valid 5x5 convolutions, 2x2 max pooling; 431,080 parameters at 28x28x1."""

    features: tuple[int, int, int] = (
        20,
        50,
        500,
    )  # channels of the two convolutions, units of the dense layer
    classes: int = 10  # number of labels

    def __post_init__(self) -> None:
        if min((*self.features, self.classes)) < 1:
            raise ValueError(
                f"features and classes must be at least 1, got {self.features!r} and {self.classes!r}; "
                "give every layer one unit or more."
            )
        super().__post_init__()

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch h w c"], *, train: bool = False
    ) -> Float[Array, "batch classes"]:
        """Logits; as in Caffe, the only ReLU follows the first dense layer. `train` changes nothing here."""
        if min(x.shape[1:3]) < 16:
            raise ValueError(
                f"x must be at least 16x16 pixels, got {x.shape[1:3]!r}; two valid 5x5 convolutions and two "
                "poolings leave nothing of less: enlarge or pad the images."
            )
        for index, channels in enumerate(self.features[:2]):
            x = nn.Conv(channels, (5, 5), padding="VALID", name=f"conv{index}")(x)
            x = nn.max_pool(x, (2, 2), strides=(2, 2))
        x = nn.relu(nn.Dense(self.features[2], name="dense")(x.reshape(x.shape[0], -1)))
        return nn.Dense(self.classes, name="classifier")(x)
