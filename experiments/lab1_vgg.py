"""A VGG pruned as in a course's lab: channels, the first or the largest; layers alone; single weights.

Claim: MIT 6.5940, Lab 1 (a VGG on CIFAR-10, 92.95 %): 30 % of the channels gone make 605,754,368 MACs
305,388,064 (convolutions, dense layer, normalization, pooling) and 9,228,362 parameters 5.01M. The first 70 %
of the channels give 28.14 %; once sorted by the Frobenius norm of what consumes them, which changes nothing,
36.81 %; fine-tuned, 92.22 %. At 90 % sparsity of one layer alone the first convolution is hurt most (31.81 %)
and the classifier least (92.52 %). A quarter of the weights, chosen by such a scan, tunes to 92.83 %.

    python -m experiments.lab1_vgg

MACs and parameters are exact, of the lab's own network, by its shapes. What is trained is *another*: the same
layers at an eighth of their width, on a part of Fashion-MNIST, with Adam where the lab has SGD. As in the lab
the last convolution keeps all its channels. The scan is made on training images held out (there: the test
set), and sets what the lab sets by hand, each layer's sparsity: that of the least loss borne at which so few
weights stay. The baseline is the better of the network before and after as many more epochs as the tuning
takes. Cost: some 9 minutes.

Seen: counts are the lab's to the digit, and sorting changes nothing. Untuned, the largest 70 % of channels
are no better than the first 70 %, both at 23 %; tuned, both are within 0.4 points of the dense network. The
first convolution is the most sensitive layer; the least is the last convolution, not the classifier.
"""

import dataclasses
import functools
import operator
from collections.abc import Callable
from typing import Any

from efficient.prune import Sensitivity
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
    paired,
)
from experiments.lab1_vgg_arms import FIRST, LAST, Arms, Config


def run(config: Config, *, progress: Progress | None = None) -> Metrics:
    """By arm (`full`, `full_pruned`, `baseline`, `first`, `sorted`, `scan`, `fine`): counts, percents."""
    return by_seed(Arms(config).run, config.seeds, progress=progress)


def exactly(arm: str, metric: str, value: float, *, of: int = 1) -> Callable[[Metrics], Outcome]:
    """The metric over `of` is the value in every seed: a whole number, or one of two digits."""

    def check(metrics: Metrics) -> Outcome:
        found = {seed: one / of for seed, one in column(metrics, arm, metric).items()}
        return Outcome.of(found, all(round(one, 2) == value for one in found.values()))

    return check


def lost(arm: str, most: float) -> Callable[[Metrics], Outcome]:
    """Tuned, the arm loses on average at most so many points against the dense network."""
    return lambda metrics: Outcome.at_most(column(metrics, arm, "loss"), most)


def unmoved(metrics: Metrics) -> Outcome:
    """Sorting moves no logit by more than 1e-4, in any seed."""
    moves = column(metrics, "sorted", "moved")
    return Outcome.of(moves, max(moves.values()) <= 1e-4)


def sorted_above_first(metrics: Metrics) -> Outcome:
    """What the channels of the largest norm have above the first ones, untuned."""
    both = (column(metrics, arm, "untuned_accuracy") for arm in ("sorted", "first"))
    return Outcome.above(paired(operator.sub, *both))


def first_above_classifier(metrics: Metrics) -> Outcome:
    """How much more the first convolution loses than the classifier, each alone at the highest sparsity."""
    both = (column(metrics, "scan", f"loss_{path}") for path in (FIRST, LAST))
    return Outcome.above(paired(operator.sub, *both))


def extremes(metrics: Metrics) -> Outcome:
    """By mean loss the first convolution is the most sensitive layer and the classifier the least."""
    names = {name for values in metrics["scan"].values() for name in values if name.startswith("loss_")}
    losses = {name.removeprefix("loss_"): column(metrics, "scan", name) for name in sorted(names)}
    ranked = sorted(losses, key=lambda path: mean(losses[path].values()))
    detail = f"least {ranked[0].split('/')[0]}, most {ranked[-1].split('/')[0]}"
    return Outcome.of(losses[FIRST], (ranked[0], ranked[-1]) == (LAST, FIRST), detail)


LAB = functools.partial(Claim, paper="MIT 6.5940, Lab 1", known="repository")
THIN = "(the lab: whole width, CIFAR-10)"
CLAIMS = (
    LAB(
        id="lab1-macs",
        where="VGG on CIFAR-10",
        metric="MACs of the lab's VGG, convolutions and dense layer",
        published=605_754_368.0,
        known="recomputed",
        rule="exactly",
        check=exactly("full", "macs", 605_754_368),
    ),
    LAB(
        id="lab1-pruned-macs",
        where="channel pruning",
        metric="MACs of the lab's VGG with 30 % of its channels gone, normalization and pooling counted",
        published=305_388_064.0,
        rule="exactly",
        check=exactly("full_pruned", "torchprofile_macs", 305_388_064),
    ),
    LAB(
        id="lab1-params",
        where="VGG on CIFAR-10",
        metric="parameters of the lab's VGG",
        published=9_228_362.0,
        rule="exactly",
        check=exactly("full", "params", 9_228_362),
    ),
    LAB(
        id="lab1-pruned-params",
        where="channel pruning",
        metric="parameters of the lab's VGG with 30 % of its channels gone",
        unit="M",
        published=5.01,
        rule="to two digits",
        check=exactly("full_pruned", "params", 5.01, of=10**6),
    ),
    LAB(
        id="lab1-sorting",
        where="channel pruning",
        metric="the most that sorting the channels moves a logit",
        published=0.0,
        rule="at most 1e-4 in every seed",
        check=unmoved,
    ),
    LAB(
        id="lab1-sorted-first",
        where="channel pruning",
        metric=f"accuracy of sorted channels above the first ones, 30 % gone, untuned {THIN}",
        unit="points",
        published=8.67,
        rule="mean gap above 0 by 2 standard errors",
        check=sorted_above_first,
    ),
    LAB(
        id="lab1-channels-tuned",
        where="channel pruning",
        metric=f"accuracy lost to 30 % of the channels, sorted and tuned {THIN}",
        unit="points",
        published=0.73,
        rule="mean loss at most 1 point",
        check=lost("sorted", 1.0),
    ),
    LAB(
        id="lab1-sensitivity",
        where="sensitivity scan",
        metric=f"how much more 90 % of the first convolution cost than 90 % of the classifier {THIN}",
        unit="points",
        published=60.71,
        rule="mean gap above 0 by 2 standard errors",
        check=first_above_classifier,
    ),
    LAB(
        id="lab1-sensitivity-extremes",
        where="sensitivity scan",
        metric=f"accuracy lost to 90 % of the most sensitive layer, the first {THIN}",
        unit="points",
        published=61.14,
        rule="of all layers the first convolution loses most and the classifier least, by mean loss",
        check=extremes,
    ),
    LAB(
        id="lab1-fine",
        where="fine-grained pruning",
        metric=f"accuracy lost to three weights in four, each layer as the scan allows, tuned {THIN}",
        unit="points",
        published=0.12,
        rule="mean loss at most 0.5 points",
        check=lost("fine", 0.5),
    ),
)

ARMS = {"first": "first 70 % of channels", "sorted": "largest 70 % of channels", "fine": "single weights"}


def mean_scan(record: Any) -> Sensitivity:
    """The scan, averaged over seeds."""
    scans = list(record.metrics["scan"].values())
    curves = {
        path: {s: mean(one["curves"][path][i][1] for one in scans) for i, (s, _) in enumerate(pairs)}
        for path, pairs in scans[0]["curves"].items()
    }
    return Sensitivity(baseline=average(record.metrics, "scan", "baseline"), curves=curves)


def tables(record: Any) -> list[Any]:
    """Costs of the lab's network, accuracies of ours, and its scan."""
    from rich.table import Table

    costs = Table("network", "MACs", "with norms and pools", "params", title="The lab's VGG")
    for arm, label in (("full", "dense"), ("full_pruned", "channels gone")):
        values = (average(record.metrics, arm, metric) for metric in ("macs", "torchprofile_macs", "params"))
        costs.add_row(label, *(f"{value:,.0f}" for value in values))
    arms = Table("what stays", "untuned", "tuned", title="The thin VGG, test accuracy %")
    dense = (average(record.metrics, "baseline", metric) for metric in ("first_accuracy", "accuracy"))
    arms.add_row("all", *(f"{value:.2f}" for value in dense))
    for arm, label in ARMS.items():
        values = (average(record.metrics, arm, metric) for metric in ("untuned_accuracy", "accuracy"))
        arms.add_row(label, *(f"{value:.2f}" for value in values))
    return [costs, arms, mean_scan(record).__rich__()]


def figures(record: Any) -> dict[str, Any]:
    """The sensitivity scan, and bars of what stays, untuned and tuned."""
    return {"sensitivity": _scan_figure(record), "arms": _bars(record)}


def _scan_figure(record: Any) -> Any:
    """A line a layer, from blue to yellow with depth, the classifier dashed."""
    from matplotlib import colormaps

    from experiments.frame import style

    figure, axes = style.figure(width=7.2, height=4.2)
    scan = mean_scan(record)
    paths = sorted(scan.curves, key=lambda path: (path == LAST, path))
    shown = dataclasses.replace(scan, curves={path: scan.curves[path] for path in paths})
    shown.draw(axes, names={path: path.split("/")[0] for path in paths})
    for i, line in enumerate(axes.lines):
        line.set_color(colormaps["viridis"](0.9 * i / len(axes.lines)))
    axes.lines[-1].set(color=style.INK, linestyle="--")
    axes.set(ylabel="accuracy on held-out images, %", title="Each layer pruned alone")
    figure.legend(loc="outside right center")
    return figure


def _bars(record: Any) -> Any:
    """Untuned and tuned accuracy beside the dense network's."""
    from experiments.frame import style

    figure, axes = style.figure(width=6.4, height=3.8)
    for shift, metric, label in ((-0.2, "untuned_accuracy", "untuned"), (0.2, "accuracy", "tuned")):
        heights = [average(record.metrics, arm, metric) for arm in ARMS]
        bars = axes.bar([i + shift for i in range(len(ARMS))], heights, width=0.38, label=label)
        axes.bar_label(bars, fmt="%.1f", padding=-13, color="white")  # inside, clear of the line
    dense = average(record.metrics, "baseline", "accuracy")
    axes.axhline(dense, color=style.BASELINE, linewidth=1, label=f"dense, {dense:.1f}")
    labels = [label.replace(" of ", "\nof ").replace("single ", "single\n") for label in ARMS.values()]
    axes.set_xticks(range(len(ARMS)), labels)
    axes.set(ylabel="test accuracy, %", ylim=(0, 105), title="Fewer channels, or fewer weights")
    axes.legend(loc="upper center", ncols=3, fontsize=8)
    return figure


if __name__ == "__main__":
    main()
