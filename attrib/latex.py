"""Tables for a paper. No torch."""

import pandas as pd


def to_latex(table: pd.DataFrame, *, caption: str) -> str:
    """A table of texts as LaTeX (booktabs), its special characters escaped."""
    escaped = table.rename(columns=latex_escape).map(latex_escape)
    # Texts to the left, what holds numbers to the right.
    columns = "".join("r" if _numeric(table[name]) else "l" for name in table)
    return escaped.to_latex(
        index=False, caption=latex_escape(caption), position="t", escape=False, column_format=columns
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
