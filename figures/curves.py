"""Histograms of contributions and curves over alpha, which several of the papers' figures share."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from attrib.plots.base import style
from attrib.plots.contrib import QUANTITIES
from figures import names, shared
from figures.shared import Panel

BINS = 51


def histogram(axes: Axes, values: dict[str, NDArray[Any]], colours: dict[str, str], *, quantity: str) -> None:
    """Each model's features by their contribution, on shared bins; y is the share of a model's features.

    values: model to one contribution per feature; quantity: a key of QUANTITIES.
    """
    top = max(float(of.max()) for of in values.values()) or 1.0
    power = int(np.floor(np.log10(top)))
    bins: Any = np.linspace(0, top / 10.0**power, BINS)
    for model, of in values.items():
        scaled, share = of / 10.0**power, np.full(len(of), 100 / len(of))
        axes.hist(scaled, bins=bins, weights=share, color=colours[model], histtype="stepfilled", alpha=0.18)
        axes.hist(scaled, bins=bins, weights=share, color=colours[model], histtype="step", lw=1)
        axes.axvline(float(scaled.mean()), color=colours[model], ls="--", lw=0.7)
    axes.set_xlabel(f"{QUANTITIES[quantity]}   ($10^{{{power}}}$)" if power else QUANTITIES[quantity])
    axes.set(xlim=(0, bins[-1]))


def contributions(found: Sequence[Panel], out: Path, name: str, *, title: str) -> list[Path]:
    """AALP's Figures 1 and 7: C above, and below C without the model's confidence, which sets its scale."""
    colour = {model: dict(shared.colours([model]))[model] for panel in found for model in panel.models}
    with style():
        figure, parts = shared.canvas(found, height=3.0)
        for part, panel in zip(parts, found, strict=True):
            table, summary = panel.table("contrib"), panel.json("contrib")
            grid = part.subplots(2, 1)
            for axes, quantity in zip(grid, ("C", "C_scale_free"), strict=True):
                values = {model: table.loc[table["model"] == model, quantity].to_numpy(float) for model in panel.models}
                histogram(axes, values, colour, quantity=quantity)
                axes.set_ylabel("features (%)")
            one = shared.entry(summary, panel.models[0])
            grid[0].set_title(f"{panel.title}: {one['features']} features, {shared.images(one['n'])}")
        handles: list[Any] = [Line2D([], [], color=colour[m], lw=3, label=names.label(m)) for m in colour]
        handles.append(Line2D([], [], color="0.3", ls="--", lw=0.8, label="mean"))
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles) if len(found) > 1 else 3)
        figure.suptitle(title)
    return shared.save(figure, out, name)


def over_alpha(data: Path, out: Path, name: str, *, tasks: Sequence[str], title: str) -> list[Path]:
    """Accuracy against alpha with 95 % intervals (AGAIN's Figure 4, AALP's Figure 6), a panel per sweep.

    Raises Missing where no sweep is there.
    """
    found = []
    for task in tasks:
        try:
            found += [(task, panel) for panel in shared.panels(data, task)]
        except shared.Missing:
            continue
    if not found:
        method = tasks[0].removeprefix("alpha-")
        raise shared.Missing(
            f"no sweep over alpha in {data}; train DIR/{method}-alpha-0.5 and so on"
            " (python -m figures.reproduce --sweeps), then python -m figures.run --ckpts DIR"
        )
    with style():
        figure, parts = shared.canvas([panel for _, panel in found], height=2.3)
        for part, (task, panel) in zip(parts, found, strict=True):
            axes = part.subplots()
            summary = panel.json(task)
            entries = sorted(summary["models"], key=lambda entry: alpha_of(entry["name"]))
            alphas = [alpha_of(entry["name"]) for entry in entries]
            for attack, marker in zip(entries[0]["accuracies"], "osD^vP*", strict=False):
                value = 100 * np.array([entry["accuracies"][attack] for entry in entries])
                ends = 100 * np.array([entry["intervals"][attack] for entry in entries]).T
                axes.errorbar(
                    alphas, value, yerr=[value - ends[0], ends[1] - value], marker=marker, ms=3, lw=0.9, elinewidth=0.7,
                    label=names.attack(attack),
                )  # fmt: skip
            method = names.label(task.removeprefix("alpha-"))
            axes.set(xlabel="alpha", ylabel="accuracy (%)", ylim=(0, 102))
            axes.set_title(f"{panel.title}: {method}, {shared.images(entries[0]['n'])}")
            part.legend(
                *axes.get_legend_handles_labels(), loc="outside lower center", ncols=len(entries[0]["accuracies"])
            )
        figure.suptitle(f"{title}; bars: 95 % intervals over images")
    return shared.save(figure, out, name)


def alpha_of(model: str) -> float:
    """The alpha in the name of a checkpoint of a sweep."""
    match = names.SWEEP.fullmatch(model)
    assert match is not None
    return float(match[2])
