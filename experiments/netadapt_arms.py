"""The arms of `netadapt`: one network searched under MACs and under milliseconds, and thinned alike."""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from efficient import State, cost, race
from efficient.core.dependencies import dependencies
from efficient.core.measure import calibrate
from efficient.core.resize import resized
from efficient.data import Batches
from efficient.prune import Price, Pruned, Ranking, netadapt, ranking, scores
from efficient.prune.lottery import all_kept, fixed_masks
from efficient.prune.netadapt import Iteration
from efficient.prune.price import Counts
from efficient.prune.prices import macs, measured_ms, predicted_ms
from efficient.train import create, make_step
from efficient.train.classify import pixels
from efficient.train.step import Step
from experiments.frame import Progress, mean
from experiments.frame.bench import Bench, Weights, require_data

POSITIVE = ("train", "multiple", "ms_multiple", "short", "epochs", "tune", "rate", "batch_size")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """What is run."""

    width: float = 0.125  # multiplies the channels of the lab VGG
    data: str = "fashion_mnist"  # mnist5k, fashion_mnist, idx:FOLDER or folder:FOLDER, of 16 pixels or more
    train: int = 3600  # training images used, those held out among them, and at most as many test images
    held: float = 0.2  # fraction of the training images that candidates are judged on, in (0, 1)
    budget: float = 0.5  # what may stay of the MACs, in (0, 1)
    step: float = 0.1  # of the first iteration, as a fraction of the dense network's MACs, in (0, 1]
    multiple: int = 4  # of channels that a cut leaves, > 0
    ms_budget: float = 0.8  # what may stay of the milliseconds, in (0, 1); 8 channels a group take some 0.6
    ms_step: float = 0.1  # of the first iteration, as a fraction of the dense network's time, in (0, 1]
    ms_multiple: int = 8  # of channels that a cut leaves, > 0; each count met is compiled and timed
    clock: Literal["measured", "predicted"] = "measured"  # milliseconds of the machine, or of its roofline
    short: int = 10  # steps that each candidate is tuned for, > 0
    epochs: int = 6  # of dense training, > 0
    tune: int = 3  # epochs of training after the search, > 0
    rate: float = 3e-3  # Adam's, at the start of each training, > 0
    batch_size: int = 64  # images a step, > 0
    timed: int = 32  # images at a time where times are measured, > 0
    repeats: int = 20  # turns that are timed, > 0
    seeds: tuple[int, ...] = (0, 1, 2)  # one whole run each

    def __post_init__(self) -> None:
        for name in (*POSITIVE, "timed", "repeats"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)!r}; leave it out.")
        for name in ("held", "budget", "ms_budget"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name} must be in (0, 1), got {getattr(self, name)!r}; 0.5 is half.")
        for name in ("step", "ms_step"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in (0, 1], got {getattr(self, name)!r}; 0.1 is a tenth.")
        require_data(self.data)

    @classmethod
    def smoke(cls) -> "Config":
        """The same path on a thinner network, few images, and steps so large that few candidates are met."""
        return cls(
            width=0.04,
            data="mnist5k",
            train=80,
            budget=0.8,
            step=0.2,
            ms_budget=0.9,
            ms_step=1.0,
            clock="predicted",  # so that no noise of the machine stops the search
            short=1,
            epochs=1,
            tune=1,
            batch_size=32,
            timed=1,
            repeats=2,
            seeds=(0,),
        )


class Search(NamedTuple):
    """What is asked of one."""

    price: Price
    budget: float  # fraction of the dense network's price
    step: float
    multiple: int


class Course(NamedTuple):
    """A training."""

    optimizer: optax.GradientTransformation
    step: Step


class Candidate(NamedTuple):
    """A network of the search."""

    weights: Weights
    iteration: int  # of how many short tunings it comes


def uniform_counts(price: Callable[[Counts], float], sizes: Counts, budget: float) -> dict[str, int]:
    """Counts at one ratio for every group, the largest of a thousand that costs at most the budget.

    Raises:
        ValueError: the least of them costs more.
    """
    for part in range(1000, 0, -1):
        counts = {name: max(1, round(size * part / 1000)) for name, size in sizes.items()}
        if price(counts) <= budget:
            return counts
    raise ValueError(f"budget must be at least {price(counts)!r}, one channel a group, got {budget!r}.")


def until_stuck(iterations: Iterator[Iteration]) -> Iterator[Iteration]:
    """The iterations, up to one from which no cut was measured to be faster: a clock's noise can do that."""
    try:
        yield from iterations
    except ValueError as error:
        if "must be reachable" not in str(error):
            raise


class Net:
    """The network: its groups and what they cost, which no seed changes."""

    def __init__(self, bench: Bench, config: Config) -> None:
        self.bench, self.config, self.apply = bench, config, bench.model.apply
        first = jax.tree.map(lambda v: jnp.zeros(v.shape, v.dtype), jax.eval_shape(bench.start, 0))
        variables = {"params": first.params, **first.model_state}
        self.image = jnp.zeros((1, *bench.data.image_shape))
        self.images = pixels(bench.data.test_images[: config.timed])
        self.found = dependencies(self.apply, variables, self.image)
        self.own = self.found.under("params")
        every = all_kept(first.params, where="**")
        self.ones = {path: jnp.ones(one.shape, bool) for path, one in every.items()}
        self.macs = macs(self.found, self.apply, variables, self.image)
        given = (self.found, self.apply, variables, self.images)
        self.ms = (  # remembers what it has measured: one object for all seeds
            measured_ms(*given, repeats=config.repeats)
            if config.clock == "measured"
            else predicted_ms(*given, profile=calibrate(size=256, read_bytes=1 << 22))
        )

    def masks(self, ranked: Ranking, counts: Counts) -> State:
        """The state of `fixed_masks` in which each group keeps so many channels."""
        return State({}, Pruned(self.ones | self.own.masks(ranked.keep(counts)), {}))

    def counted(self, weights: Weights, keep: Mapping[str, Any]) -> int:
        """MACs of the shrunk program, counted from the program itself."""
        small = self.found.shrink({"params": weights.params, **weights.model_state}, keep)
        return cost(resized(self.apply, self.found, keep), small, self.image).macs

    def raced(self, dense: Weights, weights: Weights, keep: Mapping[str, Any]) -> dict[str, float]:
        """Milliseconds of the network really shrunk, and how many times as long the dense one takes."""
        whole = {"params": dense.params, **dense.model_state}
        small = jax.device_put(self.found.shrink({"params": weights.params, **weights.model_state}, keep))
        shrunk = jax.jit(resized(self.apply, self.found, keep))
        turns = race(
            lambda: self.bench.forward(whole, self.images),
            lambda: shrunk(small, self.images),
            repeats=self.config.repeats,
        )
        return {"ms": turns.second.median_ms, "dense_ms": turns.first.median_ms, "speedup": turns.ratio}


class Arms:
    """The network dense, thinned alike, and searched. What is compiled serves every seed."""

    def __init__(self, config: Config) -> None:
        whole = Bench.make(
            "lab_vgg", config.data, batch_size=config.batch_size, train=config.train, width=config.width
        )
        parts = whole.data.split(fraction=config.held, seed=0)
        data = dataclasses.replace(
            whole.data, train_images=parts.train_images, train_labels=parts.train_labels
        )
        self.config = config
        self.bench = dataclasses.replace(whole, data=data)
        self.probe = dataclasses.replace(whole, data=parts)  # its test images are held out of training
        self.net = Net(self.bench, config)
        self.fixed = fixed_masks(self.net.ones)
        self.courses = {epochs: self.course(epochs) for epochs in {config.epochs, config.tune}}

    def course(self, epochs: int) -> Course:
        """Adam, its rate falling to 0 on a cosine, over so many epochs."""
        schedule = optax.cosine_decay_schedule(self.config.rate, epochs * self.bench.steps_per_epoch)
        optimizer = optax.adam(schedule)
        return Course(optimizer, make_step(self.bench.classifier.loss, optimizer, self.fixed))

    def trained(self, course: Course, weights: Weights, seed: int, steps: int) -> Weights:
        """So many steps of a course from its start, on images that the seed draws."""
        data = self.bench.data
        batches = Batches(
            images=data.train_images,
            labels=data.train_labels,
            batch_size=self.config.batch_size,
            seed=seed,
            epochs=None,
            drop_last=True,
        )
        state = create(
            weights.params,
            self.fixed,
            course.optimizer,
            key=jax.random.key(seed),
            model_state=weights.model_state,
            compress=weights.compress,
        )
        for batch in itertools.islice(batches, steps):
            state, _ = course.step(state, batch)
        return Weights(state.params, state.model_state, state.compress)

    def train(self, weights: Weights, seed: int) -> Weights:
        """The dense training."""
        steps = self.config.epochs * self.bench.steps_per_epoch
        return self.trained(self.courses[self.config.epochs], weights, seed, steps)

    def tune(self, weights: Weights, seed: int, steps: int | None = None) -> Weights:
        """The tuning at the end; or only its first steps, whose rate has hardly fallen, as candidates are."""
        whole = self.config.tune * self.bench.steps_per_epoch
        return self.trained(self.courses[self.config.tune], weights, seed, steps or whole)

    def accuracy(self, bench: Bench, weights: Weights) -> float:
        """Percent of a bench's test images."""
        return bench.accuracy(self.fixed.apply(weights.params, weights.compress), weights.model_state)

    def search(self, asked: Search, dense: Weights, ranked: Ranking, seed: int) -> Iterator[Iteration]:
        """The iterations of NetAdapt; the candidates of one are tuned on the same images."""

        def tune(before: Candidate, counts: Counts) -> Candidate:
            weights = before.weights._replace(compress=self.net.masks(ranked, counts))
            batches = seed + 2000 + before.iteration
            return Candidate(self.tune(weights, batches, self.config.short), before.iteration + 1)

        steps = netadapt(
            asked.price.of,
            ranked.sizes,
            asked.budget * asked.price(ranked.sizes),
            start=Candidate(dense, 0),
            tune=tune,
            evaluate=lambda candidate: self.accuracy(self.probe, candidate.weights),
            step=asked.step,
            multiple=asked.multiple,
        )
        return until_stuck(steps)

    def thinned(self, dense: Weights, ranked: Ranking, budget: float) -> tuple[Weights, dict[str, int]]:
        """The uniform network of so many MACs, untuned."""
        counts = uniform_counts(self.net.macs.of, ranked.sizes, budget)
        return dense._replace(compress=self.net.masks(ranked, counts)), counts

    def beside(self, dense: Weights, ranked: Ranking, path: list[Iteration], seed: int) -> list[list[float]]:
        """Uniform networks of the MACs of each iteration, tuned as long: MACs and accuracy, in %."""
        points = []
        for index, one in enumerate(path[1:], start=1):
            weights, counts = self.thinned(dense, ranked, one.price)
            tuned = self.tune(weights, seed + 2000, index * self.config.short)
            points.append([self.share(self.net.macs, counts), self.accuracy(self.probe, tuned)])
        return points

    def share(self, price: Price, counts: Counts) -> float:
        """Percent of the dense network's price."""
        return 100 * price(counts) / price({})

    def arm(
        self, dense: Weights, ranked: Ranking, counts: Counts, start: Weights, seed: int
    ) -> dict[str, Any]:
        """A network of these counts, tuned from `start`: its cost, its time, its accuracy."""
        keep = ranked.keep(counts)
        weights = self.tune(start, seed)
        return {
            "accuracy": self.accuracy(self.bench, weights),
            "macs": self.share(self.net.macs, counts),
            "counted_macs": 100 * self.net.counted(weights, keep) / self.net.macs({}),
            **self.net.raced(dense, weights, keep),
            "counts": dict(counts),
        }

    def searched(self, asked: Search, dense: Weights, ranked: Ranking, seed: int, progress: Progress) -> Any:
        """A searched network, and the iterations that led to it."""
        steps = self.search(asked, dense, ranked, seed)
        path = list(progress.track(steps, f"iterations, {asked.price.unit}"))
        last = path[-1]
        made = self.arm(dense, ranked, last.counts, last.candidate.weights, seed + 1000)
        share = {"share": self.share(asked.price, last.counts), "budget": 100 * asked.budget}
        shown = [[self.share(asked.price, one.counts), one.accuracy] for one in path]
        return {**made, **share, "path": shown}, path

    def uniform(self, dense: Weights, ranked: Ranking, path: list[Iteration], seed: int) -> dict[str, Any]:
        """The uniform network, tuned for as many steps as the one searched."""
        thin, counts = self.thinned(dense, ranked, self.config.budget * self.net.macs({}))
        start = self.tune(thin, seed + 2000, (len(path) - 1) * self.config.short)
        made = self.arm(dense, ranked, counts, start, seed + 1000)
        return {**made, "path": self.beside(dense, ranked, path, seed)}

    def run(self, seed: int, progress: Progress) -> dict[str, dict[str, Any]]:
        """All arms at one seed."""
        config, net = self.config, self.net
        whole = State({}, Pruned(net.ones, {}))
        dense = self.train(self.bench.start(seed)._replace(compress=whole), seed)
        first, further = (self.accuracy(self.bench, w) for w in (dense, self.tune(dense, seed + 1000)))
        ranked = ranking(net.own, scores.group_norm(2), dense.params)
        by_macs = Search(net.macs, config.budget, config.step, config.multiple)
        by_ms = Search(net.ms, config.ms_budget, config.ms_step, config.ms_multiple)
        searched, path = self.searched(by_macs, dense, ranked, seed, progress)
        arms = {
            "uniform": self.uniform(dense, ranked, path, seed),
            "netadapt": searched,
            "netadapt_ms": self.searched(by_ms, dense, ranked, seed, progress)[0],
        }
        times = mean(arm["dense_ms"] for arm in arms.values())
        return {"baseline": {"accuracy": max(first, further), "first_accuracy": first, "ms": times}, **arms}
