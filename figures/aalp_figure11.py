"""AALP, Figure 11: probability of the true class, clean against attacked, for ALP and AALP.

Blue: consistent images, red: inconsistent, grey: wrong when clean. The shares in the titles are of all images.
"""

from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from attrib.plots.base import COLUMN, style
from attrib.plots.sets import COLOURS
from figures import names, shared

TASKS = ("sets",)
MODELS = (names.ALP, names.AALP)


def draw(data: Path, out: Path) -> list[Path]:
    """Write aalp-figure11."""
    found = shared.panels(data, "sets", wanted=MODELS, needed=MODELS)
    shown = 0
    with style():
        figure = Figure(figsize=(COLUMN, 1.98 * len(found) + 0.5), layout="constrained")
        grid = figure.subplots(len(found), 2, squeeze=False, sharex=True, sharey=True)
        for row, panel in zip(grid, found, strict=True):
            summary, table = panel.json("sets"), panel.table("sets")
            for axes, model in zip(row, panel.models, strict=True):
                points = table[table["model"] == model]
                shown = max(shown, len(points))
                axes.plot([0, 1], [0, 1], color="black", lw=0.6, ls="--", zorder=1)
                for zorder, (kind, colour) in enumerate(reversed(COLOURS.items()), start=2):
                    inside = points[points["set"] == kind]
                    axes.scatter(
                        inside["probability_clean"], inside["probability_adversarial"], s=3, color=colour, alpha=0.45,
                        linewidths=0, clip_on=False, rasterized=True, zorder=zorder,
                    )  # fmt: skip
                of = shared.entry(summary, model)
                shares = [
                    f"{shared.percent(of['sets'][kind]['share'], 1)} % {kind}"
                    for kind in ("consistent", "inconsistent")
                ]
                said = "\n".join([panel.title, f"{names.label(model)}, {shared.images(of['n'])}", *shares])
                axes.set_title(said, fontsize=6)
                axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
            row[0].set_ylabel("attacked image")
        for axes in grid[-1]:
            axes.set_xlabel("clean image")
        handles = [
            Line2D([], [], color=colour, marker="o", ms=3, lw=0, label=kind.replace("-", " "))
            for kind, colour in COLOURS.items()
        ]
        handles.append(Line2D([], [], color="black", lw=0.6, ls="--", label="no effect"))
        figure.legend(handles=handles, loc="outside lower center", ncols=4, columnspacing=0.8, handletextpad=0.3)
        figure.suptitle(f"Probability of the true class, up to {shown:,} images shown", fontsize=7)
    return shared.save(figure, out, "aalp-figure11")


if __name__ == "__main__":
    shared.alone(draw)
