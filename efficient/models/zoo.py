"""The models by name, each with the input that it takes: `get("mobilenet_v2", width=0.35, resolution=144)`.

    module, example = get("lenet5")
    variables = module.init(key, jnp.zeros(example.shape, example.dtype))
    logits = module.apply(variables, images)  # with train=True and mutable=["batch_stats"] to train

`example` has a batch of one. Every module is called as `module.apply(variables, x, train=False)`.
"""

import difflib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from efficient.models.decoder import Decoder
from efficient.models.efficientnet_lite import EfficientNetLite0
from efficient.models.lab_vgg import LabVGG
from efficient.models.lenet import LeNet5, LeNet300
from efficient.models.mobilenet import MobileNetV1, MobileNetV2
from efficient.models.resnet import cifar_resnet, imagenet_resnet
from efficient.models.vit import vit_b16, vit_tiny


class Built(NamedTuple):
    """A model and what it takes."""

    module: nn.Module
    example: jax.ShapeDtypeStruct  # shape and dtype of a batch of one


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One model of the zoo."""

    name: str  # as in ZOO
    build: Callable[..., Built]  # keyword-only options, all with defaults

    @property
    def options(self) -> tuple[str, ...]:
        """The options that the model takes."""
        return tuple(inspect.signature(self.build).parameters)


def get(name: str, **options: object) -> Built:
    """The model called `name`, built with its `options`.

    Args:
        name: a key of `ZOO`.
        options: those of the entry (`ZOO[name].options`), such as width, resolution, classes.

    Raises:
        ValueError: the name is not in the zoo, the model does not take an option, or refuses its value.

    Example:
        >>> get("mobilenet_v2", width=0.35, resolution=144).example.shape
        (1, 144, 144, 3)
    """
    if name not in ZOO:
        raise ValueError(f"name must be one of {sorted(ZOO)}, got {name!r}; {_nearest(name, ZOO)}.")
    entry = ZOO[name]
    for option in options:
        if option not in entry.options:
            raise ValueError(
                f"options of {name} must be among {list(entry.options)}, got {option!r}; "
                f"{_nearest(option, entry.options)}."
            )
    return entry.build(**options)


def _nearest(word: str, known: Mapping[str, object] | tuple[str, ...]) -> str:
    """What the word was probably meant to be."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}" if close else "choose one of them"


def _image(resolution: int, channels: int = 3) -> jax.ShapeDtypeStruct:
    """A batch of one square image."""
    if resolution < 1:
        raise ValueError(
            f"resolution must be at least 1 pixel, got {resolution!r}; 28, 32 and 224 are usual."
        )
    return jax.ShapeDtypeStruct((1, resolution, resolution, channels), jnp.float32)


def _lenet_300_100(*, resolution: int = 28, classes: int = 10) -> Built:
    return Built(LeNet300(classes=classes), _image(resolution, 1))


def _lenet5(*, resolution: int = 28, classes: int = 10) -> Built:
    return Built(LeNet5(classes=classes), _image(resolution, 1))


def _lab_vgg(*, width: float = 1.0, resolution: int = 32, classes: int = 10, folded: bool = False) -> Built:
    return Built(LabVGG(width=width, classes=classes, folded=folded), _image(resolution))


def _cifar_resnet(depth: int) -> Callable[..., Built]:
    """The builder of a CIFAR network."""

    def build(
        *,
        width: float = 1.0,
        resolution: int = 32,
        classes: int = 10,
        shortcut: Literal["A", "B"] = "A",
        folded: bool = False,
    ) -> Built:
        module = cifar_resnet(depth, width=width, classes=classes, shortcut=shortcut, folded=folded)
        return Built(module, _image(resolution))

    return build


def _imagenet_resnet(depth: int) -> Callable[..., Built]:
    """The builder of an ImageNet network."""

    def build(
        *, width: float = 1.0, resolution: int = 224, classes: int = 1000, folded: bool = False
    ) -> Built:
        module = imagenet_resnet(depth, width=width, classes=classes, folded=folded)
        return Built(module, _image(resolution))

    return build


def _mobilenet_v1(
    *,
    width: float = 1.0,
    resolution: int = 224,
    classes: int = 1000,
    momentum: float = 0.9997,
    folded: bool = False,
) -> Built:
    module = MobileNetV1(width=width, classes=classes, momentum=momentum, folded=folded)
    return Built(module, _image(resolution))


def _mobilenet_v2(
    *,
    width: float = 1.0,
    resolution: int = 224,
    classes: int = 1000,
    head: Literal["keep", "scale"] = "keep",
    momentum: float = 0.997,
    folded: bool = False,
) -> Built:
    module = MobileNetV2(width=width, classes=classes, head=head, momentum=momentum, folded=folded)
    return Built(module, _image(resolution))


def _efficientnet_lite0(
    *, resolution: int = 224, classes: int = 1000, momentum: float = 0.99, folded: bool = False
) -> Built:
    return Built(EfficientNetLite0(classes=classes, momentum=momentum, folded=folded), _image(resolution))


def _vit_tiny(*, resolution: int = 224, patch: int = 16, depth: int = 12, classes: int = 1000) -> Built:
    return Built(vit_tiny(patch=patch, depth=depth, classes=classes), _image(resolution))


def _vit_b16(*, resolution: int = 224, classes: int = 1000) -> Built:
    return Built(vit_b16(classes=classes), _image(resolution))


def _decoder_tiny(
    *,
    vocabulary: int = 256,
    tokens: int = 16,
    depth: int = 2,
    tied: bool = True,
    scan_layers: bool = False,
    remat: bool = False,
) -> Built:
    module = Decoder(
        vocabulary=vocabulary,
        width=64,
        depth=depth,
        heads=4,
        kv_heads=2,
        hidden=128,
        tied=tied,
        scan_layers=scan_layers,
        remat=remat,
    )
    return Built(module, jax.ShapeDtypeStruct((1, tokens), jnp.int32))


_BUILDERS: dict[str, Callable[..., Built]] = {
    "lenet_300_100": _lenet_300_100,
    "lenet5": _lenet5,
    "lab_vgg": _lab_vgg,
    "resnet20": _cifar_resnet(20),
    "resnet56": _cifar_resnet(56),
    "resnet18": _imagenet_resnet(18),
    "resnet50": _imagenet_resnet(50),
    "mobilenet_v1": _mobilenet_v1,
    "mobilenet_v2": _mobilenet_v2,
    "efficientnet_lite0": _efficientnet_lite0,
    "vit_tiny": _vit_tiny,
    "vit_b16": _vit_b16,
    "decoder_tiny": _decoder_tiny,
}

ZOO: Mapping[str, Entry] = MappingProxyType(
    {name: Entry(name=name, build=build) for name, build in _BUILDERS.items()}
)
