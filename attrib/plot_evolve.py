"""Figures of a run's saved epochs (AALP's Figures 9 and 12), and of what goes with robustness. No torch, no model."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from attrib.formatting import missing
from attrib.plot import TEXT, legend_below, model_colours, style, wrapped
from attrib.plot_features import QUANTITIES

PANELS: dict[str, tuple[tuple[str, str], ...]] = {
    "clean CE (nats); dotted: training loss": (("loss", "-"),),
    "adversarial CE (nats)": (("loss_adversarial", "--"),),
    "accuracy (%); dashed: adversarial": (("accuracy", "-"), ("robust_accuracy", "--")),
    "ASC (%)": (("asc", "-"),),
    "participation ratio of C; dotted: of C/e": (("participation_ratio", "-"), ("participation_ratio_scale_free", ":")),
    "Gini coefficient of C; dotted: of C/e": (("gini", "-"), ("gini_scale_free", ":")),
}
"""What a panel's title says, and the columns drawn in it."""
WRONG = "#777777"
"""Images that are wrong already when clean."""
SHARES = {"accuracy", "robust_accuracy", "asc"}


def curves(table: pd.DataFrame, *, title: str) -> Figure:
    """Everything against epochs, the runs in one axes (AALP, Figure 12): a colour per run, bands for the intervals.

    table: columns ``run``, ``epoch`` and, for every column in PANELS, itself, ``..._low`` and ``..._high``; and
    ``train_loss``, NaN where it is not known.
    """
    runs = list(table["run"].unique())
    with style():
        colours = model_colours(runs)
        figure = Figure(figsize=(TEXT, 3.6), layout="constrained")
        grid = figure.subplots(2, 3, sharex=True)
        for axes, (label, columns) in zip(grid.flat, PANELS.items(), strict=True):
            drawn = []
            for run in runs:
                mine = table[table["run"] == run]
                for column, line in columns:
                    drawn += _curve(axes, mine, column, line, colours[run])
                if "training" in label and mine["train_loss"].notna().any():
                    axes.plot(mine["epoch"], mine["train_loss"], ":", color=colours[run], lw=0.9)
                    drawn += mine["train_loss"].dropna().tolist()
            axes.set_title(label)
            if "CE" in label and min(drawn) > 0 and max(drawn) > 30 * min(drawn):
                axes.set_yscale("log")
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
            unit = f"   ($10^{{{power}}}$)" if power else ""
            grid[-1, place].set_xlabel(f"{QUANTITIES[column]}{unit}")
        figure.supylabel("features (%)", fontsize=7)
        handles = [Line2D([], [], color=colours[run], lw=3, alpha=0.6, label=run) for run in runs]
        handles.append(Line2D([], [], color="0.3", ls="--", lw=0.8, label="mean"))
        legend_below(figure, handles)
        figure.suptitle(title)
    return figure


def relations(table: pd.DataFrame, summary: Mapping[str, Any], *, measures: Mapping[str, str], title: str) -> Figure:
    """Each measure against the adversarial margin, a row of panels per model; below, the models' means.

    table and summary: the CSV and the JSON of ``attrib relate``; measures: columns and what the axes call them. Of
    several seeds, the images are those of the first. A model keeps its colour: above, its images that stood have it,
    and those that the attack broke (below the line) a paler one; below, its mean has it, and single seeds are dots.
    """
    entries, across = summary["models"], summary["across"]
    rows = len(entries) + (len(across["points"]) > 1)
    with style():
        figure = Figure(figsize=(TEXT, 1.9 * rows + 0.5), layout="constrained")
        grid = figure.subplots(rows, len(measures), squeeze=False)
        colours = model_colours(list(dict.fromkeys(point["name"] for point in across["points"])))
        for panels, entry in zip(grid, entries, strict=False):
            epoch = -1 if entry["epoch"] is None else entry["epoch"]
            of_file = (table["seed"] == 0) & (table["epoch"].fillna(-1) == epoch)
            mine = table[(table["model"] == entry["name"]) & of_file]
            for axes, (measure, words) in zip(panels, measures.items(), strict=True):
                _margins(axes, mine, measure, colours[entry["name"]])
                rho = _rho(entry[measure]["margin"], seeds=len(entry.get("seeds", ())))
                axes.set(xlabel=_axis(measure, words), title=rho)
            name = entry["name"] if entry["epoch"] is None else f"{entry['name']} epoch {epoch}"
            name = wrapped(f"{name}{', first seed' if 'seeds' in entry else ''}", 1.2)
            panels[0].set_ylabel(f"{name}\nadversarial margin (logits)")
        if len(across["points"]) > 1:
            for axes, (measure, words) in zip(grid[-1], measures.items(), strict=True):
                _means(axes, across["points"], measure, colours)
                axes.set(xlabel=f"mean {_axis(measure, words)}", title=_rho(across["correlations"][measure]))
            grid[-1, 0].set_ylabel("across models\nrobust accuracy (%)")
        kinds = {"stood": "0.25", "broken by the attack (paler)": _paler("0.25"), "clean wrong": WRONG}
        handles = [
            Line2D([], [], color=colour, marker="x" if colour == WRONG else "o", ms=3, lw=0, label=words)
            for words, colour in kinds.items()
        ]
        if len(across["points"]) > 1:
            handles += [
                Line2D([], [], color=colour, marker="s", ms=3, lw=0, label=name) for name, colour in colours.items()
            ]
            if any("seeds" in point for point in across["points"]):
                handles.append(Line2D([], [], color="0.3", marker=".", ms=2, lw=0, label="one seed"))
            if any(point["epoch"] is not None for point in across["points"]):
                handles.append(
                    Line2D([], [], color="0.3", marker="o", ms=3, lw=0.7, label="epochs of a run, by number")
                )
        legend_below(figure, handles)
        figure.suptitle(title)
    return figure


def _paler(colour: str) -> str:
    red, green, blue = (0.45 * part + 0.55 for part in to_rgb(colour))
    return to_hex((red, green, blue))


def _margins(axes: Axes, rows: pd.DataFrame, measure: str, colour: str) -> None:
    correct, stood = rows["correct"].to_numpy(bool), rows["margin_adversarial"].to_numpy(float) > 0
    scale = 1 if measure == "participation_ratio" else 100
    axes.axhline(0, color="black", lw=0.6, ls="--")
    kinds = ((_paler(colour), correct & ~stood), (colour, correct & stood))
    # Pictures of dots inside the PDF: ten thousand vector dots make a page that no viewer scrolls.
    wrong = rows[~correct]
    axes.scatter(
        scale * wrong[measure], wrong["margin_adversarial"], s=5, marker="x", color=WRONG, linewidths=0.6,
        rasterized=True,
    )  # fmt: skip
    for shown, inside in kinds:
        points = rows[inside]
        axes.scatter(
            scale * points[measure], points["margin_adversarial"], s=5, color=shown, alpha=0.6, linewidths=0,
            rasterized=True,
        )  # fmt: skip


def _means(axes: Axes, points: Sequence[Mapping[str, Any]], measure: str, colours: Mapping[str, str]) -> None:
    """A square per model, a line through the epochs of a run, bars for the intervals, small dots for single seeds."""
    names = list(dict.fromkeys((point["name"], point["epoch"] is None) for point in points))
    scale = 1 if measure == "participation_ratio" else 100

    def places(of: Sequence[Mapping[str, Any]]) -> tuple[NDArray[Any], NDArray[Any]]:
        # Numbers of a file may be None where they were NaN.
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
        axes.plot(*places([seed for point in mine for seed in point.get("seeds", ())]), ".", color=colours[name], ms=2)
        if not alone:
            for place in (0, -1):
                axes.annotate(str(mine[place]["epoch"]), (x[place], y[place]), xytext=(3, 3),
                              textcoords="offset points", fontsize=5, color=colours[name])  # fmt: skip
    axes.set_ylim(0, max(5.0, 1.03 * axes.get_ylim()[1]))


def _axis(measure: str, words: str) -> str:
    return words if measure == "participation_ratio" else f"{words} (%)"


def _rho(found: Mapping[str, Any], *, seeds: int = 0) -> str:
    """The correlation as a panel's title; seeds: over how many it is a mean, where the panel shows one of them."""
    low, high = found["ci"]
    if missing(found["rho"]):
        return "no rank correlation"
    words = f"{f'mean of {seeds} seeds: ' if seeds else 'Spearman '}ρ = {found['rho']:.2f}"
    return (words if missing(low) else f"{words} ({low:.2f} to {high:.2f})").replace("-", "−")
