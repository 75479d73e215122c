"""Figures of the consistent and inconsistent sets: AALP's Figures 3, 4 and 11. No torch, no model."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from attrib.plots.base import (
    COLUMN,
    DENSE,
    MANY,
    TEXT,
    WIDE,
    captioned,
    density,
    legend_below,
    lettered,
    shortened,
    small,
    style,
    title_height,
    unframed,
    wrapped,
)
from attrib.styles import USUAL, Style

COLOURS = {"consistent": "#0072B2", "inconsistent": "#D55E00", "clean-wrong": "#999999"}
"""Blue and red as in the paper, in the style's colour-blind safe tones; grey for images in neither set."""
TRUE_CLASS, ATTACK_CLASS = "#009E73", "#D55E00"


def confidence_scatter(table: pd.DataFrame, *, models: Sequence[str], title: str, look: Style = USUAL) -> Figure:
    """Draw every image's true-class probability, clean against adversarial, a panel per model (AALP, Figure 11).

    table: columns ``model``, ``set``, ``probability_clean`` and ``probability_adversarial``, one row per image.
    """
    width = look.inches(COLUMN if len(models) == 1 else TEXT)
    columns = min(len(models), 3 if width >= WIDE else 2)
    rows = -(-len(models) // columns)
    with style(look):
        figure = Figure(figsize=(width, rows * (width / columns + 0.3) + 0.2), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
        for axes in grid.flat[len(models) :]:
            axes.set_visible(False)
        for axes, name in zip(grid.flat, models, strict=False):
            _scatter(axes, table[table["model"] == name], name)
        for axes in grid[:, 0]:
            axes.set_ylabel("true-class probability,\nadversarial image")
        for column in range(columns):
            last = (len(models) - 1 - column) // columns
            grid[last, column].set_xlabel("true-class probability,\nclean image")
            grid[last, column].tick_params(labelbottom=True)
        # Below the panels, since points may lie in every corner inside.
        legend_below(figure, scatter_handles())
        lettered(grid.flat[: len(models)])
        many = table.groupby("model").size().max() > MANY
        captioned(figure, look, title, DENSE if many else "")
    return figure


def scatter_handles() -> list[Line2D]:
    """The legend's handles for ``scatter``."""
    dots = [
        Line2D([], [], color=colour, marker="o", ms=3, lw=0, label=kind.replace("-", " "))
        for kind, colour in COLOURS.items()
    ]
    return [*dots, Line2D([], [], color="black", lw=0.6, ls="--", label="y = x: no effect")]


def _scatter(axes: Axes, points: pd.DataFrame, name: str) -> None:
    scatter(axes, points, size=6)
    # Points hide one another in the corners, so the title gives the shares.
    shares = [f"{100 * (points['set'] == kind).mean():.1f} % {kind}" for kind in ("consistent", "inconsistent")]
    axes.set_title("\n".join([name, *shares]))


def scatter(axes: Axes, points: pd.DataFrame, *, size: float) -> None:
    """Draw one model's images as dots of this area, in points squared; as a density if there are many.

    points: as ``confidence_scatter`` takes.
    """
    axes.plot([0, 1], [0, 1], color="black", lw=0.6, ls="--", zorder=1)
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    if len(points) > MANY:
        kinds = {colour: (points["set"] == kind).to_numpy() for kind, colour in COLOURS.items()}
        density(axes, points["probability_clean"], points["probability_adversarial"], kinds)
        return
    for zorder, (kind, colour) in enumerate(reversed(COLOURS.items()), start=2):
        inside = points[points["set"] == kind]
        # Rasterised: ten thousand vector dots make a PDF page that no viewer scrolls.
        axes.scatter(
            inside["probability_clean"], inside["probability_adversarial"], s=size, color=colour, alpha=0.45,
            linewidths=0, clip_on=False, rasterized=True, zorder=zorder,
        )  # fmt: skip


def confidence_bars(examples: Mapping[str, NDArray[Any]], *, title: str, look: Style = USUAL) -> Figure:
    """Draw images before and after the attack, each above bars of two probabilities (AALP, Figure 3).

    examples, for M models and up to E images of each of two sets: ``model`` (M,) and ``set`` (2,) names, ``index``
    (M,2,E), -1 where a set has fewer images, ``image`` (M,2,E,2,H,W,3) clean and adversarial in [0,1], ``classes``
    (M,2,E,2) names of the true class and of the attack's (the likeliest wrong one of the adversarial image), and
    ``probability`` (M,2,E,2,2) of these two (last axis) for the clean and the adversarial image.
    """
    models, kinds, most = examples["index"].shape
    width = look.inches(TEXT)
    count = min(most, 4 if width >= WIDE else 2)
    cell = (width - 0.5) / (kinds * count + 0.3)
    with style(look):
        headings = [
            wrapped(
                f"{examples['model'][model]}: {examples['set'][kind]}"
                + ("" if (examples["index"][model, kind] >= 0).any() else " (no image)"),
                count * cell,
            )
            for model, kind in np.ndindex(models, kinds)
        ]  # fmt: skip
        heights = [0.1 + 0.15 * max(1 + text.count("\n") for text in headings), cell, 0.3, cell, 0.3]
        figure = Figure(figsize=(width, models * (sum(heights) + 0.2) + 0.5))
        captioned(figure, look, title, BARS)
        above = title_height(figure.get_suptitle()) if look.title else 0
        top, bottom = 1 - (above + 0.1) / figure.get_figheight(), 0.4 / figure.get_figheight()
        blocks = GridSpec(
            models, kinds, figure, left=0.5 / width, right=0.995, top=top, bottom=bottom, hspace=0.06,
            wspace=0.3 / count,
        )  # fmt: skip
        for model, kind in np.ndindex(models, kinds):
            grid = blocks[model, kind].subgridspec(5, count, height_ratios=heights, hspace=0.06, wspace=0.08)
            header = figure.add_subplot(grid[0, :])
            header.axis("off")
            present = min(count, int((examples["index"][model, kind] >= 0).sum()))
            header.text(0.5, 0.65, headings[kinds * model + kind], ha="center", va="center", transform=header.transAxes)
            for place in range(present):
                at = model, kind, place
                for view, words in enumerate(("clean", "adversarial")):
                    picture = figure.add_subplot(grid[1 + 2 * view, place])
                    picture.imshow(examples["image"][at][view], vmin=0, vmax=1, interpolation="nearest")
                    unframed([picture])
                    if view == 0:
                        picture.set_title(f"#{examples['index'][at]}", fontsize=small(), pad=1)
                    if place == 0 and (kind == 0 or not examples["index"][model, 0].max() >= 0):
                        picture.set_ylabel(words)
                    bars = figure.add_subplot(grid[2 + 2 * view, place])
                    _bars(bars, examples["classes"][at], examples["probability"][at][view], cell)
        handles = [
            Line2D([], [], color=colour, lw=5, alpha=0.5, label=label)
            for colour, label in ((TRUE_CLASS, "the true class"), (ATTACK_CLASS, "the attack's class"))
        ]
        figure.legend(handles=handles, loc="lower center", ncols=2)
        if look.title:
            figure.suptitle(figure.get_suptitle(), y=1, va="top")
    return figure


BARS = (
    "Bars: the probabilities of the true class and of the attack's class, which is the likeliest wrong class of the"
    " adversarial image"
)


def _bars(axes: Axes, classes: NDArray[Any], probability: NDArray[Any], inches: float) -> None:
    """Draw two bars from 0 to 1, with the class's name and the number over them."""
    axes.barh([0, 1], probability, height=0.9, color=[TRUE_CLASS, ATTACK_CLASS], alpha=0.5)
    for row, (name, value) in enumerate(zip(classes, probability, strict=True)):
        axes.text(0.03, row, shortened(str(name), inches - 0.12), fontsize=small(), va="center")
        axes.text(0.97, row, f"{value:.2f}", fontsize=small(), va="center", ha="right")
    axes.set(xlim=(0, 1), ylim=(1.5, -0.5), xticks=[], yticks=[])
    axes.spines[:].set_visible(True)
    axes.spines[:].set_color("#BBBBBB")


def loss_over_epochs(history: pd.DataFrame, *, title: str, look: Style = USUAL) -> Figure:
    """Draw the mean ALP loss over epochs, with intervals, for the sets of the last epoch (AALP, Figure 4).

    history: columns ``epoch``, ``set``, ``n``, ``alp``, ``low`` and ``high``, one row per epoch and set.
    """
    last = history["epoch"].max()
    with style(look):
        figure = Figure(figsize=(look.inches(COLUMN), 2.1), layout="constrained")
        axes = figure.subplots()
        for kind, points in history.groupby("set", sort=False):
            colour, count = COLOURS[str(kind)], int(points["n"].iloc[0])
            axes.plot(
                points["epoch"], points["alp"], color=colour, marker="o", ms=3,
                label=f"{kind} at epoch {last} ({count:,} images)",
            )  # fmt: skip
            axes.fill_between(points["epoch"], points["low"], points["high"], color=colour, alpha=0.2, linewidth=0)
        axes.set(xlabel="epoch", ylabel="mean ALP loss (squared logits)")
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        legend_below(figure, axes.get_legend_handles_labels()[0])
        captioned(figure, look, title, "Bands: 95 % bootstrap intervals over images")
    return figure
