"""Contributions of the last layer's features as histograms."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from attrib.plots.base import COLUMN, TEXT, legend_below, model_colours, power_of_ten, style

QUANTITIES = {
    "C": "C = mean |∂L/∂A|",
    "R": "R = mean |∂L/∂A · A|",
    "C_scale_free": "C/e = mean |∂L/∂A| / |p − onehot(y)|",
}


def contribution_histograms(table: pd.DataFrame, *, multiple: float, title: str) -> Figure:
    """How contributions are distributed over features (AALP, Figures 1 and 7): a row per quantity.

    table: columns ``model``, ``images`` (one column of panels for each kind), ``C``, ``R`` and ``C_scale_free``, one
    row per feature. In every panel all models share their bins; y is the share of a model's features.
    """
    kinds, models = list(table["images"].unique()), list(table["model"].unique())
    with style():
        colours = model_colours(models)
        figure = Figure(figsize=(COLUMN if len(kinds) == 1 else TEXT, 4.2 + 0.12 * len(models)), layout="constrained")
        grid = figure.subplots(len(QUANTITIES), len(kinds), squeeze=False)
        for row, (column, label) in enumerate(QUANTITIES.items()):
            for axes, kind in zip(grid[row], kinds, strict=True):
                # Not shared between kinds: an attack raises C and R so much that the clean images would fill one bin.
                shown = table[table["images"] == kind]
                medians = shown.groupby("model")[column].median()
                top = float(max(shown[column].max(), 1.02 * multiple * medians.max())) or 1.0
                power = int(np.floor(np.log10(top)))
                bins = np.linspace(0, top / 10.0**power, 51)
                for model in models:
                    values = shown.loc[shown["model"] == model, column].to_numpy(float) / 10.0**power
                    share = np.full(len(values), 100 / len(values))
                    drawn: Any = {"bins": bins, "weights": share, "color": colours[model]}
                    if len(models) < 4:
                        axes.hist(values, histtype="stepfilled", alpha=0.2, **drawn)
                    axes.hist(values, histtype="step", linewidth=0.9, **drawn)
                    axes.axvline(multiple * medians[model] / 10.0**power, color=colours[model], linestyle="--", lw=0.7)
                axes.set_xlabel(f"{label}   ({power_of_ten(power)})" if power else label)
                axes.set_xlim(0, bins[-1])
            grid[row, 0].set_ylabel("features (%)")
        if len(kinds) > 1:
            for axes, kind in zip(grid[0], kinds, strict=True):
                axes.set_title(f"{kind} images")
        handles = [Line2D([], [], color=colours[model], label=model) for model in models]
        handles.append(Line2D([], [], color="0.3", ls="--", lw=0.7, label=f"{multiple:g} × median"))
        legend_below(figure, handles)
        figure.suptitle(title)
    return figure
