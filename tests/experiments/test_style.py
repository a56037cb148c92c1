"""Figures in one style."""

import colorsys

import numpy as np
import pytest

from experiments.frame import style


def luminance(colour):
    """Relative luminance of `#rrggbb` (WCAG 2.1)."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


@pytest.mark.parametrize("colour", [*style.PALETTE, style.BASELINE, style.INK])
def test_every_colour_has_contrast_on_white(colour):
    assert 1.05 / (luminance(colour) + 0.05) >= 3.0


# Protanopia and deuteranopia, linear RGB: Machado, Oliveira, Fernandes, 2009, severity 1.
DEFICIENCIES = {
    "protan": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deutan": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
}


@pytest.mark.parametrize("kind", sorted(DEFICIENCIES))
def test_the_first_colours_stay_apart_for_the_colour_blind(kind):
    rgb = np.array([[int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)] for c in style.PALETTE[:4]])
    seen = np.clip(rgb**2.2 @ np.array(DEFICIENCIES[kind]).T, 0, 1) ** (1 / 2.2)
    apart = np.linalg.norm(seen[:, None] - seen[None], axis=-1)[np.triu_indices(4, 1)]
    assert apart.min() > 0.1
    assert colorsys.rgb_to_hsv(*rgb[0])[1] > 0.5  # a colour and not a grey: that is the baseline's


def plotted(*heights):
    with style.context():
        made, axes = style.figure()
        for height in heights:
            axes.plot([0, 1], [0, height], label=f"line {height}")
        axes.plot([0, 1], [0, 0], label="_unnamed")
        style.label_lines(axes)
    return made, axes


def test_lines_are_named_at_their_ends_and_apart():
    _, axes = plotted(1.0, 1.001, 0.2)
    places = {text.get_text(): text.xy[1] for text in axes.texts}
    assert set(places) == {"line 1.0", "line 1.001", "line 0.2"}
    assert places["line 1.001"] - places["line 1.0"] >= 0.06 - 1e-9
    low, high = axes.get_ylim()
    assert places["line 0.2"] == pytest.approx((0.2 - low) / (high - low))


def test_the_same_figure_gives_the_same_bytes():
    first, second = (style.render(plotted(1.0, 2.0)[0], "svg") for _ in range(2))
    assert first == second
    assert first.startswith(b"<?xml")
    assert style.render(plotted(1.0)[0], "png").startswith(b"\x89PNG")


def test_the_style_ends_with_its_context():
    import matplotlib

    before = matplotlib.rcParams["axes.spines.top"]
    with style.context():
        assert matplotlib.rcParams["axes.spines.top"] is False
    assert matplotlib.rcParams["axes.spines.top"] == before
