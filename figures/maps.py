"""Grids of maps as the papers show them: images side by side, below them one row of maps per model."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure, SubFigure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from attrib.plots.base import COLUMN, TEXT, style, unframed
from attrib.plots.maps import span_outline
from figures import names, shared
from figures.shared import Panel

Arrays = dict[str, NDArray[Any]]


def map_grid(found: Sequence[Panel], *, title: str, first: str = "image", spans: bool = False) -> Figure:
    """Panels side by side. Within one all maps share a colour scale, as in ``attrib.plots.maps.map_grid``.

    first: what the row of images is called; spans: below each model's maps a row of its spans.
    """
    examples = [panel.arrays() for panel in found]
    most = max(len(panel.models) for panel in found) * (2 if spans else 1)
    across = min(2, len(found))
    down = -(-len(found) // across)
    with style():
        width = (COLUMN if len(found) == 1 else TEXT) / across
        cell = (width - 0.75) / max(len(arrays["image"]) for arrays in examples)
        figure = Figure(
            figsize=(width * across, down * ((most + 1) * (cell + 0.06) + 0.65) + 0.3),
            layout=ConstrainedLayoutEngine(w_pad=0.01, h_pad=0.01, hspace=0.02, wspace=0.02),
        )
        parts = figure.subfigures(down, across, squeeze=False).flat
        for part, panel, arrays in zip(parts, found, examples, strict=False):
            axes = part.subplots(most + 1, len(arrays["image"]), squeeze=False)
            _panel(part, axes, panel, arrays, first=first, spans=spans)
            part.suptitle(panel.title, fontsize=7)
        figure.suptitle(f"{title}\n(in a cell: the wrong class that the model says)")
    return figure


def epochs(found: Sequence[Panel]) -> list[Panel]:
    """The panels with the epochs of which there are maps, as models."""
    return [panel._replace(models=panel.arrays()["model"].tolist()) for panel in found]


def _panel(
    part: SubFigure, axes: NDArray[Any], panel: Panel, examples: Arrays, *, first: str, spans: bool
) -> None:  # fmt: skip
    for cell, image, label, index in zip(axes[0], *(examples[key] for key in ("image", "label", "index")), strict=True):
        cell.imshow(image, interpolation="nearest")
        cell.set_title(f"{label}\n#{index}", fontsize=5.5, pad=2)
    _bare(axes[0], first)
    rows = [examples["model"].tolist().index(model) for model in panel.models]
    maps = examples["map"][rows].astype(float)
    top = float(np.percentile(maps, 99.5)) or 1.0
    scale = PowerNorm(0.5, 0, top)
    lines = iter(axes[1:])
    for row, model, of_model in zip(rows, panel.models, maps, strict=True):
        line = next(lines)
        _maps(line, of_model, examples["prediction"][row], examples["label"], scale)
        _bare(line, _label(panel, model))
        if spans:
            line = next(lines)
            for cell, image, span in zip(line, examples["image"], examples["span"][row], strict=True):
                span_outline(cell, image / 255, span)
            _bare(line, "its span")
    for line in lines:  # a panel with fewer models than its neighbour
        for cell in line:
            cell.set_visible(False)
    bar = part.colorbar(
        ScalarMappable(scale), ax=axes, location="bottom", shrink=0.7, aspect=45, pad=0.01, extend="max"
    )  # fmt: skip
    bar.set_label("map, one scale for all models (brightness: square root)", fontsize=5.5)
    bar.ax.tick_params(labelsize=5)
    # At most five round values up to the top: those near it would overlap under the square root.
    ticks = [float(tick) for tick in MaxNLocator(4).tick_values(0, top) if 0 <= tick <= top]
    bar.set_ticks(ticks, labels=[f"{tick:.2g}" for tick in ticks])


def _maps(line: Sequence[Axes], maps: NDArray[Any], predictions: Any, labels: Any, scale: PowerNorm) -> None:
    for cell, image, prediction, label in zip(line, maps, predictions, labels, strict=True):
        cell.imshow(image, norm=scale)
        if prediction and prediction != label:
            # On the map, since below it there is no room between the rows.
            cell.text(
                0.5, 0.03, prediction, transform=cell.transAxes, ha="center", va="bottom", fontsize=4.5,
                color="white", bbox={"fc": "black", "ec": "none", "alpha": 0.6, "pad": 0.6},
            )  # fmt: skip


def _label(panel: Panel, model: str) -> str:
    """What the figure calls a model, of whose seeds the pictures show the first; in short lines."""
    seeds = len(shared.manifest(panel.folder)[panel.task]["models"].get(model, ()))  # an epoch is none of the models
    label = names.label(model) + (", first seed" if seeds > 1 else "")
    return label.replace(" (", "\n(").replace(" w/o", "\nw/o").replace(", ", ",\n")


def _bare(line: Sequence[Axes], label: str) -> None:
    unframed(line)
    line[0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=6)
