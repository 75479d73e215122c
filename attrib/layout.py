"""Lay out a table on lines of limited width without breaking words, names or numbers where possible."""

from collections.abc import Iterable, Iterator, Sequence
from math import ceil
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.table import Table

if TYPE_CHECKING:
    import pandas as pd

PER_TABLE, PER_COLUMN = 1, 3
"""Characters that the box takes per table and per column."""
FOLDED_FROM = 28
"""The width at which long texts of a transposed table are folded; two such columns fit on 80 characters."""


def draw(table: "pd.DataFrame", *, width: int) -> Iterator[Table]:
    """The table with its cells folded at spaces to fit into ``width``.

    If that is not enough, it is transposed and split into several tables: each row becomes a column.
    """
    header = list(map(str, table.columns))
    rows = [list(map(str, row)) for row in table.itertuples(index=False)]
    columns = [list(column) for column in zip(header, *rows, strict=True)]
    least, widths = list(map(_word, columns)), list(map(_line, columns))
    room = width - PER_TABLE - PER_COLUMN * len(columns)
    if sum(least) > room:
        yield from _transposed(header, rows, width=width)
        return
    while sum(widths) > room:  # shrink the widest column
        foldable = [k for k in range(len(columns)) if widths[k] > least[k]]
        widths[max(foldable, key=widths.__getitem__)] -= 1
    folded = any(_line(column[1:]) > width for column, width in zip(columns, widths, strict=True))
    yield _drawn(columns, widths, apart=folded)


def _transposed(header: list[str], rows: list[list[str]], *, width: int) -> Iterator[Table]:
    """Tables with as many rows side by side as fit, evenly spread: four rows as two and two, not three and one."""
    room = width - PER_TABLE - PER_COLUMN
    cells = [cell for row in rows for cell in row]
    wide = min(_line(cells), max(FOLDED_FROM, _word(cells)))
    wide = max(1, min(wide, room - PER_COLUMN - _word(header)))
    most = max(1, (room - _word(header)) // (wide + PER_COLUMN))
    while rows:
        count = ceil(len(rows) / ceil(len(rows) / most))
        shown, rows = rows[:count], rows[count:]
        names = max(1, min(_line(header), room - count * (wide + PER_COLUMN)))
        yield _drawn([header, *shown], [names, *[wide] * count])


def _drawn(columns: Sequence[Sequence[str]], widths: Sequence[int], *, apart: bool = False) -> Table:
    """A table of columns, whose first cells are the headings; apart: put a blank line between rows."""
    drawn = Table(box=SIMPLE_HEAD, leading=int(apart))
    for number, (column, width) in enumerate(zip(columns, widths, strict=True)):
        drawn.add_column(column[0], width=width, justify="right" if number else "left", overflow="fold")
    for row in zip(*(column[1:] for column in columns), strict=True):
        drawn.add_row(*row)
    return drawn


def _line(texts: Iterable[str]) -> int:
    """The width of the widest text."""
    return max(map(cell_len, texts), default=0)


def _word(texts: Iterable[str]) -> int:
    """The width of the widest word."""
    return _line(word for text in texts for word in text.split())
