"""AALP, Figure 5: the training framework, redrawn from this implementation (``train/methods/aalp.py``)."""

from dataclasses import replace

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from attrib.plots.base import TEXT, captioned, style
from attrib.styles import SMALLEST, Style

CLEAN, ADVERSARIAL, GUIDED, LOSS = "#56B4E9", "#E69F00", "#009E73", "#CC79A7"


def framework(look: Style) -> Figure:
    """From a clean and an adversarial batch to the three losses."""
    with style(look):
        figure = Figure(figsize=(TEXT, 2.5))  # at no other width, since the boxes hold their words
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set(xlim=(0, 110), ylim=(2, 42))
        axes.axis("off")
        _box(axes, 7, 34, 11, 7, "clean\nbatch $x$", CLEAN)
        _box(axes, 7, 16, 11, 7, "adversarial\n$x^{adv}$ (PGD)", ADVERSARIAL)
        _box(axes, 27.5, 25, 9, 24, "stages", "#DDDDDD")
        _box(axes, 39.5, 25, 7, 24, "pool", "#DDDDDD")
        _box(axes, 50, 34, 8.5, 7, "$A_{fc}$", CLEAN)
        _box(axes, 50, 16, 8.5, 7, "$A_{fc}^{adv}$", ADVERSARIAL)
        _box(axes, 64, 25, 9.5, 24, "$\\times$ mask\nkeep 1,\ncut 0", GUIDED)
        _box(axes, 76, 25, 6.5, 24, "fc", "#DDDDDD")
        _box(axes, 86, 34, 6, 7, "$z$", CLEAN)
        _box(axes, 86, 16, 6, 7, "$z^{adv}$", ADVERSARIAL)
        _box(axes, 100.5, 37, 17, 5.5, "CE$(z, y)$", LOSS)
        _box(axes, 100.5, 25, 17, 6.5, "$\\alpha\\, p_y(x)\\, \\|z - z^{adv}\\|_2^2$", LOSS)
        _box(axes, 100.5, 13, 17, 5.5, "CE$(z^{adv}, y)$", LOSS)
        _box(
            axes, 57.5, 5.6, 70, 5.2,
            "Guided Dropout: $R = \\mathrm{mean}\\,|\\partial L/\\partial A_{fc} \\cdot A_{fc}|$ over both batches,"
            " mask $= [R \\geq \\mathrm{median}(R)]$", GUIDED,
        )  # fmt: skip
        for y in (34, 16):
            for start, end in ((12.6, 22.9), (32.1, 35.9), (43.1, 45.6), (54.4, 59.1), (68.9, 72.6), (79.4, 82.8)):
                _arrow(axes, (start, y), (end, y))
        _arrow(axes, (89.2, 35), (91.8, 36.5))
        _arrow(axes, (89.2, 15), (91.8, 13.5))
        _arrow(axes, (89.2, 33), (91.8, 26.5))
        _arrow(axes, (89.2, 17), (91.8, 23.5))
        _arrow(axes, (50, 12.3), (50, 8.4))
        _arrow(axes, (64, 8.4), (64, 12.8))
        _arrow(axes, (7, 30.3), (7, 19.7), dashed=True)
        axes.text(8, 25, "attack on the\nmodel as deployed:\nwithout the mask", fontsize=SMALLEST, va="center")
        axes.text(
            100.5, 31.2, "total loss: the sum of the three", fontsize=SMALLEST, ha="center", va="center", style="italic"
        )
        axes.text(
            102.5, 19.6, "$p_y$ detached", fontsize=SMALLEST, ha="center", va="center", style="italic", parse_math=True
        )
        captioned(
            figure, replace(look, title=False), "How AALP trains: from a clean and an attacked batch to three losses"
        )
    return figure


def _box(axes: Axes, x: float, y: float, width: float, height: float, text: str, colour: str) -> None:
    """A rounded box around its centre."""
    patch = FancyBboxPatch(
        (x - width / 2, y - height / 2), width, height, boxstyle="round,pad=0,rounding_size=0.8", lw=0.7,
        facecolor=(colour, 0.25), edgecolor=colour if colour != "#DDDDDD" else "0.4",
    )  # fmt: skip
    axes.add_patch(patch)
    axes.text(x, y, text, ha="center", va="center", fontsize=6.5, parse_math=True)


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], *, dashed: bool = False) -> None:
    axes.annotate(
        "", end, start, arrowprops={"arrowstyle": "-|>", "lw": 0.7, "color": "0.2", "shrinkA": 0, "shrinkB": 0,
                                    "ls": "--" if dashed else "-", "mutation_scale": 6},
    )  # fmt: skip
