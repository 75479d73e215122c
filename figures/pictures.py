"""Grids of maps as the papers show them: images side by side, below them one row of maps per model."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from attrib.plots.base import COLUMN, TEXT, style
from attrib.plots.maps import span_outline
from figures import shared
from figures.shared import Panel


class Row(NamedTuple):
    """One model's maps of the images."""

    label: str
    maps: NDArray[Any]
    """(E,H,W)"""
    spans: NDArray[np.bool_] | None
    """(E,H,W): drawn in a row of their own below."""
    said: list[str]
    """What the model says of each image, where it is not the label; else empty."""


def rows(examples: dict[str, NDArray[Any]], labels: Sequence[str], models: Sequence[str], *, spans: bool) -> list[Row]:
    """The models' rows from what ``attrib maps`` and ``attrib span`` keep of a few images.

    models: names in the results, which ``labels`` are what the figure calls them.
    """
    found = []
    for label, model in zip(labels, models, strict=True):
        at = examples["model"].tolist().index(model)
        said = [
            "" if word == label_of else str(word)
            for word, label_of in zip(examples["prediction"][at], examples["label"], strict=True)
        ]
        found.append(Row(label, examples["map"][at].astype(float), examples["span"][at] if spans else None, said))
    return found


def grid(found: Sequence[tuple[Panel, dict[str, NDArray[Any]], list[Row]]], *, first: str, title: str) -> Figure:
    """Panels side by side. Within one all maps share a colour scale, as in :func:`attrib.plots.maps.map_grid`.

    first: what the row of images is called.
    """
    with style():
        most = max(sum(1 if row.spans is None else 2 for row in of) for _, _, of in found)
        width = (COLUMN if len(found) == 1 else TEXT) / min(2, len(found))
        cell = (width - 0.75) / max(len(examples["image"]) for _, examples, _ in found)
        across = min(2, len(found))
        down = -(-len(found) // across)
        tight = ConstrainedLayoutEngine(w_pad=0.01, h_pad=0.01, hspace=0.02, wspace=0.02)
        figure = Figure(
            figsize=(width * across, down * ((most + 1) * (cell + 0.06) + 0.65) + 0.3),
            layout=tight,
        )
        parts = figure.subfigures(down, across, squeeze=False).flat
        for part, (panel, examples, of) in zip(parts, found, strict=False):
            top = float(np.percentile([row.maps for row in of], 99.5)) or 1.0
            scale = PowerNorm(0.5, 0, top)
            axes = part.subplots(most + 1, len(examples["image"]), squeeze=False)
            _images(axes[0], examples, first)
            line = 1
            for row in of:
                line = _model(axes, line, row, examples, scale)
            for cell in axes[line:].flat:  # a panel with fewer models than its neighbour
                cell.set_visible(False)
            bar = part.colorbar(
                ScalarMappable(scale), ax=axes, location="bottom", shrink=0.7, aspect=45, pad=0.01, extend="max"
            )
            bar.set_label("map, one scale for all models (brightness: square root)", fontsize=5.5)
            bar.ax.tick_params(labelsize=5)
            bar.set_ticks(_ticks(top), labels=[f"{tick:.2g}" for tick in _ticks(top)])
            part.suptitle(panel.title, fontsize=7)
        figure.suptitle(title)
    return figure


def _images(axes: NDArray[Any], examples: dict[str, NDArray[Any]], first: str) -> None:
    for place, cell in enumerate(axes):
        cell.imshow(examples["image"][place], interpolation="nearest")
        cell.set_title(f"{examples['label'][place]}\n#{examples['index'][place]}", fontsize=5.5, pad=2)
        _bare(cell)
    axes[0].set_ylabel(first, rotation=0, ha="right", va="center", fontsize=6)


def _model(
    axes: NDArray[Any], line: int, row: Row, examples: dict[str, NDArray[Any]], scale: PowerNorm
) -> int:  # fmt: skip
    """Draw one model's row, or its two rows; returns the next line."""
    for place, cell in enumerate(axes[line]):
        cell.imshow(row.maps[place], norm=scale)
        if row.said[place]:
            # On the map, since below it there is no room between the rows.
            cell.text(
                0.5, 0.03, row.said[place], transform=cell.transAxes, ha="center", va="bottom", fontsize=4.5,
                color="white", bbox={"fc": "black", "ec": "none", "alpha": 0.6, "pad": 0.6},
            )  # fmt: skip
        _bare(cell)
    axes[line][0].set_ylabel(row.label, rotation=0, ha="right", va="center", fontsize=6)
    if row.spans is None:
        return line + 1
    for place, cell in enumerate(axes[line + 1]):
        span_outline(cell, examples["image"][place] / 255, row.spans[place])
        _bare(cell)
    axes[line + 1][0].set_ylabel("its span", rotation=0, ha="right", va="center", fontsize=6)
    return line + 2


def _ticks(top: float) -> list[float]:
    """At most five round values up to the top: those near it would overlap under the square root."""
    return [float(tick) for tick in MaxNLocator(4).tick_values(0, top) if 0 <= tick <= top]


def _bare(axes: Axes) -> None:
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def of_task(
    found: Sequence[Panel], task: str, *, spans: bool, called: Sequence[Sequence[str]]
) -> list[tuple[Panel, dict[str, NDArray[Any]], list[Row]]]:
    """What :func:`grid` takes, from the examples kept of a task; called: the panels' models in the figure's words."""
    parts = []
    for panel, words in zip(found, called, strict=True):
        examples = panel.arrays(task)
        parts.append((panel, examples, rows(examples, words, panel.models, spans=spans)))
    return parts


def _label(panel: Panel, task: str, model: str) -> str:
    """What the figure calls a model, of whose seeds the pictures show the first."""
    seeds = len(shared.manifest(panel.folder)[task]["models"].get(model, ()))  # an epoch is none of the models
    return shared.names.label(model) + (", first seed" if seeds > 1 else "")


def save(
    found: Sequence[Panel], task: str, out: shared.Path, name: str, *, title: str, first: str = "image",
    spans: bool = False, called: Sequence[Sequence[str]] | None = None,
) -> list[shared.Path]:  # fmt: skip
    """Draw the examples kept of a task for every panel, and write the figure."""
    words = called or [[_label(panel, task, model) for model in panel.models] for panel in found]
    words = [[word.replace(" (", "\n(").replace(" w/o", "\nw/o").replace(", ", ",\n") for word in row] for row in words]
    title += "\n(in a cell: the wrong class that the model says)"
    figure = grid(of_task(found, task, spans=spans, called=words), first=first, title=title)
    return shared.save(figure, out, name)
