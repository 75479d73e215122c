"""AALP, Figure 12: loss and accuracy on test images over the epochs of ALP and of AALP training.

Solid: clean images; dashed: under PGD. The paper shows MNIST.
"""

from pathlib import Path

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from attrib.plots.base import style
from figures import names, shared

TASKS = ("evolve",)
MODELS = (names.ALP, names.AALP)
SHOWN = {
    "cross-entropy (nats)": (("loss", "-"), ("loss_adversarial", "--")),
    "accuracy (%)": (("accuracy", "-"), ("robust_accuracy", "--")),
}


def draw(data: Path, out: Path) -> list[Path]:
    """Write aalp-figure12."""
    found = shared.panels(data, "evolve", wanted=MODELS, needed=MODELS)
    with style():
        figure, parts = shared.canvas(found, height=3.3)
        for part, panel in zip(parts, found, strict=True):
            summary = panel.json("evolve")
            grid = part.subplots(2, 1, sharex=True)
            for axes, (words, columns) in zip(grid, SHOWN.items(), strict=True):
                for name, colour in shared.colours(panel.models):
                    (run,) = (run for run in summary["runs"] if run["name"] == name)
                    epochs = [entry["epoch"] for entry in run["epochs"]]
                    for column, line in columns:
                        scale = 100 if "accuracy" in column else 1
                        value = scale * np.array([entry[column] for entry in run["epochs"]], float)
                        ends = scale * np.array([entry[f"{column}_ci"] for entry in run["epochs"]], float).T
                        axes.plot(epochs, value, line, color=colour, marker="o", ms=2)
                        axes.fill_between(epochs, *ends, color=colour, alpha=0.18, lw=0)
                axes.set_ylabel(words)
                axes.set_ylim(bottom=0)
                axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            grid[1].set_xlabel("epoch")
            grid[0].set_title(f"{panel.title}, {shared.images(summary['n'])}")
        handles = [
            Line2D([], [], color=colour, label=names.label(name)) for name, colour in shared.colours(("alp", "aalp"))
        ]
        handles += [
            Line2D([], [], color="0.3", ls=line, label=said) for line, said in (("-", "clean"), ("--", "under PGD"))
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=4)
        figure.suptitle("ALP and AALP over training; bands: 95 % intervals")
    return shared.save(figure, out, "aalp-figure12")


if __name__ == "__main__":
    shared.alone(draw)
