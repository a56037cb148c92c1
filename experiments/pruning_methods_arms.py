"""The methods of `pruning_methods`: what each asks of a trained network, and how it chooses."""

import itertools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

from efficient import State, Transform, at, observe
from efficient.core.dependencies import Dependencies
from efficient.core.gradients import observe_gradients
from efficient.core.paths import flatten
from efficient.prune import Score, prune, scores, structured
from efficient.prune.allocation import Allocation
from efficient.prune.allocations import erdos_renyi, per_leaf, together
from efficient.prune.reconstruct import corrected, lasso, optimal_brain_surgeon, sparsegpt, thinet

KERNELS = "**/kernel"
INNER = "layer*/conv/kernel"  # whose channels go
EACH = per_leaf()


class Trained(NamedTuple):
    """A trained network and what methods may ask about it."""

    params: Any
    apply: Callable[[Any, Any], jax.Array]  # (params, images) -> logits
    loss: Callable[[Any, Any, Any], jax.Array]
    batches: list[tuple[Any, Any]]  # images, labels
    found: Dependencies  # of `params`
    sparsity: float  # of the weights that go
    channels: float  # fraction of the channels that goes
    key: jax.Array

    def entering(self, statistic: str) -> Any:
        """Statistics of what enters each kernel."""
        return observe(
            self.apply, self.params, [x for x, _ in self.batches], where=KERNELS, statistics=statistic
        )

    def derivatives(self, statistic: str) -> Any:
        """Statistics of the loss's derivatives at each kernel."""
        return observe_gradients(
            self.loss, self.params, self.batches, where=KERNELS, statistics=statistic, key=self.key
        )

    def consumers(self, statistic: str) -> dict[str, Any]:
        """By kernel, the statistics of the kernel that takes its outputs in."""
        stats = self.entering(statistic)
        order = sorted(stats, key=lambda path: (path.startswith("classifier"), path))
        return {before: stats[after] for before, after in itertools.pairwise(order)}

    def scales(self) -> dict[str, Any]:
        """By kernel, the scale of the normalization after it."""
        by_path = flatten(self.params)[0]
        beside = {path: path.removesuffix("conv/kernel") + "bn/scale" for path in by_path if "conv" in path}
        return {path: by_path[scale] for path, scale in beside.items() if path.endswith("kernel")}


class Choice(NamedTuple):
    """What a method chose."""

    transform: Transform
    state: State
    stats: Any


Method = Callable[[Trained], Choice]


def chosen(net: Trained, transform: Transform, stats: Any = None) -> Choice:
    """A transform begun."""
    return Choice(transform, transform.init(net.params, stats=stats, key=net.key), stats)


def by_score(
    score: Score,
    *,
    entering: str = "",
    derivatives: str = "",
    allocation: Allocation = EACH,
) -> Method:
    """Weights, by a score that needs statistics of what enters, or of derivatives, or none."""

    def method(net: Trained) -> Choice:
        stats = net.entering(entering) if entering else net.derivatives(derivatives) if derivatives else None
        transform = at(KERNELS, prune(score, net.sparsity, allocation=allocation))
        return chosen(net, transform, stats)

    return method


def by_solving(solve: Callable[[float], Transform]) -> Method:
    """Weights, and what is left corrected."""
    return lambda net: chosen(net, at(KERNELS, solve(net.sparsity)), net.entering("gram"))


def by_channel(score: Callable[[Trained], Score], *, derivatives: str = "") -> Method:
    """Whole channels, by a mean score."""

    def method(net: Trained) -> Choice:
        stats = net.derivatives(derivatives) if derivatives else None
        return chosen(net, structured(net.found, score(net), net.channels, scored=INNER), stats)

    return method


def follows_channels(path: str, value: Any) -> bool:
    """Whether a value is a kernel that takes in another's channels."""
    del value
    return path.endswith("kernel") and not path.startswith("layer0/")


def by_inputs(solve: Callable[[float], Transform]) -> Method:
    """Input channels of every kernel but the first, and what is left corrected."""
    return lambda net: chosen(net, at(follows_channels, solve(net.channels)), net.entering("gram"))


WEIGHTS: Mapping[str, Method] = {
    "random": by_score(scores.random()),
    "magnitude": by_score(scores.absolute()),
    "magnitude-together": by_score(scores.absolute(), allocation=together()),
    "magnitude-erk": by_score(scores.absolute(), allocation=erdos_renyi()),
    "snip": by_score(scores.snip(), derivatives="gradient"),
    "grasp": by_score(scores.grasp(), derivatives="hessian_gradient"),
    "taylor": by_score(scores.taylor(), derivatives="gradient"),
    "obd-fisher": by_score(scores.optimal_brain_damage("fisher"), derivatives="gradient_squares"),
    "obd-hessian": by_score(scores.optimal_brain_damage("hessian"), derivatives="hessian_diagonal"),
    "obs": by_score(scores.optimal_brain_surgeon(), entering="gram"),
    "wanda": by_score(scores.wanda(), entering="second_moment"),
    "magnitude-corrected": by_solving(lambda s: corrected(prune(scores.absolute(), s))),
    "sparsegpt": by_solving(sparsegpt),
    "obs-one-by-one": by_solving(optimal_brain_surgeon),
}
CHANNELS: Mapping[str, Method] = {
    "random": by_channel(lambda net: scores.random()),
    "l1-norm": by_channel(lambda net: scores.absolute()),
    "l2-norm": by_channel(lambda net: scores.group_norm(2)),
    "taylor": by_channel(lambda net: scores.taylor(), derivatives="gradient"),
    "obd-fisher": by_channel(lambda net: scores.optimal_brain_damage(), derivatives="gradient_squares"),
    "apoz": by_channel(lambda net: scores.zero_fraction(net.consumers("zeros"))),
    "activation-norm": by_channel(lambda net: scores.activation_norm(net.consumers("absmean"))),
    "bn-scale": by_channel(lambda net: scores.slimming(net.scales())),
    "thinet": by_inputs(thinet),
    "lasso": by_inputs(lasso),
}
KINDS: Mapping[str, Mapping[str, Method]] = {"weights": WEIGHTS, "channels": CHANNELS}
ARMS = {f"{kind}.{name}": method for kind, table in KINDS.items() for name, method in table.items()}
SMOKE = ("weights.magnitude", "weights.wanda", "channels.apoz", "channels.bn-scale")
