"""One-shot pruning of a language model: magnitude, Wanda and SparseGPT, with no training after.

Claim: Frantar and Alistarh, 2023, arXiv:2301.00774, and Sun et al., 2023, arXiv:2306.11695: at 50 % and at
2:4, what enters a layer tells which weights matter. LLaMA-7B, perplexity on WikiText, 50 % zeros: dense 5.68,
magnitude 17.29, Wanda 7.26, SparseGPT 7.22.

    python -m experiments.sparsegpt_wanda

Ours is a two-layer decoder of bytes, trained here on the language reference that every CPython has
(`experiments/frame/text.py`); perplexity is that of a byte of its held out end. All kernels of the layers are
pruned, the embedding is not. As in the authors' code, layer after layer: what enters a layer is observed in
the network whose earlier layers are pruned already. SparseGPT's blocks are of 16 inputs, as these layers have
64 to 192, where the paper's are of 128. `corrected` is the mask of a method whose weights are then those of
least squares. Cost: some 6 minutes.

Seen: Wanda is ahead of magnitude by more than noise at 2:4 only; SparseGPT is far
ahead of both, and least squares under any of the masks farther still.
"""

import dataclasses
import functools
import operator
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from efficient import Transform, at, identity
from efficient.core.observe import observe, observed
from efficient.core.paths import flatten
from efficient.models.decoder import Decoder
from efficient.prune import magnitude, prune
from efficient.prune.patterns import n_m, per_output
from efficient.prune.reconstruct import corrected, sparsegpt
from efficient.prune.scores import absolute, wanda
from efficient.train import create, fit, make_step
from experiments.frame import Claim, Metrics, Outcome, Progress, by_seed, column, main, mean, paired
from experiments.frame.text import draws, manual, windows

KERNELS = "**/kernel"  # of the layers: the embedding is no kernel
BLOCK = 16  # of SparseGPT: inputs that choose their mask together
EVALUATED = 32  # windows at a time


def semi_structured(score: Any) -> Transform:
    """2:4 by a score."""
    return prune(score, pattern=n_m(2, 4))


Method = Callable[[float | None], Transform]  # of a sparsity, or of None for 2:4
PLAIN: Mapping[str, Method] = {
    "magnitude": lambda s: magnitude(s) if s else semi_structured(absolute()),
    "wanda": lambda s: prune(wanda(), s, pattern=per_output()) if s else semi_structured(wanda()),
    "sparsegpt": lambda s: sparsegpt(s, block=BLOCK) if s else sparsegpt(n_m=(2, 4), block=BLOCK),
}


def then_corrected(made: Method) -> Method:
    """The masks of a method, whose weights are then those of least squares."""
    return lambda sparsity: corrected(made(sparsity))


METHODS: Mapping[str, Method] = {
    **PLAIN,
    **{f"{name}_corrected": then_corrected(made) for name, made in PLAIN.items()},
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """What is run."""

    width: int = 64  # numbers per token, a multiple of 8: four heads
    depth: int = 2  # layers, > 0
    hidden: int = 192  # units of the gated network, > 0
    tokens: int = 48  # bytes that the model sees at once, > 0
    batch_size: int = 16  # sequences a step, > 0
    steps: int = 1500  # of training, > 0
    text: int = 0  # bytes of text used; 0 is all
    calibration: int = 256  # sequences of the training text that statistics are taken of, > 0
    sparsities: tuple[float, ...] = (0.5, 0.6, 0.7)  # in (0, 1); 0.5 has claims; 2:4 is always run
    seeds: tuple[int, ...] = (0, 1, 2)  # one whole run each

    def __post_init__(self) -> None:
        for name in ("depth", "hidden", "tokens", "batch_size", "steps", "calibration"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)!r}; leave it out.")
        if self.width <= 0 or self.width % 8:
            raise ValueError(f"width must be a positive multiple of 8, got {self.width!r}; 64 is small.")
        if self.text < 0:
            raise ValueError(f"text must be 0 or more, got {self.text!r}; 0 is all.")
        if not all(0 < sparsity < 1 for sparsity in self.sparsities):
            raise ValueError(f"sparsities must be in (0, 1), got {self.sparsities!r}; 0.5 is half.")

    @classmethod
    def smoke(cls) -> "Config":
        """The same path on a tiny network and little text."""
        return cls(
            width=16, depth=1, hidden=16, tokens=16, steps=2, text=20_000, calibration=8,
            sparsities=(0.5,), seeds=(0,),
        )  # fmt: skip

    @property
    def patterns(self) -> dict[str, float | None]:
        """What is pruned, by the name that ends an arm's."""
        return {name_of(sparsity): sparsity for sparsity in self.sparsities} | {"2_4": None}


def name_of(sparsity: float) -> str:
    """How an arm names a sparsity."""
    return f"{100 * sparsity:g}"


class Arms:
    """The model dense, and pruned in every way. What is compiled serves every seed."""

    def __init__(self, config: Config) -> None:
        self.config, self.text = config, manual(most=config.text)
        self.model = Decoder(
            vocabulary=256, width=config.width, depth=config.depth, heads=4, kv_heads=4, hidden=config.hidden
        )
        self.forward: Callable[..., Any] = self.model.apply
        self.nats = jax.jit(lambda params, pieces: jnp.sum(self.losses(params, pieces)))
        self.layers = [f"**/layer{index}/{KERNELS}" for index in range(config.depth)]
        seen = ("gram", "second_moment")
        self.entering = [jax.jit(observed(self.forward, where=w, statistics=seen)) for w in self.layers]
        schedule = optax.warmup_cosine_decay_schedule(0.0, 3e-3, max(1, config.steps // 10), config.steps)
        self.optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, weight_decay=0.1))
        self.step = make_step(self.loss, self.optimizer, identity())

    def losses(self, params: Any, pieces: Any) -> jax.Array:
        """Nats of every byte but the first of each piece."""
        logits = self.forward(params, pieces[:, :-1])
        return optax.softmax_cross_entropy_with_integer_labels(logits, pieces[:, 1:])

    def loss(self, params: Any, model_state: Any, pieces: Any, key: Any) -> tuple[Any, Any]:
        """For `make_step`."""
        del key
        return jnp.mean(self.losses(params, pieces)), (model_state, {})

    def trained(self, seed: int) -> Any:
        """The dense model's params."""
        config = self.config
        start = jax.jit(self.model.init)(jax.random.key(seed), jnp.zeros((1, config.tokens), jnp.int32))
        state = create(start, identity(), self.optimizer, key=jax.random.key(seed))
        batches = draws(
            self.text.train,
            size=config.tokens + 1,
            batch_size=config.batch_size,
            steps=config.steps,
            seed=seed,
        )
        return fit(state, self.step, batches, progress=False, every=10**9)[0].params

    def perplexity(self, params: Any) -> float:
        """`exp` of the mean nats of a byte of the held out text; a last few windows are left out."""
        pieces = windows(self.text.test, self.config.tokens + 1)
        count = min(EVALUATED, len(pieces))
        groups = windows_of(pieces, count)
        total = sum(float(self.nats(params, group)) for group in groups)
        return float(np.exp(total / (len(groups) * count * self.config.tokens)))

    def pruned(self, dense: Any, transform: Transform, sample: jax.Array) -> Any:
        """The params, layer after layer, by what enters each behind the pruned ones."""
        shown = dense
        for layer, entering in zip(self.layers, self.entering, strict=True):
            _, stats = entering(shown, sample)
            own = at(layer, transform)
            shown = own.apply(shown, own.init(shown, stats=stats))
        return shown

    def errors(self, dense: Any, transform: Transform, stats: Any) -> dict[str, float]:
        """By kernel, |X W' - X W|^2 / |X W|^2 where it alone is pruned."""
        own = at(KERNELS, transform)
        before, after = flatten(dense)[0], flatten(own.apply(dense, own.init(dense, stats=stats)))[0]
        return {path: float(error(before[path], after[path], one.gram)) for path, one in stats.items()}

    def run(self, seed: int, progress: Progress) -> dict[str, dict[str, float]]:
        """All arms at one seed."""
        dense = self.trained(seed)
        (sample,) = draws(
            self.text.train, size=self.config.tokens, batch_size=self.config.calibration, steps=1, seed=seed
        )
        stats = observe(self.forward, dense, [sample], where=KERNELS, statistics=("gram", "second_moment"))
        arms = {
            "baseline": {
                "perplexity": self.perplexity(dense),
                "params": float(sum(leaf.size for leaf in jax.tree.leaves(dense))),
                "text_bytes": float(self.text.train.size + self.text.test.size),
            }
        }
        for pattern, sparsity in progress.track(self.config.patterns.items(), "patterns"):
            errors = {}
            for method, made in METHODS.items():
                errors[method] = self.errors(dense, made(sparsity), stats)
                arms[f"{method}_{pattern}"] = {
                    "perplexity": self.perplexity(self.pruned(dense, made(sparsity), jnp.asarray(sample))),
                    "error": 100 * mean(errors[method].values()),
                    "better": better(errors[method], errors["magnitude"]),
                }
        return arms


def windows_of(pieces: np.ndarray, count: int) -> list[np.ndarray]:
    """The pieces in groups of `count`; what is left over is dropped."""
    whole = len(pieces) // count
    return list(pieces[: whole * count].reshape(whole, count, pieces.shape[1]))


@jax.jit
def error(before: jax.Array, after: jax.Array, gram: jax.Array) -> jax.Array:
    """tr(D^T G D) / tr(W^T G W), W `before`, D the change and G = X^T X."""
    change = after - before
    return jnp.sum(change * (gram @ change)) / jnp.sum(before * (gram @ before))


def better(ours: Mapping[str, float], others: Mapping[str, float]) -> float:
    """Percent of the kernels whose error is at most the other's."""
    return 100 * mean(float(ours[path] <= others[path]) for path in ours)


def run(config: Config, *, progress: Progress | None = None) -> Metrics:
    """By arm (`baseline`, `wanda_50`, `sparsegpt_2_4`, ...): perplexity, and errors of layers in percent."""
    return by_seed(Arms(config).run, config.seeds, progress=progress)


def ratio(worse: str, ours: str) -> Callable[[Metrics], Outcome]:
    """The perplexity of one over that of another is above 1."""

    def check(metrics: Metrics) -> Outcome:
        both = (column(metrics, arm, "perplexity") for arm in (worse, ours))
        return Outcome.above(paired(operator.truediv, *both), 1.0)

    return check


def everywhere(*arms: str) -> Callable[[Metrics], Outcome]:
    """The percent of kernels, of the worst of the arms, that are no worse than under magnitude is 100."""

    def check(metrics: Metrics) -> Outcome:
        lowest = paired(min, *(column(metrics, arm, "better") for arm in arms))
        return Outcome.of(lowest, min(lowest.values()) == 100)

    return check


WANDA = functools.partial(
    Claim,
    paper="Sun et al., A simple and effective pruning approach for LLMs, 2023",
    arxiv="2306.11695",
    where="LLaMA-7B, WikiText",
    known="memory",
    unit="x",
    rule="the mean ratio over seeds is above 1 by more than 2 standard errors",
)
SPARSEGPT = functools.partial(
    WANDA,
    paper="Frantar and Alistarh, SparseGPT, 2023",
    arxiv="2301.00774",
    where="as in Sun et al., LLaMA-7B",
)
CLAIMS = (
    WANDA(
        id="wanda-50",
        metric="perplexity of magnitude over Wanda's, 50 % zeros",
        published=2.38,
        check=ratio("magnitude_50", "wanda_50"),
    ),
    WANDA(
        id="wanda-2-4",
        metric="perplexity of magnitude over Wanda's, 2:4",
        published="above 1",
        check=ratio("magnitude_2_4", "wanda_2_4"),
    ),
    SPARSEGPT(
        id="sparsegpt-50",
        metric="perplexity of Wanda over SparseGPT's, 50 % zeros",
        published=1.006,
        check=ratio("wanda_50", "sparsegpt_50"),
    ),
    SPARSEGPT(
        id="sparsegpt-2-4",
        metric="perplexity of Wanda over SparseGPT's, 2:4",
        published="above 1",
        check=ratio("wanda_2_4", "sparsegpt_2_4"),
    ),
    SPARSEGPT(
        id="sparsegpt-layers",
        where="",
        metric="kernels whose output SparseGPT changes no more than magnitude does, at 50 % and at 2:4",
        published=100.0,
        known="bar",
        unit="%",
        rule="all kernels, at both and every seed",
        check=everywhere("sparsegpt_50", "sparsegpt_2_4"),
    ),
)


def tables(record: Any) -> list[Any]:
    """Perplexity by method and pattern, and the error of layers at the patterns with claims."""
    from rich.table import Table

    config = Config(**record.config)
    dense = mean(column(record.metrics, "baseline", "perplexity").values())
    made = []
    for metric, title in (
        ("perplexity", f"Perplexity of a byte; dense {dense:.2f}"),
        ("error", "Error of a layer pruned alone, |X W' - X W|² / |X W|², %, mean over layers"),
    ):
        table = Table(title=title)
        for head in ("method", *(label_of(pattern) for pattern in config.patterns)):
            table.add_column(head, justify="left" if head == "method" else "right")
        for method in METHODS:
            values = [mean(column(record.metrics, f"{method}_{p}", metric).values()) for p in config.patterns]
            table.add_row(method.replace("_", ", "), *(f"{value:.2f}" for value in values))
        made.append(table)
    return made


def label_of(pattern: str) -> str:
    """A pattern for a reader."""
    return "2:4" if pattern == "2_4" else f"{pattern} %"


def figures(record: Any) -> dict[str, Any]:
    """Perplexity against sparsity, and at 2:4."""
    from experiments.frame import style

    config = Config(**record.config)
    figure, (left, right) = style.figure(
        columns=2, width=8.6, height=4.0, sharey=True, gridspec_kw={"width_ratios": (3, 2)}
    )

    def at_arm(arm: str) -> tuple[float, float]:
        outcome = Outcome.of(column(record.metrics, arm, "perplexity"), False)
        return float(outcome.ours or 0), outcome.spread or 0.0

    dense, _ = at_arm("baseline")
    percents = [100 * s for s in sorted(config.sparsities)]
    for index, method in enumerate(METHODS):
        color = style.PALETTE[index]
        line = "--" if "corrected" in method else "-"
        label = method.replace("_", ", ")
        points = [at_arm(f"{method}_{p:g}") for p in percents]
        left.errorbar(
            percents, [m for m, _ in points], [s for _, s in points], fmt="o" + line, color=color, label=label
        )
        height, spread = at_arm(f"{method}_2_4")
        right.bar(index, height, yerr=spread, color=color, alpha=0.85)
        right.annotate(f"{height:.2f}", (index, height + spread), ha="center", va="bottom", fontsize=8)
    for axes in (left, right):
        axes.axhline(dense, color=style.BASELINE, linewidth=1, label="dense" if axes is left else None)
        axes.set_yscale("log")
    left.set(xlabel="zeros, % of the layers' weights", ylabel="perplexity of a byte", title="Unstructured")
    left.set_xticks(percents)
    left.legend(loc="upper left")
    right.set(title="2:4")
    names = [method.replace("_", ",\n") for method in METHODS]
    right.set_xticks(range(len(METHODS)), names, fontsize=7, rotation=40)
    for axis in (left.yaxis, right.yaxis):
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter("{x:g}")
    return {"perplexity": figure}


if __name__ == "__main__":
    main()
