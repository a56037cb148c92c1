"""HAQ: how many bits each layer gets at the BitOps of a uniform width, by an agent, evolution, or exactly.

Claim: Wang et al., 2019, arXiv:1811.08886, tables 3 to 6: at equal latency, energy or size, bits chosen by an
agent for each layer are more accurate than the best uniform width. Their published policies cost 0.5965 of
all 8 bits on their table of BitFusion (MobileNetV2), and 0.09958 of float32 (ResNet-50).

    python -m experiments.haq

Ours is the lab VGG at an eighth of its width on a part of Fashion-MNIST, its normalizations folded. Weights
have one scale a channel; inputs, where they are 2 to 8 bits wide too, the range of the calibration images. A
choice is scored by its accuracy on training images, untuned; what was found is trained for a few epochs in
its bits afterwards, as in the paper, and shown untuned and tuned. Beside the agent stand evolution, with as
many evaluations, and two exact allocations: of the rise of the loss where one layer alone is rounded
(measured), and of Hessian traces (HAWQ, Dong et al., 2020, arXiv:1911.03852; weights and inputs of a layer
equally wide). A first run of these seeds had no training and claims at 3 bits alone; those at 4 bits, and
tuned, were added after it. Cost: some 25 minutes.

Seen: at 4 bits' BitOps the agent, evolution and both exact allocations are above 4 bits everywhere, untuned
(0.2 to 2.5 points; the agent by 1.6). At 3 bits' none is, and once trained for three epochs none is above the
uniform width at either budget.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from efficient import at, lift
from efficient.core.layer_shapes import layer_uses
from efficient.models import zoo
from efficient.quantize.mixed import (
    Choice,
    Widths,
    allocate,
    bit_ops,
    haq,
    hessian_harms,
    hessian_traces,
    looked_up,
    mixed,
    total,
    weight_bytes,
    with_widths,
    within,
)
from efficient.search import DDPG, evolve
from efficient.train.classify import pixels
from experiments.folded_net import SMOKE, NetConfig, Nets
from experiments.frame import (
    Claim,
    Metrics,
    Outcome,
    Progress,
    average,
    better,
    by_seed,
    column,
    main,
    not_below,
)

WIDTHS = range(2, 9)
AGENT: Mapping[str, Any] = {"hidden": (64, 64), "actor_rate": 3e-4, "critic_rate": 1e-2}  # as in `amc`
UPDATES = 40  # of the agent, an episode
PAIRS = [Widths(w, i) for w in WIDTHS for i in WIDTHS]
TABLE = Path(__file__).parent / "tables" / "haq_bitfusion.npz"
# The authors' policies, as their README prints them: bits a layer; weight bits and input bits a layer.
RESNET50 = "665555455455555535435434442543353253243253253425234234"
MOBILENET = (
    "88 77 56 46 56 57 56 74 46 46 77 56 46 73 57 47 73 57 47 77 47 47 64 67 47 74 67 57 74 67 57 74 "
    "67 67 64 57 67 64 57 67 77 47 77 77 47 77 77 47 77 77 47 77 88"
)
LABELS = {
    "agent": "HAQ's agent",
    "evolution": "evolution",
    "measured": "exact, measured harms",
    "hessian": "exact, Hessian traces",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(NetConfig):
    """What is run."""

    budgets: tuple[int, ...] = (3, 4)  # BitOps are those of so many bits everywhere; both have claims
    episodes: int = 300  # of each search, > 0
    warmup: int = 60  # of them that are random, >= 0
    scored: int = 512  # training images that a choice is scored on, > 0
    samples: int = 64  # vectors that traces are estimated from, > 0
    tune: int = 3  # epochs of training in the bits that were found, > 0

    @classmethod
    def smoke(cls) -> "Config":
        """The same path on a small network and few images."""
        few = {"episodes": 4, "warmup": 2, "scored": 32, "samples": 2, "tune": 1}
        return cls(**SMOKE, **few, budgets=(3,))  # type: ignore[arg-type]


def published() -> dict[str, float]:
    """What the authors' two policies cost, by our layers and prices."""
    paths, sizes = {}, {}
    for name in ("mobilenet_v2", "resnet50"):
        model, x = zoo.get(name)
        uses = list(layer_uses(model.apply, jax.eval_shape(model.init, jax.random.key(0), x), x))
        paths[name], sizes[name] = [use.path for use in uses], uses
    with np.load(TABLE) as file:
        prices = looked_up(file["cost"], paths["mobilenet_v2"], PAIRS)
    pairs = [Widths(*map(int, pair)) for pair in MOBILENET.split()]
    policy = dict(zip(paths["mobilenet_v2"], pairs, strict=True))
    eight = dict.fromkeys(paths["mobilenet_v2"], Widths(8, 8))
    kept = [Widths(int(bits), 32) for bits in RESNET50]
    stored = total(
        weight_bytes(sizes["resnet50"], sorted(set(kept))),
        dict(zip(paths["resnet50"], kept, strict=True)),
    )
    whole = 4 * sum(math.prod(use.shape) for use in sizes["resnet50"])
    return {"bitfusion": total(prices, policy) / total(prices, eight), "bytes": stored / whole}


class Searches:
    """One network, its prices, and every way to choose."""

    def __init__(self, config: Config, nets: Nets, seed: int) -> None:
        self.config, self.net, self.key = config, nets.trained(seed), jax.random.key(seed)
        self.uses = list(layer_uses(self.net.folded.apply, self.net.params, nets.images[:1]))
        self.prices = bit_ops(self.uses, PAIRS)
        self.transform = at("**/kernel", mixed())
        stats = self.net.statistics("min", "max")
        self.state = self.transform.init(self.net.params, stats=stats)
        train = nets.bench.data
        first = config.calibration if len(train.train_labels) > config.calibration else 0
        chosen = slice(first, first + config.scored)
        self.x, self.labels = pixels(train.train_images[chosen]), jnp.asarray(train.train_labels[chosen])
        self.run = jax.jit(self._run)
        self.found: dict[Any, tuple[float, float]] = {}

    def _run(self, state: Any, x: Any) -> Any:
        return lift(self.net.folded.apply)(self.transform.apply(self.net.params, state), x)

    def scores(self, choice: Choice) -> tuple[float, float]:
        """Accuracy and loss on the training images, remembered."""
        key = tuple(sorted(choice.items()))
        if key not in self.found:
            logits = self.run(with_widths(self.state, choice), self.x)
            loss = jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, self.labels))
            self.found[key] = float(jnp.mean(logits.argmax(-1) == self.labels)), float(loss)
        return self.found[key]

    def accuracy(self, choice: Choice) -> float:
        """On the training images."""
        return self.scores(choice)[0]

    @functools.cached_property
    def step(self) -> Callable[..., Any]:
        """A step of Adam on kernels and biases, in any bits: one program."""

        def loss(params: Any, state: Any, x: Any, y: Any) -> Any:
            logits = lift(self.net.folded.apply)(self.transform.apply(params, state), x)
            return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, y))

        @jax.jit
        def step(params: Any, moments: Any, state: Any, x: Any, y: Any) -> Any:
            change, moments = self.optimizer.update(jax.grad(loss)(params, state, x, y), moments, params)
            return optax.apply_updates(params, change), moments

        return step

    @functools.cached_property
    def optimizer(self) -> optax.GradientTransformation:
        """Its rate falls to 0 on a cosine."""
        steps = self.config.tune * self.net.nets.bench.steps_per_epoch
        return optax.adam(optax.cosine_decay_schedule(5e-4, steps))

    def tuned(self, choice: Choice, seed: int) -> np.ndarray:
        """The test set's logits after training in these bits; ranges of inputs stay."""
        state, params = with_widths(self.state, choice), self.net.params
        moments, size = self.optimizer.init(params), self.config.batch_size
        data, draw = self.net.nets.bench.data, np.random.default_rng(seed)
        images, labels = np.asarray(data.train_images), np.asarray(data.train_labels)
        for _ in range(self.config.tune):
            order = draw.permutation(len(labels))[: len(labels) // size * size]
            for index in order.reshape(-1, size):
                params, moments = self.step(params, moments, state, pixels(images[index]), labels[index])
        run = jax.jit(lambda params, x: lift(self.net.folded.apply)(self.transform.apply(params, state), x))
        return self.net.logits(lambda x: run(params, x))

    def uniform(self, bits: int) -> dict[str, Widths]:
        """The same width everywhere."""
        return dict.fromkeys(self.prices, Widths(bits, bits))

    def agent(self, budget: float, track: Callable[..., Any]) -> Choice:
        """The best of HAQ's episodes."""
        config = self.config
        agent = DDPG(warmup=config.warmup, capacity=20_000, **AGENT)
        walk = haq(
            self.prices,
            budget,
            layers=self.uses,
            evaluate=self.accuracy,
            key=jax.random.fold_in(self.key, 1),
            episodes=config.episodes,
            agent=agent,
            updates=UPDATES,
        )
        return max(track(walk, "agent", total=config.episodes), key=lambda one: one.accuracy).choice

    def evolution(self, budget: float, track: Callable[..., Any]) -> Choice:
        """The best of a population, every vector read as the agent's actions are."""

        def choice(vector: np.ndarray) -> dict[str, Widths]:
            bits = 2 + np.clip(np.rint(vector * len(WIDTHS) - 0.5), 0, len(WIDTHS) - 1).astype(int)
            pairs = [Widths(int(w), int(i)) for w, i in bits.reshape(-1, 2)]
            return within(self.prices, dict(zip(self.prices, pairs, strict=True)), budget)

        found = evolve(
            lambda vector: self.accuracy(choice(vector)),
            2 * len(self.prices),
            evaluations=self.config.episodes,
            key=jax.random.fold_in(self.key, 2),
            track=track,
        )
        return choice(found.best.vector)

    @functools.cached_property
    def measured_harms(self) -> dict[str, dict[Widths, float]]:
        """The rise of the loss where one layer alone has a pair, the others 8 bits."""
        eight, loss = self.uniform(8), self.scores(self.uniform(8))[1]
        return {
            path: {pair: self.scores({**eight, path: pair})[1] - loss for pair in PAIRS}
            for path in self.prices
        }

    @functools.cached_property
    def hessian_harms(self) -> dict[str, dict[Widths, float]]:
        """HAWQ's, of pairs of equal widths."""

        def loss(params: Any) -> Any:
            logits = self.net.folded.apply(params, self.x[:128])
            return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, self.labels[:128]))

        traces = hessian_traces(loss, self.net.params, key=self.key, samples=self.config.samples)
        return hessian_harms(traces, self.net.params, [Widths(bits, bits) for bits in WIDTHS])

    def by_way(self, budget: float, track: Callable[..., Any]) -> Mapping[str, Callable[[], Choice]]:
        """Every way to choose within a budget."""
        return {
            "agent": lambda: self.agent(budget, track),
            "evolution": lambda: self.evolution(budget, track),
            "measured": lambda: allocate(self.measured_harms, self.prices, budget),
            "hessian": lambda: allocate(self.hessian_harms, self.prices, budget),
        }


def run(config: Config, *, progress: Progress | None = None) -> Metrics:
    """By arm (`baseline`, `uniform_3`, `agent_3`, ..., `published`): accuracies in percent, BitOps."""
    nets, policies = Nets(config), published()

    def one(seed: int, watch: Progress) -> dict[str, dict[str, float]]:
        search = Searches(config, nets, seed)
        logits = search.net.under(search.net.params)
        arms = {"baseline": search.net.scored(logits, logits), "published": policies}

        def scored(choice: Choice) -> dict[str, float]:
            state = with_widths(search.state, choice)
            found = search.net.scored(search.net.logits(lambda x: search.run(state, x)), logits)
            searched = 100 * search.accuracy(choice)
            tuned = search.net.scored(search.tuned(choice, seed + 1000), logits)["accuracy"]
            return {
                **found,
                "tuned_accuracy": tuned,
                "searched_accuracy": searched,
                "bit_ops": total(search.prices, choice),
            }

        for bits in config.budgets:
            budget = total(search.prices, search.uniform(bits))
            arms[f"uniform_{bits}"] = scored(search.uniform(bits))
            for name, make in search.by_way(budget, watch.track).items():
                arms[f"{name}_{bits}"] = scored(make())
        return arms

    return by_seed(one, config.seeds, progress=progress)


def within_budget(metrics: Metrics) -> Outcome:
    """The largest part of the uniform width's BitOps that any choice costs."""
    names = [name for name in metrics if name.partition("_")[0] in LABELS]
    if not names:
        raise LookupError("no arm of a search")
    parts = {
        seed: max(
            column(metrics, name, "bit_ops")[seed]
            / column(metrics, f"uniform_{name.rpartition('_')[2]}", "bit_ops")[seed]
            for name in names
        )
        for seed in column(metrics, names[0], "bit_ops")
    }
    return Outcome.of(parts, max(parts.values()) <= 1)


def equals(metric: str, value: float, digits: int) -> Callable[[Metrics], Outcome]:
    """A policy costs what its authors say."""

    def check(metrics: Metrics) -> Outcome:
        found = column(metrics, "published", metric)
        return Outcome.of(found, all(round(one, digits) == value for one in found.values()))

    return check


HAQ = functools.partial(
    Claim, paper="Wang et al., HAQ, 2019", arxiv="1811.08886", unit="points", known="memory"
)
CLAIMS = (
    HAQ(
        id="haq-bitfusion",
        metric="cost of the published MobileNetV2 policy over all 8 bits, on their table",
        unit="x",
        published=0.5965,
        known="recomputed",
        rule="equal when rounded",
        check=equals("bitfusion", 0.5965, 4),
    ),
    HAQ(
        id="haq-bytes",
        metric="bytes of the published ResNet-50 policy over float32",
        unit="x",
        published=0.09958,
        known="recomputed",
        rule="equal when rounded",
        check=equals("bytes", 0.09958, 5),
    ),
    HAQ(
        id="haq-agent-tuned",
        where="tables 3 to 6",
        metric="accuracy of the agent's bits above 3 bits everywhere, at their BitOps, both tuned",
        published="above 0",
        rule="mean gap above 0 by 2 standard errors",
        check=better("agent_3", "uniform_3", "tuned_accuracy"),
    ),
    *(
        HAQ(
            id=f"haq-agent-uniform-{bits}",
            metric=f"accuracy of the agent's bits above {bits} bits everywhere, at their BitOps, untuned",
            published="above 0",
            rule="mean gap above 0 by 2 standard errors",
            check=better(f"agent_{bits}", f"uniform_{bits}"),
        )
        for bits in (4, 3)
    ),
    HAQ(
        id="haq-agent-evolution",
        metric="accuracy of the agent's bits above those of evolution, 4 bits' BitOps, untuned",
        published="not compared",
        rule="mean gap not below 0 by more than 2 standard errors",
        check=not_below("agent_4", "evolution_4"),
    ),
    HAQ(
        id="haq-budget",
        metric="BitOps of any choice over those of the uniform width",
        unit="x",
        published="at most 1",
        known="paper",
        where="section 3.3",
        rule="at most 1 in every arm and seed",
        check=within_budget,
    ),
    *(
        HAQ(
            id=f"hawq-uniform-{bits}",
            paper="Dong et al., HAWQ-V2, 2020",
            arxiv="1911.03852",
            metric=f"accuracy of bits by Hessian traces above {bits} bits everywhere, untuned",
            published="above 0",
            rule="mean gap above 0 by 2 standard errors",
            check=better(f"hessian_{bits}", f"uniform_{bits}"),
        )
        for bits in (4, 3)
    ),
    HAQ(
        id="hawq-measured",
        paper="Yao et al., HAWQ-V3, 2021",
        arxiv="2011.10680",
        metric="accuracy of bits by measured harms, solved exactly, above 4 bits everywhere, untuned",
        published="above 0",
        rule="mean gap above 0 by 2 standard errors",
        check=better("measured_4", "uniform_4"),
    ),
)


def tables(record: Any) -> list[Any]:
    """Accuracy of every way at each budget."""
    from rich.table import Table

    dense = average(record.metrics, "baseline", "accuracy")
    table = Table(title=f"Bits a layer, accuracy %; dense {dense:.2f}")
    table.add_column("choice", no_wrap=True)
    for bits in record.config["budgets"]:
        table.add_column(f"at {bits} bits' BitOps", justify="right")
        table.add_column("tuned", justify="right")
    for name, label in {"uniform": "the same everywhere", **LABELS}.items():
        arms = [f"{name}_{bits}" for bits in record.config["budgets"]]
        cells = [average(record.metrics, a, m) for a in arms for m in ("accuracy", "tuned_accuracy")]
        table.add_row(label, *(f"{cell:.2f}" for cell in cells))
    return [table]


def figures(record: Any) -> dict[str, Any]:
    """Accuracy by way, one point a seed."""
    from experiments.frame import style

    budgets = record.config["budgets"]
    figure, axes = style.figure(columns=len(budgets), width=5.0 * len(budgets), height=3.6)
    names = {"uniform": "uniform", **LABELS}
    for i, (one, bits) in enumerate(zip(np.atleast_1d(np.asarray(axes)), budgets, strict=True)):
        for seed in record.metrics["baseline"]:
            values = [column(record.metrics, f"{name}_{bits}", "accuracy")[seed] for name in names]
            one.plot(values, range(len(names)), "o", label=f"seed {seed}")
        one.set_yticks(range(len(names)), list(names.values()) if i == 0 else [""] * len(names))
        one.invert_yaxis()
        one.set(xlabel="test accuracy, %", title=f"BitOps of {bits} bits")
        one.legend(loc="best", fontsize=8)
    return {"haq": figure}


if __name__ == "__main__":
    main()
