"""Histograms of contributions, and curves over epochs and over alpha."""

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from attrib.plots import sets
from attrib.plots.base import power_of_ten, style
from attrib.plots.contrib import QUANTITIES
from figures import names, shared
from figures.shared import Panel, colour, images

BINS = 51
OVER_TRAINING = {
    "cross-entropy (nats)": (("loss", "-"), ("loss_adversarial", "--")),
    "accuracy (%)": (("accuracy", "-"), ("robust_accuracy", "--")),
}


def _bins(values: NDArray[Any]) -> tuple[Any, float, str]:
    """Shared bins for values >= 0 after a division, the divisor, and what the axis says of it."""
    top = float(values.max()) or 1.0
    power = int(np.floor(np.log10(top)))
    return np.linspace(0, top / 10.0**power, BINS), 10.0**power, f"   ({power_of_ten(power)})" if power else ""


def _shares(values: NDArray[Any]) -> NDArray[Any]:
    """Weights by which a histogram counts in percent."""
    return np.full(len(values), 100 / len(values))


def contributions(found: Sequence[Panel]) -> Figure:
    """AALP's Figures 1 and 7: C above, and below C without the model's confidence, which sets its scale."""
    with style():
        figure, parts = shared.canvas(found, height=3.0)
        for part, panel in zip(parts, found, strict=True):
            table, grid = panel.table(), part.subplots(2, 1)
            for axes, quantity in zip(grid, ("C", "C_scale_free"), strict=True):
                values = {model: table.loc[table["model"] == model, quantity] for model in panel.models}
                _histogram(axes, values, quantity)
            one = panel.entries()[0]
            grid[0].set_title(f"{panel.title}: {one['features']} features, {images(one['n'])}")
        models = dict.fromkeys(model for panel in found for model in panel.models)
        handles: list[Any] = [Line2D([], [], color=colour(m), lw=3, label=names.label(m)) for m in models]
        handles.append(Line2D([], [], color="0.3", ls="--", lw=0.8, label="mean"))
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles) if len(found) > 1 else 3)
        figure.suptitle("Feature contributions, clean test images")
    return figure


def _histogram(axes: Axes, values: dict[str, Any], quantity: str) -> None:
    """Each model's features by their contribution, on shared bins; y is the share of a model's features."""
    bins, unit, words = _bins(np.concatenate([of.to_numpy(float) for of in values.values()]))
    for model, of in values.items():
        scaled = of.to_numpy(float) / unit
        how: dict[str, Any] = {"bins": bins, "weights": _shares(scaled), "color": colour(model)}
        axes.hist(scaled, histtype="stepfilled", alpha=0.18, **how)
        axes.hist(scaled, histtype="step", lw=1, **how)
        axes.axvline(float(scaled.mean()), color=colour(model), ls="--", lw=0.7)
    axes.set(xlim=(0, bins[-1]), xlabel=QUANTITIES[quantity] + words, ylabel="features (%)")


def contributions_over_training(found: Sequence[Panel]) -> Figure:
    """AALP's Figure 9: left C, right C without the model's confidence; a row per epoch."""
    tables = [panel.table().query("run == 'aalp'") for panel in found]
    with style():
        figure, parts = shared.canvas(found, height=0.62 * max(table["epoch"].nunique() for table in tables) + 0.7)
        for part, panel, table in zip(parts, found, tables, strict=True):
            epochs = table["epoch"].unique()
            shades = mpl.colormaps["viridis"](np.linspace(0.85, 0.1, len(epochs)))
            grid = part.subplots(len(epochs), 2, squeeze=False, sharex="col")
            for column, quantity in enumerate(("C", "C_scale_free")):
                bins, unit, words = _bins(table[quantity].to_numpy(float))
                for axes, epoch, shade in zip(grid[:, column], epochs, shades, strict=True):
                    values = table.loc[table["epoch"] == epoch, quantity].to_numpy(float) / unit
                    axes.hist(values, bins=bins, color=shade, weights=_shares(values))
                    axes.axvline(values.mean(), color="black", ls="--", lw=0.7)
                    axes.set_xlim(0, bins[-1])
                    if column == 1:
                        axes.text(0.98, 0.8, f"epoch {epoch}", transform=axes.transAxes, ha="right", va="center")
                grid[-1, column].set_xlabel(QUANTITIES[quantity].split(" = ")[0] + words)
            part.supylabel("features (%)", fontsize=7)
            part.suptitle(f"{panel.title}, {images(panel.json()['n'])}", fontsize=7)
        figure.legend(
            handles=[Line2D([], [], color="black", ls="--", lw=0.8, label="mean")], loc="outside lower center"
        )
        figure.suptitle(
            "AALP: contributions of features over training\n(left C, right C without the model's confidence)"
        )
    return figure


def _curve(axes: Axes, epochs: Sequence[float], values: Any, ends: Any, line: str, *, band: float, **how: Any) -> None:
    """A curve over epochs, with a band between the ends (epochs,2) of its interval."""
    axes.plot(epochs, values, line, marker="o", **how)
    axes.fill_between(epochs, *np.asarray(ends, float).T, color=how["color"], alpha=band, lw=0)


def _whole_epochs(axes: Axes) -> None:
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def loss_of_sets(found: Sequence[Panel]) -> Figure:
    """AALP's Figure 4."""
    with style():
        figure, parts = shared.canvas(found, height=2.1)
        for part, panel in zip(parts, found, strict=True):
            epochs, axes = panel.json()["epochs"]["epochs"], part.subplots()
            for kind in ("inconsistent", "consistent"):
                of = [epoch["sets"][kind] for epoch in epochs]
                _curve(
                    axes, [epoch["epoch"] for epoch in epochs], [each["alp"] for each in of],
                    [each["alp_ci"] for each in of], "-", band=0.2, color=sets.COLOURS[kind], ms=3,
                    label=f"{kind} ({images(of[0]['n'])})",
                )  # fmt: skip
            axes.set(xlabel="epoch", ylabel="mean ALP loss (squared logits)", title=panel.title)
            _whole_epochs(axes)
            axes.legend()
        figure.suptitle("ALP loss of the sets of the last epoch;\nbands: 95 % intervals over images")
    return figure


def over_training(found: Sequence[Panel]) -> Figure:
    """AALP's Figure 12."""
    with style():
        figure, parts = shared.canvas(found, height=3.3)
        for part, panel in zip(parts, found, strict=True):
            summary, grid = panel.json(), part.subplots(2, 1, sharex=True)
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
                _whole_epochs(axes)
            grid[1].set_xlabel("epoch")
            grid[0].set_title(f"{panel.title}, {images(summary['n'])}")
        handles = [Line2D([], [], color=colour(name), label=names.label(name)) for name in ("alp", "aalp")]
        kinds = {"-": "clean", "--": "under PGD"}
        handles += [Line2D([], [], color="0.3", ls=line, label=words) for line, words in kinds.items()]
        figure.legend(handles=handles, loc="outside lower center", ncols=4)
        figure.suptitle("ALP and AALP over training; bands: 95 % intervals")
    return figure


def over_alpha(found: Sequence[Panel], *, title: str) -> Figure:
    """Accuracy against alpha with 95 % intervals (AGAIN's Figure 4, AALP's Figure 6), a panel per sweep."""
    with style():
        figure, parts = shared.canvas(found, height=2.3)
        for part, panel in zip(parts, found, strict=True):
            axes = part.subplots()
            entries = sorted(panel.json()["models"], key=lambda entry: alpha_of(entry["name"]))
            alphas = [alpha_of(entry["name"]) for entry in entries]
            for attack, marker in zip(entries[0]["accuracies"], "osD^vP*", strict=False):
                value = 100 * np.array([entry["accuracies"][attack] for entry in entries])
                ends = 100 * np.array([entry["intervals"][attack] for entry in entries]).T
                axes.errorbar(
                    alphas, value, yerr=[value - ends[0], ends[1] - value], marker=marker, ms=3, lw=0.9, elinewidth=0.7,
                    label=names.attack(attack),
                )  # fmt: skip
            method = names.label(panel.task.removeprefix("alpha-"))
            axes.set(xlabel="alpha", ylabel="accuracy (%)", ylim=(0, 102))
            axes.set_title(f"{panel.title}: {method}, {images(entries[0]['n'])}")
            part.legend(
                *axes.get_legend_handles_labels(), loc="outside lower center", ncols=len(entries[0]["accuracies"])
            )
        figure.suptitle(f"{title}; bars: 95 % intervals over images")
    return figure


def alpha_of(model: str) -> float:
    """The alpha in the name of a checkpoint of a sweep."""
    match = names.SWEEP.fullmatch(model)
    assert match is not None
    return float(match[2])
