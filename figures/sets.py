"""AALP's consistent and inconsistent images: the points of Figure 11, the examples of Figure 3."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from attrib.plots.base import COLUMN, DENSE, MANY, captioned, legend_below, lettered, style
from attrib.plots.sets import confidence_bars, scatter, scatter_handles
from attrib.styles import Style
from figures import names
from figures.shared import Panel, images, percent


def examples(panels: Sequence[Panel], look: Style) -> Figure:
    """AALP's Figure 3: a row of images per panel and set, of the ALP model."""
    parts = [panel.arrays() for panel in panels]
    rows = [part["model"].tolist().index("alp") for part in parts]
    arrays = {
        key: np.stack([part[key][row] for part, row in zip(parts, rows, strict=True)])
        for key in ("index", "classes", "probability")
    }
    # Data sets have images of different sizes: one object per image pair instead of one array.
    pictures = np.empty(arrays["index"].shape, dtype=object)
    for place in np.ndindex(pictures.shape):
        pictures[place] = parts[place[0]]["image"][(rows[place[0]], *place[1:])] / 255
    models = np.array([f"{panel.title}, ALP" for panel in panels])
    arrays |= {"image": pictures, "model": models, "set": parts[0]["set"]}
    return confidence_bars(arrays, title="Images that ALP defends, and images that it does not", look=look)


def probabilities(panels: Sequence[Panel], look: Style) -> Figure:
    """AALP's Figure 11: a row per panel, with ALP to the left and AALP to the right."""
    width = look.inches(COLUMN)
    with style(look):
        figure = Figure(figsize=(width, (width / 2 + 0.4) * len(panels) + 0.3), layout="constrained")
        grid = figure.subplots(len(panels), 2, squeeze=False, sharex=True, sharey=True)
        shown = 0
        for row, panel in zip(grid, panels, strict=True):
            table = panel.table()
            for axes, entry in zip(row, panel.entries(), strict=True):
                points = table[table["model"] == entry["name"]]
                shown = max(shown, len(points))
                scatter(axes, points, size=3)
                shares = [
                    f"{percent(entry['sets'][kind]['share'], 1)} % {kind}" for kind in ("consistent", "inconsistent")
                ]
                model = f"{names.label(entry['name'])}, {images(entry['n'])}"
                axes.set_title("\n".join([panel.title, model, *shares]))
            row[0].set_ylabel("attacked image")
        for axes in grid[-1]:
            axes.set_xlabel("clean image")
        lettered(grid.flat)
        legend_below(figure, scatter_handles())
        captioned(
            figure, look, f"Probability of the true class, up to {shown:,} images shown", DENSE if shown > MANY else ""
        )
    return figure
