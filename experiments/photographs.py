"""EfficientNet-Lite0 as trained on ImageNet, and photographs for it: no ImageNet image is at hand.

The photographs are the two that scikit-learn carries (a temple, a flower; CC BY), cut at random places and
sizes to 224x224. What a network makes of them has no label: networks are compared with the one they were made
of, in dB of the logits and by how often they choose the same class.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from efficient import lift
from efficient.models import load_efficientnet_lite0
from efficient.models.efficientnet_lite import EfficientNetLite0
from efficient.quantize import Folded, fold

SIDE = 224


def crops(count: int, seed: int) -> np.ndarray:
    """float32 [count, 224, 224, 3], (pixel - 127) / 128: squares of a quarter to all of the height.

    Half of them are mirrored. Raises as scikit-learn does where it, or pillow, is missing.
    """
    from sklearn.datasets import load_sample_images

    photographs = load_sample_images().images
    draw, made = np.random.default_rng(seed), []
    for i in range(count):
        photograph = photographs[i % len(photographs)]
        height, width, _ = photograph.shape
        side = int(draw.integers(height // 4, height + 1))
        top, left = int(draw.integers(0, height - side + 1)), int(draw.integers(0, width - side + 1))
        square = photograph[top : top + side, left : left + side].astype(np.float32)
        cut = jax.image.resize(jnp.asarray(square), (SIDE, SIDE, 3), "linear", antialias=True)
        made.append(np.asarray(cut)[:, :: int(draw.choice([1, -1]))])
    return (np.stack(made) - 127) / 128


class Lite0:
    """The network, folded, and how far another is from it."""

    def __init__(self, batch: int = 8) -> None:
        self.batch = batch
        variables = load_efficientnet_lite0().variables
        self.folded: Folded = fold(EfficientNetLite0().apply, variables, jnp.zeros((1, SIDE, SIDE, 3)))
        self.params = self.folded.params
        self.run = jax.jit(lift(self.folded.apply))

    def logits(self, params: Any, images: np.ndarray) -> np.ndarray:
        """[images, 1000]; their number is a multiple of the batch."""
        parts = [images[i : i + self.batch] for i in range(0, len(images), self.batch)]
        return np.concatenate([np.asarray(self.run(params, part)) for part in parts])


def compared(logits: np.ndarray, dense: np.ndarray) -> dict[str, float]:
    """SQNR of logits in dB (200 where they are the same), agreement of classes in percent."""
    noise = float(np.sum((logits - dense) ** 2, dtype=np.float64))
    signal = float(np.sum(dense**2, dtype=np.float64))
    return {
        "sqnr": 10 * float(np.log10(signal / noise)) if noise else 200.0,
        "agreement": 100 * float(np.mean(logits.argmax(-1) == dense.argmax(-1))),
    }


def sqnr(value: Any, shown: Any) -> float:
    """DB of an array over the error of another that stands for it; 200 where there is none."""
    noise = float(jnp.sum(jnp.square(value - shown)))
    return 10 * float(jnp.log10(jnp.sum(jnp.square(value)) / noise)) if noise else 200.0
