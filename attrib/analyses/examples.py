"""The images in the figure of examples: collected batch by batch, then joined for ``attrib.plots.map_grid``."""

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
    """Images (N,C,H,W) as a figure shows them: (N,H,W,3) floats on the CPU, grey repeated."""
    rgb = image if image.shape[1] == 3 else image[:, :1].expand(-1, 3, -1, -1)
    return rgb.permute(0, 2, 3, 1).cpu()


def kept_examples(
    model: "Model", batch: "Batch", views: "Mapping[str, View]", masks: "Mapping[str, Tensor]", context: "Context"
) -> dict[int, dict[str, Any]]:
    """The images of this batch that the figure shows: position to the image and the model's maps and predictions."""
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


def arrays_of(findings: "Findings", names: "Sequence[str] | None" = None) -> "dict[str, Array]":
    """The arrays for ``attrib.plots.map_grid``: images in rows; for every name the maps of its first file.

    names: the models to show (default: all but saved epochs).
    """
    names = list(findings.files) if names is None else list(names)
    positions = sorted(findings.examples)
    examples = [findings.examples[position] for position in positions]
    shown = [[list(example[name]["kinds"].values()) for example in examples] for name in names]
    arrays: dict[str, Array] = {
        "image": np.stack([example[names[0]]["image"] for example in examples]),
        "label": np.array([example[names[0]]["label"] for example in examples]),
        "index": np.array(positions), "model": np.array(names),
    }  # fmt: skip
    if files := findings.context.images.files:
        arrays["path"] = np.array([files[position] for position in positions])
    for number, prefix in enumerate(("", "attacked_")[: len(shown[0][0])]):
        for part in PARTS if number else PARTS[1:]:
            arrays[prefix + part] = np.array([[np.asarray(kinds[number][part]) for kinds in row] for row in shown])
    return arrays
