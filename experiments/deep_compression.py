"""Deep Compression: prune, share, code. LeNets shrink 40 times, into a file, within half a point.

Claim: Han, Mao and Dally, 2016, arXiv:1510.00149, Table 1: LeNet-300-100 40x (1070 KB to 27 KB), LeNet-5 39x
(1720 KB to 44 KB) on MNIST, without loss; Figure 6: pruning and quantization together beat either alone, and
SVD.

    python -m experiments.deep_compression                      # 5,000 real MNIST digits
    python -m experiments.deep_compression --data=fashion_mnist # another data set

Each network is trained, pruned in rounds with retraining, its weights are shared by k-means and the shared
values trained, and all is written to a file, read back, and its logits compared bit by bit. Sizes are the
file's. Arms beside it: one-shot pruning, quantization alone, SVD. The baseline is trained for as many epochs
as the compressed network; losses are against the better of its accuracies before and after that. Of each
network's largest layer 6 % is kept; the paper keeps 8 %, of a network trained on twelve times the images.
"""

import functools
import operator
from collections.abc import Callable
from typing import Any

from experiments.deep_compression_arms import Config, Network
from experiments.deep_compression_recipes import COLUMNS, RECIPES, TABLE_ONE
from experiments.frame import Claim, Outcome, Progress, by_seed, column, main, mean, paired

PAPER = "Han et al., Deep Compression, 2016"
NOT_SMALLER = 100.0  # percent: no point of an arm is good enough


def run(config: Config, *, progress: Progress | None = None) -> dict[str, Any]:
    """All arms of all networks: arm -> seed -> `<network>.<metric>` -> value."""
    networks = {name: Network(name, config) for name in config.networks}

    def one(seed: int, watch: Progress) -> dict[str, dict[str, Any]]:
        arms: dict[str, dict[str, Any]] = {}
        for name in watch.track(config.networks, f"seed {seed}: networks"):
            made = watch.part(f"{name}-{seed}", functools.partial(networks[name].run, seed, watch))
            for arm, values in made.items():
                arms.setdefault(arm, {}).update({f"{name}.{key}": value for key, value in values.items()})
        return arms

    return by_seed(one, config.seeds, progress=progress)


def ratio_claim(name: str, *, at_least: float, most_loss: float = 0.5) -> Callable[[Any], Outcome]:
    """The file is so many times smaller, at a mean loss of at most so much."""

    def check(metrics: Any) -> Outcome:
        ratios = column(metrics, "both", f"{name}.ratio")
        losses = column(metrics, "both", f"{name}.loss")
        same = column(metrics, "both", f"{name}.identical")
        loss = mean(losses.values())
        holds = mean(ratios.values()) >= at_least and loss <= most_loss and min(same.values()) == 1
        return Outcome.of(ratios, holds, f"mean loss of accuracy {loss:+.2f} points")

    return check


def loss_claim(name: str) -> Callable[[Any], Outcome]:
    """Accuracy lost from the dense network to the file."""

    def check(metrics: Any) -> Outcome:
        return Outcome.at_most(column(metrics, "both", f"{name}.loss"), 0.5)

    return check


def one_shot_claim(name: str) -> Callable[[Any], Outcome]:
    """How many times more one-shot pruning loses than pruning in rounds, at the same weights kept."""

    def check(metrics: Any) -> Outcome:
        untouched = column(metrics, "baseline", f"{name}.first_accuracy")
        at_once = paired(operator.sub, untouched, column(metrics, "one_shot", f"{name}.accuracy"))
        in_rounds = column(metrics, "pruned", f"{name}.loss")
        resolved = 0.1  # points: one test image of 1,000
        first, second = mean(at_once.values()), mean(in_rounds.values())
        return Outcome(
            ours=first / max(second, resolved),
            seeds=tuple(at_once),
            holds=first >= 5 * max(second, resolved),
            detail=f"at once {first:+.2f} points, in rounds {second:+.2f}",
        )

    return check


def point(metrics: Any, name: str, bits: int, key: str) -> dict[int, float]:
    """One number of quantization alone at a width, by seed."""
    found = {}
    for seed, values in metrics.get("quantized", {}).items():
        rows = [row for row in values.get(f"{name}.curve", ()) if row["bits"] == bits]
        if not rows:
            raise LookupError(f"{bits} bits were not measured")
        found[seed] = rows[0][key]
    return found


def eight_bits(metrics: Any) -> Outcome:
    """Accuracy lost at 8 bits, untuned."""
    baseline = column(metrics, "baseline", "lenet_300_100.first_accuracy")
    losses = paired(operator.sub, baseline, point(metrics, "lenet_300_100", 8, "untuned_accuracy"))
    return Outcome.at_most(losses, 0.3)


def few_bits(name: str, bits: int) -> Callable[[Any], Outcome]:
    """Collapse at few bits untuned, and recovery when tuned."""

    def check(metrics: Any) -> Outcome:
        baseline = column(metrics, "baseline", f"{name}.first_accuracy")
        untuned = paired(operator.sub, baseline, point(metrics, name, bits, "untuned_accuracy"))
        tuned = mean(paired(operator.sub, baseline, point(metrics, name, bits, "accuracy")).values())
        fell = mean(untuned.values())
        return Outcome.of(untuned, fell > 20 and tuned <= 3, f"tuned, the loss is {tuned:+.2f} points")

    return check


def smallest(metrics: Any, arm: str, name: str, most_loss: float = 1.0) -> float:
    """The smallest size, in percent, at which an arm's mean loss is at most `most_loss`, or NOT_SMALLER."""
    curves = [values[f"{name}.curve"] for values in metrics[arm].values()]
    points = [
        (mean([p["size"] for p in same]), mean([p["loss"] for p in same]))
        for same in zip(*curves, strict=True)
    ]
    return min([size for size, loss in points if loss <= most_loss], default=NOT_SMALLER)


def figure_six(metrics: Any) -> Outcome:
    """The order of the arms by the smallest size within a point of the baseline."""
    if "svd" not in metrics:
        raise LookupError("no curves")
    name = next(iter(next(iter(metrics["svd"].values())))).split(".")[0]
    sizes = {arm: smallest(metrics, arm, name) for arm in ("both", "pruned", "quantized", "svd")}
    holds = sizes["both"] < min(sizes["pruned"], sizes["quantized"]) and sizes["svd"] > max(
        sizes["pruned"], sizes["quantized"]
    )
    words = {arm: f"{size:.1f} %" if size < NOT_SMALLER else "none" for arm, size in sizes.items()}
    text = ", ".join(f"{arm} {size}" for arm, size in words.items())
    return Outcome(ours=text, seeds=tuple(metrics["svd"]), holds=holds)


CLAIMS = (
    *(
        Claim(
            id=f"dc-{name.replace('_', '-')}-ratio",
            paper=PAPER,
            arxiv="1510.00149",
            where="Table 1",
            metric=f"how many times smaller the file of {name} is than its float32 weights",
            unit="x",
            published=RECIPES[name].published_ratio,
            known="paper",
            rule=f"at least {RECIPES[name].published_ratio}x in file bytes, mean loss at most 0.5 points, "
            "the same logits bit for bit",
            check=ratio_claim(name, at_least=RECIPES[name].published_ratio),
        )
        for name in RECIPES
    ),
    *(
        Claim(
            id=f"dc-{name.replace('_', '-')}-loss",
            paper=PAPER,
            arxiv="1510.00149",
            where="Table 1",
            metric=f"accuracy of {name} lost by compression",
            unit="points",
            published=published,
            known="memory",
            rule="mean loss at most 0.5 points",
            check=loss_claim(name),
        )
        for name, published in (("lenet_300_100", -0.06), ("lenet5", -0.06))
    ),
    Claim(
        id="dc-figure-6",
        paper=PAPER,
        arxiv="1510.00149",
        where="Figure 6",
        metric="smallest size within one point of the baseline, by arm",
        published="both < either alone < SVD",
        known="paper",
        rule="pruning and sharing together are smaller than either alone, and SVD is larger than all",
        check=figure_six,
    ),
    Claim(
        id="dc-one-shot",
        paper="Han et al., Learning both Weights and Connections, 2015",
        arxiv="1506.02626",
        where="Figure 5",
        metric="mean loss of one-shot pruning, not retrained, over that of pruning in rounds (LeNet-300-100)",
        unit="x",
        published="5 or more",
        known="memory",
        rule="one-shot pruning without retraining loses at least 5 times more",
        check=one_shot_claim("lenet_300_100"),
    ),
    Claim(
        id="dc-8-bit",
        paper="MIT 6.5940, Lab 2",
        where="k-means quantization",
        metric="accuracy lost by an 8-bit codebook, untuned (LeNet-300-100; the lab: VGG on CIFAR-10)",
        unit="points",
        published=0.22,
        known="repository",
        rule="mean loss at most 0.3 points",
        check=eight_bits,
    ),
    Claim(
        id="dc-2-bit",
        paper="MIT 6.5940, Lab 2",
        where="k-means quantization",
        metric="accuracy lost by a 2-bit codebook, untuned (LeNet-300-100; the lab: VGG on CIFAR-10)",
        unit="points",
        published=76.72,
        known="repository",
        rule="untuned it loses more than 20 points; tuned, at most 3",
        check=few_bits("lenet_300_100", 2),
    ),
)


def tables(record: Any) -> list[Any]:
    """The paper's Table 1, and its Tables 2 and 3, ours over theirs."""
    from rich.table import Table

    made = [table_one(record)]
    for name in record.config["networks"]:
        table = Table(title=f"{name} by layer: ours, and the paper's (Tables 2 and 3)")
        for title in (
            "layer",
            "weights",
            "kept %",
            "weight bits",
            "+H",
            "index bits",
            "+H",
            "P+Q %",
            "P+Q+H %",
        ):
            table.add_column(title, justify="left" if title == "layer" else "right")
        seeds = [values[f"{name}.layers"] for values in record.metrics["both"].values()]
        for same in zip(*seeds, strict=True):
            layer = same[0]["layer"]
            ours = [mean([row[key] for row in same]) for key in COLUMNS]
            table.add_row(layer, f"{same[0]['weights']:,}", *(f"{value:.3g}" for value in ours))
            paper = RECIPES[name].published[layer]
            table.add_row(
                "", "[dim]paper[/dim]", *(f"[dim]{value:g}[/dim]" for value in paper), end_section=True
            )
        made.append(table)
    return made


def table_one(record: Any) -> Any:
    """Error and size before and after."""
    from rich.table import Table

    table = Table(
        title=f"Deep Compression on {record.config['data']}: ours, and the paper's on MNIST (Table 1)"
    )
    for title in ("network", "error %", "compressed", "bytes", "file bytes", "smaller"):
        table.add_column(title, justify="left" if title == "network" else "right")
    for name in record.config["networks"]:
        both = {
            key: mean(column(record.metrics, "both", f"{name}.{key}").values())
            for key in ("accuracy", "ratio", "file_bytes")
        }
        dense = mean(column(record.metrics, "baseline", f"{name}.accuracy").values())
        size = 4 * next(iter(record.metrics["both"].values()))[f"{name}.layers"][-1]["weights"]
        table.add_row(
            name, f"{100 - dense:.2f}", f"{100 - both['accuracy']:.2f}", f"{size:,.0f}",
            f"{both['file_bytes']:,.0f}", f"{both['ratio']:.1f}x",
        )  # fmt: skip
        before, after, kb, kb_after, rate = TABLE_ONE[name]
        cells = (f"{before:.2f}", f"{after:.2f}", f"{kb} KB", f"{kb_after} KB", f"{rate}x")
        table.add_row("[dim]paper[/dim]", *(f"[dim]{cell}[/dim]" for cell in cells), end_section=True)
    return table


LABELS = {
    "both": "pruned and shared",
    "pruned": "pruned only",
    "quantized": "shared only",
    "svd": "SVD",
}


def figures(record: Any) -> dict[str, Any]:
    """Figure 6: accuracy lost against the size that is left, by arm."""
    from experiments.frame import style

    made = {}
    for name in record.config["curves"]:
        figure, axes = style.figure(width=6.4, height=4.0)
        for arm, label in LABELS.items():
            curves = [values[f"{name}.curve"] for values in record.metrics[arm].values()]
            points = sorted(
                (mean([p["size"] for p in same]), -mean([p["loss"] for p in same]))
                for same in zip(*curves, strict=True)
            )
            axes.plot([x for x, _ in points], [y for _, y in points], "o-", label=label)
        axes.axhline(0, color=style.BASELINE, linewidth=1)
        axes.set(
            xscale="log",
            xlabel="size of the float32 network that is left, % (log)",
            ylabel="accuracy against dense, points",
            title=f"Accuracy against size: {name} on {record.config['data']}",
        )
        axes.set_xticks([1, 2, 5, 10, 20, 50], labels=["1", "2", "5", "10", "20", "50"])
        axes.legend(loc="lower right")
        made[f"figure6-{name}" if len(record.config["curves"]) > 1 else "figure6"] = figure
    return made


if __name__ == "__main__":
    main()
