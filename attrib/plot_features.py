"""Figures of the last layer: contributions as histograms, valid values in red and white. No torch, no model."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from attrib.plot import COLUMN, TEXT, legend_below, model_colours, style, wrapped

QUANTITIES = {
    "C": "C = mean |∂L/∂A|",
    "R": "R = mean |∂L/∂A · A|",
    "C_scale_free": "C/e = mean |∂L/∂A| / |p − onehot(y)|",
}
VALID = "#C8102E"


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
                axes.set_xlabel(f"{label}   ($10^{{{power}}}$)" if power else label)
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


def valid_picture(
    masks: Sequence[NDArray[np.bool_]], *, models: Sequence[str], classes: Sequence[Sequence[str]], title: str
) -> Figure:
    """Valid values in red, the others in white (AGAIN supplement, Figure 3): a panel per model, a band per class.

    masks: bool (K,D) per model; models: their names; classes: the K names per model. At a column's width 512 values
    in one line would be half a point each, so a class's values are written in several lines, like text.
    """
    columns = min(2, len(masks))
    rows = -(-len(masks) // columns)
    with style():
        figure = Figure(figsize=(COLUMN, 0.25 + 2.3 * rows), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False)
        for axes in grid.flat[len(masks) :]:
            axes.set_visible(False)
        for position, (mask, model, names) in enumerate(zip(masks, models, classes, strict=True)):
            axes = grid.flat[position]
            _bands(axes, mask)
            name = wrapped(model, COLUMN / columns - 0.25)
            axes.set_title(f"{name}\n{mask.sum(1).mean():.1f} of {mask.shape[1]} valid")
            if len(mask) <= 20:
                # Names that stand to the left already are not repeated.
                told = position % columns and list(names) == list(classes[position - 1])
                _name_bands(axes, mask, [""] * len(mask) if told else names)
        figure.suptitle(title)
    return figure


def _bands(axes: Axes, mask: NDArray[np.bool_]) -> None:
    """The matrix (K,D) with each class's row broken into lines of at least 64 values, if that gives at most 100."""
    classes, features = mask.shape
    lines = _lines(mask)
    width = -(-features // lines)
    padded = np.full((classes, lines * width), 2)  # what a band's last line has left over is grey
    padded[:, :features] = mask
    axes.imshow(
        padded.reshape(classes * lines, width), cmap=ListedColormap(["white", VALID, "#BBBBBB"]), vmin=0, vmax=2,
        aspect="auto", interpolation="none",
    )  # fmt: skip
    if classes <= 20:
        for position in range(1, classes):
            axes.axhline(position * lines - 0.5, color="black", lw=0.5)
    axes.spines[:].set_visible(True)
    axes.tick_params(length=0)
    axes.set(xticks=[], yticks=[])
    axes.set_xlabel(f"{features} features, {width} a line" if lines > 1 else f"{features} features")
    axes.set_ylabel("" if classes <= 20 else f"{classes} classes")


def _name_bands(axes: Axes, mask: NDArray[np.bool_], names: Sequence[str]) -> None:
    """The class to the left of its band, its number of valid values to the right."""
    middle = (np.arange(len(mask)) + 0.5) * _lines(mask) - 0.5
    axes.set_yticks(middle, names)
    for position, count in zip(middle, mask.sum(1), strict=True):
        axes.text(1.02, position, str(count), transform=axes.get_yaxis_transform(), va="center", fontsize=6)


def _lines(mask: NDArray[np.bool_]) -> int:
    classes, features = len(mask), len(mask[0])
    return max(1, min(features // 64, 100 // classes))
