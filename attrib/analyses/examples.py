"""The few images that a picture shows: kept batch by batch, put together for ``attrib.plots.map_grid``."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

    from attrib.analyses.explaining import View
    from attrib.analyses.measured import Array, Context, Findings
    from attrib.data import Batch
    from attrib.models.specs import Model

PARTS = ("image", "map", "span", "prediction", "probability")


def display_images(image: "Tensor") -> "Tensor":
    """Images (N,C,H,W) as a picture shows them: (N,H,W,3) floats on the CPU, grey repeated."""
    rgb = image if image.shape[1] == 3 else image[:, :1].expand(-1, 3, -1, -1)
    return rgb.permute(0, 2, 3, 1).cpu()


def kept_examples(
    model: "Model", batch: "Batch", views: "Mapping[str, View]", masks: "Mapping[str, Tensor]", context: "Context"
) -> dict[int, dict[str, Any]]:
    """Of the images that the picture shows those in this batch: position to what the model makes of it."""
    classes = context.classes_of(model)
    kept: dict[int, dict[str, Any]] = {}
    for row, position in enumerate(batch.index.tolist()):
        if position not in context.shown:
            continue
        first = next(iter(views.values())).image
        label = classes[int(batch.label[row])] if context.images.labelled else ""
        kept[position] = {"label": label, "image": display_images(first[row, None])[0]}
        kept[position]["kinds"] = {}
        for kind, view in views.items():
            predicted = int(view.prediction[row])
            kept[position]["kinds"][kind] = {
                "image": display_images(view.image[row, None])[0], "map": view.map[row].cpu(),
                "span": masks[kind][row].cpu(), "prediction": classes[predicted] if predicted >= 0 else "",
                "probability": float(view.probability[row]),
            }  # fmt: skip
    return kept


def arrays_of(found: "Findings", names: "Sequence[str] | None" = None) -> "dict[str, Array]":
    """What ``attrib.plots.map_grid`` takes: images in rows; of every name the first file's maps.

    names: the models to show (default: all that are no saved epochs).
    """
    names = list(found.files) if names is None else list(names)
    positions = sorted(found.examples)
    examples = [found.examples[position] for position in positions]
    shown = [[list(example[name]["kinds"].values()) for example in examples] for name in names]
    arrays: dict[str, Array] = {
        "image": np.stack([example[names[0]]["image"] for example in examples]),
        "label": np.array([example[names[0]]["label"] for example in examples]),
        "index": np.array(positions), "model": np.array(names),
    }  # fmt: skip
    if files := found.context.images.files:
        arrays["path"] = np.array([files[position] for position in positions])
    for number, prefix in enumerate(("", "attacked_")[: len(shown[0][0])]):
        for part in PARTS if number else PARTS[1:]:
            arrays[prefix + part] = np.array([[np.asarray(kinds[number][part]) for kinds in row] for row in shown])
    return arrays
