"""The ledger as Markdown: `RESULTS.md`."""

import html
import re

from experiments.frame.claim import Claim, Outcome, show
from experiments.frame.entry import Entry, provenance, tally


def plain(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    return re.sub(r"([\\`*_\[\]|~])", r"\\\1", html.escape(" ".join(text.split()), quote=False))


def _source(claim: Claim) -> str:
    link = f"[arXiv:{claim.arxiv}](https://arxiv.org/abs/{claim.arxiv})" if claim.arxiv else ""
    return ", ".join(filter(None, [plain(claim.paper), link, plain(claim.where)]))


def _row(entry: Entry, claim: Claim, outcome: Outcome) -> str:
    cells = [
        f"[{plain(claim.id)}](#{entry.name})",
        _source(claim),
        plain(claim.metric),
        f"{plain(show(claim.published, unit=claim.unit))} ({claim.known})",
        plain(show(outcome.ours, spread=outcome.spread, unit=claim.unit)),
        str(len(outcome.seeds) or "-"),
        outcome.verdict if outcome.holds else f"**{outcome.verdict}**",
    ]
    return f"| {' | '.join(cells)} |"


def _section(entry: Entry) -> list[str]:
    lines = [f"## {entry.name}", "", plain(entry.title), "", f"`python -m {entry.module}`", ""]
    for claim, outcome in entry.rows:
        detail = f" ({plain(outcome.detail)})" if outcome.detail else ""
        lines.append(f"- {plain(claim.id)}: {plain(claim.rule)} - **{outcome.verdict}**{detail}")
    return [*lines, "", plain(provenance(entry.record)) if entry.record else "No record.", ""]


def results(found: list[Entry]) -> str:
    """The whole file: one row a claim, then what each experiment was and where it was measured."""
    counts = ", ".join(f"{verdict}: {count}" for verdict, count in tally(found).items())
    lines = [
        "# Results",
        "",
        "Claims of papers, and what this code measures. `python -m experiments.ledger` writes this file from",
        "the records in `experiments/records/`; do not edit it. Ours is the mean over seeds ± the sample",
        "standard deviation. In brackets: how the published value is known. The same with figures:",
        "[docs/ledger.html](docs/ledger.html).",
        "",
        f"**{counts}**",
        "",
        "| claim | paper | metric | published | ours | seeds | verdict |",
        "|---|---|---|---|---|---|---|",
        *(_row(entry, claim, outcome) for entry in found for claim, outcome in entry.rows),
        "",
    ]
    for entry in found:
        lines += _section(entry)
    return "\n".join(lines)
