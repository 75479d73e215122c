"""AALP's consistent and inconsistent images: the points of Figure 11, the examples of Figure 3."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from attrib.plots.base import COLUMN, DENSE, MANY, captioned, legend_below, lettered, style
from attrib.plots.sets import confidence_bars, scatter, scatter_handles
from attrib.styles import Style
from figures import names
from figures.shared import Panel, images, percent


def examples(found: Sequence[Panel], look: Style) -> Figure:
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
    return confidence_bars(kept, title="Images that ALP defends, and images that it does not", look=look)


def probabilities(found: Sequence[Panel], look: Style) -> Figure:
    """AALP's Figure 11: a row per panel, with ALP to the left and AALP to the right."""
    width = look.inches(COLUMN)
    with style(look):
        figure = Figure(figsize=(width, (width / 2 + 0.4) * len(found) + 0.3), layout="constrained")
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
                axes.set_title("\n".join([panel.title, f"{names.label(of['name'])}, {images(of['n'])}", *shares]))
            row[0].set_ylabel("attacked image")
        for axes in grid[-1]:
            axes.set_xlabel("clean image")
        lettered(grid.flat)
        legend_below(figure, scatter_handles())
        captioned(
            figure, look, f"Probability of the true class, up to {shown:,} images shown", DENSE if shown > MANY else ""
        )
    return figure
