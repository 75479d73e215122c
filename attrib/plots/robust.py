"""Accuracy under attack, and against the attack's radius."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from attrib.plots.base import COLUMN, TEXT, captioned, inches_of, legend_below, model_colours, style
from attrib.styles import USUAL, Style


def accuracies(table: pd.DataFrame, *, title: str, seeds: pd.DataFrame | None = None, look: Style = USUAL) -> Figure:
    """Draw the accuracy under each attack: a marker and an interval per model, side by side.

    table: columns ``model``, ``attack``, ``accuracy``, ``low`` and ``high`` (fractions), in the order to be shown.
    seeds: columns ``model``, ``attack`` and ``accuracy`` of single seeds, small dots beside the model's marker.
    """
    models, attacks = list(table["model"].unique()), table["attack"].unique()
    places = np.arange(len(attacks))
    offsets = (np.arange(len(models)) - (len(models) - 1) / 2) * min(0.16, 0.7 / len(models))
    with style(look):
        figure = Figure(figsize=(look.inches(TEXT), 2.1), layout="constrained")
        axes = figure.subplots()
        colours = model_colours(models)
        for place in places[1::2]:
            axes.axvspan(place - 0.5, place + 0.5, color="0.95", lw=0)
        for name, offset in zip(models, offsets, strict=True):
            mine = table[table["model"] == name].set_index("attack").loc[attacks]
            _with_interval(axes, places + offset, mine, label=str(name), fmt="o", ms=3)
            for place, attack in zip(places + offset, attacks, strict=True):
                if seeds is not None and len(seeds):
                    one = seeds.loc[(seeds["model"] == name) & (seeds["attack"] == attack), "accuracy"]
                    axes.plot([place + 0.05] * len(one), 100 * one, ".", color=colours[name], ms=3, mew=0, alpha=0.7)
        axes.set_xticks(places, attacks)
        if max(map(inches_of, attacks)) > (figure.get_figwidth() - 0.5) / len(attacks):
            axes.tick_params("x", rotation=40)
        axes.set(ylabel="accuracy (%)", xlim=(-0.5, len(attacks) - 0.5), ylim=(-2, 102))
        legend_below(figure, axes.get_legend_handles_labels()[0])
        several = seeds is not None and len(seeds) > 0
        dots = "Small dots: single seeds" if several else ""
        bars = "Bars: 95 % intervals" + ("" if several else " over images, one file per model")
        captioned(figure, look, title, bars, dots)
    return figure


def eps_curves(table: pd.DataFrame, *, attacks: Sequence[str], title: str, look: Style = USUAL) -> Figure:
    """Draw accuracy against the attack's radius: a colour per model, a line style per attack, bands for the intervals.

    table: as for ``accuracies``, with a column ``eps``; attacks: those to show. Radii up to 32/255 are labelled
    in units of 1/255, as in papers on colour images.
    """
    unit = 255 if 0 < table["eps"].max() <= 32 / 255 else 1
    with style(look):
        figure = Figure(figsize=(look.inches(COLUMN), 2.2), layout="constrained")
        axes = figure.subplots()
        for name, colour in model_colours(list(table["model"].unique())).items():
            for line, attack in zip(("-", "--", ":"), attacks, strict=False):
                mine = table[(table["model"] == name) & (table["attack"] == attack)]
                radius = mine["eps"] * unit
                axes.plot(
                    radius, 100 * mine["accuracy"], line, color=colour, marker=".", ms=3, label=f"{name}, {attack}"
                )
                axes.fill_between(radius, 100 * mine["low"], 100 * mine["high"], color=colour, alpha=0.15, lw=0)
        axes.set(
            xlabel="radius eps / (1/255)" if unit == 255 else "radius eps, pixels in [0,1]", ylabel="accuracy (%)",
            xlim=(table["eps"].min() * unit, table["eps"].max() * unit), ylim=(-2, 102),
        )  # fmt: skip
        axes.legend()
        captioned(figure, look, title, "Bands: 95 % intervals")
    return figure


def _with_interval(axes: Axes, x: NDArray[Any], table: pd.DataFrame, *, label: str, fmt: str, ms: float) -> None:
    value = 100 * table["accuracy"].to_numpy(float)
    below, above = value - 100 * table["low"].to_numpy(float), 100 * table["high"].to_numpy(float) - value
    axes.errorbar(x, value, yerr=[below, above], label=label, fmt=fmt, ms=ms, elinewidth=0.8)
