"""Shared by all figures: style, widths in inches (those of a two-column paper), colours, legend and files."""

import io
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.resources import as_file, files
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.container import Container
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import LogLocator, NullFormatter
from PIL import Image

from attrib.files import atomic
from attrib.styles import SMALLEST, USUAL, WIDTHS, Style

COLUMN, TEXT = WIDTHS["column"], WIDTHS["page"]
WIDE = 5
"""Inches from which two or three panels fit side by side."""
MANY = 500
"""A scatter plot of more points becomes a density plot."""
SUFFIXES = (".pdf", ".png")
"""Suffixes of a figure's files."""
SCREEN = 90
"""Dots per inch in a notebook."""


@contextmanager
def style(look: Style = USUAL) -> Iterator[None]:
    """Use the project's matplotlib style inside the context, and restore the caller's after it."""
    size, small = look.font_size, max(SMALLEST, look.font_size - 1)
    with as_file(files("attrib.plots") / "style.mplstyle") as path, mpl.rc_context(fname=path):
        mpl.rcParams.update(dict.fromkeys(("font.size", "axes.titlesize", "axes.labelsize", "figure.titlesize"), size))
        mpl.rcParams.update(dict.fromkeys(("xtick.labelsize", "ytick.labelsize", "legend.fontsize"), small))
        yield


def small() -> float:
    """Size of the smallest text, in points; call it inside ``style``."""
    return float(mpl.rcParams["xtick.labelsize"])


def captioned(figure: Figure, look: Style, *sentences: str) -> None:
    """Set the caption as the figure's label; if the style wants a title, also write it above and make room for it."""
    caption = " ".join(f"{sentence.rstrip('.')}." for sentence in sentences if sentence)
    figure.set_label(caption)
    if look.title:
        lines = wrapped(caption, figure.get_figwidth() - 0.1)
        figure.set_figheight(figure.get_figheight() + title_height(lines))
        figure.suptitle(lines)


def title_height(lines: str) -> float:
    """Height of a title in inches; call it inside ``style``."""
    return (lines.count("\n") + 1) * 1.3 * float(mpl.rcParams["figure.titlesize"]) / 72


def lettered(panels: Iterable[Axes | SubFigure]) -> None:
    """Write (a), (b), ... before the panels' titles if there are several panels."""
    panels = list(panels)
    for letter, panel in zip(ascii_lowercase * 9, panels if len(panels) > 1 else [], strict=False):
        if isinstance(panel, Axes):
            panel.set_title(f"({letter}) {panel.get_title()}".rstrip())
        else:
            panel.suptitle(f"({letter}) {panel.get_suptitle()}".rstrip(), fontsize=mpl.rcParams["font.size"])


def density(axes: Axes, x: Any, y: Any, colours: Mapping[str, Any]) -> None:
    """Draw many points as squares: each has the colour of most of its points; darker squares hold more (logarithmic).

    colours: from a colour to the mask (N,) of the points that have it.
    """
    x, y = np.asarray(x, float), np.asarray(y, float)
    limits = (*axes.get_xlim(), *axes.get_ylim())
    counts = np.array([
        np.histogram2d(y[mask], x[mask], bins=50, range=(limits[2:], limits[:2]))[0] for mask in colours.values()
    ])  # fmt: skip
    total = counts.sum(0)
    rgba = np.ones((*total.shape, 4))
    rgba[..., :3] = np.array([mpl.colors.to_rgb(colour) for colour in colours])[counts.argmax(0)]
    rgba[..., 3] = np.where(total > 0, 0.3 + 0.7 * np.log1p(total) / np.log1p(total.max() or 1), 0)
    axes.imshow(rgba, extent=limits, origin="lower", aspect="auto", interpolation="nearest", zorder=2)


DENSE = "With many images, a square has the colour of most of its images; darker squares hold more (logarithmic)"


def ecdf(axes: Axes, values: Any, **line: Any) -> None:
    """Draw the empirical cumulative distribution of the values (N,), in percent."""
    import seaborn  # takes a second; most figures do not need it

    seaborn.ecdfplot(x=np.asarray(values, float), stat="percent", ax=axes, **line)


def model_colours(models: Sequence[str]) -> dict[str, str]:
    """Each model's colour, by its position; call it inside ``style``."""
    return dict(zip(models, mpl.rcParams["axes.prop_cycle"].by_key()["color"] * 9, strict=False))


def save(figure: Figure, path: Path) -> list[Path]:
    """Write the figure as PDF and PNG, named ``path`` plus suffix; returns the two paths."""
    written = [path.with_name(path.name + suffix) for suffix in SUFFIXES]
    for target in written:
        with atomic(target) as temporary:
            temporary.write_bytes(drawn(figure, target.suffix))
    return written


def drawn(figure: Figure, suffix: str) -> bytes:
    """The bytes of the figure's file, made in memory: on a full disk matplotlib fails in many ways."""
    file = io.BytesIO()
    with style():
        # No date, so that the same results give the same bytes.
        figure.savefig(file, format=suffix[1:], metadata={"CreationDate": None} if suffix == ".pdf" else None)
    return file.getvalue()


def show_in_notebooks() -> None:
    """Let a notebook show figures as pictures, unless ``%matplotlib`` already does."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    if shell is not None:
        formatter = shell.display_formatter.formatters["image/png"]
        try:
            formatter.lookup_by_type(Figure)
        except KeyError:
            formatter.for_type(Figure, _png)


def _png(figure: Figure) -> bytes:
    """The figure as PNG for a screen: with 256 colours and no transparency, a notebook stores a third of the bytes."""
    file, smaller = io.BytesIO(), io.BytesIO()
    with style():
        figure.savefig(file, format="png", dpi=SCREEN)
    Image.open(file).convert("RGB").quantize(256).save(smaller, "png", optimize=True)
    return smaller.getvalue()


def wrapped(name: str, inches: float) -> str:
    """A title broken into lines of this width, at hyphens where possible."""
    return textwrap.fill(name, _letters(inches))


def shortened(name: str, inches: float) -> str:
    """A name cut to one line of this width. The middle is cut, since file names often differ at the end.

    >>> shortened("IMG_20240701_1030", 0.6)
    'IMG_…1030'
    """
    room = _letters(inches)
    return name if len(name) <= room else f"{name[: (room - 1) // 2]}…{name[len(name) - room // 2 :]}"


def inches_of(name: str) -> float:
    """About how wide a name is as a title or axis label; call it inside ``style``."""
    return len(name) * 0.6 * float(mpl.rcParams["axes.titlesize"]) / 72


def _letters(inches: float) -> int:
    """How many letters of a title fit into the width."""
    return max(6, int(inches / inches_of("x")))


def unframed(pictures: Iterable[Axes]) -> None:
    """Remove ticks and frames from pictures; labels stay."""
    for axes in pictures:
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)


def power_of_ten(power: int) -> str:
    """10 to this power as plain text: figures parse no formulas, since names may contain dollar signs.

    >>> power_of_ten(-12)
    '10⁻¹²'
    """
    return "10" + str(power).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def log_ticks(axis: Axis) -> None:
    """Label a logarithmic axis at 1, 2 and 5 times every power of ten, or only at the powers if there are many."""
    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,), numticks=7))
    axis.set_major_formatter(_on_log_axis)
    axis.set_minor_formatter(NullFormatter())


def _on_log_axis(value: float, _position: float) -> str:
    """A number from 0.001 to 999 in full, any other with a power of ten."""
    if 1e-3 <= value < 1e3:
        return f"{value:g}"
    power = int(np.floor(np.log10(value) + 1e-9))
    digit = round(value / 10.0**power)
    return power_of_ten(power) if digit == 1 else f"{digit}·{power_of_ten(power)}"


def legend_below(figure: Figure, handles: Sequence[Artist | Container]) -> None:
    """Draw one legend below all panels, in as many columns of the longest label as fit."""
    letter = 0.6 * mpl.rcParams["legend.fontsize"] / 72
    widest = max(len(str(handle.get_label())) for handle in handles)
    room = int(figure.get_figwidth() / (letter * (widest + 10)))  # the line beside a label takes about ten letters
    figure.legend(handles=handles, loc="outside lower center", ncols=min(max(1, room), len(handles)))
