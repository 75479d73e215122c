"""Results to figures: arrays and tables in, matplotlib figures out. No torch, no model.

Widths are those of a two-column paper, in inches.
"""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.resources import as_file, files
from itertools import product
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import PowerNorm
from matplotlib.container import Container
from matplotlib.figure import Figure
from numpy.typing import NDArray

from attrib.files import atomic

COLUMN = 3.25
TEXT = 6.875
SPAN_COLOUR = "#56B4E9"


@contextmanager
def style() -> Iterator[None]:
    """The project's matplotlib style inside, the caller's own outside."""
    with as_file(files("attrib") / "style.mplstyle") as path, mpl.rc_context(fname=path):
        yield


def model_colours(models: Sequence[str]) -> dict[str, str]:
    """Each model's colour, the same in every figure that shows them in this order; inside :func:`style`."""
    return dict(zip(models, mpl.rcParams["axes.prop_cycle"].by_key()["color"] * 9, strict=False))


def save(figure: Figure, path: Path) -> list[Path]:
    """Write the figure beside each other as PDF and PNG, named ``path`` plus suffix; returns the two paths."""
    written = []
    for suffix in (".pdf", ".png"):
        target = path.with_name(path.name + suffix)
        with atomic(target) as temporary, style():
            # No date, so that the same results give the same bytes.
            figure.savefig(temporary, format=suffix[1:], metadata={"CreationDate": None} if suffix == ".pdf" else None)
        written.append(target)
    return written


def wrapped(name: str, inches: float) -> str:
    """A model's name as a title, in as many lines as the width asks for, broken at hyphens where it can."""
    letter = 0.6 * mpl.rcParams["axes.titlesize"] / 72
    return textwrap.fill(name, max(6, int(inches / letter)))


def legend_below(figure: Figure, handles: Sequence[Artist | Container]) -> None:
    """One legend for all panels, in as many columns as the figure's width has room for the longest label."""
    letter = 0.6 * mpl.rcParams["legend.fontsize"] / 72
    widest = max(len(str(handle.get_label())) for handle in handles)
    room = int(figure.get_figwidth() / (letter * (widest + 10)))  # the line beside it takes some ten letters
    figure.legend(handles=handles, loc="outside lower center", ncols=min(max(1, room), len(handles)))


def map_grid(examples: Mapping[str, Any], *, title: str, spans: bool = False) -> Figure:
    """Images in rows; beside each its map per model and, with ``spans``, the image with the span outlined.

    examples: ``image`` (E,H,W,3) floats in [0,1], ``index`` (E,), ``label`` (E,) texts, ``model`` (M,) names,
    ``map`` (M,E,H,W), ``span`` bool (M,E,H,W), ``prediction`` (M,E) texts. With ``attacked_map``, ``attacked_span``,
    ``attacked_prediction`` and ``attacked_image`` (M,E,H,W,3), each model being attacked by itself, a second row below
    each image shows what the attack makes of it. All maps share one colour scale,
    capped at the 99.5th percentile and with the square root of the value as brightness, so that neither a single
    pixel nor a model with larger scores darkens the rest.
    """
    images = examples["image"]
    kinds = ("", "attacked_") if "attacked_map" in examples else ("",)
    models, count = examples["map"].shape[:2]
    per_model = 2 if spans else 1
    columns, rows = 1 + models * per_model, count * len(kinds)
    top = float(np.percentile([examples[f"{kind}map"] for kind in kinds], 99.5)) or 1.0
    scale = PowerNorm(0.5, 0, top)
    cell = min(0.85, (TEXT - 0.6) / columns)
    with style():
        figure = Figure(figsize=(cell * columns + 0.75, cell * rows + 0.55), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False)
        for row, (example, kind) in enumerate(product(range(count), kinds)):
            if kind:
                grid[row, 0].text(1, 0.5, "attacked", ha="right", va="center", transform=grid[row, 0].transAxes)
            else:
                _picture(grid[row, 0], images[example])
                grid[row, 0].set_ylabel(
                    f"{examples['label'][example]}\n#{examples['index'][example]}", rotation=0, ha="right", va="center"
                )
            for model in range(models):
                column = 1 + model * per_model
                cell_axes = grid[row, column]
                cell_axes.imshow(examples[f"{kind}map"][model, example], norm=scale)
                if spans:
                    below = examples["attacked_image"][model, example] if kind else images[example]
                    span_outline(grid[row, column + 1], below, examples[f"{kind}span"][model, example])
                said = np.asarray(examples[f"{kind}prediction"])[model, example]
                if said and said != examples["label"][example]:
                    cell_axes.set_xlabel(f"says {said}", labelpad=1, fontsize=5)
        grid[0, 0].set_title("image")
        for model, name in enumerate(examples["model"]):
            if spans:  # the name stands above both columns
                first, second = grid[0, 1 + 2 * model : 3 + 2 * model]
                first.set_title(f"{wrapped(str(name), 2 * cell)}\nmap", loc="left")
                second.set_title("span", loc="left")
            else:
                grid[0, 1 + model].set_title(wrapped(str(name), cell))
        for axes in grid.flat:
            axes.set_xticks([])
            axes.set_yticks([])
            axes.spines[:].set_visible(False)
        bar = figure.colorbar(ScalarMappable(scale), ax=grid, shrink=0.6, aspect=40, pad=0.01, extend="max")
        bar.set_label("map, one scale for all models (brightness: square root)")
        figure.suptitle(title)
    return figure


def span_outline(axes: Axes, image: NDArray[Any], mask: NDArray[np.bool_]) -> None:
    """The image (H,W,3), dimmed outside the span (H,W), whose outline is drawn."""
    _picture(axes, np.where(mask[..., None], image, 0.35 * image))
    if mask.any() and not mask.all():
        # Drawn pixel by pixel (nearest), so the line runs between pixels and not through them.
        fine = np.kron(np.pad(mask, 1), np.ones((8, 8)))
        at = (np.arange(fine.shape[1]) + 0.5) / 8 - 1.5, (np.arange(fine.shape[0]) + 0.5) / 8 - 1.5
        axes.contour(*at, fine, levels=[0.5], colors=[SPAN_COLOUR], linewidths=0.6)
        axes.set_xlim(-0.5, mask.shape[1] - 0.5)
        axes.set_ylim(mask.shape[0] - 0.5, -0.5)


def coverage_distribution(
    table: pd.DataFrame, *, models: Sequence[str], levels: NDArray[Any], curves: NDArray[Any],
    floors: Mapping[str, float], title: str,
) -> Figure:  # fmt: skip
    """Left, how coverage is distributed over images, per model; right, the mean coverage curve.

    table: columns ``model`` and ``coverage`` (fractions); levels: (T,) thresholds t; curves: (M,T) mean coverage;
    floors: the floor of the ASC (a fraction) of the models that have one.
    """
    import seaborn

    with style():
        figure = Figure(figsize=(TEXT, 2.3), layout="constrained")
        left, right = figure.subplots(1, 2)
        percent = table.assign(coverage=100 * table["coverage"])
        colours = model_colours(models)
        bins = np.linspace(0, 100, 51)
        seaborn.histplot(
            percent, x="coverage", hue="model", hue_order=list(models), palette=colours, bins=bins,
            stat="percent", common_norm=False, element="step", fill=len(models) < 3, ax=left, legend=False,
            alpha=0.25 if len(models) < 3 else 0.8,
        )  # fmt: skip
        for name in models:
            left.axvline(percent.loc[percent["model"] == name, "coverage"].mean(), color=colours[name], ls="--", lw=0.8)
        for name, floor in floors.items():
            left.axvline(100 * floor, color=colours[name], ls=":", lw=0.8)
        lines = "dashed: mean" + (", dotted: floor" if floors else "")
        left.set(xlabel=f"coverage of an image's span (%), {lines}", ylabel="images (%)", xlim=(0, 100))
        for name, curve in zip(models, curves, strict=True):
            right.plot(levels, 100 * curve, color=colours[name], label=name)
        right.set(
            xlabel="threshold t as a share of the map's maximum",
            ylabel="mean coverage (%)",
            xlim=(0, 1),
            ylim=(0, 100),
        )
        legend_below(figure, right.get_legend_handles_labels()[0])
        figure.suptitle(title)
    return figure


def accuracies(table: pd.DataFrame, *, title: str, seeds: pd.DataFrame | None = None) -> Figure:
    """Accuracy per attack, a marker and its interval for every model, side by side.

    table: columns ``model``, ``attack``, ``accuracy``, ``low`` and ``high`` (fractions), in the order to be shown.
    seeds: columns ``model``, ``attack`` and ``accuracy`` of single seeds, small dots beside their model's marker.
    """
    models, attacks = list(table["model"].unique()), table["attack"].unique()
    places = np.arange(len(attacks))
    offsets = (np.arange(len(models)) - (len(models) - 1) / 2) * min(0.16, 0.7 / len(models))
    with style():
        figure = Figure(figsize=(TEXT, 2.3), layout="constrained")
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
        axes.set(ylabel="accuracy (%)", xlim=(-0.5, len(attacks) - 0.5), ylim=(-2, 102))
        legend_below(figure, axes.get_legend_handles_labels()[0])
        several = seeds is not None and len(seeds) > 0
        figure.suptitle(f"{title}; bars: 95 % intervals" + ("" if several else " over images, one file per name"))
    return figure


def eps_curves(table: pd.DataFrame, *, attacks: Sequence[str], title: str) -> Figure:
    """Accuracy against the attack's radius: a colour per model, a line style per attack, bands for the intervals.

    table: as for :func:`accuracies`, with a column ``eps``; attacks: those to show. Radii within 32/255 are labelled
    in units of 1/255, as papers on colour images give them.
    """
    unit = 255 if 0 < table["eps"].max() <= 32 / 255 else 1
    with style():
        figure = Figure(figsize=(COLUMN, 2.3), layout="constrained")
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
        figure.suptitle(f"{title}; bands: 95 % intervals")
    return figure


def _with_interval(axes: Axes, x: NDArray[Any], table: pd.DataFrame, *, label: str, fmt: str, ms: float) -> None:
    value = 100 * table["accuracy"].to_numpy(float)
    below, above = value - 100 * table["low"].to_numpy(float), 100 * table["high"].to_numpy(float) - value
    axes.errorbar(x, value, yerr=[below, above], label=label, fmt=fmt, ms=ms, elinewidth=0.8)


def _picture(axes: Axes, image: NDArray[Any]) -> None:
    axes.imshow(image, vmin=0, vmax=1, interpolation="nearest")
