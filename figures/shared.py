"""What the scripts of this folder share: finding results, saving figures and tables, running alone."""

import argparse
import json
import sys
import tomllib
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.figure import Figure, SubFigure
from numpy.typing import NDArray

from attrib import results
from attrib.errors import InputError
from attrib.files import atomic, folder
from attrib.plots import base
from attrib.plots.base import COLUMN, TEXT
from figures import names
from figures.names import Role

HERE = Path(__file__).parent
DATA, RENDERED = HERE / "data", HERE / "rendered"
MANIFEST = "commands.json"
"""In a folder of results: task -> the command that made it, its models' fingerprints, the number of images."""

Draw = Callable[[Path, Path], list[Path]]


class Missing(InputError):
    """Results that a figure needs are not there."""


class Panel(NamedTuple):
    """The results of one data set and architecture that a figure shows."""

    folder: Path
    title: str
    """MNIST, LeNet"""
    models: list[str]
    """The names in the results of those of the models wanted that are there."""

    def json(self, name: str) -> dict[str, Any]:
        """What the command wrote as JSON."""
        return read_json(self.folder / f"{name}.json")

    def arrays(self, name: str) -> dict[str, NDArray[Any]]:
        """What the command wrote as NPZ."""
        with np.load(self.folder / f"{name}.npz", allow_pickle=False) as saved:
            return {key: saved[key] for key in saved.files}

    def table(self, name: str) -> pd.DataFrame:
        """What the command wrote as CSV."""
        return pd.read_csv(self.folder / f"{name}.csv")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; raises InputError for a file that holds none."""
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):
        raise InputError(f"{path}: expected a JSON object; run python -m figures.run again") from None
    return found


def manifest(place: Path) -> dict[str, Any]:
    """The tasks done in a folder of results; empty where there are none."""
    return read_json(place / MANIFEST) if (place / MANIFEST).exists() else {}


def panels(data: Path, task: str, *, wanted: Sequence[Role] = (), needed: Sequence[Role] = ()) -> list[Panel]:
    """The folders under ``data`` where the task is done for all the models needed, in the order of the papers.

    Without ``wanted`` a panel has all of the task's models, else those wanted that are there. Raises Missing where
    there is no such folder.
    """
    found = []
    for place in sorted(data.glob("*/"), key=lambda path: names.place_order(path.name)):
        models = list(manifest(place).get(task, {}).get("models", {}))
        if models and all(pick(models, role) for role in needed):
            shown = [name for role in wanted if (name := pick(models, role))] if wanted else models
            found.append(Panel(place, names.place(place.name), list(dict.fromkeys(shown))))
    if not found:
        which = ", ".join(" or ".join(role) for role in needed) or "the models"
        raise Missing(f"no {task} results of {which} in {data}; python -m figures.run --ckpts DIR --data NAME"
                      " makes them, with DIR/NAME/model.pt for each")  # fmt: skip
    return found


def pick(models: Sequence[str], role: Role) -> str | None:
    """The first of the role's names that is among the models."""
    return next((name for name in role if name in models), None)


def forms(models: Sequence[str]) -> list[tuple[str, str]]:
    """Each form of AGAIN among the models, with the PGD-AT that it is compared with; none without that."""
    compared = ((form, pick(models, names.BASELINES.get(form, names.PGD_AT))) for (form,) in names.FORMS)
    return [(form, baseline) for form, baseline in compared if form in models and baseline]


def entry(summary: dict[str, Any], name: str) -> dict[str, Any]:
    """The model's entry in a command's JSON."""
    return next(found for found in summary["models"] if found["name"] == name)


def over(entries: Iterable[dict[str, Any]]) -> str:
    """What the intervals of some models' results are over."""
    return "images, and seeds where a model has several" if any("seeds" in each for each in entries) else "images"


def images(count: int) -> str:
    """So many images, in words."""
    return f"{count:,} image{'s' if count != 1 else ''}"


@cache
def papers() -> dict[str, Any]:
    """What the papers print; see papers.toml."""
    return tomllib.loads((HERE / "papers.toml").read_text())


def canvas(found: Sequence[Panel], *, height: float) -> tuple[Figure, list[SubFigure]]:
    """A figure with a part per panel: one at a column's width, several side by side, at most three in a row.

    height: of one row of panels, inches.
    """
    across = min(3, len(found))
    rows = -(-len(found) // across)
    figure = Figure(figsize=(COLUMN if across == 1 else TEXT, height * rows), layout="constrained")
    return figure, list(figure.subfigures(rows, across, squeeze=False).flat[: len(found)])


def save(figure: Figure, out: Path, name: str) -> list[Path]:
    """Write the figure as PDF and PNG."""
    return base.save(figure, folder(out) / name)


def save_table(table: pd.DataFrame, out: Path, name: str, *, caption: str) -> list[Path]:
    """Write a table of texts as LaTeX (booktabs) and as Markdown with the caption below."""
    place = folder(out)
    results.write_latex(table, place / f"{name}.tex", caption=caption)
    with atomic(place / f"{name}.md") as temporary:
        temporary.write_text(f"{markdown(table)}\n\n{caption}\n")
    return [place / f"{name}.tex", place / f"{name}.md"]


def markdown(table: pd.DataFrame) -> str:
    """A table of texts in Markdown."""
    rows = [list(table.columns), ["---"] * len(table.columns), *table.to_numpy().tolist()]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in rows)


def percent(value: float | None, digits: int = 2) -> str:
    """A fraction in percent; a dash for NaN or nothing."""
    return "–" if value is None or value != value else f"{100 * value:.{digits}f}".replace("-", "−")


def percents(ends: Sequence[float], digits: int = 2) -> str:
    """The ends of an interval of fractions, in percent; nothing where there is no interval."""
    return "" if any(end is None or end != end for end in ends) else "–".join(percent(end, digits) for end in ends)


def signed(value: float, low: float, high: float, *, scale: float = 100, digits: int = 2) -> str:
    """A difference and its interval, in points unless scaled otherwise: ``+1.20 (−0.10 to +2.50)``."""
    said = [f"{scale * each:+.{digits}f}".replace("-", "−") for each in (value, low, high)]
    return f"{said[0]} ({said[1]} to {said[2]})"


def alone(draw: Draw) -> None:
    """Run one script from the command line: ``python -m figures.NAME [--data DIR] [--out DIR]``; status 2 if it can't.

    The paths written are printed.
    """
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__)
    add_folders(parser)
    options = parser.parse_args()
    try:
        for path in draw(options.data, options.out):
            print(path)
    except InputError as error:
        print(f"figures: error: {error}", file=sys.stderr)
        sys.exit(2)


def add_folders(parser: argparse.ArgumentParser) -> None:
    """The options of every script: where results are read and figures written."""
    parser.add_argument("--data", type=Path, default=DATA, help="folder of results (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=RENDERED, help="folder of figures (default: %(default)s)")


def colours(models: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Each model with its colour: the same in every figure, whatever other models are there."""
    fixed = {
        "raw": "#000000", "standard": "#000000", "madry": "#E69F00", "pgd-at": "#CC79A7", "alp": "#D55E00",
        "aalp": "#0072B2", "aalp-gd": "#56B4E9", "aalp-sw": "#009E73", "trades": "#999999", "again": "#0072B2",
        "again-logit": "#0072B2", "again-no-hff": "#56B4E9",
    }  # fmt: skip
    for name in models:
        yield name, fixed.get(name, "#777777")
