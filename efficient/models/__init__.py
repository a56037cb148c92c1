"""Flax Linen models that know nothing of compression, and the trained weights that a machine can have.

Every model is called as `module.apply(variables, x, train=False)`; `get(name, **options)` builds one by name.
"""

from efficient.models.conv_norm import ConvNorm, fold_batch_norm
from efficient.models.decoder import Decoder
from efficient.models.efficientnet_lite import EfficientNetLite0
from efficient.models.efficientnet_lite_checkpoint import (
    EfficientNetLite0Checkpoint,
    download_efficientnet_lite0,
    find_efficientnet_lite0,
    load_efficientnet_lite0,
)
from efficient.models.lab_vgg import LabVGG
from efficient.models.lenet import LeNet5, LeNet300
from efficient.models.mobilenet import InvertedResidual, MobileNetV1, MobileNetV2, round_channels
from efficient.models.resnet import ResNet, cifar_resnet, imagenet_resnet
from efficient.models.vit import VisionTransformer, vit_b16, vit_tiny
from efficient.models.zoo import ZOO, Built, Entry, get

__all__ = [
    "ZOO",
    "Built",
    "ConvNorm",
    "Decoder",
    "EfficientNetLite0",
    "EfficientNetLite0Checkpoint",
    "Entry",
    "InvertedResidual",
    "LabVGG",
    "LeNet5",
    "LeNet300",
    "MobileNetV1",
    "MobileNetV2",
    "ResNet",
    "VisionTransformer",
    "cifar_resnet",
    "download_efficientnet_lite0",
    "find_efficientnet_lite0",
    "fold_batch_norm",
    "get",
    "imagenet_resnet",
    "load_efficientnet_lite0",
    "round_channels",
    "vit_b16",
    "vit_tiny",
]
