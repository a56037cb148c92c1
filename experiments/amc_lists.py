"""The numbers of channels that AMC's authors published for MobileNets, and the MACs that they come to.

Source: He et al., 2018, arXiv:1802.03494; the lists are those of github.com/mit-han-lab/amc-models.
"""

from collections.abc import Callable, Mapping

import jax

from efficient.core.dependencies import Member, dependencies
from efficient.models import zoo
from efficient.prune.prices import macs

V1 = (24, 48, 96, 80, 192, 200, 328, 352, 368, 360, 328, 400, 736, 752)  # stem, then each pointwise
V2 = (  # input, stem, first block; hidden and output of each block; head
    *(3, 24, 16),
    *(72, 24, 104, 24, 104, 32, 136, 32, 136, 32, 136, 64, 272, 64, 272, 64, 272, 64, 272, 96),
    *(408, 96, 400, 96, 400, 160, 712, 160, 720, 160, 712, 248, 848),
)
PUBLISHED = {"mobilenet_v1": 293_870_000, "mobilenet_v2": 210_620_528}  # MACs, recomputed


def v1_channels() -> dict[str, int]:
    """By layer of MobileNet V1 that makes channels, how many."""
    stem, *others = V1
    return {"stem": stem, **{f"block{i}_pointwise": count for i, count in enumerate(others)}}


def v2_channels() -> dict[str, int]:
    """By layer of MobileNet V2 that makes channels, how many; what is expanded is named by its depthwise."""
    _, stem, first, *blocks, head = V2
    hidden = {f"block{i + 1}/depthwise": count for i, count in enumerate(blocks[::2])}
    outputs = {f"block{i + 1}/project": count for i, count in enumerate(blocks[1::2])}
    return {"stem": stem, "block0/project": first, **hidden, **outputs, "head": head}


LISTS: Mapping[str, Callable[[], dict[str, int]]] = {
    "mobilenet_v1": v1_channels,
    "mobilenet_v2": v2_channels,
}


def listed_macs(name: str) -> int:
    """The MACs of a published list, at 224 pixels and 1000 classes, of convolutions and the classifier.

    Raises:
        ValueError: layers whose outputs are added have different numbers of channels in the list.
    """
    model, image = zoo.get(name)
    weights = jax.eval_shape(model.init, jax.random.key(0), image)
    found = dependencies(model.apply, weights, image)
    counts: dict[str, int] = {}
    for group in found.free.values():
        named = LISTS[name]().items()
        own = {n for layer, n in named if Member(f"params/{layer}/conv/kernel", 3) in group.members}
        if len(own) != 1:
            raise ValueError(f"{group.name} must have one number of channels, got {own!r}; correct the list.")
        counts[group.name] = own.pop()
    return int(macs(found, model.apply, weights, image)(counts))
