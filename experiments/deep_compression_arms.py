"""The arms of `deep_compression`: how one network is trained, pruned, shared, tuned and filed."""

import dataclasses
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from efficient import Transform, at, chain, identity, lift, stored_bytes
from efficient.core.transform import State
from efficient.data import NAMES, Batches, Dataset, evaluation_batches, load
from efficient.deploy import read_network, write_network
from efficient.factorize import low_rank
from efficient.models import zoo
from efficient.prune import magnitude
from efficient.quantize import codebook
from efficient.train import Chunks, classifier, create, evaluate, fit, make_epoch, make_step
from efficient.train.classify import pixels
from experiments.frame import Progress

Trainer = Callable[[Any, State, int, int], tuple[Any, State]]


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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """What is run."""

    data: str = "mnist5k"  # mnist5k, fashion_mnist, digits, idx:FOLDER or folder:FOLDER of 28x28 images
    networks: tuple[Literal["lenet_300_100", "lenet5"], ...] = (
        "lenet_300_100",
        "lenet5",
    )  # which to compress
    curves: tuple[Literal["lenet_300_100", "lenet5"], ...] = (
        "lenet_300_100",
    )  # which get the curves of Figure 6
    effort: float = 1.0  # multiplies every number of epochs, > 0
    density: float = 1.0  # multiplies the fraction of weights that each layer keeps, > 0
    rounds: int = 4  # prunings, each followed by retraining, > 0
    tune: int = 3  # epochs that train the shared values, > 0
    batch_size: int = 64  # images a step, > 0
    bits: tuple[int, ...] = (8, 6, 4, 3, 2, 1)  # widths of sharing alone, on the curves; 8 and 2 have claims
    ranks: tuple[float, ...] = (0.3, 0.15, 0.08, 0.04, 0.02)  # of SVD alone, on the curves, in (0, 1]
    further: int = 2  # rounds of pruning beyond the recipe's, on the curves, >= 0
    train: int = 0  # training images used; 0 is all
    seeds: tuple[int, ...] = (0, 1, 2)  # one whole run each

    def __post_init__(self) -> None:
        for name in ("effort", "density", "rounds", "tune", "batch_size"):
            if getattr(self, name) <= 0:
                raise ValueError(
                    f"{name} must be positive, got {getattr(self, name)!r}; leave it out for the default."
                )
        if self.data.partition(":")[0] not in NAMES:
            raise ValueError(
                f"data must be digits, mnist5k, fashion_mnist, idx:FOLDER or folder:FOLDER, got "
                f"{self.data!r}; choose one."
            )
        if not self.networks or not set(self.curves) <= set(self.networks):
            raise ValueError(
                f"curves must be among the networks {self.networks!r}, got {self.curves!r}; add them."
            )

    @classmethod
    def smoke(cls) -> "Config":
        """The same path: few images, one epoch of each kind."""
        return cls(effort=0.01, rounds=1, tune=1, bits=(8, 2), ranks=(0.1,), further=0, train=512, seeds=(0,))


@dataclasses.dataclass(frozen=True)
class Bench:
    """A network on a data set: trains and measures it. Steps are compiled once and serve all seeds."""

    name: str
    config: Config
    data: Dataset
    model: Any
    score: Any
    loss: Any
    forward: Any  # the model on packed weights, jitted

    @property
    def scans(self) -> bool:
        """Whether an epoch is one call; not for convolutions, which XLA runs slowly inside a loop on CPU."""
        return not any(name.startswith("conv") for name in RECIPES[self.name].layers)

    @classmethod
    def make(cls, name: str, config: Config) -> "Bench":
        """The bench of a network of the zoo."""
        data = load(config.data)
        if config.train:
            data = data.subset(train=config.train, test=min(config.train, len(data.test_labels)), seed=0)
        model, _ = zoo.get(name)
        made = classifier(model)
        return cls(name, config, data, model, made.score, made.loss, jax.jit(lift(model.apply)))

    def epochs(self, number: int) -> int:
        """A recipe's epochs at this config's effort."""
        return max(1, round(number * self.config.effort))

    def trainer(self, transform: Transform, learning_rate: float = 1e-3) -> "Trainer":
        """`train(params, compress, seed, epochs) -> (params, compress)`; one program for all masks."""
        optimizer = optax.adam(learning_rate)
        step = make_step(self.loss, optimizer, transform)
        epoch = make_epoch(step) if self.scans else step

        def train(params: Any, compress: State, seed: int, epochs: int) -> tuple[Any, State]:
            state = create(params, transform, optimizer, key=jax.random.key(seed), compress=compress)
            batches = self.batches(seed, epochs)
            state, _ = fit(
                state, epoch, batches if self.scans else batches.batches, progress=False, every=10**9
            )
            return state.params, state.compress

        return train

    def batches(self, seed: int, epochs: int) -> Chunks:
        """Shuffled epochs of the training set."""
        one = Batches(
            images=self.data.train_images,
            labels=self.data.train_labels,
            batch_size=self.config.batch_size,
            seed=seed,
            epochs=epochs,
            drop_last=True,
        )
        return Chunks(batches=one, size=one.steps_per_epoch)

    def accuracy(self, weights: Any) -> float:
        """Percent of the test set."""
        rows = evaluation_batches(self.data.test_images, self.data.test_labels, batch_size=500)
        return 100 * evaluate(self.score, weights, {}, rows)["accuracy"]

    def logits(self, weights: Any) -> bytes:
        """The logits of the test set's first 500 images, for a comparison bit by bit."""
        images = pixels(jnp.asarray(self.data.test_images[:500]))
        return np.asarray(self.forward({"params": weights}, images)).tobytes()


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


class Network:
    """One network's arms. Compiled programs are made once and serve every seed."""

    def __init__(self, name: str, config: Config) -> None:
        self.bench, self.config = Bench.make(name, config), config
        self.recipe = RECIPES[name].scaled(config.density)
        self.curve = name in config.curves
        self.curve_bits = config.bits if self.curve else ()
        self.curve_ranks = config.ranks if self.curve else ()
        self.train_dense = self.bench.trainer(identity())
        self.train_pruned = self.bench.trainer(pruning(self.recipe))
        self.train_both = self.bench.trainer(chain(pruning(self.recipe), sharing(self.recipe)), 3e-4)
        self.train_shared = {
            bits: self.bench.trainer(sharing(self.recipe, bits=bits, zero=False), 3e-4)
            for bits in self.curve_bits
        }
        self.train_thin = {f: self.bench.trainer(thinning(self.recipe, f)) for f in self.curve_ranks}

    def run(self, seed: int, progress: Progress) -> dict[str, dict[str, Any]]:
        """All arms at one seed: arm -> metric -> value; sizes in percent of the float32 network."""
        dense = self.dense(seed)
        arms: dict[str, dict[str, Any]] = {"baseline": self.baseline(dense, seed)}
        baseline = arms["baseline"]["accuracy"]
        snapshots, arms["pruned"] = self.pruned(dense, seed, progress)
        arms["one_shot"] = self.one_shot(dense)
        arms["both"] = self.both(snapshots, seed)
        if self.curve:
            bits = progress.track(self.curve_bits, f"{self.bench.name}: sharing alone")
            arms["quantized"] = {"curve": [self.quantized(dense, b, seed) for b in bits]}
            ranks = progress.track(self.curve_ranks, f"{self.bench.name}: SVD alone")
            arms["svd"] = {"curve": [self.thinned(dense, f, seed) for f in ranks]}
        for arm in arms.values():
            for point in [arm, *arm.get("curve", ())]:
                if "accuracy" in point:
                    point["loss"] = baseline - point["accuracy"]
        return arms

    def dense(self, seed: int) -> Any:
        """The network as it is trained first."""
        image = jnp.zeros((1, *self.bench.data.image_shape))
        params = jax.jit(self.bench.model.init)(jax.random.key(seed), image)["params"]
        params, _ = self.train_dense(params, State(), seed, self.bench.epochs(self.recipe.epochs))
        return params

    def baseline(self, dense: Any, seed: int) -> dict[str, float]:
        """The dense network, before and after as many more epochs as the compressed one gets: the better."""
        epochs = self.config.rounds * self.bench.epochs(self.recipe.retrain) + self.bench.epochs(
            self.config.tune
        )
        params, _ = self.train_dense(dense, State(), seed + 4, epochs)
        first, later = self.bench.accuracy(dense), self.bench.accuracy(params)
        return {"accuracy": max(first, later), "first_accuracy": first}

    def pruned(
        self, dense: Any, seed: int, progress: Progress
    ) -> tuple[list[tuple[float, Any]], dict[str, Any]]:
        """Rounds of pruning and retraining: the weights after each, by power, and the arm."""
        further = self.config.further if self.curve else 0
        params, snapshots, curve = dense, [], []
        rounds = range(1, self.config.rounds + further + 1)
        for r in progress.track(rounds, f"{self.bench.name}: rounds of pruning"):
            power = r / self.config.rounds
            t = pruning(self.recipe, power)
            epochs = self.bench.epochs(self.recipe.retrain)
            params, masks = self.train_pruned(params, t.init(params), seed + 1000 * r, epochs)
            params = t.apply(params, masks)
            snapshots.append((power, params))
            curve.append({"accuracy": self.bench.accuracy(params), "size": self.sparse_size(params)})
        return snapshots, {**curve[self.config.rounds - 1], "curve": curve}

    def one_shot(self, dense: Any) -> dict[str, Any]:
        """All weights pruned at once, nothing retrained."""
        t = pruning(self.recipe)
        return {"accuracy": self.bench.accuracy(t.apply(dense, t.init(dense)))}

    def both(self, snapshots: list[tuple[float, Any]], seed: int) -> dict[str, Any]:
        """Pruned, shared, tuned, written to a file; the arm is the recipe's round."""
        arm: dict[str, Any] = {}
        curve = []
        for power, params in snapshots:
            if power != 1 and not self.curve:
                continue
            t = chain(pruning(self.recipe, power), sharing(self.recipe))
            state = t.init(params)
            untuned = self.bench.accuracy(t.apply(params, state))
            params, state = self.train_both(params, state, seed + 1, self.bench.epochs(self.config.tune))
            packed = t.pack(params, state)
            report, again = self.filed(packed)
            point = {
                "accuracy": self.bench.accuracy(t.apply(params, state)),
                "size": 100 / report.huffman_ratio,
            }
            curve.append(point)
            if power == 1:
                arm = {
                    **point,
                    "untuned_accuracy": untuned,
                    "ratio": report.huffman_ratio,
                    "file_bytes": report.file_bytes,
                    "identical": float(self.bench.logits(packed) == self.bench.logits(again)),
                    "layers": self.rows(report),
                }
        return {**arm, "curve": curve}

    def quantized(self, dense: Any, bits: int, seed: int) -> dict[str, Any]:
        """Shared values alone, before and after they are tuned."""
        t = sharing(self.recipe, bits=bits, zero=False)
        state = t.init(dense)
        untuned = self.bench.accuracy(t.apply(dense, state))
        params, state = self.train_shared[bits](dense, state, seed + 2, self.bench.epochs(self.config.tune))
        report, _ = self.filed(t.pack(params, state))
        accuracy = self.bench.accuracy(t.apply(params, state))
        return {
            "bits": bits,
            "untuned_accuracy": untuned,
            "accuracy": accuracy,
            "size": 100 / report.huffman_ratio,
        }

    def thinned(self, dense: Any, fraction: float, seed: int) -> dict[str, Any]:
        """SVD alone, its factors trained."""
        t = thinning(self.recipe, fraction)
        params, state = self.train_thin[fraction](
            dense, t.init(dense), seed + 3, self.bench.epochs(self.recipe.retrain)
        )
        size = 100 * stored_bytes(t.pack(params, state)) / stored_bytes(dense)
        return {"fraction": fraction, "accuracy": self.bench.accuracy(t.apply(params, state)), "size": size}

    def filed(self, packed: Any) -> tuple[Any, Any]:
        """Writes a file and reads it back: its report, and the weights as they are read."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "network.dc"
            report = write_network(path, packed)
            if report.file_bytes != path.stat().st_size:
                raise AssertionError("the report must state the size of the file")
            return report, read_network(path, like=packed)

    def sparse_size(self, params: Any) -> float:
        """Percent of the size that pruned float32 weights take: values, and gaps as the file codes them."""
        t = sharing(self.recipe, bits=1)
        report, _ = self.filed(t.pack(params, t.init(params)))
        sparse = [row for row in report.rows if row.is_shared]
        values = sum(row.kept * (32 + row.index_bits_huffman) / 8 for row in sparse)
        others = sum(row.huffman_bytes for row in report.rows if not row.is_shared)
        return 100 * (values + others) / report.original_bytes

    def rows(self, report: Any) -> list[dict[str, Any]]:
        """The columns of Tables 2 and 3, in the order of the layers, and their total."""
        by_name = {row.name: row for row in report.rows}
        named = [(layer.paper, by_name[f"{name}/kernel"]) for name, layer in self.recipe.layers.items()]
        kept = sum(row.kept for _, row in named)

        def total(bits: str) -> float:
            return sum(getattr(row, bits) * row.kept for _, row in named) / kept

        columns = ("weight_bits", "weight_bits_huffman", "index_bits", "index_bits_huffman")
        made = [
            {
                "layer": name,
                "weights": row.weights,
                "kept": 100 * row.kept_fraction,
                **{column: getattr(row, column) for column in columns},
                "rate": 100 * row.fixed_rate,
                "rate_huffman": 100 * row.huffman_rate,
            }
            for name, row in named
        ]
        whole = {
            "layer": "total",
            "weights": report.original_bytes // 4,
            "kept": 100 * kept / sum(row.weights for _, row in named),
            **{column: total(column) for column in columns},
            "rate": 100 / report.fixed_ratio,
            "rate_huffman": 100 / report.huffman_ratio,
        }
        return [*made, whole]
