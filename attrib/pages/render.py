"""The report's page: results as one self-contained HTML file. No torch, no model."""

import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from attrib import formatting as text
from attrib.analyses import ANALYSES
from attrib.analyses.result import Result
from attrib.analyses.table import Table
from attrib.files import to_json
from attrib.pages import words
from attrib.pages.images import data_uri, payload
from attrib.pages.keys import key_line
from attrib.thresholds import RULES, spelling

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#777777")
"""Colours of models, in the order of the figures (style.mplstyle), with grey for black: pages may be dark."""


class Computed(NamedTuple):
    """A computed part of the report."""

    result: Result
    folder: Path
    """Folder of its figures."""
    command: str
    """The command line that reproduces it."""
    date: str
    seconds: float
    n: int | None
    """How many images it uses; None: none."""
    seed: int | None


SECTIONS = {
    "span": "The span of an image is the set of pixels whose attribution lies above a threshold. Its coverage is the"
    " share of the image's pixels in it. The attribution span coverage (ASC) of a model is the mean coverage over"
    " images, and its floor is the ASC of the same network with random weights.",
    "robust": "Accuracy on the same images, clean and under attacks of growing strength.",
    "sets": "Consistent: right on the clean and on the attacked image. Inconsistent: right on the clean image only."
    " Clean wrong: wrong already on the clean image.",
    "contrib": "How much each feature before the last layer contributes to the loss, and whether few contribute most.",
    "fc": "Valid values are weights above the layer's mean. Weights that are symmetric about it give 50\u00a0%.",
    "check": "Whether the maps depend on what the model learned, and whether the model depends on the pixels that they"
    " mark. Each number stands beside a control that ignores what the model learned.",
    "relate": "Whether coverage differs between images that the attack turns and images that withstand it, how coverage"
    " correlates with the adversarial margin, and how the models' means correlate with their accuracy.",
}
"""By analysis: the sections of the page, with their introductions."""
FIGURES = {
    "span": "Example images with every model's attribution map and the outline of its span",
    "span-coverage": "Distribution of coverage over images, and mean coverage against the threshold, for every model",
    "robust": "Accuracy of every model under every attack, with 95 % intervals",
    "robust-eps": "Accuracy of every model against the radius of the attack",
    "sets": "Probability of the true class of every image, clean against attacked, a panel per model",
    "sets-examples": "Example images of either set before and after the attack, with the probabilities of two classes",
    "contrib": "How the features' contributions are distributed, a row per quantity",
    "fc": "The last layer's weights, valid values in red, a band per class and a panel per model",
    "check": "Similarity of maps as layers are randomised, and insertion and deletion curves, for every model",
    "relate": "Coverage against the adversarial margin, image by image, and against robust accuracy, model by model",
}
"""By name of the file: captions of the figures."""
DPI = 300
"""Resolution of the figures (style.mplstyle)."""
ZOOM = 1.6
LONGEST_WEBP = 16383
"""Pixels, by the format's definition."""
NUMBER = re.compile(r"^[^A-Za-z]*(?:(?:to|e[-+]\d+|of)[^A-Za-z]*)*$")
"""A cell of numbers, with no words but those that join them."""


def answer(parts: Mapping[str, Computed]) -> list[words.Paragraph]:
    """The answers of the report, a paragraph per question."""
    return _answer(_summaries(parts))


def _answer(summaries: Mapping[str, words.Summary]) -> list[words.Paragraph]:
    span, robust, check, relation = (summaries.get(name) for name in ("span", "robust", "check", "relate"))
    return words.answer(span, robust, check=check, relation=relation)


def _summaries(parts: Mapping[str, Computed]) -> dict[str, words.Summary]:
    return {name: json.loads(to_json(part.result.summary)) for name, part in parts.items()}  # None, not NaN


def render(about: Mapping[str, Any], parts: Mapping[str, Computed]) -> str:
    """The page as HTML that needs nothing else.

    about: what the results folder's report.json says: models, data, settings, and which parts are missing and why.
    parts: by the analysis's name; ``images`` is ``attrib.pages.images.Browsed``.
    """
    names = [model["name"] for model in about["models"]]
    summaries = _summaries(parts)
    span, robust = summaries.get("span"), summaries.get("robust")
    sections = [_section(command, parts.get(command), summaries.get(command), about["missing"]) for command in SECTIONS]
    # The examples with their spans stand below the answer.
    picture, sections[0]["figures"] = sections[0]["figures"][:1], sections[0]["figures"][1:]
    glance = words.glance(span, robust, names=names)
    images = _images(about, parts)
    page = Environment(
        loader=PackageLoader("attrib.pages"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    ).get_template("report.html.j2")  # fmt: skip
    return page.render(
        about=about,
        data=text.data_words(about),
        colours=dict(zip(names, COLOURS * len(names), strict=False)),
        answer=_answer(summaries),
        cautions=dict.fromkeys([*words.cautions(span), *_warnings(parts)]),
        glance=glance,
        models_key=f"clean accuracy: {', '.join(f'{line.name} {words.percent(line.clean)}' for line in glance)}",
        images_key=f"{len(images['index'])} images to search, sort and open" if images else "",
        attack=words.worst_words(robust) if robust else "",
        picture=picture,
        sections=sections,
        images=images,
        parts=[parts[command] for command in SECTIONS if command in parts],
        rules={name: spelling(name) for name in RULES},
        letters=dict.fromkeys(rule.parameter for rule in RULES.values() if rule.parameter),
        percent=words.percent,
        flat=_flat,
        breakable=lambda path: Markup("/<wbr>").join(path.split("/")),
        style=_source("report.css"),
        script=Markup().join(map(_source, ("report.js", "spans.js", "elements.js"))),
    )


def read_record(path: Path, key: str) -> dict[str, Any] | None:
    """Command, date, seconds, n and seed of the part with this key; None if there is no such record."""
    try:
        record = json.loads(path.read_text())
        kinds = {name: kind for name, kind in get_type_hints(Computed).items() if name not in ("result", "folder")}
        whole = record["key"] == key and all(isinstance(record[name], kind) for name, kind in kinds.items())
        return {name: record[name] for name in kinds} if whole else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _section(
    command: str, part: Computed | None, summary: words.Summary | None, missing: Mapping[str, str]
) -> dict[str, Any]:
    """The template's values for a section."""
    return {
        "command": command,
        "lead": SECTIONS[command],
        "title": ANALYSES[command].question,
        "key": key_line(command, summary) if summary else "",
        "missing": "" if part else missing.get(command, "not computed"),
        "tables": [_table(table) for table in part.result.tables()] if part else [],
        "figures": [_figure(path) for path in sorted(part.folder.glob("*.png"), key=_place)] if part else [],
    }


def _table(table: Table) -> dict[str, Any]:
    frame = table.frame
    columns, rows = list(frame.columns), frame.to_numpy().tolist()
    return {
        "title": table.title, "caption": table.caption, "columns": columns, "rows": rows,
        "words": _words(columns, rows),
    }  # fmt: skip


def _words(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[bool]:
    """Which columns are words, aligned left: the first, and any that is not all numbers."""
    cells = list(zip(*rows, strict=True)) or [()] * len(columns)
    return [not (place and all(map(NUMBER.match, column))) for place, column in enumerate(cells)]


def _warnings(parts: Mapping[str, Computed]) -> list[str]:
    """The warnings of all analyses, as sentences."""
    return [f"{warning.rstrip('.')}." for part in parts.values() for warning in part.result.warnings]


def _place(path: Path) -> tuple[int, str]:
    """Sort key of a figure: its place in FIGURES; others come last, by name."""
    return (list(FIGURES).index(path.stem) if path.stem in FIGURES else len(FIGURES)), path.stem


def _figure(path: Path) -> dict[str, Any]:
    """A figure at the same scale as all others: its width in a paper, times ZOOM.

    Lossless WebP takes less than half the bytes of PNG; it is used unless the figure is too long for it.
    """
    written = io.BytesIO()
    with Image.open(path) as picture:
        width, height = (round(length / DPI * 96 * ZOOM) for length in picture.size)
        kind = "webp" if max(picture.size) <= LONGEST_WEBP else "png"
        picture.save(written, kind, **({"lossless": True} if kind == "webp" else {}))
    shows = FIGURES.get(path.stem, path.stem)
    return {"src": data_uri(written.getvalue(), f"image/{kind}"), "alt": shows, "width": width, "height": height}


def _images(about: Mapping[str, Any], parts: Mapping[str, Computed]) -> dict[str, Any] | None:
    """The data of the script that browses images; None if there are no images."""
    if "images" not in parts:
        return None
    data = payload(
        parts["images"].result.arrays[""], models=[model["name"] for model in about["models"]],
        classes=about["classes"], sets=parts["sets"].result.rows if "sets" in parts else None,
    )  # fmt: skip
    return {**data, "attack": about["attack"]["name"], "threshold": about["threshold"], "colours": COLOURS}


def _flat(value: Any) -> str:
    """A value of a model's card as text."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_flat(item)}" for key, item in value.items()) or "–"
    if isinstance(value, list):
        return ", ".join(map(_flat, value)) or "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
    return str(value) if value not in ("", None) else "–"


def _source(name: str) -> Markup:
    """A style sheet or script of ours, for the page without escapes."""
    return Markup((Path(__file__).parent / "templates" / name).read_text(encoding="utf-8"))
