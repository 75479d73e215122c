"""The result of an analysis: numbers, tables, figures; shown in a notebook, printed, saved and loaded. No torch."""

import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields, replace
from html import escape
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pandas.api.types import infer_dtype

from attrib import latex
from attrib.analyses import ANALYSES
from attrib.analyses.options import Attack
from attrib.analyses.styled import styled
from attrib.analyses.table import Table
from attrib.errors import InputError, one_line, refused
from attrib.files import atomic, folder, to_json
from attrib.lazy import Lazy
from attrib.styles import USUAL, WIDTHS, Style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from attrib.analyses.base import Analysis
    from attrib.plots import base as drawing
else:
    drawing = Lazy("attrib.plots.base")

COLUMN = WIDTHS["column"] + 0.1
"""Inches: a wider figure spans both columns of a paper."""
WIDTH = 200
"""Characters per line of a printed table, unless a terminal has another width."""


@dataclass(frozen=True, repr=False)
class Result:
    """The answer of an analysis.

    In a notebook it shows its tables, captions and warnings; ``print`` gives the same as text.
    """

    analysis: "Analysis"
    summary: dict[str, Any]
    """The numbers, key for key what ``--json`` prints; fractions, not percent."""
    frames: dict[str, pd.DataFrame]
    """The tables of numbers by the suffix of their file: "" is NAME.csv, "x" is NAME-x.csv."""
    arrays: dict[str, dict[str, NDArray[Any]]]
    """Arrays by the suffix of their file."""
    style: Style = USUAL
    """The look of its figures."""

    @property
    def warnings(self) -> list[str]:
        """Warnings about the numbers, a sentence each."""
        return list(self.summary["warnings"])

    @property
    def rows(self) -> pd.DataFrame:
        """A row per image and model."""
        return self.frames[self.analysis.images_table]

    @property
    def table(self) -> pd.DataFrame:
        """A row per model: every number, an interval's ends as ``*_low`` and ``*_high``."""
        return _numbers([_flat(self.analysis.row(entry)) for entry in self.summary["models"]])

    @property
    def pairs(self) -> pd.DataFrame:
        """A row per comparison of two models: a, b, quantity, difference (a - b), low, high, p, p_holm, ..."""
        first = ("a", "b", "quantity", "difference", "low", "high", "p", "p_holm")
        rows = []
        for pair in self.summary["pairs"]:
            low, high = pair.get("ci") or (None, None)
            flat = _flat({key: value for key, value in pair.items() if key != "ci"})
            rows.append({**dict.fromkeys(first), **flat, "low": low, "high": high})
        return _numbers(rows) if rows else pd.DataFrame(columns=list(first))

    def __getitem__(self, name: str) -> dict[str, Any]:
        """A model's entry in the summary, by name; raises InputError if there is none."""
        for entry in self.summary["models"]:
            if entry["name"] == name:
                return dict(entry)
        raise refused("model", name, (entry["name"] for entry in self.summary["models"]))

    def tables(self) -> list[Table]:
        """The tables for people."""
        return self.analysis.tables(self)

    @property
    def figures(self) -> "dict[str, Figure]":
        """Every figure, by name."""
        drawing.show_in_notebooks()
        return self.analysis.figures(self)

    @property
    def captions(self) -> dict[str, str]:
        """The caption of each figure. It stands above the figure unless the style omits titles."""
        return {name: str(figure.get_label()) for name, figure in self.figures.items()}

    def styled(self, style: Style) -> "Result":
        """The result in a style: with its names and order of models, its images, and its look of figures."""
        return styled(self, style)

    def plot(self, name: str | None = None, *, style: Style | None = None) -> "Figure":
        """One figure: the first, or the one called ``name`` or ANALYSIS-``name``; raises InputError if none is."""
        figures = (self.styled(style) if style else self).figures
        for known, figure in figures.items():
            if name in (None, known, known.removeprefix(f"{self.analysis.name}-")):
                return figure
        raise refused("plot", name, figures)

    def to_latex(self, name: str | None = None) -> str:
        """A LaTeX file: the first for a paper, or the one of a name or table title; raises InputError if none is."""
        texts = self._latex() | {each.title: self._file_of(each.title, [each]) for each in self.tables()}
        named = {known or self.analysis.name: text for known, text in texts.items()}
        if name is not None and name not in named:
            raise refused("table", name, named)
        return named[name] if name is not None else next(iter(named.values()))

    def _latex(self) -> dict[str, str]:
        """The tables for a paper in LaTeX, by the suffix of their file; the first file also has the differences."""
        pairs = [table for table in self.tables() if table.pairs]
        papers = self.analysis.papers(self)
        if "" in papers and self.warnings:  # they change how to read the numbers
            caption = ". ".join([papers[""].caption.rstrip(". "), *self.warnings])
            papers[""] = replace(papers[""], caption=caption)
        return {part: self._file_of(part, [table, *([] if part else pairs)]) for part, table in papers.items()}

    def _file_of(self, part: str, tables: Sequence[Table]) -> str:
        """Tables in LaTeX; the first is labelled NAME-PART, the others NAME-TITLE."""
        parts = [part, *(table.title for table in tables[1:])]
        labels = [re.sub("[^a-z0-9]+", "-", f"{self.analysis.name} {each}".lower()).strip("-") for each in parts]
        return latex.file(table.to_latex(label) for table, label in zip(tables, labels, strict=True))

    def to_text(self, width: int = WIDTH) -> str:
        """The tables as text; width: the most characters of a line."""
        return "".join(table.to_text(width) for table in self.tables())

    def __repr__(self) -> str:
        return self.to_text()

    def _repr_html_(self) -> str:
        warnings = "".join(f"<li>{escape(each)}</li>" for each in self.warnings)
        tables = "\n".join(table.to_html() for table in self.tables())
        return f"<div>{tables}{f'<p>Warnings</p><ul>{warnings}</ul>' if warnings else ''}</div>"

    def save(self, out: str | Path, *, style: Style | None = None, keep: Iterable[Path] = ()) -> list[Path]:
        """Write everything into a folder: CSV, JSON, LaTeX, NPZ, and the figures as PDF and PNG; returns the paths.

        No file is replaced before all are written. The JSON comes last: if it is there, the other files belong to it.
        Other files of an earlier result of the same analysis are removed. style: for figures and LaTeX; CSV and JSON
        keep the models' names. keep: files in the folder that belong to this result already. Raises WriteError if the
        folder cannot be written to.
        """
        place, name = folder(Path(out)), self.analysis.name
        shown = self.styled(style) if style else self
        figures = shown.figures
        written: list[Path] = []
        with ExitStack() as stack:  # it replaces files from the last to the first

            def temporary(file: str) -> Path:
                written.append(place / file)
                return stack.enter_context(atomic(written[-1]))

            summary = temporary(f"{name}.json")
            for part, frame in self.frames.items():
                frame.to_csv(temporary(_file(name, part, ".csv")), index=False)
            for part, text in shown._latex().items():
                temporary(_file(name, part, ".tex")).write_text(text, encoding="utf-8")
            for part, arrays in self.arrays.items():
                np.savez_compressed(temporary(_file(name, part, ".npz")), **arrays)  # type: ignore[arg-type]
            if figures:
                captions = {each: (str(fig.get_label()), fig.get_figwidth() > COLUMN) for each, fig in figures.items()}
                temporary(f"{name}-figures.tex").write_text(latex.figures(captions), encoding="utf-8")
            for figure_name, figure in figures.items():
                for suffix in drawing.SUFFIXES:
                    temporary(f"{figure_name}{suffix}").write_bytes(drawing.drawn(figure, suffix))
            kept = [path.name for path in keep if path.resolve().parent == place.resolve()]
            files = [*kept, *(path.name for path in written)]
            types = {part: _types(frame) for part, frame in self.frames.items()}
            stored = {"files": files, "columns": types, "arrays": list(self.arrays)}
            summary.write_text(to_json(self.summary | stored) + "\n")
            discard(place, name, keep=kept)
        return [*written[1:], written[0]]

    @classmethod
    def load(cls, out: str | Path, name: str | None = None) -> "Result":
        """Load a result from a folder; name: the analysis, if the folder holds several results.

        A map that was a function is loaded as its qualified name. Raises InputError if there is no such result.
        """
        place = Path(out)
        present = [known for known in ANALYSES if (place / f"{known}.json").is_file()]
        if name is None and len(present) > 1:
            raise InputError(f"{place} holds several results; name one of {', '.join(present)}")
        if (name or "") not in present and (name is not None or not present):
            raise InputError(
                f"{place}: expected a result of {name or 'an analysis'}, found {', '.join(present) or 'none'}"
            )
        name = name or present[0]
        try:
            summary = json.loads((place / f"{name}.json").read_text())
            return cls(_analysis(name, summary["options"]), *_read(place, name, summary))
        except Exception as error:  # the parsers meet arbitrary bytes here and raise anything
            raise InputError(f"{place / name}.json: cannot be read ({one_line(error)}); run it again") from None

    def replaces(self, place: Path) -> str:
        """A warning that ``save`` replaces an earlier result in the folder; "" if there is none."""
        earlier = _summary(place, self.analysis.name)
        if not earlier or earlier.get("key") == self.summary["key"]:
            return ""
        names = ", ".join(str(entry["name"]) for entry in earlier["models"])
        return f"{place}: the earlier result of {self.analysis.name} ({names}) is replaced"

    @classmethod
    def saved(cls, analysis: "Analysis", out: Path, key: str) -> "Result | None":
        """Load the result of this analysis with this key from a folder; None if there is none."""
        summary = _summary(out, analysis.name)
        if summary is None or summary.get("key") != key:
            return None
        try:
            return cls(analysis, *_read(out, analysis.name, summary))
        except Exception:  # as in ``load``; the analysis runs again
            return None


def _summary(place: Path, name: str) -> dict[str, Any] | None:
    """The summary of a saved result; None if it is missing or invalid."""
    try:
        summary = json.loads((place / f"{name}.json").read_text())
        valid = all("name" in entry for entry in summary["models"]) and isinstance(summary.get("files", []), list)
        return summary if valid else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _read(
    place: Path, name: str, stored: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, pd.DataFrame], dict[str, dict[str, NDArray[Any]]]]:
    """The summary, the tables of numbers and the arrays of a saved result; stored: its JSON.

    Files of maps are not read: they may take gigabytes.
    """
    summary = dict(stored)
    summary.pop("files", None)
    types, listed = summary.pop("columns", {}), summary.pop("arrays", None)  # older results lack them
    frames = {part: _read_rows(path, types.get(part, {})) for part, path in _parts(place, name, ".csv")}
    arrays = {}
    for part, path in _parts(place, name, ".npz"):
        if listed is None or part in listed:
            with np.load(path, allow_pickle=False) as archive:
                arrays[part] = {key: archive[key] for key in archive.files}
    return summary, frames, arrays


def _types(frame: pd.DataFrame) -> dict[str, str]:
    """The types of the columns, which a CSV does not record: float32, names that look like numbers."""
    named = {str(name): "str" if infer_dtype(frame[name], skipna=False) == "string" else str(frame[name].dtype)
             for name in frame}  # fmt: skip
    return {name: kind for name, kind in named.items() if kind != "object"}


def _read_rows(path: Path, types: Mapping[str, str]) -> pd.DataFrame:
    """Read rows with the types that they were written in: a model may be called 1 or NA."""
    kinds = {"model": "str", "run": "str", **types}
    # Numbers are exact to the last bit, which is pandas' default from 3.1 on; before, the last digit may differ.
    rows = pd.read_csv(path, dtype=kinds, keep_default_na=False, na_values=[""])
    if lost := types.keys() - set(rows):
        raise InputError(f"{path}: no column {min(lost)}")
    return rows.fillna({name: "" for name, kind in types.items() if kind == "str"})


def analysis_class(name: str) -> "type[Analysis]":
    """The class of an analysis, by the analysis's name."""
    kind: type[Analysis] = getattr(import_module(f"attrib.analyses.{name}"), ANALYSES[name].kind)
    return kind


def _analysis(name: str, options: Mapping[str, Any]) -> "Analysis":
    """The analysis with these options, unchecked: the name of a function would be refused as a map."""
    kind = analysis_class(name)
    analysis = object.__new__(kind)
    for each in fields(kind):
        value = options[each.name]
        if isinstance(value, Mapping):
            value = Attack(**value)
        object.__setattr__(analysis, each.name, tuple(value) if isinstance(value, list) else value)
    return analysis


def _file(name: str, part: str, suffix: str) -> str:
    return f"{name}{'-' if part else ''}{part}{suffix}"


def discard(place: Path, name: str, *, keep: Collection[str] = ()) -> None:
    """Remove a saved result from a folder: the files that its JSON lists, and the JSON."""
    summary = _summary(place, name) or {}
    for file in map(str, summary.get("files", [f"{name}.json"])):
        if Path(file).name == file and file not in keep and (place / file).is_file():
            (place / file).unlink()


def _parts(place: Path, name: str, suffix: str) -> Iterator[tuple[str, Path]]:
    """The files NAME-PART.suffix of a result, each with its PART."""
    for path in sorted(place.glob(f"{name}*{suffix}")):
        part = path.stem.removeprefix(name)
        if not part or part.startswith("-"):
            yield part.removeprefix("-"), path


def _flat(entry: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten the numbers and texts of an entry of the summary; curves, lists and single seeds are left out."""
    flat: dict[str, Any] = {}
    for key, value in entry.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{name}_")
        elif isinstance(value, list | tuple):
            if len(value) == 2 and all(end is None or isinstance(end, int | float) for end in value):
                name = name.removesuffix("_ci")
                flat |= {f"{name}_low": value[0], f"{name}_high": value[1]}
        else:
            flat[name] = value
    return flat


def _numbers(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """A table in which columns of numbers are numeric, with NaN for a missing number."""
    frame = pd.DataFrame(list(rows))
    for name in map(str, frame):
        values = [row.get(name) for row in rows]
        known = [value for value in values if value is not None and value == value]
        if all(isinstance(value, int | float) and not isinstance(value, bool) for value in known):
            whole = len(known) == len(values) and all(isinstance(value, int) for value in known)
            numbers = [np.nan if value is None else value for value in values]
            frame[name] = np.array(numbers, np.int64 if whole else np.float64)
        else:
            frame[name] = pd.Series([None if value is None else value for value in values], dtype=object)
    return frame
