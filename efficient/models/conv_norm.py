"""The layer that every convolutional family repeats: convolution, batch normalization, activation.

One name for each part (`conv`, `bn`) in every model, so that a path says which normalization belongs to
which kernel, and a folded network (convolution with bias, no normalization) keeps the same paths.

Source: Ioffe and Szegedy, 2015, arXiv:1502.03167.
"""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
from jaxtyping import Array, Float


class ConvNorm(nn.Module, kw_only=True):
    """Convolution, then batch normalization (or, when `folded`, a bias), then an activation."""

    features: int  # output channels
    kernel: int = 3  # side of the square window, pixels
    strides: int = 1  # step of the window, pixels
    groups: int = 1  # channel groups; the input's channel count makes it depthwise
    padding: str | int = "SAME"  # "SAME" pads as TensorFlow does; an integer pads both sides by that much
    activation: Callable[[Array], Array] | None = nn.relu  # None leaves the output linear
    epsilon: float = 1e-5  # added to the variance
    momentum: float = 0.9  # share of the running statistics that an update keeps
    folded: bool = False  # True: the normalization is inside the kernel and bias

    @nn.compact
    def __call__(self, x: Float[Array, "batch h w c"], *, train: bool = False) -> Float[Array, "batch H W C"]:
        """Applies the layer; `train` normalizes by the batch's statistics and updates the running ones."""
        x = nn.Conv(
            self.features,
            (self.kernel, self.kernel),
            strides=(self.strides, self.strides),
            padding=self.padding,
            feature_group_count=self.groups,
            use_bias=self.folded,
            kernel_init=nn.initializers.he_normal(),
            name="conv",
        )(x)
        if not self.folded:
            x = nn.BatchNorm(
                use_running_average=not train, momentum=self.momentum, epsilon=self.epsilon, name="bn"
            )(x)
        return x if self.activation is None else self.activation(x)


def fold_batch_norm(variables: Mapping[str, Any], *, epsilon: float) -> dict[str, Any]:
    """Variables of the same network built with `folded=True`, equal to it at inference.

    With scale γ, shift β, running mean μ and variance v of a layer, kernel K and s = γ / sqrt(v + ε):
    K' = K s (over output channels) and bias b' = β - μ s.

    Args:
        variables: `params` and `batch_stats` of a model made of `ConvNorm` layers; JAX or NumPy arrays.
        epsilon: ε, the model's own `epsilon`.

    Returns:
        `{"params": ...}`, where each `conv` has gained a `bias` and each `bn` is gone.

    Raises:
        ValueError: `params` or `batch_stats` is missing, or a `bn` has no bias-free `conv` beside it.

    Source: Jacob et al., 2018, arXiv:1712.05877, section 3.2, equation 14.
    """
    for collection in ("params", "batch_stats"):
        if collection not in variables:
            raise ValueError(
                f"variables must be a mapping with 'params' and 'batch_stats', got {sorted(variables)!r}; "
                "pass what init or a checkpoint gave for the unfolded model."
            )
    return {"params": _fold(variables["params"], variables["batch_stats"], epsilon, "")}


def _fold(params: Mapping[str, Any], stats: Mapping[str, Any], epsilon: float, path: str) -> dict[str, Any]:
    """Folds every conv and bn pair at or below one node of the tree."""
    if "bn" not in params:
        return {
            name: _fold(child, stats.get(name, {}), epsilon, f"{path}{name}/")
            if isinstance(child, Mapping)
            else child
            for name, child in params.items()
        }
    if set(params) != {"conv", "bn"} or set(params["conv"]) != {"kernel"} or "bn" not in stats:
        raise ValueError(
            f"{path}bn must be beside one 'conv' without a bias, with running statistics, "
            f"got {sorted(params)!r}; fold only models made of ConvNorm layers."
        )
    norm, moments = params["bn"], stats["bn"]
    scale = norm["scale"] / (moments["var"] + epsilon) ** 0.5  # [C]
    kernel = params["conv"]["kernel"] * scale[None, None, None, :]  # [kh, kw, c, C]
    return {"conv": {"kernel": kernel, "bias": norm["bias"] - moments["mean"] * scale}}
