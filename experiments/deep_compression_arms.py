"""The arms of `deep_compression`: how one network is trained, pruned, shared, tuned and filed."""

import dataclasses
import tempfile
from pathlib import Path
from typing import Any, Literal

import optax

from efficient import Transform, chain, identity, stored_bytes
from efficient.deploy import read_network, write_network
from experiments.deep_compression_recipes import RECIPES, pruning, sharing, thinning
from experiments.frame import Progress
from experiments.frame.bench import Bench, Trainer, Weights, require_data


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
        require_data(self.data)
        if not self.networks or not set(self.curves) <= set(self.networks):
            raise ValueError(
                f"curves must be among the networks {self.networks!r}, got {self.curves!r}; add them."
            )

    @classmethod
    def smoke(cls) -> "Config":
        """The same path: few images, one epoch of each kind."""
        return cls(effort=0.01, rounds=1, tune=1, bits=(8, 2), ranks=(0.1,), further=0, train=512, seeds=(0,))


class Network:
    """One network's arms. Compiled programs are made once and serve every seed."""

    def __init__(self, name: str, config: Config) -> None:
        self.bench = Bench.make(name, config.data, batch_size=config.batch_size, train=config.train)
        self.name, self.config = name, config
        self.recipe = RECIPES[name].scaled(config.density)
        self.curve = name in config.curves
        self.curve_bits = config.bits if self.curve else ()
        self.curve_ranks = config.ranks if self.curve else ()
        self.train_dense = self.trainer(identity())
        self.train_pruned = self.trainer(pruning(self.recipe))
        self.train_both = self.trainer(chain(pruning(self.recipe), sharing(self.recipe)), 3e-4)
        self.train_shared = {
            bits: self.trainer(sharing(self.recipe, bits=bits, zero=False), 3e-4) for bits in self.curve_bits
        }
        self.train_thin = {f: self.trainer(thinning(self.recipe, f)) for f in self.curve_ranks}

    def trainer(self, transform: Transform, learning_rate: float = 1e-3) -> Trainer:
        """Adam at one rate; one program serves all masks."""
        return self.bench.trainer(transform, optax.adam(learning_rate))

    def epochs(self, number: int) -> int:
        """A recipe's epochs at this config's effort."""
        return max(1, round(number * self.config.effort))

    def run(self, seed: int, progress: Progress) -> dict[str, dict[str, Any]]:
        """All arms at one seed: arm -> metric -> value; sizes in percent of the float32 network."""
        dense = self.dense(seed)
        arms: dict[str, dict[str, Any]] = {"baseline": self.baseline(dense, seed)}
        baseline = arms["baseline"]["accuracy"]
        snapshots, arms["pruned"] = self.pruned(dense, seed, progress)
        arms["one_shot"] = self.one_shot(dense)
        arms["both"] = self.both(snapshots, seed)
        if self.curve:
            bits = progress.track(self.curve_bits, f"{self.name}: sharing alone")
            arms["quantized"] = {"curve": [self.quantized(dense, b, seed) for b in bits]}
            ranks = progress.track(self.curve_ranks, f"{self.name}: SVD alone")
            arms["svd"] = {"curve": [self.thinned(dense, f, seed) for f in ranks]}
        for arm in arms.values():
            for point in [arm, *arm.get("curve", ())]:
                if "accuracy" in point:
                    point["loss"] = baseline - point["accuracy"]
        return arms

    def dense(self, seed: int) -> Any:
        """The network as it is trained first."""
        return self.train_dense(self.bench.start(seed), seed, self.epochs(self.recipe.epochs)).params

    def baseline(self, dense: Any, seed: int) -> dict[str, float]:
        """The dense network, before and after as many more epochs as the compressed one gets: the better."""
        epochs = self.config.rounds * self.epochs(self.recipe.retrain) + self.epochs(self.config.tune)
        longer = self.train_dense(Weights(dense), seed + 4, epochs).params
        first, later = self.bench.accuracy(dense), self.bench.accuracy(longer)
        return {"accuracy": max(first, later), "first_accuracy": first}

    def pruned(
        self, dense: Any, seed: int, progress: Progress
    ) -> tuple[list[tuple[float, Any]], dict[str, Any]]:
        """Rounds of pruning and retraining: the weights after each, by power, and the arm."""
        further = self.config.further if self.curve else 0
        params, snapshots, curve = dense, [], []
        rounds = range(1, self.config.rounds + further + 1)
        for r in progress.track(rounds, f"{self.name}: rounds of pruning"):
            power = r / self.config.rounds
            t = pruning(self.recipe, power)
            epochs = self.epochs(self.recipe.retrain)
            made = self.train_pruned(Weights(params, {}, t.init(params)), seed + 1000 * r, epochs)
            params = t.apply(made.params, made.compress)
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
            made = self.train_both(Weights(params, {}, state), seed + 1, self.epochs(self.config.tune))
            packed = t.pack(made.params, made.compress)
            report, again = self.filed(packed)
            point = {
                "accuracy": self.bench.accuracy(t.apply(made.params, made.compress)),
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
        made = self.train_shared[bits](Weights(dense, {}, state), seed + 2, self.epochs(self.config.tune))
        report, _ = self.filed(t.pack(made.params, made.compress))
        accuracy = self.bench.accuracy(t.apply(made.params, made.compress))
        return {
            "bits": bits,
            "untuned_accuracy": untuned,
            "accuracy": accuracy,
            "size": 100 / report.huffman_ratio,
        }

    def thinned(self, dense: Any, fraction: float, seed: int) -> dict[str, Any]:
        """SVD alone, its factors trained."""
        t = thinning(self.recipe, fraction)
        start = Weights(dense, {}, t.init(dense))
        made = self.train_thin[fraction](start, seed + 3, self.epochs(self.recipe.retrain))
        size = 100 * stored_bytes(t.pack(made.params, made.compress)) / stored_bytes(dense)
        accuracy = self.bench.accuracy(t.apply(made.params, made.compress))
        return {"fraction": fraction, "accuracy": accuracy, "size": size}

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
