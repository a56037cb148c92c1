"""The look of every figure: light, legible, safe for the colour-blind, lines named at their ends."""

import contextlib
import io
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, QUIET, GRID = "#1f2933", "#5b6670", "#e3e7eb"
PALETTE = ("#0072b2", "#d55e00", "#007a5e", "#a8508a", "#7a5c00", "#3d3d8f")
"""After Okabe and Ito (2008), darkened until each has a contrast of 3:1 or more on white."""
BASELINE = QUIET
"""The colour of the baseline arm, so that what is ours stands out."""

_SETTINGS: Any = {
    "figure.facecolor": "white",
    "figure.dpi": 150,
    "figure.constrained_layout.use": True,
    "savefig.facecolor": "white",
    "font.family": "DejaVu Sans",  # ships with matplotlib: the same everywhere
    "font.size": 10,
    "text.color": INK,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.labelcolor": INK,
    "axes.edgecolor": QUIET,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "lines.linewidth": 2.0,
    "lines.markersize": 5,
    "legend.frameon": False,
    "svg.hashsalt": "efficient",  # the same figure gives the same bytes
}


@contextlib.contextmanager
def context() -> Iterator[None]:
    """Makes and saves figures in the house style; the app enters it around `figures(record)`."""
    import matplotlib
    from cycler import cycler

    with matplotlib.rc_context(_SETTINGS | {"axes.prop_cycle": cycler(color=PALETTE)}):
        yield


def figure(*, rows: int = 1, columns: int = 1, width: float = 5.6, height: float = 3.4, **share: Any) -> Any:
    """A figure and its axes, as `plt.subplots` has them but with no global state; sizes in inches."""
    from matplotlib.figure import Figure

    made = Figure(figsize=(width, height))
    return made, made.subplots(rows, columns, **share)


def label_lines(axes: "Axes", *, gap: float = 0.06) -> None:
    """Writes each line's label at its right end, in its colour, `gap` of the height apart; call it last."""
    lines = [line for line in axes.lines if not str(line.get_label()).startswith("_")]
    axes.set(xlim=axes.get_xlim(), ylim=axes.get_ylim())  # the labels belong to these limits
    to_axes = axes.transScale + axes.transLimits
    ends = [to_axes.transform(np.asarray(line.get_xydata())[-1]) for line in lines]
    heights: list[float] = []
    for index in sorted(range(len(lines)), key=lambda i: ends[i][1]):
        height = max([ends[index][1], *(h + gap for h in heights[-1:])])
        heights.append(height)
        axes.annotate(
            str(lines[index].get_label()),
            xy=(1.01, height),
            xycoords="axes fraction",
            color=lines[index].get_color(),
            va="center",
            annotation_clip=False,
        )


def render(made: "Figure", kind: str) -> bytes:
    """The figure as `png` or `svg`; an svg has no date, so that the same figure gives the same bytes."""
    target = io.BytesIO()
    metadata = {"Date": None, "Creator": None} if kind == "svg" else None
    with context():
        made.savefig(target, format=kind, metadata=metadata)
    return target.getvalue()
