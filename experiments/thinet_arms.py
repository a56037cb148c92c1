"""Ways to choose which channels stay, and the network without the others: what `thinet` compares."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from efficient import Transform, lift
from efficient.core.dependencies import Dependencies
from efficient.core.layer import layer
from efficient.core.paths import flatten, map_with_path
from efficient.core.resize import resized
from efficient.models.lab_vgg import LabVGG
from efficient.prune import Score, kept_of, masked, ranking, scores
from efficient.prune.reconstruct import lasso, thinet
from efficient.prune.reconstruct.least_squares import change_of_rows
from efficient.train import classifier
from experiments.frame.bench import Bench

DAMPING = 0.01  # of the least squares
KINDS = ("plain", "solved")  # without and with least squares on what stays


class Site(NamedTuple):
    """Where channels are cut."""

    group: str  # of the dependencies
    size: int  # channels
    producer: str  # path of the kernel that makes them
    consumer: str  # path of the kernel that takes them in


class Question(NamedTuple):
    """What a method is asked: how many channels of a site go."""

    found: Dependencies
    variables: Any
    site: Site
    sparsity: float
    stats: Mapping[str, Any]  # of what enters the consumer
    key: jax.Array


def sites_of(found: Dependencies) -> tuple[Site, ...]:
    """Every free group of the network, in its order."""
    made = []
    for name, group in found.free.items():
        kernels = [member.path for member in group.members if member.path.endswith("kernel")]
        producer = name.rpartition(":")[0]
        (consumer,) = (path for path in kernels if path != producer)
        made.append(Site(name, group.size, producer, consumer))
    return tuple(made)


Method = Callable[[Question], Bool[Array, " channels"]]


def first(question: Question) -> Bool[Array, " channels"]:
    """The first channels stay."""
    size = question.site.size
    return jnp.arange(size) < kept_of(size, question.sparsity)


def by_score(make: Callable[[Question], Score]) -> Method:
    """The channels stay whose kernel, of the layer that makes them, scores most."""

    def method(question: Question) -> Bool[Array, " channels"]:
        q, site = question, question.site
        own = lambda path, _: path == site.producer  # noqa: E731
        ranked = ranking(
            q.found, make(q), q.variables, where=lambda name, _: name == site.group, scored=own, key=q.key
        )
        return jnp.asarray(ranked.keep({site.group: int(kept_of(site.size, q.sparsity))})[site.group])

    return method


def by_output(make: Callable[[float], Transform]) -> Method:
    """The channels stay that a reconstruction of the next layer keeps."""

    def method(question: Question) -> Bool[Array, " channels"]:
        path = question.site.consumer
        weight = {path: flatten(question.variables)[0][path]}
        mask = make(question.sparsity).init(weight, stats=question.stats).fixed[path].mask
        return mask.reshape(-1, *mask.shape[-2:])[0, :, 0]  # the same at every place and for every output

    return method


METHODS: Mapping[str, Method] = {
    "first": first,
    "random": by_score(lambda q: scores.random()),
    "l1": by_score(lambda q: scores.absolute()),
    "apoz": by_score(lambda q: scores.zero_fraction({q.site.producer: q.stats[q.site.consumer]})),
    "lasso": by_output(lambda sparsity: lasso(sparsity, damping=DAMPING)),
    "thinet": by_output(lambda sparsity: thinet(sparsity, damping=DAMPING)),
}
LABELS = {
    "first": "first channels",
    "random": "random",
    "l1": "L1 norm",
    "apoz": "APoZ",
    "lasso": "LASSO",
    "thinet": "ThiNet",
}

change = jax.jit(change_of_rows)


def cut(question: Question, mask: Bool[Array, " channels"], *, solves: bool) -> Any:
    """The variables without the channels in the consumer's kernel; corrected for them where it `solves`."""
    path = question.site.consumer

    def one(own: str, value: Any) -> Any:
        if own != path:
            return value
        stays = jnp.broadcast_to(mask[:, None], value.shape)
        if solves:
            problem = layer(value, path=path, stats=question.stats[path])
            rows = mask[problem.channel]
            value = value + problem.back(
                change(problem.weights[0], rows, problem.gram[0], jnp.float32(DAMPING))[None]
            )
        return masked(value, stays)

    return map_with_path(one, question.variables)


class Shrunk(nn.Module):
    """A model with channels cut out, called as the whole one is."""

    whole: nn.Module  # as it was traced
    found: Dependencies  # of its variables
    keep: Mapping[str, Any]  # as `Dependencies.shrink` takes it

    @nn.nowrap
    def apply(  # type: ignore[override]
        self, variables: Any, x: Any, *, train: bool = False, mutable: Sequence[str] = (), rngs: Any = None
    ) -> Any:
        """As the whole model's, on shrunk variables."""
        del rngs  # the lab VGG has no dropout
        options: Any = {"mutable": list(mutable)} if mutable else {}
        call = functools.partial(self.whole.apply, train=train, **options)
        return resized(call, self.found, self.keep)(variables, x)


def vgg(data: str, *, stages: int, width: float, batch_size: int, train: int) -> Bench:
    """The bench of the lab VGG, of its first so many stages."""
    bench = Bench.make("lab_vgg", data, batch_size=batch_size, train=train, width=width)
    model = LabVGG(stages=LabVGG.stages[:stages], width=width)
    return dataclasses.replace(
        bench, model=model, classifier=classifier(model), forward=jax.jit(lift(model.apply))
    )


def shrunk_bench(bench: Bench, found: Dependencies, keep: Mapping[str, Any]) -> Bench:
    """The bench of the shrunk model; its compiled programs serve every choice of as many channels."""
    small = Shrunk(bench.model, found, keep)
    return dataclasses.replace(bench, classifier=classifier(small), forward=jax.jit(small.apply))
