"""How coverage is distributed over images, and the coverage curve."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from attrib.plots.base import TEXT, legend_below, model_colours, style


def coverage_distribution(
    table: pd.DataFrame, *, models: Sequence[str], levels: NDArray[Any], curves: NDArray[Any],
    floors: Mapping[str, float], title: str,
) -> Figure:  # fmt: skip
    """Left, how coverage is distributed over images, per model; right, the mean coverage curve.

    table: columns ``model`` and ``coverage`` (fractions); levels: (T,) thresholds t; curves: (M,T) mean coverage;
    floors: the floor of the ASC (a fraction) of the models that have one.
    """
    import seaborn

    with style():
        figure = Figure(figsize=(TEXT, 2.3), layout="constrained")
        left, right = figure.subplots(1, 2)
        percent = table.assign(coverage=100 * table["coverage"])
        colours = model_colours(models)
        bins = np.linspace(0, 100, 51)
        seaborn.histplot(
            percent, x="coverage", hue="model", hue_order=list(models), palette=colours, bins=bins,
            stat="percent", common_norm=False, element="step", fill=len(models) < 3, ax=left, legend=False,
            alpha=0.25 if len(models) < 3 else 0.8,
        )  # fmt: skip
        for name in models:
            left.axvline(percent.loc[percent["model"] == name, "coverage"].mean(), color=colours[name], ls="--", lw=0.8)
        for name, floor in floors.items():
            left.axvline(100 * floor, color=colours[name], ls=":", lw=0.8)
        lines = "dashed: mean" + (", dotted: floor" if floors else "")
        left.set(xlabel=f"coverage of an image's span (%), {lines}", ylabel="images (%)", xlim=(0, 100))
        for name, curve in zip(models, curves, strict=True):
            right.plot(levels, 100 * curve, color=colours[name], label=name)
        right.set(
            xlabel="threshold t as a share of the map's maximum",
            ylabel="mean coverage (%)",
            xlim=(0, 1),
            ylim=(0, 100),
        )
        legend_below(figure, right.get_legend_handles_labels()[0])
        figure.suptitle(title)
    return figure
