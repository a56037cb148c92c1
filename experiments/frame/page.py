"""The ledger as one HTML page that needs no network and runs no script."""

import base64
import html

from experiments.frame.claim import Claim, Outcome, show
from experiments.frame.entry import Entry, provenance, tally

_STYLE = """
:root { color-scheme: light; --ink: #1f2933; --quiet: #5b6670; --line: #dfe4e8; --blue: #00568a; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 72rem; padding: 2rem 1.25rem 4rem; background: #fff; color: var(--ink);
  font: 16px/1.5 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; overflow-wrap: break-word; }
h1 { margin: 0; font-size: 1.9rem; line-height: 1.2; }
h2 { margin: 3rem 0 .25rem; padding-top: 1.25rem; border-top: 1px solid var(--line); font-size: 1.3rem; }
p { margin: .5rem 0; max-width: 44rem; }
a { color: var(--blue); }
code { padding: .1em .35em; border-radius: 4px; background: #f2f4f6; font-size: .9em; }
.quiet { color: var(--quiet); font-size: .875rem; }
.tally { display: flex; flex-wrap: wrap; gap: .5rem; margin: 1.25rem 0; padding: 0; list-style: none; }
.verdict { display: inline-block; padding: .1rem .6rem; border-radius: 1rem; font-size: .875rem;
  font-weight: 600; white-space: nowrap; }
.holds { background: #e0f3ea; color: #00573f; }
.fails { background: #fde7df; color: #9a3000; }
.idle { background: #eceff1; color: #4a555e; }
table { width: 100%; border-collapse: collapse; font-size: .9rem; }
th { padding: .5rem .6rem; border-bottom: 2px solid var(--line); color: var(--quiet); font-size: .8rem;
  text-align: left; vertical-align: bottom; }
td { padding: .6rem; border-bottom: 1px solid var(--line); vertical-align: top; }
th.number, td.number { text-align: right; font-variant-numeric: tabular-nums; }
.whole { white-space: nowrap; }
td small { display: block; color: var(--quiet); }
dl { margin: 1rem 0; }
dt { margin-top: .75rem; font-weight: 600; }
dd { margin: 0; max-width: 44rem; }
figure { margin: 1.25rem 0; max-width: 40rem; }
figure img { display: block; width: 100%; height: auto; }
@media (max-width: 700px) {
  body { padding: 1.25rem 1rem 3rem; }
  table, tbody, tr, td { display: block; }
  thead { display: none; }
  tr { margin-bottom: 1rem; padding: .75rem 1rem; border: 1px solid var(--line); border-radius: 8px; }
  td, td.number { display: grid; grid-template-columns: 6rem 1fr; gap: .75rem; padding: .2rem 0; border: 0;
    text-align: left; }
  td::before { content: attr(data-label); color: var(--quiet); }
  td .verdict { justify-self: start; }
}
"""
_CLASS = {True: "holds", False: "fails", None: "idle"}
_MARK = {True: "✓", False: "✗", None: "○"}
_COLUMNS = ("claim and paper", "metric", "published", "ours", "seeds", "verdict")
_NUMBERS = ("published", "ours", "seeds")


def _badge(holds: bool | None, text: str) -> str:
    return f'<span class="verdict {_CLASS[holds]}">{_MARK[holds]} {html.escape(text)}</span>'


def _source(claim: Claim) -> str:
    link = f'<a href="https://arxiv.org/abs/{html.escape(claim.arxiv)}">arXiv:{html.escape(claim.arxiv)}</a>'
    return ", ".join(
        filter(None, [html.escape(claim.paper), link if claim.arxiv else "", html.escape(claim.where)])
    )


def _row(entry: Entry, claim: Claim, outcome: Outcome) -> str:
    ours = html.escape(show(outcome.ours, spread=outcome.spread, unit=claim.unit))
    whole = ' class="whole"' if isinstance(outcome.ours, float) else ""  # a number stays on one line
    cells = {
        "claim and paper": f'<a href="#{html.escape(entry.name)}">{html.escape(claim.id)}</a>'
        f"<small>{_source(claim)}</small>",
        "metric": html.escape(claim.metric),
        "published": f"{html.escape(show(claim.published, unit=claim.unit))}<small>{claim.known}</small>",
        "ours": f"<span{whole}>{ours}</span>",
        "seeds": str(len(outcome.seeds) or "-"),
        "verdict": _badge(outcome.holds, outcome.verdict),
    }
    made = "".join(
        f'<td data-label="{name}"{_number(name)}><div>{cell}</div></td>' for name, cell in cells.items()
    )
    return f"<tr>{made}</tr>"


def _number(name: str) -> str:
    return ' class="number"' if name in _NUMBERS else ""


def _figure(entry: Entry, name: str, svg: bytes) -> str:
    """A picture as an image and not inline: an image runs no script, and its ids meet no other's."""
    data = base64.b64encode(svg).decode()
    text = html.escape(f"{entry.name}: {name}")
    return (
        f'<figure><img alt="{text}" src="data:image/svg+xml;base64,{data}">'
        f'<figcaption class="quiet">{text}</figcaption></figure>'
    )


def _section(entry: Entry) -> str:
    rules = "".join(
        f"<dt>{html.escape(claim.id)} {_badge(outcome.holds, outcome.verdict)}</dt>"
        f'<dd>{html.escape(claim.rule)}<div class="quiet">{html.escape(outcome.detail)}</div></dd>'
        for claim, outcome in entry.rows
    )
    measured = html.escape(provenance(entry.record) if entry.record else "No record.")
    figures = "".join(_figure(entry, name, svg) for name, svg in entry.figures)
    return (
        f'<section id="{html.escape(entry.name)}"><h2>{html.escape(entry.name)}</h2>'
        f"<p>{html.escape(entry.title)}</p><p><code>python -m {html.escape(entry.module)}</code></p>"
        f'<dl>{rules}</dl>{figures}<p class="quiet">{measured}</p></section>'
    )


def page(found: list[Entry]) -> str:
    """The whole page: the tally, one row a claim, then each experiment with its rules and figures."""
    counts = tally(found)
    badges = "".join(
        f"<li>{_badge(holds, f'{verdict}: {count}')}</li>"
        for holds, (verdict, count) in zip((True, False, None), counts.items(), strict=True)
    )
    heads = "".join(f'<th scope="col"{_number(name)}>{name}</th>' for name in _COLUMNS)
    rows = "\n".join(_row(entry, claim, outcome) for entry in found for claim, outcome in entry.rows)
    sections = "\n".join(map(_section, found))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<title>efficient: results</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>Results</h1>
<p>Claims of papers, and what this code measures. Ours is the mean over seeds ± the sample standard deviation;
below a published value stands how it is known.</p>
<ul class="tally">{badges}</ul>
<table>
<thead><tr>{heads}</tr></thead>
<tbody>
{rows}
</tbody>
</table>
{sections}
</body>
</html>
"""
