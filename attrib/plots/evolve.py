"""Figures of a run's saved epochs (AALP, Figures 9 and 12). No torch, no model."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from attrib.plots.base import (
    TEXT,
    WIDE,
    captioned,
    legend_below,
    lettered,
    log_ticks,
    model_colours,
    style,
    wrapped,
)
from attrib.plots.contrib import AT_MOST, QUANTITIES, curves_of_epochs, log_axis
from attrib.styles import USUAL, Style

PANELS: dict[str, tuple[tuple[str, str], ...]] = {
    "clean CE (nats); dotted: training loss": (("loss", "-"),),
    "adversarial CE (nats)": (("loss_adversarial", "--"),),
    "accuracy (%); dashed: adversarial": (("accuracy", "-"), ("robust_accuracy", "--")),
    "ASC (%)": (("asc", "-"),),
    "participation ratio of C; dotted: of C/e": (("participation_ratio", "-"), ("participation_ratio_scale_free", ":")),
    "Gini coefficient of C; dotted: of C/e": (("gini", "-"), ("gini_scale_free", ":")),
}
"""A panel's title, and its columns with their line styles."""
SHARES = {"accuracy", "robust_accuracy", "asc"}


def curves(table: pd.DataFrame, *, title: str, look: Style = USUAL) -> Figure:
    """Draw every measure against the epoch (AALP, Figure 12): a colour per run, bands for the intervals.

    table: columns ``run``, ``epoch``, ``train_loss`` (NaN where unknown), ``asc_floor`` if it was measured, and every
    column in PANELS with its ``..._low`` and ``..._high``.
    """
    runs = list(table["run"].unique())
    width = look.inches(TEXT)
    across = 3 if width >= WIDE else 2
    with style(look):
        colours = model_colours(runs)
        figure = Figure(figsize=(width, 1.7 * len(PANELS) / across + 0.3), layout="constrained")
        grid = figure.subplots(len(PANELS) // across, across, sharex=True)
        losses = [column for label, columns in PANELS.items() if "CE" in label for column, _ in columns]
        values = table[[*losses, "train_loss"]].to_numpy(float)
        low, high = np.nanmin(values), np.nanmax(values)
        for axes, (label, columns) in zip(grid.flat, PANELS.items(), strict=True):
            has_floor = label == "ASC (%)" and "asc_floor" in table
            for run in runs:
                mine = table[table["run"] == run]
                for column, line in columns:
                    _curve(axes, mine, column, line, colours[run])
                if "training" in label and mine["train_loss"].notna().any():
                    axes.plot(mine["epoch"], mine["train_loss"], ":", color=colours[run], lw=0.9)
                if has_floor:
                    axes.plot(mine["epoch"], 100 * mine["asc_floor"].astype(float), ":", color=colours[run], lw=0.9)
            axes.set_title(wrapped(f"{label}; dotted: its floor" if has_floor else label, width / across - 0.3))
            if "CE" in label:  # one scale for both losses, to compare them
                is_log = low > 0 and high > 30 * low
                axes.set(
                    yscale="log" if is_log else "linear", ylim=(0.9 * low, 1.1 * high) if is_log else (0, 1.05 * high)
                )
                if is_log:
                    log_ticks(axes.yaxis)
            elif "accuracy" in label:
                axes.set_ylim(-2, 102)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        for axes in grid[-1]:
            axes.set_xlabel("epoch")
        handles = [Line2D([], [], color=colours[run], marker="o", ms=3, label=run) for run in runs]
        legend_below(figure, handles)
        lettered(grid.flat)
        captioned(figure, look, title, "Bands: 95 % intervals, in the last two panels corrected for bias")
    return figure


def _curve(axes: Axes, rows: pd.DataFrame, column: str, line: str, colour: str) -> None:
    """Draw one column of a run, with its band."""
    scale = 100 if column in SHARES else 1
    value, low, high = (scale * rows[name].to_numpy(float) for name in (column, f"{column}_low", f"{column}_high"))
    axes.plot(rows["epoch"], value, line, color=colour, marker="o", ms=2)
    if line != ":":  # its band would hide that of the curve beside it
        axes.fill_between(rows["epoch"], low, high, color=colour, alpha=0.18, lw=0)


def contributions(table: pd.DataFrame, *, epochs: Sequence[int], title: str, look: Style = USUAL) -> Figure:
    """Draw how contributions are distributed at each of the epochs (AALP, Figure 9): a row of panels per run.

    table: columns ``run``, ``epoch``, ``C`` and ``C_scale_free``, one row per feature; epochs: those to show.
    """
    selected = table[table["epoch"].isin(epochs)]
    runs, columns = list(table["run"].unique()), ("C", "C_scale_free")
    with style(look):
        figure = Figure(figsize=(look.inches(TEXT), 1.6 * len(runs) + 0.5), layout="constrained")
        grid = figure.subplots(len(runs), len(columns), squeeze=False, sharex="col", sharey=True)
        for run, row in zip(runs, grid, strict=True):
            handles = curves_of_epochs(row, selected[selected["run"] == run], columns, epochs)
            row[0].set_ylabel("features (%)")
            for axes, column in zip(row, columns, strict=True):
                axes.set_title(run if len(runs) > 1 else "")
                axes.set_xlabel(wrapped(QUANTITIES[column], figure.get_figwidth() / 2 - 0.4))
        for place, column in enumerate(columns):
            log_axis(grid[:, place], selected[column])
        lettered(grid.flat)
        legend_below(figure, handles)
        some = f"{len(epochs)} of the {table['epoch'].nunique()} saved epochs, evenly spaced"
        captioned(figure, look, title, some if len(epochs) < table["epoch"].nunique() else "All saved epochs", AT_MOST)
    return figure
