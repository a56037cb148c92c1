"""NetAdapt: channels cut where they cost least, under a budget of MACs or of measured milliseconds.

Claim: Yang et al., 2018, arXiv:1804.03230: a network whose channels are cut one layer at a time, each time
where a short tuning shows the least harm, is better than one whose layers are all thinned alike (MobileNets'
width multiplier), at one cost; measured times may be the cost.

    python -m experiments.netadapt

Ours is the lab VGG at an eighth of its width on a part of Fashion-MNIST, at half of its MACs, or at 80 % of
its milliseconds on this machine, of which the least counts take some 60 %. Channels are ranked once, in the
dense network, by the norm of all their weights (the paper: of their filters, in each iteration). Steps are
larger than the authors', so that the search is short. Cuts leave multiples of 4, or of 8 under milliseconds:
odd counts may be slower than more channels. Candidates are judged on training images held out. The uniform
network keeps one ratio of every group, the largest that meets the budget, and is tuned as long, shortly and
after; the dense network is the better of before and after. Measured times are of networks really shrunk, each
in turns with the dense one; a search that takes the least of many measurements finds it less fast when it is
measured anew. Cost: some 9 minutes.

Seen: half of the MACs cost half a point on average; searched counts are no better than one ratio (0.4 points
below, +- 0.6). But they are faster: 1.2 times the dense network, where one ratio, with its odd counts, is
slower (0.83); a budget of milliseconds is met with 69 % of the MACs and nothing lost.
"""

import dataclasses
import functools
import operator
from collections.abc import Callable
from typing import Any

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
from experiments.netadapt_arms import Arms, Config


def run(config: Config, *, progress: Progress | None = None) -> Metrics:
    """By arm (`baseline`, `uniform`, `netadapt`, `netadapt_ms`): percents, milliseconds, search paths."""
    return by_seed(Arms(config).run, config.seeds, progress=progress)


def above_uniform(metrics: Metrics) -> Outcome:
    """What the searched network has above the uniform one, tuned."""
    return Outcome.above(
        paired(operator.sub, *(column(metrics, arm, "accuracy") for arm in ("netadapt", "uniform")))
    )


def within(arm: str) -> Callable[[Metrics], Outcome]:
    """The price found is at most the budget in every seed."""

    def check(metrics: Metrics) -> Outcome:
        shares, budgets = (column(metrics, arm, metric) for metric in ("share", "budget"))
        return Outcome.of(shares, all(shares[seed] <= budgets[seed] for seed in shares))

    return check


def within_as_counted(metrics: Metrics) -> Outcome:
    """MACs are at most the budget in every seed, and those of the program that is left."""
    met = within("netadapt")(metrics)
    shares, counted = (column(metrics, "netadapt", metric) for metric in ("share", "counted_macs"))
    return dataclasses.replace(met, holds=bool(met.holds) and shares == counted)


def faster(arm: str) -> Callable[[Metrics], Outcome]:
    """How many times as long the dense network takes is above 1."""
    return lambda metrics: Outcome.above(column(metrics, arm, "speedup"), 1.0)


NETADAPT = functools.partial(Claim, paper="Yang et al., NetAdapt, 2018", arxiv="1804.03230", known="memory")
CLAIMS = (
    NETADAPT(
        id="netadapt-uniform",
        where="against width multipliers",
        metric="accuracy of searched counts above one ratio for all, at half of the MACs, tuned",
        unit="points",
        published="above 0",
        rule="mean gap above 0 by 2 standard errors",
        check=above_uniform,
    ),
    NETADAPT(
        id="netadapt-budget",
        where="algorithm 1",
        metric="MACs of the network found, of the dense one's; half is the budget",
        unit="%",
        published="at most 50",
        rule="at most the budget in every seed, and equal to what the shrunk program counts",
        check=within_as_counted,
    ),
    NETADAPT(
        id="netadapt-faster",
        where="tables of latency",
        metric="measured time of the dense network over that of the one found at half of the MACs",
        unit="x",
        published="above 1",
        rule="mean above 1 by 2 standard errors",
        check=faster("netadapt"),
    ),
    NETADAPT(
        id="netadapt-ms-budget",
        where="algorithm 1",
        metric="milliseconds of the network found, of the dense one's, as the search saw them",
        unit="%",
        published="at most 80",
        rule="at most the budget in every seed",
        check=within("netadapt_ms"),
    ),
    NETADAPT(
        id="netadapt-ms-faster",
        where="tables of latency",
        metric="time of the dense network over that of the one found under milliseconds, measured anew",
        unit="x",
        published="above 1",
        rule="mean above 1 by 2 standard errors",
        check=faster("netadapt_ms"),
    ),
)

LABELS = {"uniform": "uniform", "netadapt": "NetAdapt, MACs", "netadapt_ms": "NetAdapt, ms"}


def tables(record: Any) -> list[Any]:
    """Cost, time and accuracy of each arm, and the channels that stay in the first seed."""
    from rich.table import Table

    table = Table(title="The thin VGG: what is left of it, and what it gives")
    for title in ("network", "MACs %", "ms", "dense / it", "accuracy %"):
        table.add_column(title, justify="left" if title == "network" else "right")
    dense = (average(record.metrics, "baseline", metric) for metric in ("ms", "accuracy"))
    table.add_row("dense", "100", *(f"{value:.2f}" for value in (next(dense), 1.0, next(dense))))
    for arm, label in LABELS.items():
        values = (average(record.metrics, arm, metric) for metric in ("macs", "ms", "speedup", "accuracy"))
        table.add_row(label, *(f"{value:.2f}" for value in values))
    counts = {arm: next(iter(record.metrics[arm].values()))["counts"] for arm in LABELS}
    left = Table("group", *LABELS.values(), title="Channels that stay, first seed")
    for name in counts["uniform"]:
        left.add_row(name.removeprefix("params/"), *(str(counts[arm][name]) for arm in LABELS))
    return [table, left]


def figures(record: Any) -> dict[str, Any]:
    """The search, with uniform networks of the same MACs; then accuracy against milliseconds, all tuned."""
    from experiments.frame import style

    figure, both = style.figure(columns=2, width=9.6, height=4.2)
    for color, arm, line in zip(style.PALETTE, LABELS, ("s", "o-", "^-"), strict=False):
        for index, values in enumerate(record.metrics[arm].values()):
            shares, accuracies = zip(*values["path"], strict=True)
            label = LABELS[arm] if index == 0 else None
            both[0].plot(shares, accuracies, line, color=color, label=label, linewidth=1.2, alpha=0.8)
        times, tuned = (list(column(record.metrics, arm, m).values()) for m in ("speedup", "accuracy"))
        both[1].plot([100 / t for t in times], tuned, line[0], color=color, label=LABELS[arm])
    both[0].invert_xaxis()
    dense = column(record.metrics, "baseline", "accuracy").values()
    both[1].axhline(mean(dense), color=style.BASELINE, linewidth=1, label="dense")
    both[0].set(xlabel="MACs or ms left, %", ylabel="accuracy on held-out images, %", title="Tuned shortly")
    both[1].set(xlabel="measured time, % of dense", ylabel="test accuracy, %", title="Tuned at the end")
    both[0].legend(loc="lower left", fontsize=8)
    both[1].legend(loc="best", fontsize=8)
    return {"search": figure}


if __name__ == "__main__":
    main()
