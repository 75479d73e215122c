"""How contributions are distributed over the last layer's features."""

from collections.abc import Iterable, Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from attrib.plots.base import (
    COLUMN,
    TEXT,
    captioned,
    ecdf,
    legend_below,
    lettered,
    log_ticks,
    model_colours,
    style,
    wrapped,
)
from attrib.styles import USUAL, Style

QUANTITIES = {
    "C": "C = mean |∂L/∂A|",
    "R": "R = mean |∂L/∂A · A|",
    "C_scale_free": "C/e = mean |∂L/∂A| / |p − onehot(y)|",
}


def contribution_curves(table: pd.DataFrame, *, multiple: float, title: str, look: Style = USUAL) -> Figure:
    """Draw how contributions are distributed over features (AALP, Figures 1 and 7): a row per quantity.

    table: columns ``model``, ``images`` (one column of panels for each kind), ``C``, ``R`` and ``C_scale_free``, one
    row per feature. The panels of a row share their axis. Each curve is a cumulative distribution over features.
    """
    kinds, models = list(table["images"].unique()), list(table["model"].unique())
    with style(look):
        colours = model_colours(models)
        width = look.inches(COLUMN if len(kinds) == 1 else TEXT)
        figure = Figure(figsize=(width, 4 + 0.12 * len(models)), layout="constrained")
        grid = figure.subplots(len(QUANTITIES), len(kinds), squeeze=False, sharex="row", sharey=True)
        for row, (column, label) in zip(grid, QUANTITIES.items(), strict=True):
            for axes, kind in zip(row, kinds, strict=True):
                axes.set_title(f"{kind} images" if len(kinds) > 1 else "")
                for model in models:
                    values = table.loc[(table["images"] == kind) & (table["model"] == model), column]
                    ecdf(axes, values, color=colours[model], lw=1)
                    axes.axvline(multiple * values.median(), color=colours[model], linestyle="--", lw=0.7)
                axes.set(xlabel=wrapped(label, width / len(kinds) - 0.4), ylabel="")
            log_axis(row, table[column])
            row[0].set_ylabel("features (%)")
        lettered(grid.flat)
        handles = [Line2D([], [], color=colours[model], label=model) for model in models]
        handles.append(Line2D([], [], color="0.3", ls="--", lw=0.7, label=f"{multiple:g} × median"))
        legend_below(figure, handles)
        captioned(figure, look, title, AT_MOST)
    return figure


AT_MOST = "Each curve is the cumulative distribution over a model's features, zeros included"


def log_axis(panels: Iterable[Axes], values: pd.Series) -> None:
    """Give the panels the same logarithmic axis. It leaves out zeros and values far below every curve's median.

    A curve begins at the share of the values left out.
    """
    panels, positive = list(panels), values[values > 0]
    low, high = (positive.min(), positive.max()) if len(positive) else (0.1, 1)
    curves = [np.asarray(line.get_data(), float) for axes in panels for line in axes.lines]
    medians = [x[np.searchsorted(y, 50)] for x, y in curves if len(x) > 2]
    low = max(low, 0.05 * min(medians))
    high = max([high, *(x[0] for x, _ in curves if len(x) == 2)])  # vertical lines have to be inside, too
    for axes in panels:
        axes.set(xscale="log", xlim=(0.9 * low, 1.1 * high), ylim=(0, 100))
        log_ticks(axes.xaxis)


def curves_of_epochs(
    panels: Sequence[Axes], table: pd.DataFrame, columns: Sequence[str], epochs: Sequence[int]
) -> list[Line2D]:
    """Draw a panel per column with a curve per epoch, later ones darker; returns the legend's handles.

    table: ``epoch`` and the columns, a row per feature.
    """
    shades = mpl.colormaps["viridis"](np.linspace(0.85, 0, len(epochs)))
    for axes, column in zip(panels, columns, strict=True):
        for epoch, shade in zip(epochs, shades, strict=True):
            values = table.loc[table["epoch"] == epoch, column]
            if len(values):  # else the run has no saved epoch of this number
                ecdf(axes, values, color=shade, lw=1)
        axes.set_ylabel("")
    return [Line2D([], [], color=shade, label=f"epoch {epoch}") for epoch, shade in zip(epochs, shades, strict=True)]
