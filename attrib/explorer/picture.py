"""The explorer's picture: under every model the image, its map, span, top features and probabilities. No torch.

All places are set by hand, in inches, since a layout engine takes longer than everything else.
"""

import io
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from attrib.plots.base import power_of_ten, style, unframed
from attrib.plots.maps import span_outline

if TYPE_CHECKING:
    from attrib.explorer.views import View

PANEL, ALONE = 3.45, 4.6
"""Width of a panel, beside another and alone."""
MARGIN, GAP = 0.12, 0.06
ABOVE, BELOW = 0.25, 0.48
"""Heights of the legend and of the colour bar."""
NAME, TITLE, BETWEEN, BARS, AXIS = 0.2, 0.17, 0.32, 1.3, 0.4
"""Heights in a panel: name of the model, titles of the pictures, titles of the bars, the bars, their axis."""
CLASSES = 10
"""Largest number of classes shown, the likeliest ones."""
CLEAN, ATTACKED = "#0072B2", "#D55E00"
OPACITY = 0.7
"""Opacity of a map over its image at the map's highest value."""


def panels(
    views: Sequence["View"], *, classes: Sequence[str], label: int, kind: str, perturbation: bool = False,
    overlay: bool = False,
) -> Figure:  # fmt: skip
    """Draw a panel per view, two side by side; all maps share one colour scale, and all features one axis.

    classes: their names; label: the true class; kind: name of the map; perturbation: whether to show what the
    attack added; overlay: whether maps lie over the image. The scale is capped at the 99.5th percentile, with the
    square root of the value as brightness, as in ``attrib.plots.maps.map_grid``.
    """
    attacked = any(view.attacked for view in views)
    perturbation = perturbation and attacked
    columns = min(2, len(views))
    rows = -(-len(views) // columns)
    width = PANEL if columns == 2 else ALONE
    pictures = 4 if perturbation else 3
    side = (width - 2 * MARGIN - (pictures - 1) * GAP) / pictures
    height = NAME + TITLE + side + BETWEEN + BARS + AXIS
    maps = [view.map for view in views if view.map is not None]
    scale = PowerNorm(0.5, 0, float(np.percentile(np.stack(maps), 99.5)) or 1.0) if maps else None
    shown = _likeliest(np.concatenate([view.probability for view in views]), label)
    largest = float(max((view.relevance.max() for view in views if len(view.relevance)), default=0))
    with style():
        figure = Figure(figsize=(columns * width, ABOVE + rows * height + BELOW))
        for place, view in enumerate(views):
            left, top = place % columns * width, ABOVE + place // columns * height
            title = f"{view.model}, attacked" if view.attacked else view.model
            across, down = figure.get_size_inches()
            figure.text((left + MARGIN) / across, 1 - top / down, title, va="top", weight="bold", fontsize=8)
            top += NAME + TITLE
            _pictures(figure, left + MARGIN, top, side, view, scale, classes, perturbation, overlay)
            top += side + BETWEEN
            # Left of the bars there is room for numbers of features, and for names of classes.
            each = (width - 2 * MARGIN - 1.25) / 2
            _features(_axes(figure, left + MARGIN + 0.4, top, each, BARS), view, classes, largest)
            right = _axes(figure, left + width - MARGIN - each, top, each, BARS)
            _probabilities(right, view, shown, classes, label)
        if attacked:
            handles = [
                Line2D([], [], color=colour, lw=5, label=words)
                for words, colour in (("clean image", CLEAN), ("attacked image", ATTACKED))
            ]
            figure.legend(handles=handles, loc="upper right", ncols=2, bbox_to_anchor=(1, 1))
        if scale:
            bar = _axes(figure, figure.get_figwidth() / 2 - 1.4, figure.get_figheight() - 0.3, 2.8, 0.08)
            ticks = MaxNLocator(4)
            figure.colorbar(ScalarMappable(scale), cax=bar, orientation="horizontal", extend="max", ticks=ticks)
            words = "one scale for all models" if len(views) > 1 else "in the units of the score"
            bar.set_title(f"{kind}, {words} (brightness: square root)", fontsize=6, pad=2)
    return figure


def png(figure: Figure) -> bytes:
    """The figure as a PNG of its full size: cropping it would draw everything twice."""
    file = io.BytesIO()
    with style(), mpl.rc_context({"savefig.bbox": None}):
        figure.savefig(file, format="png", dpi="figure", pil_kwargs={"compress_level": 1})
    return file.getvalue()


def _pictures(
    figure: Figure, left: float, top: float, side: float, view: "View", scale: PowerNorm | None,
    classes: Sequence[str], perturbation: bool, overlay: bool,
) -> None:  # fmt: skip
    """Draw the image, the perturbation, the map and the span side by side."""
    places = [_axes(figure, left + n * (side + GAP), top, side, side) for n in range(4 if perturbation else 3)]
    unframed(places)
    first, *between, heat, spanned = places
    first.imshow(view.image, vmin=0, vmax=1, interpolation="nearest")
    first.set_title("attacked" if view.attacked else "image")
    for axes in between:
        if not view.attacked:
            axes.set_visible(False)
            continue
        largest = float(np.abs(view.perturbation).max())
        axes.imshow(0.5 + view.perturbation / (2 * largest or 1), vmin=0, vmax=1, interpolation="nearest")
        axes.set_title(f"added, ±{largest:.3f}")
    if view.map is None or view.span is None or scale is None:
        heat.text(0, 0.95, textwrap.fill(f"no map: {view.error}", 38), va="top", fontsize=6, color=ATTACKED)
        spanned.set_visible(False)
        return
    if overlay:
        heat.imshow(view.image, vmin=0, vmax=1, interpolation="nearest")
    heat.imshow(view.map, norm=scale, alpha=OPACITY * np.clip(scale(view.map), 0, 1) if overlay else None)
    heat.set_title(f"map of {_short(classes[view.target])}")
    span_outline(spanned, view.image, view.span)
    spanned.set_title(f"span {100 * view.coverage:.1f} %")


def _features(axes: Axes, view: "View", classes: Sequence[str], largest: float) -> None:
    """Draw the bars of the features; largest: the value at which every model's axis ends."""
    if view.features_error:
        axes.axis("off")
        axes.text(-0.4, 1, textwrap.fill(f"no features: {view.features_error}", 30), va="top", fontsize=6,
                  color=ATTACKED, transform=axes.transAxes)  # fmt: skip
        return
    power = int(np.floor(np.log10(largest))) if largest > 0 else 0
    rows = np.arange(len(view.relevance))
    axes.barh(rows, view.relevance / 10.0**power, height=0.75, color="0.45")
    axes.set_yticks(rows, [f"#{feature}" for feature in view.features])
    axes.set(xlim=(0, 1.05 * largest / 10.0**power or 1), ylim=(len(rows) - 0.5, -0.5))
    axes.xaxis.set_major_locator(MaxNLocator(3))
    axes.set_title("top features: |∂L/∂A · A|" + (f" ({power_of_ten(power)})" if power else ""))
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(f"L: loss of class {_short(classes[view.target])}", labelpad=1)


def _probabilities(axes: Axes, view: "View", shown: NDArray[np.intp], classes: Sequence[str], label: int) -> None:
    rows = np.arange(len(shown))
    kinds = [(0, CLEAN, -0.2), (1, ATTACKED, 0.2)] if view.attacked else [(0, CLEAN, 0)]
    for kind, colour, offset in kinds:
        axes.barh(rows + offset, view.probability[kind, shown], height=0.8 / len(kinds), color=colour)
    axes.set_yticks(rows, [_short(classes[k]) for k in shown])
    for name, k in zip(axes.get_yticklabels(), shown, strict=True):
        name.set_fontweight("bold" if k == label else "normal")
    axes.set(xlim=(0, 1), ylim=(len(rows) - 0.5, -0.5), xticks=[0, 0.5, 1])
    axes.tick_params(axis="y", length=0)
    axes.set_title("class probabilities")
    axes.set_xlabel("bold: true class", labelpad=1)


def _likeliest(probability: NDArray[np.float32], label: int) -> NDArray[np.intp]:
    """The CLASSES likeliest classes over all rows (M,K), always with the true one, in the order of the classes."""
    highest = probability.max(0)
    highest[label] = np.inf
    return np.sort(np.argsort(-highest, kind="stable")[:CLASSES])


def _axes(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Axes at a place in inches from the upper left corner."""
    across, down = figure.get_size_inches()
    return figure.add_axes((left / across, 1 - (top + height) / down, width / across, height / down))


def _short(name: str) -> str:
    """The name, cut to eleven letters."""
    return name if len(name) <= 11 else f"{name[:10]}…"
