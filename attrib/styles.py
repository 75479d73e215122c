"""The look of figures: width, font size, title, names and images. No matplotlib."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from attrib.analyses.options import check_options, option
from attrib.bounds import read_toml
from attrib.errors import InputError, check_name, refused

WIDTHS = {"column": 3.25, "page": 6.875}
"""Inches, in a paper of two columns."""
NARROWEST, WIDEST = 2.5, 20
SMALLEST, LARGEST = 6, 14
"""Font sizes in points: smaller letters cannot be read in print."""


def _check_width(width: str | float) -> None:
    if isinstance(width, str) and width not in WIDTHS:
        raise refused("width", width, WIDTHS)
    if not isinstance(width, str) and not NARROWEST <= width <= WIDEST:
        raise InputError(f"width: expected {', '.join(WIDTHS)} or {NARROWEST} to {WIDEST} inches, got {width}")


def _check_size(size: float) -> None:
    if not SMALLEST <= size <= LARGEST:
        raise InputError(f"font_size: expected {SMALLEST} to {LARGEST} points, got {size}")


def _check_names(names: object) -> None:
    if not isinstance(names, Mapping) or not all(isinstance(text, str) and text for text in (*names, *names.values())):
        raise InputError(f"names: expected the models' names and their names in figures, got {names!r:.100}")
    for name in names.values():
        check_name("names", name)


def _check_images(images: object) -> None:
    if not isinstance(images, list | tuple) or not all(type(each) is int and each >= 0 for each in images):
        raise InputError(f"images: expected a list of positions, got {images!r:.100}")


@dataclass(frozen=True, kw_only=True)
class Style:
    """The look of figures. Without arguments, they suit a screen.

    Raises InputError for a value that no figure can have.

    >>> Style(width="column", title=False, names={"raw": "standard"}).inches(6.875)
    3.25
    """

    width: str | float | None = option(None, "column, page, or inches (default: what suits each figure).",
                                       check=_check_width)  # fmt: skip
    font_size: float = option(7, "Points; tick labels are a point smaller, but at least 6.",
                              check=_check_size)  # fmt: skip
    title: bool = option(True, "Whether the caption stands above the figure; it is in Result.captions anyway.")
    names: Mapping[str, str] | None = option(
        None, "Models to their names in figures, in the order to show; others follow.", check=_check_names
    )
    images: tuple[int, ...] = option(
        (), "Positions of the images to show, among those that the result keeps; none: all of them.",
        check=_check_images,
    )  # fmt: skip

    def __post_init__(self) -> None:
        """Check every field."""
        check_options(self)

    @classmethod
    def read(cls, path: str | Path) -> "Style":
        """The style in a TOML file whose keys are the fields. Raises InputError for one that cannot be read."""
        try:
            given = read_toml(Path(path))
        except InputError as error:
            raise InputError(f"style: {error}") from None
        known = [each.name for each in fields(cls)]
        for name in given:
            if name not in known:
                raise refused(f"style: {path}", name, known)
        try:
            return cls(**given)
        except InputError as error:
            raise InputError(f"style: {path}: {error}") from None

    def inches(self, usual: float) -> float:
        """The width of a figure; usual: its width if the style has none."""
        return usual if self.width is None else WIDTHS[self.width] if isinstance(self.width, str) else self.width


USUAL = Style()
"""The default style"""
