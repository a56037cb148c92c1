"""The recipes of `deep_compression`: how each LeNet is pruned and shared, and the paper's figures for it."""

from collections.abc import Mapping
from typing import NamedTuple

from efficient import Transform, at, chain
from efficient.factorize import low_rank
from efficient.prune import magnitude
from efficient.quantize import codebook


class Layer(NamedTuple):
    """A layer: the paper's name, how much of it is kept, and the bits of a weight."""

    paper: str
    kept: float
    bits: int


class Recipe(NamedTuple):
    """How one network is compressed, and the paper's figures for it."""

    layers: Mapping[str, Layer]
    epochs: int  # of dense training
    retrain: int  # epochs after each round of pruning
    published_ratio: float
    published: Mapping[str, tuple[float, ...]]  # by layer, and their total: the columns below

    def scaled(self, density: float) -> "Recipe":
        """The recipe with so many times the weights kept, at most all."""
        layers = {
            name: layer._replace(kept=min(1.0, layer.kept * density)) for name, layer in self.layers.items()
        }
        return self._replace(layers=layers)


# Kept %, weight bits P+Q, P+Q+H, index bits P+Q, P+Q+H, rate P+Q %, P+Q+H %: Tables 2 and 3.
RECIPES: Mapping[str, Recipe] = {
    "lenet_300_100": Recipe(
        {
            "dense0": Layer("ip1", 0.06, 6),
            "dense1": Layer("ip2", 0.09, 6),
            "classifier": Layer("ip3", 0.26, 6),
        },
        epochs=15,
        retrain=10,
        published_ratio=40,
        published={
            "ip1": (8, 6, 4.4, 5, 3.7, 3.1, 2.32),
            "ip2": (9, 6, 4.4, 5, 4.3, 3.8, 3.04),
            "ip3": (26, 6, 4.3, 5, 3.2, 15.7, 12.70),
            "total": (8, 6, 5.1, 5, 3.7, 3.1, 2.49),
        },
    ),
    "lenet5": Recipe(
        {
            "conv0": Layer("conv1", 0.66, 8),
            "conv1": Layer("conv2", 0.12, 8),
            "dense": Layer("ip1", 0.06, 5),
            "classifier": Layer("ip2", 0.19, 5),
        },
        epochs=6,
        retrain=2,
        published_ratio=39,
        published={
            "conv1": (66, 8, 7.2, 5, 1.5, 78.5, 67.45),
            "conv2": (12, 8, 7.2, 5, 3.9, 6.0, 5.28),
            "ip1": (8, 5, 4.5, 5, 4.5, 2.7, 2.45),
            "ip2": (19, 5, 5.2, 5, 3.7, 6.9, 6.13),
            "total": (8, 5.3, 4.1, 5, 4.4, 3.05, 2.55),
        },
    ),
}

COLUMNS = (
    "kept",
    "weight_bits",
    "weight_bits_huffman",
    "index_bits",
    "index_bits_huffman",
    "rate",
    "rate_huffman",
)
TABLE_ONE: Mapping[str, tuple[float, float, float, float, float]] = {
    # Error % before and after, KB before and after, rate.
    "lenet_300_100": (1.64, 1.58, 1070, 27, 40),
    "lenet5": (0.80, 0.74, 1720, 44, 39),
}


def pruning(recipe: Recipe, power: float = 1.0) -> Transform:
    """Every layer pruned to its kept fraction to the `power`: 1 is the recipe's, less is milder."""
    return chain(
        *(at(f"{name}/kernel", magnitude(1 - layer.kept**power)) for name, layer in recipe.layers.items())
    )


def sharing(recipe: Recipe, *, bits: int | None = None, zero: bool = True) -> Transform:
    """Every layer's weights shared; `bits` in place of the recipe's, and `zero` as in `codebook`."""
    return chain(
        *(
            at(f"{name}/kernel", codebook(bits or layer.bits, zero=zero))
            for name, layer in recipe.layers.items()
        )
    )


def thinning(recipe: Recipe, fraction: float) -> Transform:
    """SVD of every layer but the last."""
    *hidden, _ = recipe.layers
    return chain(*(at(f"{name}/kernel", low_rank(fraction)) for name in hidden))
