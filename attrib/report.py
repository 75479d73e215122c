"""Results on disk to one self-contained HTML page. No torch, no model: ``attrib report`` computes, this renders.

A folder of results holds ``report.json`` (what was looked at, the models' cards, what could not be computed and why),
``images/images.npz`` (the images to browse, see :mod:`attrib.report_images`), and for every part that was computed
the folder that its command wrote with ``--out`` (``span/span.json``, ``span/span.csv``, ``span/span.png`` ...) and in
it ``made.json``: the command, when it ran, for how long, and its tables as the terminal would show them.
"""

import io
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from attrib import report_words as words
from attrib.errors import InputError, one_line
from attrib.report_images import data_uri, payload
from attrib.results import source
from attrib.thresholds import RULES, spelling

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#777777")
"""The models' colours, in the order of the figures' (style.mplstyle), black being grey: pages may be dark."""


class Part(NamedTuple):
    """A section of the page: a command and what it answers."""

    command: str
    short: str
    title: str
    lead: str


PARTS = (
    Part(
        "span", "Span", "How much of the image does each model use?",
        "The span of an image is the set of pixels whose attribution lies above a threshold; its coverage is the share"
        " of the image that they are, and the attribution span coverage (ASC) of a model is the mean over images. Its"
        " floor is the ASC of the same network with random weights.",
    ),
    Part(
        "robust", "Robustness", "How accurate is each model under attack?",
        "Accuracy on the same images, clean and under attacks of growing strength.",
    ),
    Part(
        "sets", "Sets", "Which images does the attack turn?",
        "Consistent: right on the clean and on the attacked image. Inconsistent: right on the clean image only. Clean"
        " wrong: wrong already on the clean image.",
    ),
    Part(
        "contrib", "Features", "How are contributions distributed over features?",
        "How much each feature before the last layer moves the loss, and whether a few features do most of it.",
    ),
    Part(
        "fc", "Last layer", "How many weights of the last layer are valid?",
        "Valid values are weights above the mean of the layer's; weights that are symmetric about it give 50\u00a0%.",
    ),
    Part(
        "check", "Checks", "Can the maps be trusted?",
        "Whether maps depend on what was learned, and whether the model depends on what they show; each number beside"
        " a control that knows nothing of the model.",
    ),
    Part(
        "relate", "Relation", "Does coverage go with robustness?",
        "Whether the images that the attack turns are covered otherwise than those that stand it, how coverage goes"
        " with the adversarial margin, and how the models' means go with their accuracy.",
    ),
)  # fmt: skip
FIGURES = {
    "span": "Example images with every model's attribution map and the outline of its span",
    "span-coverage": "Distribution of coverage over images, and mean coverage against the threshold, for every model",
    "robust": "Accuracy of every model under every attack, with 95 % intervals",
    "robust-eps": "Accuracy of every model against the radius of the attack",
    "sets": "Probability of the true class of every image, clean against attacked, a panel per model",
    "sets-examples": "Example images of either set before and after the attack, with the probabilities of two classes",
    "contrib": "Histograms of the features' contributions, a row per quantity, bins shared by the models",
    "fc": "The last layer's weights, valid values in red, a band per class and a panel per model",
    "check": "Similarity of maps as layers are randomised, and insertion and deletion curves, for every model",
    "relate": "Coverage against the adversarial margin, image by image, and against robust accuracy, model by model",
}
"""What the figures of the commands show, by the files' names."""
DPI = 300
"""Of the figures (style.mplstyle)."""
ZOOM = 1.6
LONGEST_WEBP = 16383
"""Pixels, by the format's definition."""
NUMBER = re.compile(r"^[^A-Za-z]*(?:(?:to|e[-+]\d+|of)[^A-Za-z]*)*$")
"""A cell without words but those that join numbers."""


def render(results: Path) -> str:
    """The page of a folder of results, as HTML that needs nothing else.

    Raises InputError where the folder holds no results of ``attrib report``.
    """
    about = _read(results / "report.json")
    if about is None:
        raise InputError(f"{results}: expected a folder of results with a report.json in it; attrib report makes one")
    names = [model["name"] for model in about["models"]]
    made = {part.command: _read(results / part.command / "made.json") for part in PARTS}
    summaries = {
        part.command: _read(results / part.command / f"{part.command}.json") for part in PARTS if made[part.command]
    }
    span, robust = summaries.get("span"), summaries.get("robust")
    page = Environment(
        loader=PackageLoader("attrib"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    ).get_template("report.html.j2")
    return page.render(
        about=about,
        data=source(about["data"], about["split"]),
        colours=dict(zip(names, COLOURS * len(names), strict=False)),
        answer=words.answer(span, robust, check=summaries.get("check"), relation=summaries.get("relate")),
        cautions=dict.fromkeys([*words.cautions(span), *_warnings(made.values())]),
        glance=words.glance(span, robust, names=names),
        attack=words.attack_title(words.strongest(robust)) if robust else "attack",
        sections=[_section(part, results / part.command, made[part.command], about["missing"]) for part in PARTS],
        images=_images(results, about),
        made=[content for content in made.values() if content],
        rules={name: spelling(name) for name in RULES},
        letters=[rule.parameter for rule in RULES.values() if rule.parameter],
        percent=words.percent,
        flat=_flat,
        breakable=lambda path: Markup("/<wbr>").join(path.split("/")),
        style=_source("report.css"),
        script=_source("report.js"),
    )


def _section(part: Part, folder: Path, made: Mapping[str, Any] | None, missing: Mapping[str, str]) -> dict[str, Any]:
    """What the template shows of a part."""
    return {
        **part._asdict(),
        "missing": missing.get(part.command, "") or ("" if made else "not computed"),
        "tables": [{**table, "words": _words(table)} for table in made["tables"]] if made else [],
        "figures": [_figure(path) for path in sorted(folder.glob("*.png"), key=_place)] if made else [],
    }


def _words(table: Mapping[str, Any]) -> list[bool]:
    """Which columns hold words, and stand at the left: the first, and any that is not all numbers."""
    columns = list(zip(*table["rows"], strict=True)) or [()] * len(table["columns"])
    return [not (place and all(map(NUMBER.match, cells))) for place, cells in enumerate(columns)]


def _warnings(made: Iterable[Mapping[str, Any] | None]) -> list[str]:
    """What the commands warned of, as sentences."""
    return [f"{warning.rstrip('.')}." for content in made if content for warning in content["warnings"]]


def _place(path: Path) -> tuple[int, str]:
    """The order of figures: that of FIGURES, and by name what is not in it."""
    return (list(FIGURES).index(path.stem) if path.stem in FIGURES else len(FIGURES)), path.stem


def _figure(path: Path) -> dict[str, Any]:
    """A figure, at one scale with all others: as wide as in a paper, times ZOOM.

    As lossless WebP, if it is not too long for that: every browser shows it, and it takes less than half the room.
    """
    written = io.BytesIO()
    with Image.open(path) as picture:
        width, height = (round(length / DPI * 96 * ZOOM) for length in picture.size)
        kind = "webp" if max(picture.size) <= LONGEST_WEBP else "png"
        picture.save(written, kind, **({"lossless": True} if kind == "webp" else {}))
    said = FIGURES.get(path.stem, path.stem)
    return {"src": data_uri(written.getvalue(), f"image/{kind}"), "alt": said, "width": width, "height": height}


def _images(results: Path, about: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the script that browses the images reads; None where there are no images."""
    path = results / "images" / "images.npz"
    if "images" in about["missing"] or not path.exists():
        return None
    with np.load(path, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    found = payload(
        arrays, models=[model["name"] for model in about["models"]], classes=about["classes"],
        sets=results / "sets" / "sets.csv" if "sets" not in about["missing"] else None,
    )  # fmt: skip
    return {**found, "attack": about["attack"]["name"], "threshold": about["threshold"], "colours": COLOURS}


def _flat(value: Any) -> str:
    """A value of a model's card in words."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_flat(item)}" for key, item in value.items()) or "–"
    if isinstance(value, list):
        return ", ".join(map(_flat, value)) or "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
    return str(value) if value not in ("", None) else "–"


def _read(path: Path) -> dict[str, Any] | None:
    """A JSON file's content, None where there is none; raises InputError for a broken one."""
    try:
        content: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({one_line(error)}); remove it and make it anew") from None
    return content


def _source(name: str) -> Markup:
    """A style sheet or script of ours, which goes into the page as it is."""
    return Markup((Path(__file__).parent / "templates" / name).read_text())
