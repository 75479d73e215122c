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
"""Of a map over its image, where it is highest."""
OWN_SCALE = "each map on its own scale"
SCALE = (
    "Each map has its own scale: 100 % is its 99.5th percentile, the number below it (in units of the score), beyond"
    " which all values look the same; brightness: the square root"
)
SPANS = (
    "Line: the outline of the span; below: its coverage. Colour: the map, each on its own scale, from 0 (none) to its"
    " 99.5th percentile (yellow)"
)
SAYS = "A class below a map: what the model predicts, where it is wrong"
BAR = 0.5
"""Inches that the bar of colours takes."""
PAGE = 8
"""Inches that a figure may be high, with room for a caption."""
CAPTION = 0.35
"""Inches for the lines above a picture."""
SMALLEST = 0.5
"""Inches of a picture in which something can be seen."""


def map_grid(examples: Mapping[str, Any], *, title: str, spans: bool = False, look: Style = USUAL) -> Figure:
    """Images in rows; beside each its map per model or, with ``spans``, the map and the span on the image.

    Where there are more models than rows, rows and columns are exchanged.

    examples: ``image`` (E,H,W,3) floats in [0,1], ``index`` (E,), ``label`` (E,) texts, ``model`` (M,) names,
    ``map`` (M,E,H,W), ``span`` bool (M,E,H,W), ``prediction`` (M,E) texts; of files ``path`` (E,) texts. With
    ``attacked_map``, ``attacked_span``, ``attacked_prediction`` and ``attacked_image`` (M,E,H,W,3), each model being
    attacked by itself, a second row below each image shows what the attack makes of it. Each map has a scale of its
    own that ends at its 99.5th percentile, with the square root of the value as brightness, so that neither a single
    pixel nor an image or a model with larger scores darkens the rest.
    """
    kinds = ("", "attacked_") if "attacked_map" in examples else ("",)
    models, count = examples["map"].shape[:2]
    turned = models > count * len(kinds)  # a row per model, which is then the longer side
    with style(look):
        called = [_called(examples, example, 0.6 if turned else 1.5) for example in range(count)]
        named = list(map(str, examples["model"]))
        names = [line for text in (named if turned else chain(*called)) for line in text.split("\n")]
        beside = max(0.4, *map(inches_of, names)) + (0 if spans else BAR)
        shape = count * len(kinds), 1 + models
        rows, columns = shape[::-1] if turned else shape
        cell, height = _cell_on_page(rows, columns, look.inches(TEXT) if look.width else None, beside, lines=2)
        width = max(COLUMN, cell * columns + beside + 0.1)  # a caption needs its room
        figure = Figure(figsize=(width, height * rows + 0.4), layout="compressed")
        panels = figure.subplots(rows, columns, squeeze=False)
        grid = panels.T if turned else panels
        for line, (example, kind) in zip(grid, product(range(count), kinds), strict=True):
            if kind:
                line[0].text(0.5, 0.5, "attacked", ha="center", va="center", transform=line[0].transAxes)
            else:
                _picture(line[0], examples["image"][example])
                (_over if turned else _beside)(line[0], called[example])
            for model, axes in enumerate(line[1:]):
                _draw_cell(axes, examples, kind, (model, example), spans=spans, inches=cell)
        if turned:
            _beside(grid[0, 0], ["image"])
        else:
            _over(grid[0, 0], ["image"])
        for axes, name in zip(grid[0, 1:], named, strict=True):
            (_beside if turned else _over)(axes, [name if turned else wrapped(name, cell)])
        unframed(grid.flat)
        if not spans:
            percent_bar(figure, panels, location="right", shrink=0.8, aspect=40)
        captioned(figure, look, title, SPANS if spans else SCALE, SAYS)
    return figure


def _cell_on_page(
    rows: int, columns: int, width: float | None, beside: float, *, lines: int
) -> tuple[float, float]:  # fmt: skip
    """The side of a picture of a grid in a figure of the width, inches, and its height with the lines of text below."""
    usual = min(0.85, (TEXT - 0.2 - beside) / columns)
    cell = min(1.6, usual if width is None else (width - 0.1 - beside) / columns)
    below = 0.13 * lines
    cell = max(min(cell, 0.35), min(cell, (PAGE - 0.5) / rows - below))  # rather a higher figure than none to be seen
    return cell, cell + below


def _beside(axes: Axes, lines: Sequence[str]) -> None:
    axes.set_ylabel("\n".join(lines), rotation=0, ha="right", va="center")


def _over(axes: Axes, lines: Sequence[str]) -> None:
    axes.set_title("\n".join(lines))


def _draw_cell(
    axes: Axes, examples: Mapping[str, Any], kind: str, at: tuple[int, int], *, spans: bool, inches: float
) -> None:  # fmt: skip
    """What a model makes of an image: its map or, with ``spans``, map and span on the image."""
    words, heat = [], examples[f"{kind}map"][at]
    if spans:
        mask = examples[f"{kind}span"][at]
        draw_span(axes, examples["attacked_image"][at] if kind else examples["image"][at[1]], heat, mask)
        words.append(f"{100 * mask.mean():.1f} %")
    else:
        words.append(draw_map(axes, heat))
    prediction = str(np.asarray(examples[f"{kind}prediction"])[at])
    if prediction and prediction != examples["label"][at[1]]:
        words.append(shortened(prediction, 1.15 * inches))
    axes.set_xlabel("\n".join(filter(None, words)), labelpad=1, fontsize=small())


def draw_map(axes: Axes, heat: NDArray[Any]) -> str:
    """A map (H,W) on its own scale; returns where that ends, as text, and nothing of an empty map."""
    axes.imshow(heat, norm=PowerNorm(0.5, 0, top_of(heat)))
    if not heat.any():
        mark_empty(axes)
    return f"{top_of(heat):.2g}" if heat.any() else ""


def draw_span(axes: Axes, image: NDArray[Any], heat: NDArray[Any], mask: NDArray[np.bool_]) -> None:
    """The image (H,W,3) under its map (H,W), with the outline of the span (H,W)."""
    _picture(axes, image)
    _lay_over(axes, heat, OPACITY)
    outline(axes, mask)


def top_of(heat: Any) -> float:
    """Where the scale of a map ends: the 99.5th percentile, or the highest value where that is 0."""
    return float(np.percentile(heat, 99.5)) or float(np.max(heat)) or 1.0


def percent_bar(figure: Figure | SubFigure, grid: NDArray[Any], *, location: str, shrink: float, aspect: float) -> None:
    """The scale of all maps, in percent of their own tops."""
    bar = figure.colorbar(
        ScalarMappable(PowerNorm(0.5, 0, 100)), ax=grid, location=location, shrink=shrink, aspect=aspect, pad=0.01,
        extend="max",
    )  # fmt: skip
    bar.set_ticks([0, 5, 20, 50, 100])
    bar.set_label("% of the map's 99.5th percentile")


def mark_empty(axes: Axes) -> None:
    """Say that the map of these axes is empty."""
    axes.text(
        0.5, 0.5, "empty", ha="center", va="center", transform=axes.transAxes, fontsize=small(), color="white",
        bbox={"fc": "black", "ec": "none", "alpha": 0.6, "pad": 1},
    )  # fmt: skip


def overlay(
    images: Any, maps: Any, *, titles: Sequence[str] | None = None, names: Sequence[str] | None = None,
    columns: int = 4, opacity: float = OPACITY,
) -> Figure:  # fmt: skip
    """Images with their maps laid over them, in rows of ``columns``.

    images: (N,C,H,W) in [0,1], with one or three channels, or (N,H,W,3); maps: (N,H,W), not negative, or (M,N,H,W) of
    M models, which are rows below each other. Both tensors or arrays. titles: (N,) texts, which are shown as they are;
    names: of the M models. opacity: of the map where it is highest; where the map is 0 the image is as it was. Every
    map has a scale of its own, up to its 99.5th percentile, as the figure says: compare places, not heights.

    Raises InputError for other shapes, pixels outside [0,1], maps that are not finite, and titles of another number.

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
    """Images, each followed by its map of every model over it, under what the model predicts; several to a row.

    examples: as ``map_grid`` takes them, with ``probability`` (M,E), NaN where it is not known. Pictures are as
    large as a page allows.
    Each map has its own scale, from 0 to its 99.5th percentile: what is compared is where models look, not how much.
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
            first.set_title("\n".join(_called(examples, example, cell)))
            for model, axes in enumerate(others):
                _picture(axes, images[example])
                _lay_over(axes, maps[model, example], OPACITY)
                name = [wrapped(str(examples["model"][model]), cell)] if models > 1 and example < per_row else []
                axes.set_title("\n".join([*name, *_says(examples, model, example, cell)]))
        of_one = f"{examples['model'][0]}: " if models == 1 else ""
        captioned(
            figure, look, of_one + title,
            "Colour: the map, from 0 (none) to its 99.5th percentile (yellow). Above it: the prediction",
        )  # fmt: skip
        figure.supxlabel(OWN_SCALE, fontsize=small())
    return figure


def _on_a_page(count: int, columns: int, aspect: float, width: float) -> tuple[float, int]:
    """The width of a picture and how many of ``count`` images, of so many columns each, stand in a row of the width.

    Pictures are as large as they can be on a page, at most 1.6 inches; equally large ones take few rows.
    """
    most = max(1, min(count, int(width / (SMALLEST * columns))))
    sizes = []
    for per_row in range(1, most + 1):
        rows = -(-count // per_row)
        by_height = (PAGE / rows - CAPTION) / aspect
        sizes.append((min(1.6, width / (per_row * columns), max(by_height, SMALLEST)), per_row))
    return max(sizes)


def _called(examples: Mapping[str, Any], example: int, inches: float) -> list[str]:
    """An image's label, where it has one, and its file or position; a line of the width each."""
    label = str(examples["label"][example])
    name = Path(str(examples["path"][example])).stem if "path" in examples else f"#{examples['index'][example]}"
    return [shortened(each, inches) for each in (label, name) if each]


def _says(examples: Mapping[str, Any], model: int, example: int, inches: float) -> list[str]:
    """The predicted class, with "says" where it is not the label, and its probability in percent."""
    prediction, label = str(np.asarray(examples["prediction"])[model, example]), str(examples["label"][example])
    probability = float(np.asarray(examples["probability"])[model, example])
    name = shortened(f"says {prediction}" if prediction and label and prediction != label else prediction, inches)
    return [name] if probability != probability else [name, f"{100 * probability:.1f} %"]


def _lay_over(axes: Axes, heat: NDArray[Any], opacity: float) -> None:
    """A map (H,W) over the picture of the axes, the more opaque the higher it is."""
    share = np.clip(heat / top_of(heat), 0, 1)
    axes.imshow(share, cmap="inferno", vmin=0, vmax=1, alpha=opacity * np.sqrt(share), interpolation="nearest")
    if not heat.any():
        mark_empty(axes)


def _pictures(images: Any) -> NDArray[Any]:
    """Images as matplotlib shows them, (N,H,W,3)."""
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
    """An array of a tensor on any device, or of what NumPy takes for one."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = values.float() if values.is_floating_point() else values
    return np.asarray(values)


def span_outline(axes: Axes, image: NDArray[Any], mask: NDArray[np.bool_]) -> None:
    """The image (H,W,3), dimmed outside the span (H,W), whose outline is drawn."""
    _picture(axes, np.where(mask[..., None], image, 0.35 * image))
    outline(axes, mask)


def outline(axes: Axes, mask: NDArray[np.bool_]) -> None:
    """The outline of a span (H,W) on the picture of the axes: light on a dark line, to be seen on sky and on night."""
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
