"""AALP, Figure 4: the ALP loss of the consistent and the inconsistent set over the epochs of ALP training.

The sets are those of the last epoch, at every epoch under that epoch's own attack.
"""

from pathlib import Path

import numpy as np
from matplotlib.ticker import MaxNLocator

from attrib.plots.base import style
from attrib.plots.sets import COLOURS
from figures import names, shared

TASKS = ("sets-epochs",)


def draw(data: Path, out: Path) -> list[Path]:
    """Write aalp-figure4."""
    found = shared.panels(data, "sets-epochs", needed=(names.ALP,))
    with style():
        figure, parts = shared.canvas(found, height=2.1)
        for part, panel in zip(parts, found, strict=True):
            summary = panel.json("sets-epochs")
            epochs = summary["epochs"]["epochs"]
            axes = part.subplots()
            numbers = [epoch["epoch"] for epoch in epochs]
            for kind in ("inconsistent", "consistent"):
                of = [epoch["sets"][kind] for epoch in epochs]
                ends = np.array([each["alp_ci"] for each in of], float)
                axes.plot(
                    numbers, [each["alp"] for each in of], color=COLOURS[kind], marker="o", ms=3,
                    label=f"{kind} ({shared.images(of[0]['n'])})",
                )  # fmt: skip
                axes.fill_between(numbers, *ends.T, color=COLOURS[kind], alpha=0.2, lw=0)
            axes.set(xlabel="epoch", ylabel="mean ALP loss (squared logits)", title=panel.title)
            axes.set_ylim(bottom=0)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.legend()
        figure.suptitle("ALP loss of the sets of the last epoch;\nbands: 95 % intervals over images")
    return shared.save(figure, out, "aalp-figure4")


if __name__ == "__main__":
    shared.alone(draw)
