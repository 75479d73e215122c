"""AALP, Figure 9: how contributions are distributed over features in the course of AALP training.

Up to six of the saved epochs, evenly spaced, on clean images; the paper saves every 10,000 steps.
"""

from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.lines import Line2D

from attrib.plots.base import style
from attrib.plots.contrib import QUANTITIES
from figures import curves, names, shared

TASKS = ("evolve",)


def draw(data: Path, out: Path) -> list[Path]:
    """Write aalp-figure9."""
    found = shared.panels(data, "evolve", wanted=(names.AALP,), needed=(names.AALP,))
    with style():
        tables = [panel.table("evolve").query("run == 'aalp'") for panel in found]
        most = max(table["epoch"].nunique() for table in tables)
        figure, parts = shared.canvas(found, height=0.62 * most + 0.7)
        for part, panel, table in zip(parts, found, tables, strict=True):
            epochs = table["epoch"].unique()
            shades = mpl.colormaps["viridis"](np.linspace(0.85, 0.1, len(epochs)))
            grid = part.subplots(len(epochs), 2, squeeze=False, sharex="col")
            for column, quantity in enumerate(("C", "C_scale_free")):
                top = float(table[quantity].max()) or 1.0
                power = int(np.floor(np.log10(top)))
                for axes, epoch, shade in zip(grid[:, column], epochs, shades, strict=True):
                    values = table.loc[table["epoch"] == epoch, quantity].to_numpy(float) / 10.0**power
                    axes.hist(
                        values, bins=np.linspace(0, top / 10.0**power, curves.BINS), color=shade,
                        weights=np.full(len(values), 100 / len(values)),
                    )  # fmt: skip
                    axes.axvline(values.mean(), color="black", ls="--", lw=0.7)
                    axes.set_xlim(0, top / 10.0**power)
                    if column == 1:
                        axes.text(0.98, 0.8, f"epoch {epoch}", transform=axes.transAxes, ha="right", va="center")
                short = QUANTITIES[quantity].split(" = ")[0]
                grid[-1, column].set_xlabel(f"{short}   ($10^{{{power}}}$)" if power else short)
            part.supylabel("features (%)", fontsize=7)
            part.suptitle(f"{panel.title}, {shared.images(panel.json('evolve')['n'])}", fontsize=7)
        handles = [Line2D([], [], color="black", ls="--", lw=0.8, label="mean")]
        figure.legend(handles=handles, loc="outside lower center")
        figure.suptitle(
            "AALP: contributions of features over training\n(left C, right C without the model's confidence)"
        )
    return shared.save(figure, out, "aalp-figure9")


if __name__ == "__main__":
    shared.alone(draw)
