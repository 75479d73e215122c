"""AALP's consistent and inconsistent images: the points of Figure 11, the examples of Figure 3."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from attrib.plots.base import COLUMN, style
from attrib.plots.sets import COLOURS, confidence_bars, scatter
from figures import names
from figures.shared import Panel, images, percent


def examples(found: Sequence[Panel]) -> Figure:
    """AALP's Figure 3: a row of images per panel and set, of the ALP model."""
    parts = [panel.arrays() for panel in found]
    rows = [part["model"].tolist().index("alp") for part in parts]
    kept = {
        key: np.stack([part[key][row] for part, row in zip(parts, rows, strict=True)])
        for key in ("index", "classes", "probability")
    }
    # Data sets have images of different sizes: one object per image pair instead of one array.
    pictures = np.empty(kept["index"].shape, dtype=object)
    for place in np.ndindex(pictures.shape):
        pictures[place] = parts[place[0]]["image"][(rows[place[0]], *place[1:])] / 255
    kept |= {"image": pictures, "model": np.array([f"{panel.title}, ALP" for panel in found]), "set": parts[0]["set"]}
    return confidence_bars(kept, title="Images that ALP defends, and such that it does not")


def probabilities(found: Sequence[Panel]) -> Figure:
    """AALP's Figure 11: a row per panel, ALP to the left, AALP to the right."""
    with style():
        figure = Figure(figsize=(COLUMN, 1.98 * len(found) + 0.5), layout="constrained")
        grid = figure.subplots(len(found), 2, squeeze=False, sharex=True, sharey=True)
        shown = 0
        for row, panel in zip(grid, found, strict=True):
            table = panel.table()
            for axes, of in zip(row, panel.entries(), strict=True):
                points = table[table["model"] == of["name"]]
                shown = max(shown, len(points))
                scatter(axes, points, size=3)
                shares = [
                    f"{percent(of['sets'][kind]['share'], 1)} % {kind}" for kind in ("consistent", "inconsistent")
                ]
                first = [panel.title, f"{names.label(of['name'])}, {images(of['n'])}"]
                axes.set_title("\n".join([*first, *shares]), fontsize=6)
            row[0].set_ylabel("attacked image")
        for axes in grid[-1]:
            axes.set_xlabel("clean image")
        handles: list[Any] = [
            Line2D([], [], color=colour, marker="o", ms=3, lw=0, label=kind.replace("-", " "))
            for kind, colour in COLOURS.items()
        ]
        handles.append(Line2D([], [], color="black", lw=0.6, ls="--", label="no effect"))
        figure.legend(handles=handles, loc="outside lower center", ncols=4, columnspacing=0.8, handletextpad=0.3)
        figure.suptitle(f"Probability of the true class, up to {shown:,} images shown", fontsize=7)
    return figure
