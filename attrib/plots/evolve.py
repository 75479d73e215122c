"""Figures of a run's saved epochs (AALP's Figures 9 and 12), and of what goes with robustness. No torch, no model."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, NullFormatter

from attrib.plots.base import TEXT, legend_below, model_colours, power_of_ten, style
from attrib.plots.contrib import QUANTITIES

PANELS: dict[str, tuple[tuple[str, str], ...]] = {
    "clean CE (nats); dotted: training loss": (("loss", "-"),),
    "adversarial CE (nats)": (("loss_adversarial", "--"),),
    "accuracy (%); dashed: adversarial": (("accuracy", "-"), ("robust_accuracy", "--")),
    "ASC (%)": (("asc", "-"),),
    "participation ratio of C; dotted: of C/e": (("participation_ratio", "-"), ("participation_ratio_scale_free", ":")),
    "Gini coefficient of C; dotted: of C/e": (("gini", "-"), ("gini_scale_free", ":")),
}
"""What a panel's title says, and the columns drawn in it."""
SHARES = {"accuracy", "robust_accuracy", "asc"}


def curves(table: pd.DataFrame, *, title: str) -> Figure:
    """Everything against epochs, the runs in one axes (AALP, Figure 12): a colour per run, bands for the intervals.

    table: columns ``run``, ``epoch`` and, for every column in PANELS, itself, ``..._low`` and ``..._high``; and
    ``train_loss``, NaN where it is not known; ``asc_floor`` where it was measured.
    """
    runs = list(table["run"].unique())
    with style():
        colours = model_colours(runs)
        figure = Figure(figsize=(TEXT, 3.6), layout="constrained")
        grid = figure.subplots(2, 3, sharex=True)
        for axes, (label, columns) in zip(grid.flat, PANELS.items(), strict=True):
            drawn, has_floor = [], "ASC" in label and "asc_floor" in table
            for run in runs:
                mine = table[table["run"] == run]
                for column, line in columns:
                    drawn += _curve(axes, mine, column, line, colours[run])
                if "training" in label and mine["train_loss"].notna().any():
                    axes.plot(mine["epoch"], mine["train_loss"], ":", color=colours[run], lw=0.9)
                    drawn += mine["train_loss"].dropna().tolist()
                if has_floor:
                    axes.plot(mine["epoch"], 100 * mine["asc_floor"].astype(float), ":", color=colours[run], lw=0.9)
            axes.set_title(f"{label}; dotted: its floor" if has_floor else label)
            if "CE" in label and min(drawn) > 0 and max(drawn) > 30 * min(drawn):
                axes.set_yscale("log")
                axes.yaxis.set_major_formatter(_as_power)
                axes.yaxis.set_minor_formatter(NullFormatter())
            elif "accuracy" in label:
                axes.set_ylim(0, 100)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        for axes in grid[-1]:
            axes.set_xlabel("epoch")
        handles = [Line2D([], [], color=colours[run], marker="o", ms=3, label=run) for run in runs]
        legend_below(figure, handles)
        figure.suptitle(f"{title}; bands: 95 % intervals, of the last two less the bias of few images")
    return figure


def _curve(axes: Axes, rows: pd.DataFrame, column: str, line: str, colour: str) -> list[float]:
    """Draw one run's column with its band; returns what was drawn."""
    scale = 100 if column in SHARES else 1
    value, low, high = (scale * rows[name].to_numpy(float) for name in (column, f"{column}_low", f"{column}_high"))
    axes.plot(rows["epoch"], value, line, color=colour, marker="o", ms=2)
    if line != ":":  # which goes along another one, whose band it would hide
        axes.fill_between(rows["epoch"], low, high, color=colour, alpha=0.18, lw=0)
    return [float(number) for number in value if np.isfinite(number)] or [0.0]


def contributions(table: pd.DataFrame, *, epochs: Sequence[int], title: str) -> Figure:
    """One histogram of contributions per epoch, on shared bins (AALP, Figure 9): a row per epoch, a colour per run.

    table: columns ``run``, ``epoch``, ``C`` and ``C_scale_free``, one row per feature; epochs: those to show.
    """
    shown = table[table["epoch"].isin(epochs)]
    runs = list(table["run"].unique())
    columns = ("C", "C_scale_free")
    with style():
        colours = model_colours(runs)
        figure = Figure(figsize=(TEXT, 0.75 * len(epochs) + 0.9), layout="constrained")
        grid = figure.subplots(len(epochs), len(columns), squeeze=False, sharex="col")
        for place, column in enumerate(columns):
            top = float(shown[column].max()) or 1.0
            power = int(np.floor(np.log10(top)))
            bins = np.linspace(0, top / 10.0**power, 51)
            for row, epoch in enumerate(epochs):
                axes = grid[row, place]
                for run in runs:
                    mine = shown.loc[(shown["run"] == run) & (shown["epoch"] == epoch), column]
                    values = mine.to_numpy(float) / 10.0**power
                    if not len(values):  # a run that was not saved at this epoch
                        continue
                    share = np.full(len(values), 100 / len(values))
                    drawn: Any = {"bins": bins, "weights": share, "color": colours[run]}
                    axes.hist(values, histtype="stepfilled", alpha=0.25, **drawn)
                    axes.hist(values, histtype="step", lw=0.9, **drawn)
                    axes.axvline(values.mean(), color=colours[run], ls="--", lw=0.7)
                axes.set_xlim(0, bins[-1])
                axes.text(0.98, 0.8, f"epoch {epoch}", transform=axes.transAxes, ha="right", va="center")
            unit = f"   ({power_of_ten(power)})" if power else ""
            grid[-1, place].set_xlabel(f"{QUANTITIES[column]}{unit}")
        figure.supylabel("features (%)", fontsize=7)
        handles = [Line2D([], [], color=colours[run], lw=3, alpha=0.6, label=run) for run in runs]
        handles.append(Line2D([], [], color="0.3", ls="--", lw=0.8, label="mean"))
        legend_below(figure, handles)
        figure.suptitle(title)
    return figure


def _as_power(value: float, _position: int | None) -> str:
    return power_of_ten(round(np.log10(value)))
