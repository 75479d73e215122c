"""LaTeX tables for a paper. No torch."""

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from operator import itemgetter

import pandas as pd

COLUMN, TEXT = 48, 104
"""The widths of a column and of the text of a two-column paper, in characters of 10 pt."""


def file(tables: Iterable[str]) -> str:
    """Tables of ``to_latex`` one after another, below a comment with the packages that they need."""
    body = "\n".join(tables)
    packages = "booktabs,adjustbox" if r"\begin{adjustbox}" in body else "booktabs"
    return f"% needs \\usepackage{{{packages}}}\n{body}"


def to_latex(table: pd.DataFrame, *, caption: str, label: str) -> str:
    """A table of texts as LaTeX (booktabs), with special characters escaped and without empty columns.

    A table wider than a column spans both columns; one wider than the text is scaled down. Neighbouring columns that
    begin with the same word (PGD-10, PGD-20) share a heading. label: without ``tab:``.
    """
    shown = table.loc[:, ~table.isin(["", "–"]).all()]
    width = sum(2 + max(map(len, [name, *shown[name]])) for name in shown)
    environment = "table*" if width > COLUMN else "table"
    columns = "".join("r" if _numeric(shown[name]) else "l" for name in shown)
    body = shown.rename(columns=latex_escape).map(latex_escape).to_latex(
        index=False, escape=False, column_format=columns
    )  # fmt: skip
    if environment == "table*":
        body = _grouped(body, list(map(str, shown)))
    if width > TEXT:
        body = f"\\begin{{adjustbox}}{{max width=\\textwidth}}\n{body}\\end{{adjustbox}}\n"
    return (
        f"\\begin{{{environment}}}[t]\n\\centering\n\\caption{{{latex_escape(caption)}}}\n\\label{{tab:{label}}}\n{body}"
        f"\\end{{{environment}}}\n"
    )


def figures(captions: Mapping[str, tuple[str, bool]]) -> str:
    """``figure`` environments. captions: the file's name to its caption and whether the figure spans both columns."""
    parts = []
    for name, (caption, wide) in captions.items():
        place, width = ("figure*", r"\textwidth") if wide else ("figure", r"\columnwidth")
        parts.append(
            f"\\begin{{{place}}}[t]\n\\centering\n\\includegraphics[max width={width}]{{{name}}}\n"
            f"\\caption{{{latex_escape(caption)}}}\n\\label{{fig:{name}}}\n\\end{{{place}}}\n"
        )
    return "% needs \\usepackage{graphicx}\\usepackage[export]{adjustbox}\n" + "\n".join(parts)


def _grouped(body: str, names: Sequence[str]) -> str:
    """Move the first word that neighbouring names share into a heading above them."""
    # "PGD-10", "CE clean"; but neither "PGD-10 %", of which "10 %" would be left, nor "p (Holm)".
    split = [found.groups() if (found := re.fullmatch(r"(\w+)(?:-(?=\d+$)| (?!\())(.+)", name)) else (name, "")
             for name in names]  # fmt: skip
    above: list[str] = []
    rules: list[str] = []
    below: list[str] = []
    at = 1
    for stem, group in groupby(split, key=itemgetter(0)):
        rests = [rest for _, rest in group]
        place, together = slice(at - 1, at - 1 + len(rests)), len(rests) > 1 and all(rests)
        above += [rf"\multicolumn{{{len(rests)}}}{{c}}{{{latex_escape(stem)}}}"] if together else [""] * len(rests)
        rules += [rf"\cmidrule(lr){{{at}-{place.stop}}}"] * together
        below += map(latex_escape, rests if together else names[place])
        at += len(rests)
    if not rules:
        return body
    before, _, after = body.partition("\\toprule\n")
    _, _, rows = after.partition("\n")
    ends = " \\\\\n"
    return f"{before}\\toprule\n{' & '.join(above)}{ends}{' '.join(rules)}\n{' & '.join(below)}{ends}{rows}"


def _numeric(cells: pd.Series) -> bool:
    """Whether every cell begins like a number, or is empty."""
    return bool(cells.astype(str).str.match(r"[+−<-]?\s*[\d.]|–?$").all())


def latex_escape(text: str) -> str:
    """The text with LaTeX's special characters and our tables' signs escaped."""
    signs = {
        "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{",
        "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "×": r"$\times$", "−": "$-$",
        "–": "--", "<": "$<$", ">": "$>$", "≥": r"$\geq$", "≤": r"$\leq$", "ρ": r"$\rho$", "α": r"$\alpha$",
    }  # fmt: skip
    return "".join(signs.get(character, character) for character in text)
