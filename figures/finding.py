"""The finding that a judge of a claim returns, and helpers: read results, count seeds, compare accuracies."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from figures import compare, names, shared
from figures.compare import Difference
from figures.shared import Panel, entry, signed
from figures.verdicts import POINT, Part

WORST = "worst"
"""The primary endpoint of claims about accuracy: the share of images right under PGD-100 and under CW-100."""


class Finding(NamedTuple):
    """The evidence on a claim from one folder of results."""

    parts: list[Part]
    numbers: str
    """The values compared, and their numbers of images and seeds."""


Summary = dict[str, Any]
"""The JSON of an analysis."""
Judge = Callable[[Panel, Summary], list[Finding]]


def summary_of(panel: Panel, task: str) -> Summary | None:
    """The JSON of an analysis; None if it is not done."""
    return panel.json(task) if task in panel.done else None


def cards(panel: Panel) -> dict[str, Any]:
    """How the checkpoints were trained: models.json; empty if there is none."""
    path = panel.folder / "models.json"
    return shared.read_json(path) if path.exists() else {}


def seeds(summary: Summary, *models: str) -> int:
    """The number of files of the model that has the fewest."""
    return min(len(entry(summary, model).get("seeds") or [0]) for model in models)


def basis(summary: Summary, *models: str) -> str:
    """Numbers of images and seeds behind a comparison: ``1,000 images, 1 seed each``."""
    counts = [len(entry(summary, model).get("seeds") or [0]) for model in models]
    low, high = min(counts), max(counts)
    words = f"{low} to {high} seeds" if low < high else f"{low} seed{'s' if low > 1 else ''} each"
    images = entry(summary, models[0]).get("n")
    return f"{shared.images(images)}, {words}" if images else words


def part(
    words: str, *answers: tuple[str, Difference | None], seeds: int, scale: float = 100, digits: int = 2,
    point: float | None = POINT, missing: Sequence[str] = (),
) -> Part:  # fmt: skip
    """A part of a claim, with its differences as text after ``words``.

    answers: pairs of a name, empty if there is only one, and the difference; scale and digits: as they are printed.
    """
    unknown = "" if missing else "no interval"
    written = [
        f"{name} {signed(*answer[:3], scale=scale, digits=digits) if answer else unknown}".strip()
        for name, answer in answers
    ]
    known = tuple(answer for _, answer in answers)
    return Part(f"{words} {', '.join(written)}".strip(), known, seeds, point, tuple(missing))


def accuracy(summary: Summary, a: str, b: str, column: str = WORST, *, missing: Sequence[str] = ()) -> Part:
    """Accuracy of model a minus that of model b, clean or under an attack, paired by image."""
    answer = compare.between(summary["pairs"], a, b, attack=column)
    words = f"{names.label(a)} − {names.label(b)}, points:"
    return part(words, (names.attack(column), answer), seeds=seeds(summary, a, b), digits=1, missing=missing)
