"""The grid: every score, every pattern and both schedules, with what each needs; `test_prune_grid` holds it.

To add a score or a pattern: one row in SCORES or PATTERNS; `test_every_export_has_a_row` says which.
"""

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from efficient import Transform, at, stacked
from efficient.core.paths import flatten, select
from efficient.core.schedules import cubic_ramp
from efficient.core.statistics import Statistics
from efficient.prune import kept_of, prune, scores
from efficient.prune import patterns as P
from efficient.prune.allocation import Allocation
from efficient.prune.allocations import per_leaf, together
from efficient.prune.pattern import Pattern
from efficient.prune.score import Score
from tests.trees import TREES

SPARSITY, END = 0.5, 4  # of one shot and at the end of the ramp; the step at which the ramp ends
SCHEDULES = ("one_shot", "cubic")
Shape = tuple[int, ...]


# ---- Scores: what each must be told of the weights, by path.


def _outputs(shapes: Mapping[str, Shape]) -> dict[str, jax.Array]:
    """A number an output, in eighths, so that sums are exact: what ties under one compiler always does."""
    return {path: (1.0 + jnp.arange(shape[-1]) * 5 % 7) / 8 for path, shape in shapes.items()}


def _consumers(shapes: Mapping[str, Shape], **fields: Any) -> dict[str, Statistics]:
    """Statistics of what takes the outputs in: a number an output, of eight samples."""
    return {
        path: Statistics(path=f"after {path}", count=jnp.float32(8), **dict.fromkeys(fields, 8 * worth))
        for path, worth in _outputs(shapes).items()
    }


class ScoreRow(NamedTuple):
    """A score, made for weights of these shapes (a slice's, where they are stacked)."""

    export: str
    make: Callable[[Mapping[str, Shape]], Score]
    is_blank: bool = False  # it knows nothing before training: only a schedule that begins at 0 serves


SCORES: dict[str, ScoreRow] = {
    "absolute": ScoreRow("absolute", lambda _: scores.absolute()),
    "group_norm": ScoreRow("group_norm", lambda _: scores.group_norm(2)),
    "random": ScoreRow("random", lambda _: scores.random()),
    "snip": ScoreRow("snip", lambda _: scores.snip()),
    "grasp": ScoreRow("grasp", lambda _: scores.grasp()),
    "taylor": ScoreRow("taylor", lambda _: scores.taylor()),
    "taylor of gates": ScoreRow("taylor", lambda _: scores.taylor(axis=-1, squared=False)),
    "movement": ScoreRow("movement", lambda _: scores.movement(), is_blank=True),
    "damage, fisher": ScoreRow("optimal_brain_damage", lambda _: scores.optimal_brain_damage("fisher")),
    "damage, hessian": ScoreRow("optimal_brain_damage", lambda _: scores.optimal_brain_damage("hessian")),
    "surgeon": ScoreRow("optimal_brain_surgeon", lambda _: scores.optimal_brain_surgeon()),
    "wanda": ScoreRow("wanda", lambda _: scores.wanda()),
    "slimming": ScoreRow("slimming", lambda shapes: scores.slimming(_outputs(shapes))),
    "zero_fraction": ScoreRow(
        "zero_fraction", lambda shapes: scores.zero_fraction(_consumers(shapes, zeros=True))
    ),
    "activation_norm": ScoreRow(
        "activation_norm", lambda shapes: scores.activation_norm(_consumers(shapes, abstotal=True))
    ),
}


def statistics_of(params: Any, paths: tuple[str, ...], lead: int) -> dict[str, Statistics]:
    """All that any score asks for, drawn by path; the first `lead` axes are layers."""
    draw = np.random.default_rng(0)
    normal = lambda *shape: jnp.asarray(draw.normal(size=shape), jnp.float32)  # noqa: E731
    found = {}
    for path in paths:
        shape = tuple(flatten(params)[0][path].shape)
        layers, inputs = shape[:lead], int(np.prod(shape[lead:-1]))
        entered = normal(*layers, 2 * inputs, inputs)
        found[path] = Statistics(
            path=path,
            features=(-2,),
            contracted=tuple(range(lead - len(shape), -1)),
            count=jnp.full(layers, 8.0),
            squares=jnp.square(normal(*layers, shape[-2])) + 0.1,
            gram=jnp.einsum("...si,...sj->...ij", entered, entered),
            gram_count=jnp.full(layers, 2.0 * inputs),
            gradient_count=jnp.float32(2),
            gradient=normal(*shape),
            gradient_squares=jnp.square(normal(*shape)) + 0.1,
            hessian_gradient=normal(*shape),
            hessian_diagonal=normal(*shape),
        )
    return found


# ---- Patterns: units, and how many of them stay.


def boxes(mask: np.ndarray, box: Shape) -> list[np.ndarray]:
    """The mask in boxes of this size, the last along an axis smaller where it does not divide; 0 is all."""
    cuts = [
        [slice(i, i + (size or length)) for i in range(0, length, size or length)]
        for size, length in zip(box, mask.shape, strict=True)
    ]
    return [mask[places] for places in itertools.product(*cuts)]


def of_boxes(box: Callable[[Shape], Shape]) -> Callable[[np.ndarray, float, bool], bool]:
    """Promises that no box is cut, and that as many as the budget says stay."""

    def holds(mask: np.ndarray, sparsity: float, is_last: bool) -> bool:
        units = boxes(mask, box(mask.shape))
        whole = sum(bool(unit.all()) for unit in units)
        return whole == kept_of(len(units), sparsity) and all(u.all() or not u.any() for u in units)

    return holds


def one_of_all(mask: np.ndarray, sparsity: float, is_last: bool) -> bool:
    """Arrays of one size compete whole: no array is cut."""
    return bool(mask.all() or not mask.any())


def two_of_four(mask: np.ndarray, sparsity: float, is_last: bool) -> bool:
    """Whole groups along the inputs are alike, and at the end two of four."""
    counts = {int(group.sum()) for group in boxes(mask, (4, 1)) if group.size == 4}
    return len(counts) == 1 and (not is_last or counts == {2})


def each_output(mask: np.ndarray, sparsity: float, is_last: bool) -> bool:
    """All outputs keep as many: the nearest to the budget, half way the higher."""
    outputs = mask.shape[-1]
    own = (kept_of(mask.size, sparsity) + outputs // 2) // outputs
    return set(mask.reshape(-1, outputs).sum(0).tolist()) == {own}


def four_of_nine(mask: np.ndarray, sparsity: float, is_last: bool) -> bool:
    """Every kernel keeps its centre, and at the end three places more."""
    kernels = mask.reshape(9, -1)
    return bool(kernels[4].all()) and (not is_last or set(kernels.sum(0).tolist()) == {4})


class PatternRow(NamedTuple):
    """A pattern, and what it promises of each mask: `(mask of one array, sparsity, is at the end)`."""

    export: str
    make: Callable[[], Pattern]
    promise: Callable[[np.ndarray, float, bool], bool]
    is_spatial: bool = False  # of [3, 3, in, out] alone: a matrix is refused
    sparsity: float = SPARSITY


PATTERNS: dict[str, PatternRow] = {
    "unstructured": PatternRow("unstructured", P.unstructured, of_boxes(lambda shape: (1,) * len(shape))),
    "block": PatternRow("block", lambda: P.block((2, 3)), of_boxes(lambda shape: (2, 3))),
    "vector": PatternRow("vector", lambda: P.vector(2), of_boxes(lambda shape: (1, 2))),
    "channel": PatternRow("channel", P.channel, of_boxes(lambda shape: (0, 1))),
    "input channel": PatternRow("channel", lambda: P.channel(axis=-2), of_boxes(lambda shape: (1, 0))),
    "head": PatternRow("head", lambda: P.head(2, axis=-2), of_boxes(lambda shape: (shape[0] // 2, 0))),
    "layer": PatternRow("layer", P.layer, one_of_all),
    "n_m": PatternRow("n_m", P.n_m, two_of_four),
    "per_output": PatternRow("per_output", P.per_output, each_output),
    "kernel": PatternRow("kernel", P.kernel, of_boxes(lambda shape: (0, 0, 1, 1)), is_spatial=True),
    "pattern_library": PatternRow(
        "pattern_library", P.pattern_library, four_of_nine, is_spatial=True, sparsity=5 / 9
    ),
}


# ---- Trees: those of the laws, and kernels of convolutions in trees of the same kinds.


def _conv_linen() -> Any:
    return nn.Conv(4, (3, 3)).init(jax.random.key(0), jnp.ones((1, 4, 4, 2)))


def _conv_nnx() -> Any:
    return nnx.split(nnx.Conv(2, 4, (3, 3), rngs=nnx.Rngs(0)))[1]


def _conv_scanned() -> Any:
    return {"layers": {"kernel": jax.random.normal(jax.random.key(0), (3, 3, 3, 2, 4)), "n": jnp.arange(3)}}


def _conv_plain() -> Any:
    return [(jax.random.normal(jax.random.key(0), (3, 3, 2, 4)), jnp.ones(4))]


CONVS: dict[str, Callable[[], Any]] = {
    "linen": _conv_linen,
    "nnx": _conv_nnx,
    "scanned": _conv_scanned,
    "plain": _conv_plain,
}
# Which values of each tree are pruned: of matrices, and of convolutions.
WHERE = {
    "linen": ("**/Dense_0/kernel", "**/kernel"),
    "nnx": ("up/kernel", "kernel"),
    "scanned": ("**/kernel", "**/kernel"),
    "plain": ("0/0", "0/0"),
}
BOTH = {"linen": "**/kernel", "nnx": "**/kernel", "plain": ("0/0", "1/out")}  # where whole arrays compete


class Place(NamedTuple):
    """Where a pattern is tried in a kind of tree."""

    params: Any
    where: Any
    paths: tuple[str, ...]
    is_stacked: bool  # a transform a layer
    stats: Mapping[str, Statistics]


@functools.cache
def place(kind: str, pattern: str) -> Place:
    """The tree, the values that are pruned, what is known of them; to be asked for before any tracing."""
    row = PATTERNS[pattern]
    params = CONVS[kind]() if row.is_spatial else TREES[kind]().params
    where = WHERE[kind][row.is_spatial]
    if pattern == "layer" and kind in BOTH:
        where = BOTH[kind]
    paths = tuple(select(params, where))
    is_stacked = kind == "scanned" and pattern != "layer"
    return Place(params, where, paths, is_stacked, statistics_of(params, paths, lead=int(kind == "scanned")))


def score_of(kind: str, score: str, pattern: str) -> Score:
    """The score, told of the weights that are pruned."""
    here = place(kind, pattern)
    shapes = {path: flatten(here.params)[0][path].shape for path in here.paths}
    if here.is_stacked:  # outputs of all layers are worth the same: a closure is not sliced with the layer
        shapes = {path: shape[1:] for path, shape in shapes.items()}
    return SCORES[score].make(shapes)


def goal_of(pattern: str, schedule: str) -> Any:
    """The sparsity, or the ramp to it."""
    final = PATTERNS[pattern].sparsity
    return final if schedule == "one_shot" else cubic_ramp(final=final, end=END)


def pruning(kind: str, score: Score, pattern: str, schedule: str) -> Transform:
    """The transform of one combination, without its scope."""
    made = PATTERNS[pattern].make()
    allocation: Allocation = per_leaf()
    if pattern == "layer":  # of scanned layers each is a unit; else whole arrays compete
        made, allocation = (P.layer(axis=0), allocation) if kind == "scanned" else (made, together())
    return prune(score, goal_of(pattern, schedule), pattern=made, allocation=allocation)


def scoped(kind: str, pattern: str, t: Transform) -> Transform:
    """Scopes a transform to the values that are pruned, layer by layer where they are scanned."""
    here = place(kind, pattern)
    return at(here.where, stacked(t) if here.is_stacked else t)


def is_defined(score: str, schedule: str) -> bool:
    """False of a score that knows nothing, asked to choose at once."""
    return not (SCORES[score].is_blank and schedule == "one_shot")


def combinations() -> Iterator[tuple[str, str, str, str]]:
    """`(kind of tree, score, pattern, schedule)` of the whole grid."""
    for one in itertools.product(TREES, SCORES, PATTERNS, SCHEDULES):
        if is_defined(one[1], one[3]):
            yield one
