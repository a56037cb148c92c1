"""Distillation: a network of 2,870 params taught by a large one, by its logits, features and relations.

Claims: Hinton et al., 2015, arXiv:1503.02531: a teacher's softened outputs teach more than labels, and the
temperature has an optimum inside; Zagoruyko and Komodakis, 2017, arXiv:1612.03928 (attention transfer), Park
et al., 2019, arXiv:1904.05068 (relations), Romero et al., 2015, arXiv:1412.6550 (hints) and Zhang et al.,
2018, arXiv:1706.00384 (mutual learning): each is better than labels alone.

    python -m experiments.distillation

The teacher has 288,000 params and is trained on 40,000 images of Fashion-MNIST, once. Students see a tenth of
them, other ones at each seed, with their labels, and what the teacher makes of them. Features are tapped by
path from both networks as they stand. The weights of the losses were chosen on a seed that is not judged:
attention's is a twentieth of its authors', relations' are the paper's for embeddings. Cost: some 25 minutes.

Seen: the teacher's logits add 1.3 points at T = 2, the best, and 0.5 at T = 4; two peers add 0.6 to each
other. Attention, hints, relations and the own last generation are level with labels.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from efficient import distill
from experiments.frame import (
    Claim,
    Metrics,
    Outcome,
    Progress,
    average,
    by_seed,
    column,
    main,
    mean,
    not_below,
    paired,
)
from experiments.small_convs import Convs, Fit, Loss, Rows, accuracy, batched, cross_entropy, splits

STUDENT = Convs((8, 12, 16), (2, 2, 2))
TEACHER = Convs((32, 32, 64, 64, 128, 128), (1, 2, 1, 2, 1, 2))
# What enters these is the map of 7x7 and of 4x4 places, and the mean over places: after a ReLU.
STUDENT_TAPS = {"map": "params/conv2/kernel", "embedding": "params/classifier/kernel"}
TEACHER_TAPS = {"map": "params/conv4/kernel", "embedding": "params/classifier/kernel"}
SHARE = 0.5  # of the teacher in the loss by logits; labels have the rest
RATE = 1e-2  # of a student's Adam
ATTENTION, RELATIONS = 50.0, (1.0, 2.0)  # weights in the loss


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """What is run."""

    data: str = "fashion_mnist"  # mnist5k, fashion_mnist, digits, idx:FOLDER or folder:FOLDER
    train: int = 40_000  # the teacher's images; students see a tenth
    test: int = 10_000  # test images
    teacher_epochs: int = 4  # > 0
    epochs: int = 60  # of a student, > 0
    batch_size: int = 64  # images a step, > 0
    temperatures: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0, 8.0)  # > 0; 4 has claims
    seeds: tuple[int, ...] = (0, 1, 2, 3)  # one draw of a tenth, and one student an arm, each

    def __post_init__(self) -> None:
        for name in ("train", "test", "teacher_epochs", "epochs", "batch_size"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)!r}; leave it out.")
        if not self.temperatures or min(self.temperatures) <= 0:
            raise ValueError(f"temperatures must be above 0, got {self.temperatures!r}; leave them out.")
        if self.train < 20 * self.batch_size:
            raise ValueError(
                f"train must be at least 20 batches, got {self.train!r}; a student sees a tenth of it."
            )

    @classmethod
    def smoke(cls) -> "Config":
        """The same path on few images, at two temperatures."""
        few = {"train": 640, "test": 200, "teacher_epochs": 1, "epochs": 1, "batch_size": 32}
        return cls(data="mnist5k", temperatures=(1.0, 4.0), seeds=(0,), **few)


def tapped(model: Convs, taps: dict[str, str]) -> Callable[[Any, Any], tuple[Any, dict[str, Any]]]:
    """The model, and what enters its layers, by our names."""
    run = distill.features(model.apply, where=tuple(taps.values()), side="inputs")

    def named(params: Any, x: Any) -> tuple[Any, dict[str, Any]]:
        logits, found = run(params, x)
        return logits, {name: found[path] for name, path in taps.items()}

    return named


def losses(temperatures: tuple[float, ...]) -> dict[str, Loss]:
    """By arm; params are those of the student, or for hints and peers a dict that holds them as `student`."""
    student = tapped(STUDENT, STUDENT_TAPS)

    def labels(params: Any, rows: Any, key: Any) -> Any:
        return cross_entropy(STUDENT.apply(params, rows["x"]), rows["y"])

    def by_logits(params: Any, rows: Any, key: Any, *, temperature: float, of: str = "logits") -> Any:
        logits: Any = STUDENT.apply(params, rows["x"])
        soft = distill.forward_kl(logits, rows[of], temperature=temperature)
        return (1 - SHARE) * cross_entropy(logits, rows["y"]) + SHARE * soft

    def attention(params: Any, rows: Any, key: Any) -> Any:
        logits, seen = student(params, rows["x"])
        return cross_entropy(logits, rows["y"]) + ATTENTION * distill.attention(seen["map"], rows["map"])

    def relations(params: Any, rows: Any, key: Any) -> Any:
        logits, seen = student(params, rows["x"])
        pair = seen["embedding"], rows["embedding"]
        apart, turned = distill.distance_relation(*pair), distill.angle_relation(*pair)
        return cross_entropy(logits, rows["y"]) + RELATIONS[0] * apart + RELATIONS[1] * turned

    def hints(params: Any, rows: Any, key: Any) -> Any:
        logits, seen = student(params["student"], rows["x"])
        return cross_entropy(logits, rows["y"]) + distill.hint(seen["map"], rows["map"], params["regressor"])

    def peers(params: Any, rows: Any, key: Any) -> Any:
        logits = [STUDENT.apply(params[name], rows["x"]) for name in ("student", "peer")]
        return sum(cross_entropy(z, rows["y"]) for z in logits) + jnp.sum(distill.mutual(logits))

    soft = {f"kd_{t:g}": functools.partial(by_logits, temperature=t) for t in temperatures}
    born_again = functools.partial(by_logits, temperature=1.0, of="own_logits")
    return {
        "baseline": labels, **soft, "attention": attention, "relations": relations, "hints": hints,
        "peers": peers, "born_again": born_again,
    }  # fmt: skip


class Arms:
    """The teacher, and students by every loss."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.data, self.test = splits(config.data, config.train, config.test)
        self.size = len(self.data) // 10
        self.fits = {
            name: Fit(loss, epochs=config.epochs, batch=config.batch_size, rows=self.size, rate=RATE)
            for name, loss in losses(config.temperatures).items()
        }
        self.run = jax.jit(STUDENT.apply)

    @functools.cached_property
    def teacher(self) -> Any:
        """Trained on all images."""
        config = self.config
        fit = Fit(
            lambda params, rows, key: cross_entropy(TEACHER.apply(params, rows["x"]), rows["y"]),
            epochs=config.teacher_epochs,
            batch=config.batch_size,
            rows=len(self.data),
            rate=1e-3,
        )
        return fit(TEACHER.init(jax.random.key(0), self.data.values["x"][:1]), self.data, 0)

    def tenth(self, seed: int) -> Rows:
        """Images and labels of a tenth, and what the teacher makes of them."""
        chosen = jax.random.permutation(jax.random.key(seed), len(self.data))[: self.size]
        part = Rows({name: value[chosen] for name, value in self.data.values.items()})
        run = jax.jit(tapped(TEACHER, TEACHER_TAPS))
        logits, seen = batched(lambda x: run(self.teacher, x), part.values["x"])
        return part.with_(logits=logits, **seen)

    def one(self, seed: int, progress: Progress) -> dict[str, dict[str, float]]:
        """All arms at one seed, from the same first params."""
        run = jax.jit(TEACHER.apply)
        arms = {"teacher": {"accuracy": accuracy(lambda x: run(self.teacher, x), self.test)}}
        rows = self.tenth(seed)
        keys = jax.random.split(jax.random.key(seed), 3)
        first, other = (STUDENT.init(key, rows.values["x"][:1]) for key in keys[:2])
        starts = {
            "hints": {"student": first, "regressor": distill.regressor(keys[2], 12, 64)},
            "peers": {"student": first, "peer": other},
        }
        for name, fit in progress.track(self.fits.items(), f"seed {seed}: losses", total=len(self.fits)):
            trained = fit(starts.get(name, first), rows, seed)
            found = trained["student"] if name in starts else trained
            arms[name] = {"accuracy": self.scored(found)}
            if name == "peers":
                arms["peers_other"] = {"accuracy": self.scored(trained["peer"])}
            if name == "baseline":  # the teacher of the next generation
                own = batched(functools.partial(self.run, found), rows.values["x"])
                rows = rows.with_(own_logits=own)
        return arms

    def scored(self, params: Any) -> float:
        """On the test set."""
        return accuracy(lambda x: self.run(params, x), self.test)


def run(config: Config, *, progress: Progress | None = None) -> Metrics:
    """By arm (`teacher`, `baseline`: labels alone, `kd_4`, `attention`, ...): accuracy in percent."""
    return by_seed(Arms(config).one, config.seeds, progress=progress)


def by_half_a_point(metrics: Metrics) -> Outcome:
    """Points of the teacher's logits above labels."""
    gaps = gap("kd_4", metrics)
    found = Outcome.above(gaps)
    return Outcome.of(gaps, bool(found.holds) and mean(gaps.values()) >= 0.5, found.detail)


def gap(arm: str, metrics: Metrics) -> dict[int, float]:
    """Points above labels alone."""
    return paired(lambda a, b: a - b, *(column(metrics, name, "accuracy") for name in (arm, "baseline")))


def inside(metrics: Metrics) -> Outcome:
    """The temperature of the best mean, which is neither the least nor the largest."""
    values = {float(n.removeprefix("kd_")): n for n in metrics if n.startswith("kd_")}
    if len(values) < 3:
        raise LookupError("fewer than three temperatures")
    means = {t: average(metrics, name, "accuracy") for t, name in values.items()}
    best = max(means, key=lambda t: means[t])
    holds = min(means) < best < max(means)
    detail = ", ".join(f"{t:g}: {value:.2f}" for t, value in sorted(means.items()))
    return Outcome(ours=best, seeds=tuple(metrics["baseline"]), holds=holds, detail=detail)


CLAIM = functools.partial(
    Claim,
    unit="points",
    published="above 0",
    known="memory",
    rule="mean gap not below 0 by more than 2 standard errors",
)
HINTON = functools.partial(CLAIM, paper="Hinton et al., 2015", arxiv="1503.02531")
CLAIMS = (
    HINTON(
        id="distillation-logits",
        metric="accuracy, the teacher's logits at T = 4 above labels alone",
        rule="mean gap at least 0.5, and above 0 by 2 standard errors",
        check=by_half_a_point,
    ),
    HINTON(
        id="distillation-temperature",
        metric="temperature of the best mean accuracy",
        unit="",
        published="between 2.5 and 4 for small students",
        rule="neither the least nor the largest tried",
        check=inside,
    ),
    CLAIM(
        id="distillation-attention",
        paper="Zagoruyko and Komodakis, 2017",
        arxiv="1612.03928",
        metric="accuracy, attention transfer above labels alone",
        check=not_below("attention", "baseline"),
    ),
    CLAIM(
        id="distillation-relations",
        paper="Park et al., RKD, 2019",
        arxiv="1904.05068",
        metric="accuracy, distances and angles above labels alone",
        check=not_below("relations", "baseline"),
    ),
    CLAIM(
        id="distillation-hints",
        paper="Romero et al., FitNets, 2015",
        arxiv="1412.6550",
        metric="accuracy, hints above labels alone",
        check=not_below("hints", "baseline"),
    ),
    CLAIM(
        id="distillation-peers",
        paper="Zhang et al., Deep Mutual Learning, 2018",
        arxiv="1706.00384",
        metric="accuracy, of two that learn from each other, above alone",
        check=not_below("peers", "baseline"),
    ),
    CLAIM(
        id="distillation-born-again",
        paper="Furlanello et al., Born-Again Networks, 2018",
        arxiv="1805.04770",
        metric="accuracy, taught by its own last generation, above labels alone",
        check=not_below("born_again", "baseline"),
    ),
)


def tables(record: Any) -> list[Any]:
    """Accuracy of every arm, and its gap to labels alone."""
    from rich.table import Table

    teacher = average(record.metrics, "teacher", "accuracy")
    table = Table(title=f"A student of 2,870 params; the teacher has {teacher:.2f} %")
    for title in ("loss", "accuracy, %", "above labels, points"):
        table.add_column(title, justify="left" if title == "loss" else "right")
    for name in record.metrics:
        if name not in ("teacher", "peers_other"):
            value = average(record.metrics, name, "accuracy")
            least = average(record.metrics, "baseline", "accuracy")
            label = "labels" if name == "baseline" else name.replace("_", " ")
            table.add_row(label, f"{value:.2f}", f"{value - least:+.2f}")
    return [table]


def figures(record: Any) -> dict[str, Any]:
    """Accuracy against temperature, with the other losses beside it."""
    from experiments.frame import style

    figure, (axes, other) = style.figure(columns=2, width=9.6, height=4.0)
    temperatures = sorted(record.config["temperatures"])
    for seed in record.metrics["baseline"]:
        gaps = [gap(f"kd_{t:g}", record.metrics)[seed] for t in temperatures]
        axes.plot(temperatures, gaps, "o", color=style.BASELINE, alpha=0.5)
    means = [average(record.metrics, f"kd_{t:g}", "accuracy") for t in temperatures]
    labels = average(record.metrics, "baseline", "accuracy")
    axes.plot(temperatures, [value - labels for value in means], "-", label="mean over seeds")
    axes.axhline(0, color=style.BASELINE, linewidth=1)
    axes.set_xscale("log", base=2)
    axes.set(xlabel="temperature", ylabel="points above labels alone", title="By logits")
    axes.legend(loc="best")
    names = [n for n in record.metrics if n in ("attention", "relations", "hints", "peers", "born_again")]
    for i, name in enumerate(names):
        gaps = list(gap(name, record.metrics).values())
        other.plot(gaps, [i] * len(gaps), "o", color=style.BASELINE, alpha=0.5)
        other.plot([sum(gaps) / len(gaps)], [i], "|", markersize=16)
    other.axvline(0, color=style.BASELINE, linewidth=1)
    other.set_yticks(range(len(names)), [name.replace("_", " ") for name in names])
    other.set(xlabel="points above labels alone", title="By features, relations, peers")
    return {"distillation": figure}


if __name__ == "__main__":
    main()
