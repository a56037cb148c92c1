"""`docs/pruning.md`: what each way to prune costs beside what it gives, and what did not reproduce.

`python -m experiments.ledger` writes it, from the committed records only. A method is an arm with the metrics
`seconds` and `accuracy`: an experiment that measures both has its arms in the table.
"""

from collections.abc import Iterator

from experiments.frame.claim import Metrics, column, deviation, mean, show
from experiments.frame.entry import Entry, duration, provenance
from experiments.frame.markdown import plain

EXPERIMENTS = (
    "pruning_methods",
    "granularity",
    "pruning_ratio",
    "lottery_ticket",
    "lab1_vgg",
    "sparsegpt_wanda",
    "sparse_training",
    "jaxpruner_table",
    "thinet",
    "network_slimming",
    "netadapt",
    "amc",
    "sparse_storage",
)
COLUMNS = {  # metric: title and scale
    "zeros": ("zeros, %", 1),
    "seconds": ("to choose, s", 1),
    "statistics_bytes": ("statistics, kB", 1e-3),
    "state_bytes": ("state, kB", 1e-3),
    "untuned_accuracy": ("untuned, %", 1),
    "accuracy": ("tuned, %", 1),
}
HEAD = """# Pruning: cost and result

What each method costs, in time and memory, beside what it gives, and which claims did not reproduce at this
scale. `python -m experiments.ledger` writes this file from the records in `experiments/records/`; do not edit
it. Numbers are means over seeds ± the sample standard deviation; all claims are in
[RESULTS.md](../RESULTS.md).
"""


def number(metrics: Metrics, arm: str, metric: str, scale: float = 1) -> str:
    """A metric of an arm for a reader; a dash where it was not measured."""
    try:
        values = [scale * value for value in column(metrics, arm, metric).values()]
    except LookupError:
        return "-"
    return show(mean(values), spread=deviation(values))


def table(*rows: list[str]) -> list[str]:
    """Lines of a Markdown table, the first row its head."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return [lines[0], "|---" * len(rows[0]) + "|", *lines[1:], ""]


def methods(metrics: Metrics) -> dict[str, list[str]]:
    """Arms that have a cost and a result, by what stands before the dot of their names."""
    found: dict[str, list[str]] = {}
    for arm in metrics:
        measured = "-" not in (number(metrics, arm, "seconds"), number(metrics, arm, "accuracy"))
        if measured and arm != "baseline":
            found.setdefault(arm.rpartition(".")[0], []).append(arm)
    return found


def costs(entry: Entry) -> Iterator[str]:
    """The tables of an experiment's methods, one for each kind."""
    if entry.record is None or not (kinds := methods(entry.record.metrics)):
        return
    yield from (f"## {entry.name}", "", plain(entry.title), "")
    for kind, arms in kinds.items():
        rows = [
            [plain(arm.rpartition(".")[2])]
            + [number(entry.record.metrics, arm, metric, scale) for metric, (_, scale) in COLUMNS.items()]
            for arm in arms
        ]
        yield from table([plain(kind or "method"), *(title for title, _ in COLUMNS.values())], *rows)
    dense = number(entry.record.metrics, "baseline", "accuracy")
    yield from (f"Dense: {dense} %. {plain(provenance(entry.record))}", "")


def verdicts(entry: Entry) -> list[str]:
    """An experiment's row: how long it took, and what its claims came to."""
    counts = [sum(outcome.holds is holds for _, outcome in entry.rows) for holds in (True, False, None)]
    time = duration(entry.record.wall_s) if entry.record else "-"
    return [f"[{entry.name}](../RESULTS.md#{entry.name})", plain(entry.title), time, *map(str, counts)]


def failures(entry: Entry) -> Iterator[str]:
    """What did not reproduce, each with the rule that it broke."""
    for claim, outcome in entry.rows:
        if outcome.holds is False:
            published = plain(show(claim.published, unit=claim.unit))
            ours = plain(show(outcome.ours, spread=outcome.spread, unit=claim.unit))
            detail = f" ({plain(outcome.detail)})" if outcome.detail else ""
            yield (
                f"- **{plain(claim.id)}**: {plain(claim.metric)}. Published: {published} "
                f"({plain(claim.source)}); ours: {ours}{detail}. Asked for: {plain(claim.rule)}."
            )


def pruning(found: list[Entry]) -> str:
    """The whole file.

    Args:
        found: the ledger's entries; those of `EXPERIMENTS` are used, in its order.
    """
    by_name = {entry.name: entry for entry in found}
    own = [by_name[name] for name in EXPERIMENTS if name in by_name]
    lines = [HEAD, *(line for entry in own for line in costs(entry))]
    titles = ["experiment", "what", "took", "holds", "does not hold", "not run"]
    lines += ["## Claims", "", *table(titles, *map(verdicts, own)), "## What did not reproduce", ""]
    lines += [line for entry in own for line in failures(entry)] or ["Nothing that was run."]
    return "\n".join([*lines, ""])
