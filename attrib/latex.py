"""Tables for a paper. No torch."""

from collections.abc import Iterable

import pandas as pd

COLUMN, TEXT = 48, 104
"""How many characters of 10 pt a column and the text of a two-column paper are wide."""


def file(tables: Iterable[str]) -> str:
    """Tables of ``to_latex`` below one another, after a comment that says which packages they need."""
    body = "\n".join(tables)
    packages = "booktabs,adjustbox" if r"\begin{adjustbox}" in body else "booktabs"
    return f"% needs \\usepackage{{{packages}}}\n{body}"


def to_latex(table: pd.DataFrame, *, caption: str, label: str) -> str:
    """A table of texts as LaTeX (booktabs), its special characters escaped; columns that are empty are left out.

    What is wider than a column spans both; what is wider than the text is made smaller. label: without ``tab:``.
    """
    shown = table.loc[:, ~table.isin(["", "–"]).all()]
    width = sum(2 + max(map(len, [name, *shown[name]])) for name in shown)
    place = "table*" if width > COLUMN else "table"
    # Texts to the left, what holds numbers to the right.
    columns = "".join("r" if _numeric(shown[name]) else "l" for name in shown)
    body = shown.rename(columns=latex_escape).map(latex_escape).to_latex(
        index=False, escape=False, column_format=columns
    )  # fmt: skip
    if width > TEXT:
        body = f"\\begin{{adjustbox}}{{max width=\\textwidth}}\n{body}\\end{{adjustbox}}\n"
    return (
        f"\\begin{{{place}}}[t]\n\\centering\n\\caption{{{latex_escape(caption)}}}\n\\label{{tab:{label}}}\n{body}"
        f"\\end{{{place}}}\n"
    )


def _numeric(cells: pd.Series) -> bool:
    """Whether every cell begins like a number, or holds none."""
    return bool(cells.astype(str).str.match(r"[+−<-]?\s*[\d.]|–?$").all())


def latex_escape(text: str) -> str:
    """The text with LaTeX's special characters, and the signs that our tables use, written out."""
    signs = {
        "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{",
        "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "×": r"$\times$", "−": "$-$",
        "–": "--", "<": "$<$", ">": "$>$", "≥": r"$\geq$", "≤": r"$\leq$", "ρ": r"$\rho$", "α": r"$\alpha$",
    }  # fmt: skip
    return "".join(signs.get(character, character) for character in text)
