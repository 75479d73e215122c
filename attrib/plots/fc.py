"""Valid values of the last layer's weights in red and white."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from numpy.typing import NDArray

from attrib.plots.base import COLUMN, WIDE, captioned, lettered, small, style, wrapped
from attrib.styles import USUAL, Style

VALID = "#C8102E"


def valid_picture(
    masks: Sequence[NDArray[np.bool_]], *, models: Sequence[str], classes: Sequence[Sequence[str]], title: str,
    look: Style = USUAL,
) -> Figure:  # fmt: skip
    """Draw valid values in red, others in white (AGAIN supplement, Figure 3): a panel per model, a band per class.

    masks: bool (K,D) per model; models: their names; classes: the K names per model. A class's values are broken into
    several lines, like text: 512 values in one line at a column's width would be half a point each.
    """
    width = look.inches(COLUMN)
    columns = min(4 if width >= WIDE else 2, len(masks))
    rows = -(-len(masks) // columns)
    named = len(masks[0]) <= 20
    with style(look):
        figure = Figure(figsize=(width, 2.3 * rows), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False)
        for axes in grid.flat[len(masks) :]:
            axes.set_visible(False)
        for position, (mask, model, names) in enumerate(zip(masks, models, classes, strict=True)):
            axes = grid.flat[position]
            _bands(axes, mask)
            name = wrapped(model, width / columns - 0.25)
            axes.set_title(f"{name}\n{mask.sum(1).mean():.1f} of {mask.shape[1]} valid")
            if named:
                # The panel to the left may already show the same names.
                same_as_before = position % columns and list(names) == list(classes[position - 1])
                _name_bands(axes, mask, [""] * len(mask) if same_as_before else names)
        lettered(grid.flat[: len(masks)])
        captioned(figure, look, title, "Number to the right of a class: its valid values" if named else "")
    return figure


def _bands(axes: Axes, mask: NDArray[np.bool_]) -> None:
    """Draw the matrix (K,D), each row broken into lines of at least 64 values, if there are at most 100 lines."""
    classes, features = mask.shape
    lines = _lines(mask)
    width = -(-features // lines)
    padded = np.full((classes, lines * width), 2)  # the rest of a band's last line is grey
    padded[:, :features] = mask
    axes.imshow(
        padded.reshape(classes * lines, width), cmap=ListedColormap(["white", VALID, "#BBBBBB"]), vmin=0, vmax=2,
        aspect="auto", interpolation="none",
    )  # fmt: skip
    if classes <= 20:
        for position in range(1, classes):
            axes.axhline(position * lines - 0.5, color="black", lw=0.5)
    axes.spines[:].set_visible(True)
    axes.tick_params(length=0)
    axes.set(xticks=[], yticks=[])
    axes.set_xlabel(f"{features} features, {width} a line" if lines > 1 else f"{features} features")
    axes.set_ylabel("" if classes <= 20 else f"{classes} classes")


def _name_bands(axes: Axes, mask: NDArray[np.bool_], names: Sequence[str]) -> None:
    """Write the class to the left of its band, and its number of valid values to the right."""
    middle = (np.arange(len(mask)) + 0.5) * _lines(mask) - 0.5
    axes.set_yticks(middle, names)
    for position, count in zip(middle, mask.sum(1), strict=True):
        axes.text(1.02, position, str(count), transform=axes.get_yaxis_transform(), va="center", fontsize=small())


def _lines(mask: NDArray[np.bool_]) -> int:
    classes, features = len(mask), len(mask[0])
    return max(1, min(features // 64, 100 // classes))
