"""Coverage and other measures against robustness: image by image, and across models."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from attrib.formatting import missing
from attrib.plots.base import (
    DENSE,
    MANY,
    TEXT,
    captioned,
    density,
    legend_below,
    lettered,
    model_colours,
    small,
    style,
    wrapped,
)
from attrib.styles import USUAL, Style

WRONG = "#777777"
"""Colour of images that are misclassified without an attack."""


class Kind(NamedTuple):
    """A kind of images. It has its own marker, since colours are for models; this works in black and white, too."""

    words: str
    marker: str
    filled: bool


KINDS = (
    Kind("robust (correct under attack)", "o", filled=True),
    Kind("not robust (correct, wrong under attack)", "v", filled=False),
    Kind("wrong when clean", "x", filled=True),
)


def relations(
    table: pd.DataFrame, summary: Mapping[str, Any], *, measures: Mapping[str, str], title: str,
    look: Style = USUAL,
) -> Figure:  # fmt: skip
    """Draw each measure against the adversarial margin, a row of panels per model; in the last row, the models' means.

    table and summary: the CSV and the JSON of ``attrib relate``; measures: from columns to labels of axes. Of several
    seeds, the first seed's images are shown. A model has the same colour in all panels. The markers of KINDS show
    which images are robust (above the line); in the last row dots are single seeds.
    """
    entries, across = summary["models"], summary["across"]
    rows, width = len(entries) + (len(across["points"]) > 1), look.inches(TEXT)
    room = width / len(measures) - 0.3
    with style(look):
        figure = Figure(figsize=(width, 1.9 * rows + 0.2), layout="constrained")
        grid = figure.subplots(rows, len(measures), squeeze=False)
        colours = model_colours(list(dict.fromkeys(point["name"] for point in across["points"])))
        for panels, entry in zip(grid, entries, strict=False):
            epoch = -1 if entry["epoch"] is None else entry["epoch"]
            of_file = (table["seed"] == 0) & (table["epoch"].fillna(-1) == epoch)
            mine = table[(table["model"] == entry["name"]) & of_file]
            for axes, (measure, words) in zip(panels, measures.items(), strict=True):
                # Panels below one another are compared, so they have the same limits.
                _margins(axes, mine, measure, colours[entry["name"]], ends=_ends(table[measure]))
                rho = _rho(entry[measure]["margin"], seeds=len(entry.get("seeds", ())))
                axes.set(xlabel=wrapped(_axis(measure, words), room), title=rho)
            name = entry["name"] if entry["epoch"] is None else f"{entry['name']} epoch {epoch}"
            name = wrapped(f"{name}{', first seed' if 'seeds' in entry else ''}", 1.2)
            panels[0].set_ylabel(f"{name}\nadversarial margin (logits)")
        if len(across["points"]) > 1:
            for axes, (measure, words) in zip(grid[-1], measures.items(), strict=True):
                _means(axes, across["points"], measure, colours)
                rho = _rho(across["correlations"][measure])
                axes.set(xlabel=wrapped(f"mean {_axis(measure, words)}", room), title=rho)
            grid[-1, 0].set_ylabel("across models\nrobust accuracy (%)")
        handles = [
            Line2D([], [], color=WRONG if kind.marker == "x" else "0.25", marker=kind.marker, ms=3, lw=0, mew=0.6,
                   fillstyle="full" if kind.filled else "none", label=kind.words)
            for kind in KINDS
        ]  # fmt: skip
        if len(across["points"]) > 1:
            handles += [
                Line2D([], [], color=colour, marker="s", ms=3, lw=0, label=name) for name, colour in colours.items()
            ]
            if any(point.get("asc_floor") is not None for point in across["points"]):
                handles.append(Line2D([], [], color="0.3", ls=":", lw=0.7, label="floor of coverage"))
            if any("seeds" in point for point in across["points"]):
                handles.append(Line2D([], [], color="0.3", marker=".", ms=2, lw=0, label="one seed"))
            if any(point["epoch"] is not None for point in across["points"]):
                handles.append(
                    Line2D([], [], color="0.3", marker="o", ms=3, lw=0.7, label="epochs of a run, by number")
                )
        lettered(grid.flat)
        legend_below(figure, handles)
        many = table.groupby(["model", "seed", "epoch"], dropna=False).size().max() > MANY
        captioned(figure, look, title, RHO, DENSE if many else "")
    return figure


RHO = "ρ: Spearman's rank correlation and its 95 % interval. Bars: 95 % intervals"


def _ends(values: Iterable[float]) -> tuple[float, float]:
    """Limits of an axis for these values, with a small margin."""
    known = np.array([*values], float)
    low, high = float(np.nanmin(known)), float(np.nanmax(known))
    margin = 0.05 * (high - low) or 0.1
    return low - margin, high + margin


def _margins(axes: Axes, rows: pd.DataFrame, measure: str, colour: str, *, ends: tuple[float, float]) -> None:
    correct, withstands = rows["correct"].to_numpy(bool), rows["margin_adversarial"].to_numpy(float) > 0
    scale = 1 if measure == "participation_ratio" else 100
    axes.axhline(0, color="black", lw=0.6, ls="--", zorder=3)
    axes.set(xlim=[scale * end for end in ends], ylim=_ends([0, *rows["margin_adversarial"]]))
    kinds = correct & withstands, correct & ~withstands, ~correct
    if len(rows) > MANY:
        shades: tuple[Any, ...] = colour, tuple(0.5 + 0.5 * part for part in to_rgb(colour)), WRONG
        density(axes, scale * rows[measure], rows["margin_adversarial"], dict(zip(shades, kinds, strict=True)))
        return
    for kind, inside in zip(KINDS, kinds, strict=True):
        points, shade = rows[inside], WRONG if kind.marker == "x" else colour
        # Rasterised: ten thousand vector dots make a PDF page that no viewer scrolls.
        axes.scatter(
            scale * points[measure], points["margin_adversarial"], s=7, marker=kind.marker, linewidths=0.5, alpha=0.7,
            color=shade, facecolors=shade if kind.filled else "none", rasterized=True,
        )  # fmt: skip


def _means(axes: Axes, points: Sequence[Mapping[str, Any]], measure: str, colours: Mapping[str, str]) -> None:
    """Draw a square per model, a line through a run's epochs, bars for intervals, and small dots for single seeds."""
    names = list(dict.fromkeys((point["name"], point["epoch"] is None) for point in points))
    scale = 1 if measure == "participation_ratio" else 100

    def places(of: Sequence[Mapping[str, Any]]) -> tuple[NDArray[Any], NDArray[Any]]:
        # JSON has None in place of NaN.
        return scale * np.array([p[measure] for p in of], float), np.array([100 * p["robust_accuracy"] for p in of])

    for name, alone in names:
        mine = [point for point in points if (point["name"], point["epoch"] is None) == (name, alone)]
        x, y = places(mine)
        ends_x = np.array([point[f"{measure}_ci"] for point in mine], float).T * scale
        ends_y = np.array([point["robust_accuracy_ci"] for point in mine], float).T * 100
        axes.errorbar(
            x, y, xerr=np.abs(ends_x - x), yerr=np.abs(ends_y - y), color=colours[name], fmt="s" if alone else "o-",
            ms=3, lw=0.7, elinewidth=0.6, label=name,
        )  # fmt: skip
        if measure == "coverage" and mine[0].get("asc_floor") is not None:
            axes.axvline(100 * mine[0]["asc_floor"], color=colours[name], lw=0.7, ls=":")
        axes.plot(*places([seed for point in mine for seed in point.get("seeds", ())]), ".", color=colours[name], ms=2)
        if not alone:
            for place in (0, -1):
                axes.annotate(str(mine[place]["epoch"]), (x[place], y[place]), xytext=(3, 3),
                              textcoords="offset points", fontsize=small(), color=colours[name])  # fmt: skip
    axes.set_ylim(0, max(5.0, 1.03 * axes.get_ylim()[1]))


def _axis(measure: str, words: str) -> str:
    return words if measure == "participation_ratio" else f"{words} (%)"


def _rho(correlation: Mapping[str, Any], *, seeds: int = 0) -> str:
    """The correlation as a panel's title; seeds: over how many it is averaged, while the panel shows the first."""
    low, high = correlation["ci"]
    if missing(correlation["rho"]):
        return "no ρ"
    words = f"{f'mean of {seeds} seeds: ' if seeds else ''}ρ = {correlation['rho']:.2f}"
    return (words if missing(low) else f"{words}\n({low:.2f} to {high:.2f})").replace("-", "−")
