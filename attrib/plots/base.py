"""What all figures share: style, widths (those of a two-column paper, in inches), colours, legend, files."""

import io
import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import as_file, files
from pathlib import Path

import matplotlib as mpl
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.container import Container
from matplotlib.figure import Figure
from PIL import Image

from attrib.files import atomic

COLUMN = 3.25
TEXT = 6.875
SUFFIXES = (".pdf", ".png")
"""Of the files of a figure."""
SCREEN = 90
"""Dots per inch in a notebook."""


@contextmanager
def style() -> Iterator[None]:
    """The project's matplotlib style inside, the caller's own outside."""
    with as_file(files("attrib.plots") / "style.mplstyle") as path, mpl.rc_context(fname=path):
        yield


def model_colours(models: Sequence[str]) -> dict[str, str]:
    """Each model's colour, the same in every figure that shows them in this order; inside ``style``."""
    return dict(zip(models, mpl.rcParams["axes.prop_cycle"].by_key()["color"] * 9, strict=False))


def save(figure: Figure, path: Path) -> list[Path]:
    """Write the figure beside each other as PDF and PNG, named ``path`` plus suffix; returns the two paths."""
    written = [path.with_name(path.name + suffix) for suffix in SUFFIXES]
    for target in written:
        with atomic(target) as temporary:
            temporary.write_bytes(drawn(figure, target.suffix))
    return written


def drawn(figure: Figure, suffix: str) -> bytes:
    """The content of the figure's file. In memory, since matplotlib fails in many ways where a disk is full."""
    file = io.BytesIO()
    with style():
        # No date, so that the same results give the same bytes.
        figure.savefig(file, format=suffix[1:], metadata={"CreationDate": None} if suffix == ".pdf" else None)
    return file.getvalue()


def show_in_notebooks() -> None:
    """Let a notebook show figures as pictures, unless it has its own way (``%matplotlib``) already."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    if shell is not None:
        formatter = shell.display_formatter.formatters["image/png"]
        try:
            formatter.lookup_by_type(Figure)
        except KeyError:
            formatter.for_type(Figure, _png)


def _png(figure: Figure) -> bytes:
    """The figure as PNG, for a screen; without transparency, since notebooks store it and it is smaller so."""
    file, smaller = io.BytesIO(), io.BytesIO()
    with style():
        figure.savefig(file, format="png", dpi=SCREEN)
    Image.open(file).convert("RGB").save(smaller, "png", optimize=True)
    return smaller.getvalue()


def wrapped(name: str, inches: float) -> str:
    """A model's name as a title, in as many lines as the width asks for, broken at hyphens where it can."""
    return textwrap.fill(name, _letters(inches))


def shortened(name: str, inches: float) -> str:
    """A name that is a line of this width at most: its middle goes, since names of files often differ at the end.

    >>> shortened("IMG_20240701_1030", 0.6)
    'IMG_…1030'
    """
    room = _letters(inches)
    return name if len(name) <= room else f"{name[: (room - 1) // 2]}…{name[len(name) - room // 2 :]}"


def inches_of(name: str) -> float:
    """About how wide a name is as a title, or as a label of an axis; inside ``style``."""
    return len(name) * 0.6 * float(mpl.rcParams["axes.titlesize"]) / 72


def _letters(inches: float) -> int:
    """How many letters of a title have room in the width."""
    return max(6, int(inches / inches_of("x")))


def unframed(pictures: Iterable[Axes]) -> None:
    """Take ticks and frame from the axes of pictures; their labels stay."""
    for axes in pictures:
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)


def power_of_ten(power: int) -> str:
    """10 to this power, as text: names may hold dollar signs, so nothing is parsed as a formula.

    >>> power_of_ten(-12)
    '10⁻¹²'
    """
    return "10" + str(power).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def legend_below(figure: Figure, handles: Sequence[Artist | Container]) -> None:
    """One legend for all panels, in as many columns as the figure's width has room for the longest label."""
    letter = 0.6 * mpl.rcParams["legend.fontsize"] / 72
    widest = max(len(str(handle.get_label())) for handle in handles)
    room = int(figure.get_figwidth() / (letter * (widest + 10)))  # the line beside it takes some ten letters
    figure.legend(handles=handles, loc="outside lower center", ncols=min(max(1, room), len(handles)))
