"""Grids of maps as in the papers: images side by side, below them one row of maps per model."""

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from numpy.typing import NDArray

from attrib.plots.base import COLUMN, TEXT, WIDE, captioned, lettered, shortened, small, style, unframed
from attrib.plots.maps import SCALE, SPANS, draw_map, draw_span, percent_bar
from attrib.styles import Style
from figures import names, shared
from figures.shared import Panel

Arrays = dict[str, NDArray[Any]]
PREDICTION = "Text in a cell: the model's prediction where it is wrong"


def map_grid(panels: Sequence[Panel], look: Style, *, title: str, first: str = "image", spans: bool = False) -> Figure:
    """Draw panels side by side, each with a row per model, like ``attrib.plots.maps.map_grid``.

    first: label of the row of images; spans: whether to draw maps over images, with the outlines of the spans.
    """
    examples = [panel.arrays() for panel in panels]
    most = max(len(panel.models) for panel in panels)
    width = look.inches(COLUMN if len(panels) == 1 else TEXT)
    across = min(2, len(panels)) if width >= WIDE else 1
    down = -(-len(panels) // across)
    with style(look):
        cell = (width / across - 0.75) / max(len(arrays["image"]) for arrays in examples)
        below, bar = 0.14, 0 if spans else 0.5
        figure = Figure(
            figsize=(width, down * ((most + 1) * (cell + below) + 0.4 + bar)),
            layout=ConstrainedLayoutEngine(w_pad=0.01, h_pad=0.01, hspace=0.02, wspace=0.02),
        )
        parts = list(figure.subfigures(down, across, squeeze=False).flat[: len(panels)])
        for part, panel, arrays in zip(parts, panels, examples, strict=True):
            axes = part.subplots(most + 1, len(arrays["image"]), squeeze=False)
            _panel(part, axes, panel, arrays, first=first, spans=spans, cell=cell)
            part.suptitle(panel.title)
        lettered(parts)
        captioned(figure, look, title, SPANS if spans else SCALE, PREDICTION)
    return figure


def epochs(panels: Sequence[Panel]) -> list[Panel]:
    """The panels with the epochs that have maps in place of models."""
    return [panel._replace(models=panel.arrays()["model"].tolist()) for panel in panels]


def _panel(
    part: SubFigure, axes: NDArray[Any], panel: Panel, examples: Arrays, *, first: str, spans: bool, cell: float
) -> None:  # fmt: skip
    for each, image, label, index in zip(axes[0], *(examples[key] for key in ("image", "label", "index")), strict=True):
        each.imshow(image, interpolation="nearest")
        each.set_title(f"{shortened(str(label), 1.1 * cell)}\n#{index}", fontsize=small(), pad=2)
    _bare(axes[0], first)
    rows = [examples["model"].tolist().index(model) for model in panel.models]
    for line, row, model in zip(axes[1:], rows, panel.models, strict=False):
        maps = examples["map"][row].astype(float)
        for place, each in enumerate(line):
            if spans:
                mask = examples["span"][row, place]
                draw_span(each, examples["image"][place] / 255, maps[place], mask)
                below = f"{100 * mask.mean():.0f} %"
            else:
                below = draw_map(each, maps[place])
            each.set_xlabel(below, fontsize=small(), labelpad=1)
            _say(each, str(examples["prediction"][row, place]), str(examples["label"][place]), cell)
        _bare(line, _label(panel, model))
    for each in axes[1 + len(rows) :].flat:  # a panel with fewer models than its neighbour
        each.set_visible(False)
    if not spans:
        percent_bar(part, axes, location="bottom", shrink=0.8, aspect=45)


def _say(axes: Axes, prediction: str, label: str, inches: float) -> None:
    """Write a wrong prediction on the map, since there is no room between the rows."""
    if prediction and prediction != label:
        axes.text(
            0.5, 0.03, shortened(prediction, inches), transform=axes.transAxes, ha="center", va="bottom",
            fontsize=small(), color="white", bbox={"fc": "black", "ec": "none", "alpha": 0.6, "pad": 0.6},
        )  # fmt: skip


def _label(panel: Panel, model: str) -> str:
    """Label of a model, in short lines; of several seeds, the pictures show the first."""
    seeds = len(shared.manifest(panel.folder)[panel.task]["models"].get(model, ()))  # an epoch is not among the models
    label = names.label(model) + (", first seed" if seeds > 1 else "")
    return label.replace(" (", "\n(").replace(" w/o", "\nw/o").replace(", ", ",\n")


def _bare(line: Sequence[Axes], label: str) -> None:
    unframed(line)
    line[0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=small())
