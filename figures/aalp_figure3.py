"""AALP, Figure 3: images of ALP's consistent and inconsistent set, clean and attacked, with two probabilities.

Green: the true class; red: the attack's class. The first images of each class, not chosen by eye.
"""

from pathlib import Path

import numpy as np

from attrib.plots.sets import confidence_bars
from figures import names, shared

TASKS = ("sets",)


def draw(data: Path, out: Path) -> list[Path]:
    """Write aalp-figure3."""
    found = shared.panels(data, "sets", wanted=(names.ALP,), needed=(names.ALP,))
    parts = [panel.arrays("sets") for panel in found]
    rows = [part["model"].tolist().index("alp") for part in parts]
    examples = {key: np.stack([part[key][row] for part, row in zip(parts, rows, strict=True)]) for key in (
        "index", "classes", "probability",
    )}  # fmt: skip
    # Data sets have images of different sizes: one object per image pair instead of one array.
    images = np.empty(examples["index"].shape, dtype=object)
    for place in np.ndindex(images.shape):
        images[place] = parts[place[0]]["image"][(rows[place[0]], *place[1:])] / 255
    examples |= {"image": images, "model": np.array([f"{panel.title}, ALP" for panel in found]), "set": parts[0]["set"]}
    figure = confidence_bars(examples, title="Images that ALP defends, and such that it does not")
    return shared.save(figure, out, "aalp-figure3")


if __name__ == "__main__":
    shared.alone(draw)
