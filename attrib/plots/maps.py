"""Images with their maps and spans, models side by side."""

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray

from attrib.errors import InputError
from attrib.plots.base import TEXT, inches_of, shortened, style, unframed, wrapped

SPAN_COLOUR = "#56B4E9"
OPACITY = 0.6
"""Of a map over its image, where it is highest."""
OWN_SCALE = "each map on its own scale"
PAGE = 8
"""Inches that a figure may be high, with room for a caption."""
CAPTION = 0.35
"""Inches for the lines above a picture."""
SMALLEST = 0.5
"""Inches of a picture in which something can be seen."""


def map_grid(examples: Mapping[str, Any], *, title: str, spans: bool = False) -> Figure:
    """Images in rows; beside each its map per model and, with ``spans``, the image with the span outlined.

    examples: ``image`` (E,H,W,3) floats in [0,1], ``index`` (E,), ``label`` (E,) texts, ``model`` (M,) names,
    ``map`` (M,E,H,W), ``span`` bool (M,E,H,W), ``prediction`` (M,E) texts; of files ``path`` (E,) texts. With
    ``attacked_map``, ``attacked_span``, ``attacked_prediction`` and ``attacked_image`` (M,E,H,W,3), each model being
    attacked by itself, a second row below each image shows what the attack makes of it. All maps share one colour
    scale, capped at the 99.5th percentile and with the square root of the value as brightness, so that neither a
    single pixel nor a model with larger scores darkens the rest.
    """
    images = examples["image"]
    kinds = ("", "attacked_") if "attacked_map" in examples else ("",)
    models, count = examples["map"].shape[:2]
    per_model = 2 if spans else 1
    columns, rows = 1 + models * per_model, count * len(kinds)
    top = float(np.percentile([examples[f"{kind}map"] for kind in kinds], 99.5)) or 1.0
    scale = PowerNorm(0.5, 0, top)
    with style():
        called = [_called(examples, example, 1.5) for example in range(count)]
        side = max(0.4, *(inches_of(line) for lines in called for line in lines))
        cell = min(0.85, (TEXT - 0.2 - side) / columns)
        figure = Figure(figsize=(cell * columns + 0.35 + side, cell * rows + 0.55), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False)
        for row, (example, kind) in enumerate(product(range(count), kinds)):
            if kind:
                grid[row, 0].text(1, 0.5, "attacked", ha="right", va="center", transform=grid[row, 0].transAxes)
            else:
                _picture(grid[row, 0], images[example])
                grid[row, 0].set_ylabel("\n".join(called[example]), rotation=0, ha="right", va="center")
            for model in range(models):
                column = 1 + model * per_model
                cell_axes = grid[row, column]
                cell_axes.imshow(examples[f"{kind}map"][model, example], norm=scale)
                if spans:
                    below = examples["attacked_image"][model, example] if kind else images[example]
                    span_outline(grid[row, column + 1], below, examples[f"{kind}span"][model, example])
                prediction = np.asarray(examples[f"{kind}prediction"])[model, example]
                if prediction and prediction != examples["label"][example]:
                    cell_axes.set_xlabel(f"says {prediction}", labelpad=1, fontsize=5)
        grid[0, 0].set_title("image")
        for model, name in enumerate(examples["model"]):
            if spans:  # the name stands above both columns
                first, second = grid[0, 1 + 2 * model : 3 + 2 * model]
                first.set_title(f"{wrapped(str(name), 2 * cell)}\nmap", loc="left")
                second.set_title("span", loc="left")
            else:
                grid[0, 1 + model].set_title(wrapped(str(name), cell))
        unframed(grid.flat)
        bar = figure.colorbar(ScalarMappable(scale), ax=grid, shrink=0.6, aspect=40, pad=0.01, extend="max")
        bar.set_label("map, one scale for all models (brightness: square root)")
        figure.suptitle(title)
    return figure


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


def overlay_grid(examples: Mapping[str, Any], *, title: str) -> Figure:
    """Images, each followed by its map of every model over it, under what the model predicts; several to a row.

    examples: as ``map_grid`` takes them, with ``probability`` (M,E), NaN where it is not known. Pictures are as
    large as a page allows.
    Each map has its own scale, from 0 to its 99.5th percentile: what is compared is where models look, not how much.
    """
    images, maps = examples["image"], examples["map"]
    models, count = maps.shape[:2]
    cell, per_row = _on_a_page(count, 1 + models, images.shape[1] / images.shape[2])
    columns, rows = per_row * (1 + models), -(-count // per_row)
    height = cell * images.shape[1] / images.shape[2] + CAPTION
    with style():
        figure = Figure(figsize=(cell * columns, height * rows + 0.5), layout="constrained")
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
        figure.suptitle(wrapped(of_one + title, figure.get_figwidth()))
        figure.supxlabel(OWN_SCALE, fontsize="small")
    return figure


def _on_a_page(count: int, columns: int, aspect: float) -> tuple[float, int]:
    """The width of a picture and how many of ``count`` images, of so many columns each, stand in a row.

    Pictures are as large as they can be on a page, at most 1.6 inches; equally large ones take few rows.
    """
    most = max(1, min(count, int(TEXT / (SMALLEST * columns))))
    sizes = []
    for per_row in range(1, most + 1):
        rows = -(-count // per_row)
        by_height = (PAGE / rows - CAPTION) / aspect
        sizes.append((min(1.6, TEXT / (per_row * columns), max(by_height, SMALLEST)), per_row))
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
    top = float(np.percentile(heat, 99.5)) or float(heat.max()) or 1.0
    share = np.clip(heat / top, 0, 1)
    axes.imshow(share, cmap="inferno", vmin=0, vmax=1, alpha=opacity * np.sqrt(share), interpolation="nearest")


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
    if mask.any() and not mask.all():
        # Drawn pixel by pixel (nearest), so the line runs between pixels and not through them.
        fine = np.kron(np.pad(mask, 1), np.ones((8, 8)))
        at = (np.arange(fine.shape[1]) + 0.5) / 8 - 1.5, (np.arange(fine.shape[0]) + 0.5) / 8 - 1.5
        axes.contour(*at, fine, levels=[0.5], colors=[SPAN_COLOUR], linewidths=0.6)
        axes.set_xlim(-0.5, mask.shape[1] - 0.5)
        axes.set_ylim(mask.shape[0] - 0.5, -0.5)


def _picture(axes: Axes, image: NDArray[Any]) -> None:
    axes.imshow(image, vmin=0, vmax=1, interpolation="nearest")
