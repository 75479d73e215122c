"""The answers at the top of the report: which model uses more of the image, which is more robust, how sure it is."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from attrib import formatting as text
from attrib.analyses.robust import WORST
from attrib.analyses.span import LEVEL, stands_without_empty
from attrib.pages import checked
from attrib.pages.comparison import Claim, Pair, joined, sentence

Summary = Mapping[str, Any]
"""The summary of a result, with None in place of NaN."""
USES = Claim("uses", "use", "more of the image", "most of the image", "in coverage")
WITHSTANDS = Claim("withstands", "withstand", "the attack better", "the attack best", "in robust accuracy")


class Glance(NamedTuple):
    """The main numbers of a model, fractions; None if an analysis is missing."""

    name: str
    asc: float | None
    asc_ci: tuple[float, float] | None
    floor: float | None
    """ASC of the same network with random weights."""
    floor_range: tuple[float, float] | None
    clean: float | None
    robust: float | None
    robust_ci: tuple[float, float] | None


def glance(span: Summary | None, robust: Summary | None, *, names: Sequence[str]) -> list[Glance]:
    """The main numbers of every model."""
    spans, accuracies = _by_name(span), _by_name(robust)
    lines = []
    for name in names:
        of_span, of_robust = spans.get(name), accuracies.get(name)
        clean = of_robust["accuracies"]["clean"] if of_robust else of_span.get("accuracy") if of_span else None
        lines.append(
            Glance(
                name, of_span["asc"] if of_span else None, _ends(of_span["asc_ci"]) if of_span else None,
                of_span.get("asc_floor") if of_span else None, of_span.get("asc_floor_range") if of_span else None,
                clean, of_robust["accuracies"][WORST] if of_robust else None,
                _ends(of_robust["intervals"][WORST]) if of_robust else None,
            )
        )  # fmt: skip
    return lines


def worst_words(robust: Summary) -> str:
    """The attacks behind the accuracy to quote, the share of images that are right under both.

    >>> worst_words({"steps": [10, 20]})
    'the worst of PGD-20 and CW-20'
    """
    longest = max(robust["steps"])
    return f"the worst of PGD-{longest} and CW-{longest}"


class Paragraph(NamedTuple):
    """An answer in one sentence, and the numbers behind it."""

    answer: str
    numbers: str


def answer(
    span: Summary | None, robust: Summary | None, *, check: Summary | None, relation: Summary | None
) -> list[Paragraph]:
    """The answers of the report, a paragraph per question, from the results that exist."""
    paragraphs = []
    if span:
        paragraphs += _looks(span)
        pairs = _pairs(span, "images", "clean")
        values = {entry["name"]: entry["asc"] for entry in span["models"]}
        listed = _listed(values, {entry["name"]: entry["asc_ci"] for entry in span["models"]})
        numbers = f"Attribution span coverage of the clean images (ASC): {listed}.{_floors(span)}"
        verdict = sentence(_known(values), pairs, USES, files=_single_files(span))
        paragraphs.append(Paragraph(verdict, f"{numbers} {_evidence(pairs)}"))
    if robust:
        pairs = _pairs(robust, "attack", WORST)
        values = {entry["name"]: entry["accuracies"][WORST] for entry in robust["models"]}
        listed = _listed(values, {entry["name"]: entry["intervals"][WORST] for entry in robust["models"]})
        numbers = (
            f"Accuracy under {worst_words(robust)}, image by image (L-infinity, eps {robust['eps']:.3g}): {listed}."
        )
        verdict = sentence(_known(values), pairs, WITHSTANDS, files=_single_files(robust))
        paragraphs.append(Paragraph(verdict, f"{numbers} {_evidence(pairs)}"))
    if span and robust and (together := _together(span, robust)):
        paragraphs.append(Paragraph(together, ""))
    if relation:
        paragraphs.append(_related(relation))
    if check:
        paragraphs.append(_checked(check))
    return paragraphs


def cautions(span: Summary | None) -> list[str]:
    """Warnings for the reader of the numbers, beside those of the analyses."""
    sentences = []
    if span:
        models = span["models"]
        if files := _single_files(span):
            sentences.append(_one_file_each(files, of=len(models)))
        sentences += [
            f"{percent(entry['empty'] / entry['n'])} of the maps of {entry['name']} are empty (constant, or nowhere"
            " positive) and count as covering nothing."
            for entry in models
            if entry["empty"] > 0.01 * entry["n"]
        ]
    return sentences


def _one_file_each(files: Sequence[str], *, of: int) -> str:
    """A warning for models that are one file each; of: how many models there are."""
    which = "Each model" if len(files) == of > 1 else joined(files)
    is_one = "is one file" if len(files) == of or len(files) == 1 else "are one file each"
    compared = " p between two such files compares files, not training methods." if len(files) > 1 else ""
    return (
        f"{which} {is_one}. Intervals are over images and hold for this file only.{compared} Another training run of"
        " the same method can differ by more."
    )


def percent(value: float | None) -> str:
    """A fraction in percent, with one digit; the space before the sign does not break."""
    return "–" if value is None else f"{100 * value:.1f}\u00a0%"


def _by_name(summary: Summary | None) -> dict[str, Summary]:
    return {entry["name"]: entry for entry in summary["models"]} if summary else {}


def _ends(interval: Sequence[float | None]) -> tuple[float, float] | None:
    """The interval; None if there were too few images."""
    low, high = interval
    return None if low is None or high is None else (low, high)


def _known(values: Mapping[str, float | None]) -> dict[str, float]:
    return {name: value for name, value in values.items() if value is not None}


def _listed(values: Mapping[str, float | None], intervals: Mapping[str, Sequence[float | None]]) -> str:
    """The models with their numbers, from the highest to the lowest."""
    listed = []
    for name in sorted(values, key=lambda name: -(values[name] or 0)):
        ends = _ends(intervals[name])
        interval = f" (95\u00a0% CI {100 * ends[0]:.1f} to {100 * ends[1]:.1f})" if ends else ""
        listed.append(f"{name} {percent(values[name])}{interval}")
    return ", ".join(listed)


def _pairs(summary: Summary, key: str, value: str) -> list[Pair]:
    """The pairs of one kind that have a p."""
    pairs = []
    for pair in summary["pairs"]:
        if pair[key] != value or pair["p_holm"] is None:
            continue
        p = pair["p_holm"]
        low, high = _ends(pair["ci"]) or (float("nan"), float("nan"))
        real = p < LEVEL and ("without_empty" not in pair or stands_without_empty(pair))
        pairs.append(Pair(pair["a"], pair["b"], pair["difference"], low, high, p, real))
    return pairs


def _floors(span: Summary) -> str:
    """The floors of all models that have one."""
    known = [entry for entry in span["models"] if entry.get("asc_floor") is not None]
    values = [f"{percent(entry['asc_floor'])} ({_range(entry['asc_floor_range'])})" for entry in known]
    if not known:
        return ""
    listed = ", ".join(f"{entry['name']} {value}" for entry, value in zip(known, values, strict=True))
    if len(known) == len(span["models"]) > 1 and len(set(values)) == 1:
        listed = f"{values[0]} for every model"
    return f" Floor, the ASC of the same network with random weights (range of three draws): {listed}."


def _range(ends: Sequence[float]) -> str:
    low, high = ends
    return f"{100 * low:.1f} to {percent(high)}"


def _single_files(summary: Summary) -> tuple[str, ...]:
    """Models that are one file each: their numbers describe a file, not a method."""
    return tuple(entry["name"] for entry in summary["models"] if "seeds" not in entry)


def _called(names: Sequence[str], files: Sequence[str]) -> str:
    """The names in a sentence; models that are one file are called files."""
    if len(names) > 1 and set(names) <= set(files):
        return f"the files {joined(names)}"
    return joined(f"the file {name}" if name in files else name for name in names)


def _evidence(pairs: Sequence[Pair]) -> str:
    """The differences behind the sentence."""
    if not pairs:
        return ""
    if len(pairs) == 1:
        pair = pairs[0]
        return (
            f"Difference {_difference(pair)} (95\u00a0% CI {text.interval((pair.low, pair.high), text.points)},"
            f" {_p(pair.p)} with Holm's correction)."
        )
    unclear = [f"{_difference(pair)} ({_p(pair.p)})" for pair in pairs if not pair.real]
    which = f"No difference found: {'; '.join(unclear)}" if unclear else f"Largest {_p(max(pair.p for pair in pairs))}"
    return f"{which}; p with Holm's correction."


def _difference(pair: Pair) -> str:
    """The difference with its direction and sign, as in the tables."""
    return f"{pair.a} − {pair.b}: {text.points(pair.difference)} points"


def _looks(span: Summary) -> list[Paragraph]:
    """How much of the object the spans cover, if the data has masks of objects."""
    covered = {entry["name"]: entry.get("object_covered") for entry in span["models"]}
    if None in covered.values():
        return []
    listed = joined(f"{percent(share)} ({name})" for name, share in covered.items())
    return [
        Paragraph(
            f"The span covers {listed} of the object.",
            "A span that ignores the object would cover as much of it as of the image (ASC).",
        )
    ]


def _together(span: Summary, robust: Summary) -> str:
    """Whether the order by coverage is the order by robust accuracy; empty if no two models differ."""
    both = _pairs(span, "images", "clean"), _pairs(robust, "attack", WORST)
    if not all(any(pair.real for pair in pairs) for pairs in both):
        return ""
    accuracies = {entry["name"]: entry["accuracies"][WORST] for entry in robust["models"]}
    by_coverage = sorted(span["models"], key=lambda entry: -(entry["asc"] or 0))
    ordered = [accuracies[entry["name"]] for entry in by_coverage]
    kind = "file" if len(_single_files(span)) == len(span["models"]) else "model"
    if len(ordered) == 2:
        same = "also" if ordered[0] > ordered[1] else "not"
        return (
            f"The {kind} that uses more of the image is {same} the more robust one; two are too few to show a relation."
        )
    falling, rising = (all(sign * (a - b) >= 0 for a, b in pairwise(ordered)) for sign in (1, -1))
    order = "the same as" if falling else "the reverse of" if rising else "neither the same as nor the reverse of"
    return f"The {kind}s' order by coverage is {order} their order by robust accuracy."


def _related(relation: Summary) -> Paragraph:
    """Whether coverage goes with an image's robustness beyond its clean margin."""
    numbers: list[str] = []
    related: dict[str, list[str]] = {"more": [], "less": []}
    for entry in relation["models"]:
        margin, given = entry["coverage"]["margin"], entry["coverage"]["partial"]
        ends = _ends(given["ci"])
        if margin["rho"] is None or ends is None:
            continue
        numbers.append(
            f"{entry['name']} {signed(margin['rho'])}, and {signed(given['rho'])} (95\u00a0% CI {signed(ends[0])} to"
            f" {signed(ends[1])}) with the clean margin held fixed"
        )
        if ends[0] > 0 or ends[1] < 0:
            related["more" if ends[0] > 0 else "less"].append(entry["name"])
    if not numbers:
        return Paragraph("These results cannot show whether coverage goes with robustness image by image.", "")
    files = _single_files(relation)
    where = [f"in {_called(names, files)} ({kind} coverage, more robust)" for kind, names in related.items() if names]
    return Paragraph(
        f"Among images of the same clean margin, coverage goes with robustness {joined(where or ['in no model'])}.",
        f"Rank correlation of coverage with the adversarial margin: {'; '.join(numbers)}.",
    )


def signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")


def _checked(check: Summary) -> Paragraph:
    """How many sanity and faithfulness checks every model's maps pass."""
    says = {of["check"]: f"{of['says']} against {of['control_is']}" for e in check["models"] for of in e["checks"]}
    counts, failing = [], []
    for entry in check["models"]:
        passes = checked.passed(entry)
        failed = "; ".join(says[key] for key, does_pass in passes.items() if not does_pass)
        counts.append(f"{entry['name']} {checked.counted(passes)}" + (f" (failed: {failed})" if failed else ""))
        if failed:
            failing.append(entry["name"])
    which = f"The maps of {_called(failing, _single_files(check))} fail some of" if failing else "The maps pass"
    why = " Where maps fail, coverage says less about what the model uses." if failing else ""
    return Paragraph(
        f"{which} their checks.",
        f"Passed at 95\u00a0%, each against a control that ignores what the model learned: {', '.join(counts)}."
        f"{why} Not counted: similarity and SSIM against the edge detector, a control that is 1 by construction.",
    )


def _p(value: float) -> str:
    return f"p\u00a0=\u00a0{value:.3f}" if value >= 0.001 else "p\u00a0<\u00a00.001"
