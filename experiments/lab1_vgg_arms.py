"""The arms of `lab1_vgg`: costs by shapes, channels sorted, layers pruned alone, single weights."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float

from efficient import State, cost
from efficient.core.dependencies import Dependencies, dependencies
from efficient.core.paths import flatten, map_with_path
from efficient.core.resize import resized
from efficient.models import zoo
from efficient.prune import Pruned, Ranking, Sensitivity, kept_of, magnitude, prune, scores, sensitivity
from efficient.prune.allocations import at_most, from_sensitivity
from efficient.prune.lottery import all_kept, fixed_masks, ticket
from efficient.train.classify import pixels
from experiments.frame import Progress
from experiments.frame.bench import Bench, Weights, require_data

FIRST, LAST = "layer0/conv/kernel", "classifier/kernel"
MOST = 0.9  # the sparsity of one layer alone that has claims


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """What is run."""

    width: float = 0.125  # multiplies the channels of the lab VGG
    data: str = "fashion_mnist"  # mnist5k, fashion_mnist, idx:FOLDER or folder:FOLDER, of 16 pixels or more
    train: int = 5000  # training images used, those held out among them, and at most as many test images
    held: float = 0.2  # fraction of the training images that the scan is made on, in (0, 1)
    epochs: int = 8  # of dense training, > 0
    tune: int = 4  # epochs of training with masks, > 0
    rate: float = 3e-3  # Adam's, at the start of each training, > 0
    batch_size: int = 64  # images a step, > 0
    channels: float = 0.3  # fraction of the channels that goes, in (0, 1)
    sparsities: tuple[float, ...] = (0.4, 0.6, 0.7, 0.8, 0.9)  # of one layer alone, in (0, 1), 0.9 among them
    kept: float = 0.25  # the most of the weights that fine-grained pruning leaves, from 0.1 to 1
    seeds: tuple[int, ...] = (0, 1, 2)  # one whole run each

    def __post_init__(self) -> None:
        for name in ("train", "epochs", "tune", "rate", "batch_size"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)!r}; leave it out.")
        for name in ("held", "channels"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name} must be in (0, 1), got {getattr(self, name)!r}; 0.3 is the lab's.")
        if MOST not in self.sparsities or not all(0 < s < 1 for s in self.sparsities):
            raise ValueError(
                f"sparsities must be in (0, 1) and hold {MOST}, got {self.sparsities!r}; leave them out."
            )
        if not 1 - max(self.sparsities) < self.kept - 0.01 < 1:
            raise ValueError(
                f"kept must be what sparsities up to {max(self.sparsities)} can leave, got {self.kept!r}; "
                "0.25 is the lab's."
            )
        require_data(self.data)

    @classmethod
    def smoke(cls) -> "Config":
        """The same path on a thinner network and few images."""
        return cls(
            width=0.04,
            data="mnist5k",  # a pool after each of four stages: 16 pixels or more
            train=80,
            epochs=1,
            tune=1,
            batch_size=32,
            sparsities=(0.9,),
            seeds=(0,),
        )


def firsts(found: Dependencies, fraction: float) -> dict[str, np.ndarray]:
    """The first channels of every group but the last, so many that about `fraction` goes: bool [size]."""
    inner = list(found.free.items())[:-1]
    order = Ranking(order={name: np.arange(group.size) for name, group in inner})
    return order.keep({name: max(1, round(group.size * (1 - fraction))) for name, group in inner})


def full_size(fraction: float) -> dict[str, dict[str, int]]:
    """MACs and parameters of the lab's network, dense and with fewer channels, by shapes alone."""
    module, image = zoo.get("lab_vgg")
    shapes = jax.eval_shape(module.init, jax.random.key(0), image)
    found = dependencies(module.apply, shapes, image)
    keep = firsts(found, fraction)
    left = found.sizes_left({name: int(mask.sum()) for name, mask in keep.items()})
    small = map_with_path(lambda path, v: jax.ShapeDtypeStruct(left.get(path, v.shape), v.dtype), shapes)
    arms = {}
    for arm, fn, weights in (
        ("full", module.apply, shapes),
        ("full_pruned", resized(module.apply, found, keep), small),
    ):
        counted = {c: cost(fn, weights, image, convention=c) for c in ("conv_fc", "torchprofile")}
        arms[arm] = {
            "macs": counted["conv_fc"].macs,
            "torchprofile_macs": counted["torchprofile"].macs,
            "params": counted["conv_fc"].params,
        }
    return arms


def consumed_norms(found: Dependencies, variables: Any) -> dict[str, Float[np.ndarray, " size"]]:
    """By group, ||W||_F of the weights that consume each of its channels."""
    by_path, norms = flatten(variables)[0], {}
    for name, group in found.free.items():
        total = np.zeros(group.size)
        for path, axis in group.members:
            if by_path[path].ndim > 1 and axis == by_path[path].ndim - 2:
                rows = np.moveaxis(np.asarray(by_path[path], np.float64), axis, 0)
                total += (rows.reshape(group.size, -1) ** 2).sum(1)
        norms[name] = total**0.5
    return norms


def permuted(found: Dependencies, variables: Any, order: Mapping[str, np.ndarray]) -> Any:
    """The same function with the channels of each group in another order: [size] indices by group."""
    moves: dict[str, list[tuple[int, np.ndarray]]] = {}
    for name, indices in order.items():
        for path, axis in found.groups[name].members:
            moves.setdefault(path, []).append((axis, indices))

    def moved(path: str, value: Any) -> Any:
        for axis, indices in moves.get(path, ()):
            value = jnp.take(value, indices, axis=axis)
        return value

    return map_with_path(moved, variables)


def sorted_channels(found: Dependencies, variables: Any) -> Any:
    """The same function, channels of the largest norm first; the last group, which stays whole, as it is."""
    norms = list(consumed_norms(found, variables).items())[:-1]
    return permuted(found, variables, {name: np.argsort(-norm, kind="stable") for name, norm in norms})


def limits_for(scan: Sensitivity, sizes: Mapping[str, int], kept: float) -> dict[str, float]:
    """By path, the sparsities of the least loss borne at which at most `kept` of all weights stays."""
    losses = scan.losses()
    for most in sorted({loss for curve in losses.values() for loss in curve.values()}):
        limits = from_sensitivity(losses, most_loss=most)
        if sum(int(kept_of(sizes[path], limits[path])) for path in sizes) <= kept * sum(sizes.values()):
            return limits
    raise ValueError(f"kept must be what the scan's sparsities can leave, got {kept!r}; scan higher ones.")


class Arms:
    """The network dense, and pruned in every way. Compiled programs are made once and serve every seed."""

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
        first = jax.eval_shape(self.bench.start, 0)
        every = all_kept(first.params, where="**")
        self.ones = {path: jnp.ones(one.shape, bool) for path, one in every.items()}
        self.images = pixels(self.bench.data.test_images[:200])
        variables = {"params": first.params, **first.model_state}
        self.found = dependencies(self.bench.model.apply, variables, self.images[:1])
        self.full = full_size(config.channels)
        trainers = {epochs: self.trainer(epochs) for epochs in {config.epochs, config.tune}}
        self.train, self.tune = trainers[config.epochs], trainers[config.tune]

    def trainer(self, epochs: int) -> Callable[[Weights, Any, int], Weights]:
        """Training under masks, with Adam, its rate falling to 0 on a cosine."""
        schedule = optax.cosine_decay_schedule(self.config.rate, epochs * self.bench.steps_per_epoch)
        train = self.bench.trainer(fixed_masks(self.ones), optax.adam(schedule))

        def under(weights: Weights, masks: Any, seed: int) -> Weights:
            state = State({}, Pruned(self.ones | dict(masks), {}))
            return train(weights._replace(compress=state), seed, epochs)

        return under

    def accuracy(self, weights: Weights, masks: Any) -> float:
        """Percent of the test set, what has no mask being whole."""
        return self.bench.accuracy(ticket(weights.params, masks), weights.model_state)

    def arm(self, weights: Weights, masks: Any, best: float, seed: int) -> dict[str, float]:
        """Weights under masks, before and after tuning."""
        accuracy = self.accuracy(self.tune(weights, masks, seed), masks)
        return {
            "untuned_accuracy": self.accuracy(weights, masks),
            "accuracy": accuracy,
            "loss": best - accuracy,
        }

    def resorted(self, dense: Weights) -> tuple[Weights, float]:
        """The network with its channels sorted, and the most that a logit has moved by."""
        variables = {"params": dense.params, **dense.model_state}
        ordered = sorted_channels(self.found, variables)
        before, after = (self.bench.forward(one, self.images) for one in (variables, ordered))
        params = ordered.pop("params")
        return Weights(params, ordered), float(jnp.max(jnp.abs(after - before)))

    def scan(self, dense: Weights, progress: Progress) -> Sensitivity:
        """Each layer's weights pruned alone, on images held out of training."""
        return sensitivity(
            lambda params: self.probe.accuracy(params, dense.model_state),
            dense.params,
            magnitude,
            sparsities=self.config.sparsities,
            track=lambda pairs: progress.track(pairs, "layers alone"),
        )

    def fine(self, dense: Weights, scan: Sensitivity) -> tuple[Any, float]:
        """Masks of single weights by what the scan allows, and the percent of all that stays."""
        sizes = {path: flatten(dense.params)[0][path].size for path in scan.curves}
        limits = limits_for(scan, sizes, self.config.kept)
        t = prune(scores.absolute(), max(limits.values()), allocation=at_most(limits))
        masks = t.init({path: flatten(dense.params)[0][path] for path in sizes}).fixed.masks
        return masks, 100 * sum(int(m.sum()) for m in masks.values()) / sum(sizes.values())

    def run(self, seed: int, progress: Progress) -> dict[str, dict[str, Any]]:
        """All arms at one seed."""
        dense, later = self.train(self.bench.start(seed), {}, seed), seed + 1000
        first = self.accuracy(dense, {})
        best = max(first, self.accuracy(self.tune(dense, {}, later), {}))
        ordered, moved = self.resorted(dense)
        channels = self.found.under("params").masks(firsts(self.found, self.config.channels))
        scan = self.scan(dense, progress)
        masks, kept = self.fine(dense, scan)
        alone = {f"loss_{name}": curve[MOST] for name, curve in scan.losses().items()}
        return {
            **self.full,
            "baseline": {"accuracy": best, "first_accuracy": first},
            "first": self.arm(dense, channels, best, later),
            "sorted": {**self.arm(ordered, channels, best, later), "moved": moved},
            "scan": {**alone, "baseline": scan.baseline, "curves": _listed(scan)},
            "fine": {**self.arm(dense, masks, best, later), "kept": kept},
        }


def _listed(scan: Sensitivity) -> dict[str, list[list[float]]]:
    """Curves as JSON can have them: pairs of a sparsity and an accuracy."""
    return {path: [[s, value] for s, value in sorted(curve.items())] for path, curve in scan.curves.items()}
