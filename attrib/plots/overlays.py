"""Images with their maps laid over them, each under what the model says it is: for images without labels."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from attrib.plots.base import TEXT, style, wrapped

OPACITY = 0.55
"""Of the map where it is highest."""


def overlay_grid(examples: Mapping[str, Any], *, title: str) -> Figure:
    """Images in rows; beside each, for every model, the map over the image under the prediction and its probability.

    examples: as :func:`attrib.plots.maps.map_grid` takes them, with ``probability`` (M,E), NaN where it is not known.
    Each map has its own scale, from 0 to its 99.5th percentile: what is compared is where models look, not how much.
    """
    images, maps = examples["image"], examples["map"]
    models, count = maps.shape[:2]
    cell = min(1.6, (TEXT - 0.4) / (1 + models))
    height = cell * images.shape[1] / images.shape[2]
    with style():
        figure = Figure(figsize=(cell * (1 + models) + 0.4, (height + 0.3) * count + 0.5), layout="constrained")
        grid = figure.subplots(count, 1 + models, squeeze=False)
        for row in range(count):
            grid[row, 0].imshow(images[row], vmin=0, vmax=1)
            grid[row, 0].set_ylabel(f"#{examples['index'][row]}")
            for model in range(models):
                axes = grid[row, 1 + model]
                heat = maps[model, row]
                axes.imshow(images[row], vmin=0, vmax=1)
                axes.imshow(heat, alpha=OPACITY * _scaled(heat), vmin=0, vmax=_top(heat))
                axes.set_title(wrapped(_says(examples, model, row), cell))
        for model, name in enumerate(examples["model"]):
            axes = grid[0, 1 + model]
            axes.set_title(f"{wrapped(str(name), cell)}\n{axes.get_title()}" if models > 1 else axes.get_title())
        for axes in grid.flat:
            axes.set_xticks([])
            axes.set_yticks([])
            axes.spines[:].set_visible(False)
        figure.suptitle(wrapped(title, figure.get_figwidth()))
    return figure


def _says(examples: Mapping[str, Any], model: int, row: int) -> str:
    """The predicted class and its probability in percent."""
    name = str(np.asarray(examples["prediction"])[model, row])
    probability = float(np.asarray(examples["probability"])[model, row])
    return name if probability != probability else f"{name} {100 * probability:.1f} %"


def _top(heat: NDArray[Any]) -> float:
    return float(np.percentile(heat, 99.5)) or 1.0


def _scaled(heat: NDArray[Any]) -> NDArray[Any]:
    """The map in [0,1], the square root of the value as opacity."""
    return np.sqrt(np.clip(heat / _top(heat), 0, 1))
