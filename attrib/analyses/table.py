"""A table of texts: printed, shown in a notebook, or written for a paper. No torch."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from attrib import formatting
from attrib.lazy import Lazy

if TYPE_CHECKING:
    import pandas as pd

    from attrib import latex, layout
else:
    latex, layout, pd = Lazy("attrib.latex"), Lazy("attrib.layout"), Lazy("pandas")


@dataclass(frozen=True)
class Table:
    """A table of texts for people."""

    title: str
    rows: Sequence[Mapping[str, str]]
    caption: str = ""
    pairs: bool = False
    """Whether it compares models; a paper shows it below the first table."""

    @property
    def frame(self) -> "pd.DataFrame":
        """As a DataFrame of texts; a dash if a row lacks a column."""
        return pd.DataFrame(list(self.rows)).fillna("–").astype(str)

    def to_latex(self, label: str) -> str:
        """As a LaTeX table (booktabs), its title the caption's first sentence."""
        caption = f"{self.title}. {self.caption}".rstrip(". ")
        return latex.to_latex(self.frame, caption=f"{caption}.", label=label)

    def to_html(self) -> str:
        """As an HTML table, its title above and its caption below."""
        body = self.frame.to_html(index=False, border=0, escape=True)
        return f"<h4>{escape(self.title)}</h4>\n{body}\n<p><small>{escape(self.caption)}</small></p>"

    def to_text(self, width: int) -> str:
        """As text; width: the most characters of a line."""
        # In a notebook rich would otherwise display the lines itself, and with FORCE_COLOR add colour codes.
        console = Console(
            file=io.StringIO(), width=width, highlight=False, markup=False, emoji=False, force_jupyter=False,
            force_terminal=False,
        )  # fmt: skip
        console.print(Text(self.title, style="table.title"))
        for part in layout.draw(self.frame, width=width):
            console.print(part)
        if self.caption:
            console.print(Text(self.caption, style="table.caption"))
        assert isinstance(console.file, io.StringIO)
        return console.file.getvalue()


def differences(
    summary: Mapping[str, Any], rows: Sequence[Mapping[str, str]], test: str, *, title: str = "Paired differences"
) -> list[Table]:
    """The table of differences, with the test in its caption; no table if there are no pairs.

    rows: from ``summary["pairs"]``; test: the test that compares two single files.
    """
    return [Table(title, rows, formatting.p_words(summary["models"], test), pairs=True)] if summary["pairs"] else []
