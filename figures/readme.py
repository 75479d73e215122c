"""The page of all figures: README.template.md, its facts filled in from the results. No number is typed by hand."""

import os
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from string import Template
from typing import Any

import pandas as pd

from attrib.files import atomic
from figures import claims, names, shared
from figures.shared import Missing

Drawn = Mapping[str, Sequence[Path] | Missing]
"""Script to the files that it wrote, or to why it could not."""


def write(data: Path, page: Path, drawn: Drawn) -> Path:
    """Write the page; ``drawn`` says what there is to show, in the order of the papers."""
    judged = claims.judged(data)
    parts = {
        "claims": _claims(judged, [names.place(place.name) for place in claims.places(data)]),
        "evidence": _evidence(judged), "contradictions": _contradictions(),
        "rules": _table(drawn["asc_rules"], page), "crossing": _table(drawn["crossing"], page),
        "again": _sections(drawn, "again_", data, page), "aalp": _sections(drawn, "aalp_", data, page),
        "models": _models(data),
    }  # fmt: skip
    text = Template((shared.HERE / "README.template.md").read_text()).substitute(parts)
    with atomic(page) as temporary:
        temporary.write_text(text.rstrip() + "\n")
    return page


def _claims(judged: list[tuple[claims.Claim, list[Any]]], places: list[str]) -> str:
    rows = []
    for number, (claim, findings) in enumerate(judged, start=1):
        row = {"": str(number), "claim": claim.said, "source": claim.source}
        for place in places:
            verdicts = dict.fromkeys(finding.verdict for at, finding in findings if at == place)
            row[place] = " / ".join(f"**{each}**" for each in verdicts) or "no results"
        rows.append(row)
    return shared.markdown(pd.DataFrame(rows))


def _evidence(judged: list[tuple[claims.Claim, list[Any]]]) -> str:
    lines = []
    for number, (claim, findings) in enumerate(judged, start=1):
        lines.append(f"{number}. {claim.said} ({claim.source}). Rule: {claim.rule}.")
        lines += [f"   - {place}: *{finding.verdict}*. {finding.numbers}." for place, finding in findings]
        if not findings:
            lines.append("   - No results.")
    return "\n".join(lines)


def _contradictions() -> str:
    """From papers.toml alone: the same models in two tables."""
    aalp, lines = shared.papers()["aalp"], []
    for each in aalp["contradictions"]:
        first, second = (
            {m: _printed(aalp, table, each, m) for m in each["models"]} for table in (each["first"], each["second"])
        )
        numbers = "; ".join(f"{names.label(m)} {first[m]:.2f} and {second[m]:.2f} %" for m in each["models"])
        what = [_named(aalp, each[key], each["column"]) for key in ("first", "second")]
        lines.append(f"- {names.DATA[each['data']]}, {what[0]} beside {what[1]}: {numbers}. {_sentence(each['about'])}")
    return "\n".join(lines)


def _sentence(text: str) -> str:
    said = text.strip()
    return f"{said[0].upper()}{said[1:]}."


def _named(aalp: dict[str, Any], table: str, column: str) -> str:
    words = f"Table {table.removeprefix('table')}"
    return f"{words}'s {names.attack(column)}" if column in aalp[table]["columns"] else f"{words}'s consistent share"


def _printed(aalp: dict[str, Any], table: str, contradiction: dict[str, Any], model: str) -> float:
    columns, of_data = aalp[table]["columns"], aalp[table][contradiction["data"]]
    # Table 4 has a column per model, the others a row per model.
    found = (
        of_data[columns.index(model)] if model in columns else of_data[model][columns.index(contradiction["column"])]
    )
    return float(found)


def _sections(drawn: Drawn, prefix: str, data: Path, page: Path) -> str:
    """Per script its figure or table, and where the data came from."""
    parts = []
    for name, written in drawn.items():
        if not name.startswith(prefix):
            continue
        script = import_module(f"figures.{name}")
        title, _, more = (script.__doc__ or "").strip().partition("\n")
        parts.append(f"### {title.partition(', ')[2].rstrip('.')}")
        if more.strip():
            parts.append(" ".join(more.split()))
        parts.append(f"`python -m figures.{name}`")
        if isinstance(written, Missing):
            parts.append(f"Not drawn: {_relative(str(written))}.")
            continue
        parts.append(_table(written, page) if "table" in name else _pictures(written, page, title))
        parts += [_origin(place, task) for place, task in _origins(data, script.TASKS)]
    return "\n\n".join(parts)


def _pictures(written: Sequence[Path], page: Path, title: str) -> str:
    return "\n\n".join(f"![{title}]({_link(path, page)})" for path in written if path.suffix == ".png")


def _table(written: Sequence[Path] | Missing, page: Path) -> str:
    if isinstance(written, Missing):
        return f"Not drawn: {_relative(str(written))}."
    (table,) = (path for path in written if path.suffix == ".md")
    return table.read_text().strip() + f"\n\n([LaTeX]({_link(table.with_suffix('.tex'), page)}))"


def _origins(data: Path, tasks: Sequence[str]) -> list[tuple[Path, str]]:
    places = sorted(data.glob("*/"), key=lambda path: names.place_order(path.name))
    return [(place, task) for place in places for task in tasks if task in shared.manifest(place)]


def _origin(place: Path, task: str) -> str:
    """Data set, number of images, fingerprints and command behind a task's results."""
    record = shared.manifest(place)[task]
    files = ", ".join(f"`{name}`" for name in record["files"])
    many = f", {shared.images(record['images'])}" if record["images"] else ""
    marks = "; ".join(f"{model} {' '.join(_few(marks))}" for model, marks in record["models"].items())
    return (
        f"<details><summary>{names.place(place.name)}{many}: {files}</summary>\n\n"
        f"Fingerprints: {marks}\n\n```sh\n{record['command']}\n```\n\n</details>"
    )


def _few(marks: list[str]) -> list[str]:
    """The fingerprints of seeds or epochs, the middle ones left out."""
    return marks if len(marks) <= 3 else [marks[0], "…", marks[-1]]


def _models(data: Path) -> str:
    """What the checkpoints say of their training."""
    parts = []
    for place in sorted(data.glob("*/"), key=lambda path: names.place_order(path.name)):
        if not (place / "models.json").exists():
            continue
        rows = []
        for name, seeds in shared.read_json(place / "models.json").items():
            for card in seeds:
                shown = {key: "–" if card[key] is None else str(card[key]) for key in card if key != "metrics"}
                rows.append({"model": name} | shown)
        parts.append(f"{names.place(place.name)}:\n\n{shared.markdown(pd.DataFrame(rows))}")
    return "\n\n".join(parts) or "No results."


def _link(path: Path, page: Path) -> str:
    return Path(os.path.relpath(path, page.parent)).as_posix()


def _relative(text: str) -> str:
    """A message without the path of this checkout."""
    return text.replace(f"{shared.HERE.parent}{os.sep}", "")
