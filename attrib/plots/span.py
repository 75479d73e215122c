"""How coverage is distributed over images, and the coverage curve."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from attrib.plots.base import (
    TEXT,
    WIDE,
    captioned,
    ecdf,
    legend_below,
    lettered,
    model_colours,
    style,
)
from attrib.styles import USUAL, Style


def coverage_distribution(
    table: pd.DataFrame, *, models: Sequence[str], levels: NDArray[Any], curves: NDArray[Any],
    floors: Mapping[str, float], title: str, look: Style = USUAL,
) -> Figure:  # fmt: skip
    """Draw (a) how coverage is distributed over images, per model, and (b) mean coverage against the threshold.

    table: columns ``model`` and ``coverage`` (fractions); levels: (T,) thresholds t; curves: (M,T) mean coverage;
    floors: the floor of the ASC (a fraction) of the models that have one.
    """
    width = look.inches(TEXT)
    rows = 1 if width >= WIDE else 2
    with style(look):
        figure = Figure(figsize=(width, 1.9 * rows + 0.2), layout="constrained")
        panels = figure.subplots(rows, 3 - rows).ravel()
        first, second = panels
        for (name, colour), curve in zip(model_colours(models).items(), curves, strict=True):
            covered = 100 * table.loc[table["model"] == name, "coverage"].to_numpy(float)
            ecdf(first, covered, color=colour, label=name)
            first.axvline(covered.mean(), color=colour, ls="--", lw=0.8)
            if name in floors:
                first.axvline(100 * floors[name], color=colour, ls=":", lw=0.8)
            second.plot(levels, 100 * curve, color=colour)
        first.set(xlabel="coverage of an image's span, at most (%)", ylabel="images (%)", xlim=(0, 100), ylim=(0, 100))
        second.set(
            xlabel="threshold t as a share of the map's maximum", ylabel="mean coverage (%)", xlim=(0, 1), ylim=(0, 100)
        )
        lettered(panels)
        legend_below(figure, first.get_legend_handles_labels()[0])
        captioned(figure, look, title, "Dashed: the mean, which is the ASC" + ("; dotted: its floor" if floors else ""))
    return figure
