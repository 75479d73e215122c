"""Tables on narrow consoles: in every layout all text is there and no word is broken."""

import io
from collections import Counter

import pandas as pd
import pytest
from rich.cells import cell_len
from rich.console import Console

from attrib import formatting
from attrib.analyses.table import Table
from attrib.latex import file
from attrib.layout import draw

TABLES = {
    "zoo": pd.DataFrame(
        [
            {
                "--ckpt": f"zoo:cifar10-resnet32-{name}", "method": "standard", "recipe": f"cifar10-short + {name}",
                "clean %": "56.90", "robust %": "31.70", "attack": "PGD-40, eps 0.0314", "fingerprint": "a3bed01fc685",
            }
            for name in ("raw", "madry", "alp", "trades", "aalp-gd", "aalp-sw", "aalp")
        ]
    ),
    "names twice": pd.DataFrame(
        [[f"a-model-{k // 2}", "clean" if k % 2 else "pgd", *[f"{k}{column}.00" for column in range(9)]]
         for k in range(4)],
        columns=["model", "images", *["accuracy %"] * 9],
    ),
    "sentences": pd.DataFrame(
        [("similarity, all randomised", "−0.141 (−0.264 to −0.006)", "1.000 edge detector")] * 3,
        columns=["check", "value − control, 95 % CI", "control"],
    ),
    "one long text": pd.DataFrame([("a", "word " * 60 + "end"), ("b", "–")], columns=["model", "note"]),
    "wide signs": pd.DataFrame([("数字" * 10, "↑ 数字 数字")] * 2, columns=["模型", "名"]),
}  # fmt: skip


def lines(table: pd.DataFrame, width: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width, highlight=False, markup=False, emoji=False)
    for drawn in draw(table, width=width):
        console.print(drawn)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def words(table: pd.DataFrame) -> "Counter[str]":
    return Counter(word for text in [*table.columns, *table.to_numpy().ravel()] for word in text.split())


@pytest.mark.parametrize("width", [60, 80, 100, 120, 200])
@pytest.mark.parametrize("name", TABLES)
def test_every_word_stays_whole_and_every_line_fits(name: str, width: int) -> None:
    table = TABLES[name]
    shown = lines(table, width)
    assert all(cell_len(line.rstrip()) <= width for line in shown)
    there = Counter(word for word in " ".join(shown).split() if "─" not in word)
    assert there.keys() == words(table).keys()
    assert there >= words(table)  # a turned table's names stand in every group


@pytest.mark.parametrize("width", [80, 100, 200])
def test_a_cell_stands_on_the_line_of_its_name_whichever_way_the_table_lies(width: int) -> None:
    table = pd.DataFrame([[f"r{row}c{column}" + "x" * 15 for column in range(7)] for row in range(5)])
    table.columns = pd.Index([f"name-{column}" for column in range(7)])
    shown = lines(table, width)
    turned = width < 200
    for row, cells in enumerate(table.to_numpy().tolist()):
        for column, cell in enumerate(cells):
            (line,) = [line for line in shown if cell in line]
            if turned:
                assert line.split()[0] == f"name-{column}"
            else:
                assert line.split()[column] == cell
            (first,) = [line for line in shown if cells[0] in line]
            head = next(line for line in shown if f"name-{column}" in line)
            above = first if turned else head
            # Under its heading: both end in the same place.
            text = cells[0] if turned else f"name-{column}"
            if column:
                assert above.index(text) + len(text) == line.index(cell) + len(cell), (row, column)


def test_a_word_wider_than_the_console_is_broken_and_nothing_is_lost() -> None:
    name = "0123456789" * 12
    shown = lines(pd.DataFrame([(name, "1.00", "2.00")], columns=["model", "a", "b"]), 40)
    assert all(len(line.rstrip()) <= 40 for line in shown)
    assert name in "".join(line.split()[-1] for line in shown if line.split() and "─" not in line)
    assert {"1.00", "2.00"} <= set(" ".join(shown).split())


def test_a_table_without_rows_is_its_headings_or_nothing() -> None:
    table = pd.DataFrame(columns=[f"column-{k}" for k in range(12)])
    assert "column-11" in " ".join(lines(table, 200))
    assert lines(table, 40) == []


def test_a_printed_table_has_its_title_its_caption_and_the_width_asked_for() -> None:
    rows = [dict(zip(TABLES["zoo"].columns, map(str, row), strict=True)) for row in TABLES["zoo"].to_numpy()]
    wide = Table("A title", rows, "a caption").to_text(200)
    assert 100 < max(map(len, wide.splitlines())) <= 200
    assert (wide.splitlines()[0], wide.splitlines()[-1]) == ("A title", "a caption")
    narrow = Table("A title", rows, "a :caption: [b]with[/b] " + "signs " * 20).to_text(80)
    assert max(map(len, narrow.splitlines())) <= 80
    assert "a :caption: [b]with[/b] signs" in narrow
    assert words(TABLES["zoo"]).keys() <= set(narrow.split())


@pytest.mark.parametrize(
    ("cell", "place", "packages"),
    [("1.00", "table", "booktabs"), ("1" * 40, "table*", "booktabs"), ("1" * 120, "table*", "booktabs,adjustbox")],
)
def test_latex_stands_in_the_width_that_it_needs(cell: str, place: str, packages: str) -> None:
    rows = [{"model_1": "a", "share %": cell, "none": "–"}, {"model_1": "", "share %": cell}]
    comment, begin, centring, caption, label, *body, end = file(
        [Table("It shows", rows, "60 images").to_latex("x")]
    ).splitlines()
    assert comment == rf"% needs \usepackage{{{packages}}}"
    assert (begin, centring, end) == (rf"\begin{{{place}}}[t]", r"\centering", rf"\end{{{place}}}")
    assert (caption, label) == (r"\caption{It shows. 60 images.}", r"\label{tab:x}")
    assert r"model\_1 & share \% \\" in body  # a column that is empty in every row is left out
    assert (
        (r"\begin{adjustbox}{max width=\textwidth}" in body) == (r"\end{adjustbox}" in body) == ("adjust" in packages)
    )


@pytest.mark.parametrize(
    ("eps", "written"),
    [(8 / 255, "8/255"), (0.031372549, "8/255"), (1 / 255, "1/255"), (32 / 255, "32/255"), (0.3, "0.3"), (0.2, "0.2"),
     (0.01, "0.01"), (0.5 / 255, "0.001961"), (0, "0")],
)  # fmt: skip
def test_a_radius_is_a_fraction_where_papers_write_one(eps: float, written: str) -> None:
    assert formatting.radius(eps) == written
