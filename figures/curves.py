"""How contributions are distributed, and curves over epochs and over alpha."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from attrib.plots import sets
from attrib.plots.base import captioned, ecdf, legend_below, lettered, log_ticks, style
from attrib.plots.contrib import AT_MOST, QUANTITIES, curves_of_epochs, log_axis
from attrib.styles import Style
from figures import names, shared
from figures.compare import between
from figures.shared import Panel, colour, images

OVER_TRAINING = {
    "cross-entropy (nats)": (("loss", "-"), ("loss_adversarial", "--")),
    "accuracy (%)": (("accuracy", "-"), ("robust_accuracy", "--")),
}
WITHOUT = "C/e: C without the effect of the model's confidence"


def contributions(panels: Sequence[Panel], look: Style) -> Figure:
    """AALP's Figures 1 and 7: C in the upper panels, C without the effect of confidence in the lower ones."""
    with style(look):
        figure, parts = shared.canvas(panels, look, height=2.9)
        for part, panel in zip(parts, panels, strict=True):
            table, grid = panel.table(), part.subplots(2, 1, sharey=True)
            for axes, quantity in zip(grid, ("C", "C_scale_free"), strict=True):
                for model in panel.models:
                    values = table.loc[table["model"] == model, quantity]
                    ecdf(axes, values, color=colour(model), lw=1)
                    axes.axvline(values.mean(), color=colour(model), ls="--", lw=0.7)
                axes.set(xlabel=QUANTITIES[quantity], ylabel="features (%)")
                log_axis([axes], table.loc[table["model"].isin(panel.models), quantity])
            one = panel.entries()[0]
            part.suptitle(f"{panel.title}: {one['features']} features, {images(one['n'])}")
        lettered(parts)
        models = dict.fromkeys(model for panel in panels for model in panel.models)
        handles: list[Any] = [Line2D([], [], color=colour(m), label=names.label(m)) for m in models]
        handles.append(Line2D([], [], color="0.3", ls="--", lw=0.8, label="mean"))
        legend_below(figure, handles)
        captioned(figure, look, "Feature contributions, clean test images", WITHOUT, AT_MOST)
    return figure


def contributions_over_training(panels: Sequence[Panel], look: Style) -> Figure:
    """AALP's Figure 9, a curve per epoch: C to the left, C without the effect of confidence to the right."""
    columns = ("C", "C_scale_free")
    with style(look):
        figure, parts = shared.canvas(panels, look, height=2.2)
        for part, panel in zip(parts, panels, strict=True):
            table, grid = panel.table().query("run == 'aalp'"), part.subplots(1, 2, sharey=True)
            handles = curves_of_epochs(grid, table, columns, list(table["epoch"].unique()))
            for axes, column in zip(grid, columns, strict=True):
                axes.set_xlabel(QUANTITIES[column].split(" = ")[0])
                log_axis([axes], table[column])
            grid[0].set_ylabel("features (%)")
            (run,) = (run for run in panel.json()["runs"] if run["name"] == "aalp")
            saved = f"{len(handles)} of {len(run['epochs'])} epochs"
            part.suptitle(f"{panel.title}, {images(panel.json()['n'])}, {saved}")
            part.legend(handles=handles, loc="outside lower center", ncols=3)
        lettered(parts)
        captioned(figure, look, "AALP's feature contributions over training", WITHOUT, AT_MOST)
    return figure


def _curve(axes: Axes, epochs: Sequence[float], values: Any, ends: Any, line: str, *, band: float, **how: Any) -> None:
    """Draw a curve over epochs, with a band between the ends (epochs,2) of its interval."""
    axes.plot(epochs, values, line, marker="o", **how)
    axes.fill_between(epochs, *np.asarray(ends, float).T, color=how["color"], alpha=band, lw=0)


def _same_ends(all_axes: Sequence[Axes]) -> None:
    """Give panels that are compared the same limits, and ticks at whole epochs."""
    low, high = zip(*(axes.get_ylim() for axes in all_axes), strict=True)
    for axes in all_axes:
        axes.set_ylim(min(low), max(high))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def loss_of_sets(panels: Sequence[Panel], look: Style) -> Figure:
    """AALP's Figure 4."""
    with style(look):
        figure, parts = shared.canvas(panels, look, height=2.1)
        all_axes = [part.subplots() for part in parts]
        for axes, panel in zip(all_axes, panels, strict=True):
            epochs = panel.json()["epochs"]["epochs"]
            for kind in ("inconsistent", "consistent"):
                of = [epoch["sets"][kind] for epoch in epochs]
                _curve(
                    axes, [epoch["epoch"] for epoch in epochs], [each["alp"] for each in of],
                    [each["alp_ci"] for each in of], "-", band=0.2, color=sets.COLOURS[kind], ms=3,
                    label=f"{kind} ({images(of[0]['n'])})",
                )  # fmt: skip
            axes.set(xlabel="epoch", ylabel="mean ALP loss (squared logits)", title=panel.title, yscale="log")
            axes.legend()
        _same_ends(all_axes)
        for axes in all_axes:
            log_ticks(axes.yaxis)
        lettered(all_axes)
        captioned(figure, look, "Mean ALP loss of the last epoch's two sets. Bands: 95 % intervals over images")
    return figure


def over_training(panels: Sequence[Panel], look: Style) -> Figure:
    """AALP's Figure 12."""
    with style(look):
        figure, parts = shared.canvas(panels, look, height=3.2)
        grids = [part.subplots(2, 1, sharex=True) for part in parts]
        for part, grid, panel in zip(parts, grids, panels, strict=True):
            summary = panel.json()
            runs = {run["name"]: run["epochs"] for run in summary["runs"]}
            for axes, (words, columns) in zip(grid, OVER_TRAINING.items(), strict=True):
                for name in panel.models:
                    for column, line in columns:
                        scale = 100 if "accuracy" in column else 1
                        values, ends = (
                            scale * np.array([entry[key] for entry in runs[name]], float)
                            for key in (column, f"{column}_ci")
                        )
                        numbers = [entry["epoch"] for entry in runs[name]]
                        _curve(axes, numbers, values, ends, line, band=0.18, color=colour(name), ms=2)
                axes.set_ylabel(words)
                axes.set_ylim(0, 100 if "accuracy" in words else None)
            grid[1].set_xlabel("epoch")
            part.suptitle(f"{panel.title}, {images(summary['n'])}")
        for row in zip(*grids, strict=True):
            _same_ends(row)
        lettered(parts)
        handles = [Line2D([], [], color=colour(name), label=names.label(name)) for name in ("alp", "aalp")]
        kinds = {"-": "clean", "--": "under PGD"}
        handles += [Line2D([], [], color="0.3", ls=line, label=words) for line, words in kinds.items()]
        legend_below(figure, handles)
        captioned(figure, look, "ALP and AALP over training. Bands: 95 % intervals")
    return figure


def over_alpha(panels: Sequence[Panel], look: Style, *, title: str) -> Figure:
    """How accuracy changes with alpha (AGAIN's Figure 4, AALP's Figure 6), a panel per sweep.

    Differences are to the first model of the sweep: results compare only this one with the others image by image.
    """
    with style(look):
        figure, parts = shared.canvas(panels, look, height=2.3)
        all_axes, baselines = [part.subplots() for part in parts], []
        for part, axes, panel in zip(parts, all_axes, panels, strict=True):
            summary = panel.json()
            first, *_ = summary["models"]
            others = sorted(summary["models"][1:], key=lambda entry: alpha_of(entry["name"]))
            attacks = list(first["accuracies"])
            for number, (attack, marker) in enumerate(zip(attacks, "osD^vP*X", strict=False)):
                changes = [between(summary["pairs"], each["name"], first["name"], attack=attack) for each in others]
                value, low, high = 100 * np.array([change[:3] if change else [np.nan] * 3 for change in changes]).T
                places = np.arange(len(others)) + 0.12 * (number - (len(attacks) - 1) / 2)
                axes.errorbar(
                    places, value, yerr=[value - low, high - value], fmt=marker, ms=3, elinewidth=0.7,
                    label=names.attack(attack),
                )  # fmt: skip
            axes.axhline(0, color="0.6", lw=0.6, zorder=0)
            axes.set_xticks(range(len(others)), [f"{alpha_of(each['name']):g}" for each in others])
            axes.set(xlabel="alpha", xlim=(-0.5, len(others) - 0.5))
            axes.set_ylabel(f"accuracy less that at\nalpha {alpha_of(first['name']):g} (points)")
            method = names.label(panel.task.removeprefix("alpha-"))
            axes.set_title(f"{panel.title}: {method}, {images(first['n'])}")
            part.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=4)
            known = ", ".join(f"{names.attack(each)} {100 * first['accuracies'][each]:.1f} %" for each in attacks)
            baselines.append(f"Accuracy at alpha {alpha_of(first['name']):g}, {panel.title}, {method}: {known}")
        lettered(all_axes)
        captioned(figure, look, f"{title}: differences of accuracy, paired by image. Bars: 95 % intervals", *baselines)
    return figure


def alpha_of(model: str) -> float:
    """The alpha in the name of a checkpoint of a sweep."""
    match = names.SWEEP.fullmatch(model)
    assert match is not None
    return float(match[2])
