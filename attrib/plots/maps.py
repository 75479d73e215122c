"""Images with their maps and spans, models side by side."""

from collections.abc import Mapping, Sequence
from itertools import chain, product
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure, SubFigure
from numpy.typing import NDArray

from attrib.errors import InputError
from attrib.plots.base import (
    COLUMN,
    TEXT,
    captioned,
    inches_of,
    shortened,
    small,
    style,
    unframed,
    wrapped,
)
from attrib.styles import USUAL, Style

SPAN_COLOUR = "#56B4E9"
OPACITY = 0.6
"""Opacity of a map over its image at the map's highest value."""
OWN_SCALE = "each map on its own scale"
SCALE = (
    "Each map has its own scale: 100 % is its 99.5th percentile, written below it in units of the score; all higher"
    " values look the same. Brightness is the square root of the value"
)
SPANS = (
    "Line: the outline of the span. Below: its coverage. Colour: the map on its own scale, from 0 (no colour) to its"
    " 99.5th percentile (yellow)"
)
PREDICTION = "A class below a map: the model's prediction where it is wrong"
UNLABELLED = "A class below a map: the model's prediction"
BAR = 0.5
"""Width of the colour bar, inches."""
PAGE = 8
"""Largest height of a figure, inches; a page also has to hold its caption."""
CAPTION = 0.35
"""Height of the lines above a picture, inches."""
SMALLEST = 0.5
"""Smallest useful width of a picture, inches."""


def map_grid(examples: Mapping[str, Any], *, title: str, spans: bool = False, look: Style = USUAL) -> Figure:
    """Draw images in rows, beside each its map per model or, with ``spans``, map and span over the image.

    If there are more models than rows, rows and columns are exchanged.

    examples: ``image`` (E,H,W,3) floats in [0,1], ``index`` (E,), ``label`` (E,) texts, ``model`` (M,) names,
    ``map`` (M,E,H,W), ``span`` bool (M,E,H,W), ``prediction`` (M,E) texts; for files also ``path`` (E,) texts. With
    ``attacked_map``, ``attacked_span``, ``attacked_prediction`` and ``attacked_image`` (M,E,H,W,3), a second row below
    each image shows the maps under attack; each model is attacked separately. Each map's scale ends at its own 99.5th
    percentile, and brightness is the square root of the value: neither single pixels nor images or models with larger
    scores darken the rest.
    """
    kinds = ("", "attacked_") if "attacked_map" in examples else ("",)
    models, count = examples["map"].shape[:2]
    transposed = models > count * len(kinds)  # a row per model
    with style(look):
        image_names = [_image_name(examples, example, 0.6 if transposed else 1.5) for example in range(count)]
        model_names = list(map(str, examples["model"]))
        names = [line for text in (model_names if transposed else chain(*image_names)) for line in text.split("\n")]
        beside = max(0.4, *map(inches_of, names)) + (0 if spans else BAR)
        shape = count * len(kinds), 1 + models
        rows, columns = shape[::-1] if transposed else shape
        cell, height = _cell_on_page(rows, columns, look.inches(TEXT) if look.width else None, beside, lines=2)
        width = max(COLUMN, cell * columns + beside + 0.1)  # wide enough for a caption
        figure = Figure(figsize=(width, height * rows + 0.4), layout="compressed")
        panels = figure.subplots(rows, columns, squeeze=False)
        grid = panels.T if transposed else panels
        for line, (example, kind) in zip(grid, product(range(count), kinds), strict=True):
            if kind:
                line[0].text(0.5, 0.5, "attacked", ha="center", va="center", transform=line[0].transAxes)
            else:
                _picture(line[0], examples["image"][example])
                (_over if transposed else _beside)(line[0], image_names[example])
            for model, axes in enumerate(line[1:]):
                _draw_cell(axes, examples, kind, (model, example), spans=spans, inches=cell)
        if transposed:
            _beside(grid[0, 0], ["image"])
        else:
            _over(grid[0, 0], ["image"])
        for axes, name in zip(grid[0, 1:], model_names, strict=True):
            (_beside if transposed else _over)(axes, [name if transposed else wrapped(name, cell)])
        unframed(grid.flat)
        if not spans:
            percent_bar(figure, panels, location="right", shrink=0.8, aspect=40)
        captioned(figure, look, title, SPANS if spans else SCALE, PREDICTION if any(examples["label"]) else UNLABELLED)
    return figure


def _cell_on_page(
    rows: int, columns: int, width: float | None, beside: float, *, lines: int
) -> tuple[float, float]:  # fmt: skip
    """Side of a picture in a grid, and its height with the text below, for a figure of this width; all in inches."""
    usual = min(0.85, (TEXT - 0.2 - beside) / columns)
    cell = min(1.6, usual if width is None else (width - 0.1 - beside) / columns)
    below = 0.13 * lines
    cell = max(min(cell, 0.35), min(cell, (PAGE - 0.5) / rows - below))  # rather a high figure than tiny pictures
    return cell, cell + below


def _beside(axes: Axes, lines: Sequence[str]) -> None:
    axes.set_ylabel("\n".join(lines), rotation=0, ha="right", va="center")


def _over(axes: Axes, lines: Sequence[str]) -> None:
    axes.set_title("\n".join(lines))


def _draw_cell(
    axes: Axes, examples: Mapping[str, Any], kind: str, at: tuple[int, int], *, spans: bool, inches: float
) -> None:  # fmt: skip
    """Draw a model's map of an image or, with ``spans``, map and span over the image."""
    lines, heat = [], examples[f"{kind}map"][at]
    if spans:
        mask = examples[f"{kind}span"][at]
        draw_span(axes, examples["attacked_image"][at] if kind else examples["image"][at[1]], heat, mask)
        lines.append(f"{100 * mask.mean():.1f} %")
    else:
        lines.append(draw_map(axes, heat))
    prediction = str(np.asarray(examples[f"{kind}prediction"])[at])
    if prediction and prediction != examples["label"][at[1]]:
        lines.append(shortened(prediction, 1.15 * inches))
    axes.set_xlabel("\n".join(filter(None, lines)), labelpad=1, fontsize=small())


def draw_map(axes: Axes, heat: NDArray[Any]) -> str:
    """Draw a map (H,W) on its own scale; returns the end of the scale as text, empty for an empty map."""
    axes.imshow(heat, norm=PowerNorm(0.5, 0, top_of(heat)))
    if not heat.any():
        mark_empty(axes)
    return f"{top_of(heat):.2g}" if heat.any() else ""


def draw_span(axes: Axes, image: NDArray[Any], heat: NDArray[Any], mask: NDArray[np.bool_]) -> None:
    """Draw the image (H,W,3) under its map (H,W), with the outline of the span (H,W)."""
    _picture(axes, image)
    _lay_over(axes, heat, OPACITY)
    outline(axes, mask)


def top_of(heat: Any) -> float:
    """End of a map's scale: the 99.5th percentile, or the highest value if that percentile is 0."""
    return float(np.percentile(heat, 99.5)) or float(np.max(heat)) or 1.0


def percent_bar(figure: Figure | SubFigure, grid: NDArray[Any], *, location: str, shrink: float, aspect: float) -> None:
    """Draw the colour bar: percent of the end of each map's own scale."""
    bar = figure.colorbar(
        ScalarMappable(PowerNorm(0.5, 0, 100)), ax=grid, location=location, shrink=shrink, aspect=aspect, pad=0.01,
        extend="max",
    )  # fmt: skip
    bar.set_ticks([0, 5, 20, 50, 100])
    bar.set_label("% of the map's 99.5th percentile")


def mark_empty(axes: Axes) -> None:
    """Mark the map in these axes as empty."""
    axes.text(
        0.5, 0.5, "empty", ha="center", va="center", transform=axes.transAxes, fontsize=small(), color="white",
        bbox={"fc": "black", "ec": "none", "alpha": 0.6, "pad": 1},
    )  # fmt: skip


def overlay(
    images: Any, maps: Any, *, titles: Sequence[str] | None = None, names: Sequence[str] | None = None,
    columns: int = 4, opacity: float = OPACITY,
) -> Figure:  # fmt: skip
    """Draw images with their maps over them, in rows of ``columns``.

    images: (N,C,H,W) in [0,1], with one or three channels, or (N,H,W,3); maps: (N,H,W), not negative, or (M,N,H,W) of
    M models, a row each. Both tensors or arrays. titles: (N,) texts; names: of the M models. opacity: of a map at its
    highest value; where a map is 0, the image is unchanged. Every map has its own scale, up to its 99.5th percentile,
    as the figure says: compare places, not values.

    Raises InputError for other shapes, pixels outside [0,1], maps that are not finite, and a wrong number of titles.

    >>> overlay(np.zeros((2, 3, 8, 8)), np.ones((2, 8, 8)), titles=["cat", "dog"]).axes[1].get_title()
    'dog'
    """
    pictures, heat = _pictures(images), _plain_array(maps)
    heat = heat[None] if heat.ndim == 3 else heat
    if heat.ndim != 4 or heat.shape[1:] != pictures.shape[:3]:
        raise InputError(f"maps: expected shape {pictures.shape[:3]}, as the images, got {_plain_array(maps).shape}")
    heat = heat.astype(float)
    if not np.isfinite(heat).all():
        raise InputError("maps: expected finite numbers, got NaN or infinity")
    if titles is not None and len(titles) != len(pictures):
        raise InputError(f"titles: expected {len(pictures)}, one per image, got {len(titles)}")
    if columns < 1 or not 0 <= opacity <= 1:
        raise InputError(f"expected columns >= 1 and opacity in [0,1], got {columns} and {opacity}")
    models, count = heat.shape[:2]
    columns = min(columns, count)
    rows = -(-count // columns) * models
    cell = min(1.8, TEXT / columns)
    with style():
        figure = Figure(figsize=(cell * columns, (cell + 0.2) * rows), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False)
        for axes in grid.flat:
            axes.set_axis_off()
        for image, model in product(range(count), range(models)):
            axes = grid[image // columns * models + model, image % columns]
            _picture(axes, pictures[image])
            _lay_over(axes, heat[model, image], opacity)
            if titles is not None and model == 0:
                axes.set_title(titles[image])
            if names is not None and image % columns == 0 and models > 1:
                name = wrapped(str(names[model]), cell)
                axes.text(-0.05, 0.5, name, ha="right", va="center", transform=axes.transAxes)
        figure.supxlabel(OWN_SCALE, fontsize="small")
    return figure


def overlay_grid(examples: Mapping[str, Any], *, title: str, look: Style = USUAL) -> Figure:
    """Draw images, each followed by every model's map over it, below the prediction; several images to a row.

    examples: as ``map_grid`` takes them, with ``probability`` (M,E), NaN where unknown. Pictures are as large as
    a page allows. Each map has its own scale, from 0 to its 99.5th percentile: compare places, not values.
    """
    images, maps = examples["image"], examples["map"]
    models, count = maps.shape[:2]
    cell, per_row = _on_a_page(count, 1 + models, images.shape[1] / images.shape[2], look.inches(TEXT))
    columns, rows = per_row * (1 + models), -(-count // per_row)
    height = cell * images.shape[1] / images.shape[2] + CAPTION
    with style(look):
        figure = Figure(figsize=(cell * columns, height * rows + 0.25), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False)
        unframed(grid.flat)
        for example, (first, *others) in enumerate(grid.reshape(rows * per_row, 1 + models)[:count]):
            _picture(first, images[example])
            first.set_title("\n".join(_image_name(examples, example, cell)))
            for model, axes in enumerate(others):
                _picture(axes, images[example])
                _lay_over(axes, maps[model, example], OPACITY)
                name = [wrapped(str(examples["model"][model]), cell)] if models > 1 and example < per_row else []
                axes.set_title("\n".join([*name, *_prediction(examples, model, example, cell)]))
        prefix = f"{examples['model'][0]}: " if models == 1 else ""
        captioned(
            figure, look, prefix + title,
            "Colour: the map, from 0 (no colour) to its 99.5th percentile (yellow). Above it: the prediction",
        )  # fmt: skip
        figure.supxlabel(OWN_SCALE, fontsize=small())
    return figure


def _on_a_page(count: int, columns: int, aspect: float, width: float) -> tuple[float, int]:
    """Width of a picture, and images per row, for ``count`` images of so many columns each and a figure of this width.

    Pictures are as large as a page allows, at most 1.6 inches. If several layouts give this size, one with few rows.
    """
    most = max(1, min(count, int(width / (SMALLEST * columns))))
    sizes = []
    for per_row in range(1, most + 1):
        rows = -(-count // per_row)
        by_height = (PAGE / rows - CAPTION) / aspect
        sizes.append((min(1.6, width / (per_row * columns), max(by_height, SMALLEST)), per_row))
    return max(sizes)


def _image_name(examples: Mapping[str, Any], example: int, inches: float) -> list[str]:
    """An image's label, if it has one, and its file or position, each cut to a line of this width."""
    label = str(examples["label"][example])
    name = Path(str(examples["path"][example])).stem if "path" in examples else f"#{examples['index'][example]}"
    return [shortened(each, inches) for each in (label, name) if each]


def _prediction(examples: Mapping[str, Any], model: int, example: int, inches: float) -> list[str]:
    """The predicted class, with "says" before it if it is wrong, and its probability in percent."""
    prediction, label = str(np.asarray(examples["prediction"])[model, example]), str(examples["label"][example])
    probability = float(np.asarray(examples["probability"])[model, example])
    name = shortened(f"says {prediction}" if prediction and label and prediction != label else prediction, inches)
    return [name] if probability != probability else [name, f"{100 * probability:.1f} %"]


def _lay_over(axes: Axes, heat: NDArray[Any], opacity: float) -> None:
    """Draw a map (H,W) over the picture in the axes; higher values are more opaque."""
    share = np.clip(heat / top_of(heat), 0, 1)
    axes.imshow(share, cmap="inferno", vmin=0, vmax=1, alpha=opacity * np.sqrt(share), interpolation="nearest")
    if not heat.any():
        mark_empty(axes)


def _pictures(images: Any) -> NDArray[Any]:
    """Images in matplotlib's layout, (N,H,W,3)."""
    array = _plain_array(images)
    if array.ndim == 4 and (array.shape[1] == 3 or (array.shape[1] == 1 and array.shape[3] != 3)):
        array = np.moveaxis(array, 1, 3)
    if array.ndim != 4 or not array.size or array.shape[3] not in (1, 3):
        raise InputError(
            f"images: expected shape (N,C,H,W) with one or three channels, or (N,H,W,3), got {array.shape}"
        )
    if array.dtype.kind != "f" or not (array.min() >= 0 and array.max() <= 1):
        raise InputError(f"images: expected floats in [0,1], got {array.dtype} in {array.min():.3g}..{array.max():.3g}")
    return np.broadcast_to(array, (*array.shape[:3], 3))


def _plain_array(values: Any) -> NDArray[Any]:
    """A NumPy array from a tensor on any device, or from anything that NumPy accepts."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = values.float() if values.is_floating_point() else values
    return np.asarray(values)


def span_outline(axes: Axes, image: NDArray[Any], mask: NDArray[np.bool_]) -> None:
    """Draw the image (H,W,3), dimmed outside the span (H,W), with the outline of the span."""
    _picture(axes, np.where(mask[..., None], image, 0.35 * image))
    outline(axes, mask)


def outline(axes: Axes, mask: NDArray[np.bool_]) -> None:
    """Draw the outline of a span (H,W): a light line on a dark one, visible on bright and on dark images."""
    if mask.any() and not mask.all():
        # Drawn pixel by pixel (nearest), so the line runs between pixels and not through them.
        fine = np.kron(np.pad(mask, 1), np.ones((8, 8)))
        at = (np.arange(fine.shape[1]) + 0.5) / 8 - 1.5, (np.arange(fine.shape[0]) + 0.5) / 8 - 1.5
        for colour, width in (("black", 1.4), (SPAN_COLOUR, 0.7)):
            axes.contour(*at, fine, levels=[0.5], colors=[colour], linewidths=width)
        axes.set_xlim(-0.5, mask.shape[1] - 0.5)
        axes.set_ylim(mask.shape[0] - 0.5, -0.5)


def _picture(axes: Axes, image: NDArray[Any]) -> None:
    axes.imshow(image, vmin=0, vmax=1, interpolation="nearest")
