"""The warnings and the progress bar of a running analysis."""

import sys
from collections.abc import Callable
from typing import NoReturn

from tqdm.auto import tqdm

from attrib.errors import printable

DELAY = 2
"""Seconds of work after which a progress bar appears."""


def print_warning(message: str) -> None:
    """Print a warning on stderr."""
    sys.stderr.write(f"attrib: warning: {printable(message)}\n")


class Messages:
    """The warnings of one or several analyses: shown at once, since the work may take long, and kept for the result."""

    def __init__(self, show: Callable[[str], None] | None) -> None:
        self.all: list[str] = []
        self._show = show

    def add(self, message: str) -> None:
        """Keep and show a warning, unless it was given before."""
        if message not in self.all:
            self.all.append(message)
            if self._show:
                self._show(message)


def progress(total: int, title: str, *, unit: str, first: bool) -> "tqdm[NoReturn]":
    """A progress bar on stderr, in a terminal or notebook only; first: whether this is the process that shows it."""
    shown = first and (sys.stderr.isatty() or "ipykernel" in sys.modules)
    return tqdm(total=total, desc=title, unit=unit, leave=False, delay=DELAY, disable=not shown)
