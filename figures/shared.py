"""Shared by the drawings: find results; write figures, tables and numbers."""

import json
import tomllib
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.figure import Figure, SubFigure
from numpy.typing import NDArray

from attrib.errors import InputError
from attrib.plots.base import COLUMN, TEXT, WIDE
from attrib.styles import Style
from figures import names
from figures.names import Role

HERE = Path(__file__).parent
DATA, RENDERED = HERE / "data", HERE / "rendered"
MANIFEST = "commands.json"
"""In a folder of results: task -> the command that made it, its models' fingerprints, the number of images."""


class Missing(InputError):
    """Results that a figure needs are not there."""


class Table(NamedTuple):
    """A table of texts for a paper."""

    frame: pd.DataFrame
    caption: str


class Panel(NamedTuple):
    """The results of one data set and architecture that a figure shows."""

    folder: Path
    title: str
    """MNIST, LeNet"""
    models: list[str]
    """The wanted models that exist, by their names in the results."""
    task: str = ""
    """The analysis whose results the figure shows."""

    @property
    def data(self) -> str:
        """The data set."""
        return self.folder.name.partition("-")[0]

    @property
    def done(self) -> dict[str, Any]:
        """The analyses done in the folder, by name."""
        return manifest(self.folder)

    def json(self, task: str = "") -> dict[str, Any]:
        """The JSON of the analysis, or of another one."""
        return read_json(self.folder / f"{task or self.task}.json")

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The NPZ of the analysis."""
        with np.load(self.folder / f"{self.task}.npz", allow_pickle=False) as saved:
            return {key: saved[key] for key in saved.files}

    def table(self, task: str = "") -> pd.DataFrame:
        """The CSV of the analysis, or of another one."""
        return pd.read_csv(self.folder / f"{task or self.task}.csv")

    def entries(self) -> list[dict[str, Any]]:
        """The entries of the models in the JSON."""
        summary = self.json()
        return [entry(summary, model) for model in self.models]


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; raises InputError for a file that holds none."""
    try:
        content: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):
        raise InputError(f"{path}: expected a JSON object; run python -m figures.run again") from None
    return content


def manifest(place: Path) -> dict[str, Any]:
    """The analyses done in a folder of results; empty if there are none."""
    return read_json(place / MANIFEST) if (place / MANIFEST).exists() else {}


def places(data: Path) -> list[Path]:
    """The folders of results, in the order in which they are shown."""
    return sorted(filter(manifest, data.glob("*/")), key=lambda path: names.place_order(path.name))


def panels(data: Path, task: str, *, wanted: Sequence[Role] = (), needed: Sequence[Role] = ()) -> list[Panel]:
    """The folders under ``data`` where the analysis is done for all the models needed, in the order of the papers.

    A panel has the wanted models that exist; without ``wanted``, all models of the analysis. Raises Missing if there is
    no such folder.
    """
    result = []
    for place in places(data):
        models = list(manifest(place).get(task, {}).get("models", {}))
        if models and all(pick(models, role) for role in needed):
            shown = [name for role in wanted if (name := pick(models, role))] if wanted else models
            result.append(Panel(place, names.place(place.name), list(dict.fromkeys(shown)), task))
    if not result:
        which = ", ".join(" or ".join(role) for role in needed) or "the models"
        raise Missing(f"no {task} results of {which} in {data}; python -m figures.run --ckpts DIR --data NAME"
                      " makes them, with DIR/NAME/model.pt for each")  # fmt: skip
    return result


def pick(models: Sequence[str], role: Role) -> str | None:
    """The first of the role's names that is among the models."""
    return next((name for name in role if name in models), None)


def forms(models: Sequence[str]) -> list[tuple[str, str]]:
    """Each form of AGAIN among the models, with the PGD-AT that it is compared with; none without that."""
    compared = ((form, pick(models, names.BASELINES.get(form, names.PGD_AT))) for (form,) in names.FORMS)
    return [(form, baseline) for form, baseline in compared if form in models and baseline]


def entry(summary: dict[str, Any], name: str) -> dict[str, Any]:
    """The model's entry in an analysis's JSON."""
    return next(each for each in summary["models"] if each["name"] == name)


def over(entries: Iterable[dict[str, Any]]) -> str:
    """What the intervals of these models are over, in words."""
    return "images, and seeds where a model has several" if any("seeds" in each for each in entries) else "images"


def images(count: int) -> str:
    """A number of images, in words."""
    return f"{count:,} image{'s' if count != 1 else ''}"


@cache
def papers() -> dict[str, Any]:
    """The numbers that the papers print; see papers.toml."""
    return tomllib.loads((HERE / "papers.toml").read_text())


def canvas(panels: Sequence[Panel], look: Style, *, height: float) -> tuple[Figure, list[SubFigure]]:
    """A figure with a part per panel: a single one at a column's width, several side by side, at most three in a row.

    height: of one row of panels, inches.
    """
    width = look.inches(COLUMN if len(panels) == 1 else TEXT)
    across = min(3, len(panels)) if width >= WIDE else 1
    rows = -(-len(panels) // across)
    figure = Figure(figsize=(width, height * rows), layout="constrained")
    return figure, list(figure.subfigures(rows, across, squeeze=False).flat[: len(panels)])


def markdown(table: pd.DataFrame) -> str:
    """A table of texts in Markdown."""
    rows = [list(table.columns), ["---"] * len(table.columns), *table.to_numpy().tolist()]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in rows)


def percent(value: float | None, digits: int = 2) -> str:
    """A fraction in percent; a dash for NaN or nothing."""
    return "–" if value is None or value != value else f"{100 * value:.{digits}f}".replace("-", "−")


def percents(ends: Sequence[float], digits: int = 2) -> str:
    """The ends of an interval of fractions, in percent; empty if there is no interval."""
    return "" if any(end is None or end != end for end in ends) else "–".join(percent(end, digits) for end in ends)


def with_ends(value: float, ends: Sequence[float], digits: int = 2) -> str:
    """A fraction in percent with the ends of its interval in brackets."""
    return f"{percent(value, digits)} ({percents(ends, digits)})"


def signed(value: float, *ends: float, scale: float = 100, digits: int = 2) -> str:
    """A difference and its interval, if any, in points unless scaled otherwise: ``+1.20 (−0.10 to +2.50)``."""
    first, *rest = (f"{scale * each:+.{digits}f}".replace("-", "−") for each in (value, *ends))
    return f"{first} ({' to '.join(rest)})" if rest else first


COLOURS = {
    "raw": "#000000", "standard": "#000000", "madry": "#E69F00", "pgd-at": "#CC79A7", "alp": "#D55E00",
    "aalp": "#0072B2", "aalp-gd": "#56B4E9", "aalp-sw": "#009E73", "trades": "#999999", "again": "#0072B2",
    "again-logit": "#0072B2", "again-no-hff": "#56B4E9",
}  # fmt: skip


def colour(model: str) -> str:
    """The model's colour, the same in every figure."""
    return COLOURS.get(model, "#777777")
