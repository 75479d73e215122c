"""Figure of ``attrib check``: the cascade of re-initialised layers, insertion and deletion. No torch, no model."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from attrib.plots.base import TEXT, WIDE, captioned, legend_below, lettered, model_colours, style, wrapped
from attrib.styles import USUAL, Style

CONTROL = "0.45"


def cascade_and_curves(summary: Mapping[str, Any], *, title: str, look: Style = USUAL) -> Figure:
    """Draw (a) similarity against re-initialised layers (models and edge detector), (b) insertion, (c) deletion.

    summary: what ``attrib check --json`` prints: ``models`` (``name``, ``checks``, ``cascade``, ``curves``),
    ``control``, ``baseline`` and ``fractions``.
    """
    models = summary["models"]
    same_layers = len({tuple(_names(entry)) for entry in models}) == 1
    width = look.inches(TEXT)
    with style(look):
        colours = model_colours([entry["name"] for entry in models]).values()
        if width >= WIDE:
            figure = Figure(figsize=(width, 2.4 + 0.1 * len(models)), layout="constrained")
            left, middle, right = figure.subplots(1, 3, width_ratios=(1.25, 1, 1))
        else:
            figure = Figure(figsize=(width, 3.8 + 0.1 * len(models)), layout="constrained")
            panels = figure.subplot_mosaic([["left", "left"], ["middle", "right"]])
            left, middle, right = (panels[name] for name in ("left", "middle", "right"))
        for entry, colour in zip(models, colours, strict=True):
            _cascade(left, entry, colour, same_layers=same_layers)
            for axes, name in ((middle, "insertion"), (right, "deletion")):
                share = 100 * np.array(summary["fractions"])
                axes.plot(share, entry["curves"][name], color=colour)
                axes.plot(share, entry["curves"][f"{name}_random"], color=colour, ls=":", lw=0.9)
        _edges_and_axis(left, summary, same_layers=same_layers)
        fill = "the image's mean colour" if summary["baseline"] == "mean" else "black"
        for axes, verb, better in ((middle, "inserted", "higher"), (right, "deleted", "lower")):
            axes.set(xlabel=f"pixels {verb} (%)", ylabel="probability of the class", xlim=(0, 100), ylim=(0, 1))
            axes.set_title(wrapped(f"{verb[:-2]}ion, {better} is better", width / 2 - 0.6))
        right.set_ylabel("")  # that of the panel to its left
        lettered((left, middle, right))
        left.plot([], [], color="0.3", ls="-.", lw=0.7, label="architecture alone")
        left.plot([], [], color="0.3", ls=":", lw=0.9, label="random order of pixels")
        legend_below(figure, left.get_legend_handles_labels()[0])
        bands = "Bands: 95 % intervals" if np.isfinite(_ends(models)).all() else ""
        captioned(figure, look, title, f"Removed pixels are replaced by {fill}", bands)
    return figure


def _ends(models: Iterable[Mapping[str, Any]]) -> NDArray[Any]:
    """The intervals of similarity at all stages, (stages,2); NaN where JSON has null."""
    return np.array([stage["similarity_ci"] for entry in models for stage in entry["cascade"]], float)


def _names(entry: Mapping[str, Any]) -> list[str]:
    """The lowest layer of every stage."""
    return [stage["lowest"] for stage in entry["cascade"]]


def _cascade(axes: Axes, entry: Mapping[str, Any], colour: str, *, same_layers: bool) -> None:
    """Draw mean similarity and its 95 % interval after each stage, from 1 (nothing re-initialised) on."""
    stages = entry["cascade"]
    # Evenly spaced if the axis shows the names of layers, else by the share of layers.
    shares = [100 * stage["layers"] / stage["of"] for stage in stages]
    x = np.linspace(0, 100, len(stages) + 1) if same_layers else np.array([0, *shares])
    low, high = np.vstack([(1.0, 1.0), _ends([entry])]).T
    similarity = np.array([1.0, *(stage["similarity"] for stage in stages)], float)
    axes.plot(x, similarity, color=colour, marker="o", ms=2.5, label=entry["name"], clip_on=False)
    for line in entry["checks"]:
        if line["check"] == "floor":
            axes.axhline(line["control"], color=colour, ls="-.", lw=0.7)
    axes.fill_between(x, low, high, color=colour, alpha=0.2, lw=0)


def _edges_and_axis(axes: Axes, summary: Mapping[str, Any], *, same_layers: bool) -> None:
    """Draw the edge detector's line, and label the axis: with the names of layers if all models share them."""
    for line in summary["control"]["checks"]:
        if line["check"] == "similarity":
            axes.axhline(line["value"], color=CONTROL, ls="--", lw=0.9, label=summary["control"]["name"])
    axes.axhline(0, color="0.8", lw=0.6, zorder=0)
    if same_layers:
        # Long names differ at the end.
        names = ["none", *(name if len(name) < 20 else f"…{name[-18:]}" for name in _names(summary["models"][0]))]
        axes.set_xticks(np.linspace(0, 100, len(names)), names, rotation=40, ha="right", rotation_mode="anchor")
        axes.set_xlabel("re-initialised from the top, down to")
    else:
        axes.set_xlabel("layers re-initialised, from the top (%)")
    lowest = np.fmin.reduce([-0.13, *_ends(summary["models"])[:, 0]])
    axes.set(ylabel="rank correlation of the maps", xlim=(0, 100), ylim=(lowest - 0.02, 1.08))
    axes.set_title("randomisation, lower is better")
