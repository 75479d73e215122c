"""Is what a model looks at related to its robustness: over images, over models, over the epochs of a run?

An image is broken if it is classified correctly and its adversarial margin, z_y - max_{j != y} z_j after the attack, is
not above 0. Robust accuracy is the share of images whose adversarial margin is above 0.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from attrib import formatting as text
from attrib import relate as associations
from attrib import stats
from attrib.analyses.attacked import Attacked
from attrib.analyses.floored import floor_column, floor_words
from attrib.analyses.last_layer import check_last_layers, fc_option
from attrib.analyses.measured import Array, Files, Findings
from attrib.analyses.table import Table, differences
from attrib.lazy import Lazy
from attrib.stats.association import resampled_correlation

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from attrib.analyses.result import Result
    from attrib.models.specs import Model
    from attrib.plots import relate as plots
else:
    plots = Lazy("attrib.plots.relate")

MEASURES = {
    "coverage": "coverage",
    "participation_ratio": "participation ratio",
    "span_iou": "span IoU, clean and adversarial",
}
"""The measures to relate to robustness: column to name in tables and on axes."""
COUNTS = ("participation_ratio",)
"""The measures that are not shares."""
ACCURACY = "robust_accuracy"
CORRELATION = "rho_"
"""In comparisons of two models, this precedes a measure: its rank correlation with the adversarial margin."""


@dataclass(frozen=True, kw_only=True)
class Relation(Attacked):
    """Whether coverage, participation ratio and span IoU are related to robustness, over images and across models.

    Across models, the saved epochs of a run are further points. If there are no other models, the last epoch of each
    run is analysed image by image.
    """

    name: ClassVar[str] = "relate"
    takes: ClassVar[tuple[str, ...]] = ("models", "runs")

    fc: str | None = fc_option()

    def looked_at(self, models: "Sequence[Model]") -> "Sequence[Model]":
        """The models and epochs given; raises InputError if ``fc`` names no layer."""
        check_last_layers([model for model in models if model.module is not None], self.fc)
        return models

    def summarise(self, files: Files) -> dict[str, Any]:
        """The numbers of correct and broken images, and how every measure relates to robustness."""
        return self._entries(files)[-1]

    def entry(self, files: Files) -> dict[str, Any]:
        """The numbers of a name and, if it has several seeds, of each seed, from the same resamples."""
        *seeds, entry = self._entries(files)
        return entry | {"seeds": seeds} if seeds else entry

    def _entries(self, files: Files) -> list[dict[str, Any]]:
        """The numbers of every file; if there are several, those of the method come last."""
        parts = [files.only(place) for place in range(len(files))] + ([files] if len(files) > 1 else [])
        entries = [_counts(part) | self.floor_entry(part) for part in parts]
        for measure in MEASURES:
            answers = associations.relations(
                files[measure], files["margin"], files["margin_adversarial"], files["correct"] > 0, seed=self.seed,
                within=_differences(measure),
            )  # fmt: skip
            for entry, part, answer in zip(entries, parts, answers, strict=True):
                entry[measure] = {name: _as_dict(each) for name, each in answer.items()}
                entry[measure]["broken"] |= {
                    f"mean_{name}": part.mean(measure, among=among) for name, among in _outcomes(part).items()
                }
        return entries

    def completed(self, entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Add Holm's correction over models and measures.

        It does not count single seeds, nor the other correlations of a measure, which test the same question again.
        """
        tests = [
            entry[measure][part] for entry in entries for measure in MEASURES for part in ("broken", "margin")
        ]  # fmt: skip
        for test, p in zip(tests, stats.holm(np.array([test["p"] for test in tests])).tolist(), strict=True):
            test["p_holm"] = p
        return entries

    def compare(self, a: Files, b: Files, findings: Findings) -> Iterator[dict[str, Any]]:
        """Differences in robust accuracy and in every measure, paired by image, and in its correlation with margins."""
        accurate = [files["margin_adversarial"] > 0 for files in (a, b)]
        yield {"quantity": ACCURACY, "n": a.n, **stats.paired_shares(*accurate).entry()}
        for measure in MEASURES:
            paired = stats.paired(a[measure], b[measure], seed=self.seed, within=_differences(measure))
            yield {"quantity": measure, "n": a.n, **paired.entry()}
        for measure in MEASURES:
            (rho_a, resampled_a), (rho_b, resampled_b) = (self._correlations(files, measure) for files in (a, b))
            paired = stats.basic_paired(rho_a, rho_b, resampled_a, resampled_b, within=(-2, 2))
            yield {"quantity": f"{CORRELATION}{measure}", "n": a.n, **paired.entry()}

    def _correlations(self, files: Files, measure: str) -> tuple[stats.Values, stats.Values]:
        """The rank correlation of a measure with the adversarial margin: of every file (S,), and in resamples (S,R)."""
        columns = zip(files[measure], files["margin_adversarial"], strict=True)
        each = [resampled_correlation(*rows, seed=self.seed) for rows in columns]
        return np.array([correlation.rho for correlation, _ in each]), np.array([resampled for _, resampled in each])

    def about(self, findings: Findings, entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Settings, and the relation across models."""
        return self.settings(findings) | {"across": self._across(findings)}

    def _across(self, findings: Findings) -> dict[str, Any]:
        """The means of every model and saved epoch, and their rank correlations with robust accuracy.

        A correlation has two intervals: ``ci`` over models and ``ci_images`` over images (``attrib.relate``).
        """
        files = [*findings.files.values(), *(epoch for epochs in findings.epochs.values() for epoch in epochs)]
        points = [self._point(each) for each in files]
        accuracy = np.array([point[ACCURACY] for point in points])
        over_models = {
            measure: associations.across_models(
                np.array([point[measure] for point in points]), accuracy, seed=self.seed
            ) for measure in MEASURES
        }  # fmt: skip
        corrected = stats.holm(np.array([each.p for each in over_models.values()])).tolist()
        accurate = [(each["margin_adversarial"] > 0).astype(float) for each in files]
        correlations = {}
        for (measure, each), p in zip(over_models.items(), corrected, strict=True):
            over_images = associations.order_over_images([part[measure] for part in files], accurate, seed=self.seed)
            correlations[measure] = _as_dict(each) | {"p_holm": p, "ci_images": list(over_images)}
        note = _note_across(len(points), bool(findings.epochs))
        return {"points": points, "correlations": correlations, "note": note}

    def _point(self, files: Files) -> dict[str, Any]:
        """The means of a model or saved epoch; if there are several seeds, also of each."""
        model = files.models[0]
        point = {"name": model.name, "epoch": model.epoch, **self._means(files), **self.floor_entry(files)}
        if len(files) > 1:
            point["seeds"] = [self._means(files.only(place)) for place in range(len(files))]
        return point

    def _means(self, files: Files) -> dict[str, Any]:
        accurate = files["margin_adversarial"] > 0
        means: dict[str, Any] = {
            ACCURACY: float(accurate.mean()), f"{ACCURACY}_ci": list(stats.share_interval(accurate))
        }  # fmt: skip
        for measure in MEASURES:
            means[measure] = files.mean(measure)
            bounds = (0, np.inf if measure in COUNTS else 1)
            means[f"{measure}_ci"] = files.interval(measure, seed=self.seed, within=bounds)
        return means

    def frames(self, findings: Findings, summary: Mapping[str, Any]) -> "dict[str, pd.DataFrame]":
        """A row per image and file; the column ``epoch`` is empty for files that are not saved epochs."""
        epoch = findings.rows["epoch"]
        return {"": findings.rows.assign(epoch=epoch.where(epoch >= 0).astype("Int64"))}

    def tables(self, result: "Result") -> list[Table]:
        """Image by image, across models, and pairs."""
        summary = result.summary
        title = "Coverage and features used against robustness, image by image"
        tables = [Table(title, _model_rows(summary), _caption(summary))]
        if len(summary["across"]["points"]) > 1:
            tables.append(Table("Across models", _across_rows(summary), _across_caption(summary)))
        test = (
            "permutation test, of accuracies an exact test (McNemar), of ρ the bootstrap (below 0.01 of a normal"
            " distribution), all paired by image"
        )
        return [*tables, *differences(summary, _pair_rows(summary), test)]

    def figures(self, result: "Result") -> "dict[str, Figure]":
        """Every measure against the adversarial margin, and across models."""
        summary = result.summary
        images = f"{text.data_words(summary)}, {summary['models'][0]['n']:,} images"
        title = f"{images}, {text.attack_words(summary['attack'])}"
        return {"relate": plots.relations(result.rows, summary, measures=MEASURES, title=title, look=result.style)}


def _outcomes(files: Files) -> dict[str, Array]:
    """Which images are broken, and which stay correct, bool (S,N) each."""
    correct, accurate = files["correct"] > 0, files["margin_adversarial"] > 0
    return {"broken": correct & ~accurate, "stood": correct & accurate}


def _counts(files: Files) -> dict[str, Any]:
    """The files, and the numbers of correct and broken images; for several files the means."""
    model, masks = files.models[0], {"correct": files["correct"] > 0, **_outcomes(files)}
    means = {name: float(mask.sum(1).mean()) for name, mask in masks.items()}
    counts = means if len(files) > 1 else {name: int(mean) for name, mean in means.items()}
    return {
        **files.identity(), "name": model.name, "epoch": model.epoch, "n": files.n, **counts,
        "accuracy": files.mean("correct"), ACCURACY: float((files["margin_adversarial"] > 0).mean()),
        "note": _note(means["broken"], means["stood"]),
    }  # fmt: skip


def _note(broken: float, stood: float) -> str | None:
    """Why broken images cannot be compared with the others; None if they can."""
    if broken + stood == 0:
        return "no image is classified correctly"
    if broken == 0:
        return "all images are robust: the attack turned none"
    if stood == 0:
        return "no image is robust: the attack turned all"
    return None


def _note_across(points: int, epochs: bool) -> str | None:
    """Why intervals and p over models are missing or too optimistic, if they are."""
    if points < associations.FEWEST_MODELS:
        return f"{points} models: an interval over models needs at least {associations.FEWEST_MODELS}"
    return (
        "epochs of one run are not independent models: p is too small and intervals are too narrow" if epochs else None
    )


def _as_dict(answer: Any) -> dict[str, Any]:
    """A Difference or Correlation with its two ends as one interval."""
    values = answer._asdict()
    return {"ci": [values.pop("low"), values.pop("high")], **values}


def _model_rows(summary: Mapping[str, Any]) -> list[dict[str, str]]:
    rows = []
    for entry in summary["models"]:
        for measure, words in MEASURES.items():
            broken, margin, partial = (entry[measure][name] for name in ("broken", "margin", "partial"))
            rows.append(
                {
                    "model": _name(entry), **text.seeds_column(entry, summary["models"]), "of": words,
                    "not robust": _number(broken["mean_broken"], measure),
                    "robust": _number(broken["mean_stood"], measure),
                    **(floor_column(entry, summary["models"]) if measure == "coverage" else {}),
                    "difference": _with_interval(broken, "difference", measure), **text.p_columns(broken),
                    "ρ with margin": _with_interval(margin, "rho"),
                    # A row has two tests, so they need different headers.
                    **{f"{header} of ρ": p for header, p in text.p_columns(margin).items()},
                    "ρ given clean": _with_interval(partial, "rho"),
                }
            )  # fmt: skip
    return rows


def _across_rows(summary: Mapping[str, Any]) -> list[dict[str, str]]:
    """A row per model and epoch, then a line for each number of the correlations."""
    across = summary["across"]
    rows = [
        {"model": _name(point), "robust accuracy %": text.percent(point[ACCURACY]),
         MEASURES["coverage"]: "", **floor_column(point, across["points"]),  # side by side
         **{words: _number(point[measure], measure) for measure, words in MEASURES.items()}}
        for point in across["points"]
    ]  # fmt: skip
    lines: dict[str, dict[str, str]] = {}
    for measure, words in MEASURES.items():
        correlation = across["correlations"][measure]
        cells = {
            f"ρ with robust accuracy, {correlation['n']:g} models": _signed(correlation["rho"]),
            "95 % CI over images": text.interval(correlation["ci_images"], _signed),
            "95 % CI over models": text.interval(correlation["ci"], _signed),
            **text.p_columns(correlation),
        }
        for header, cell in cells.items():
            lines.setdefault(header, {})[words] = cell
    return rows + [{"model": header, "robust accuracy %": "", **cells} for header, cells in lines.items()]


def _differences(measure: str) -> tuple[float, float]:
    """The range of a difference in the measure."""
    return stats.ANYTHING if measure in COUNTS else stats.DIFFERENCE


def _pair_rows(summary: Mapping[str, Any]) -> list[dict[str, str]]:
    rows = []
    for pair in summary["pairs"]:
        measure = pair["quantity"].removeprefix(CORRELATION)
        words = MEASURES.get(measure, "robust accuracy")
        correlation = pair["quantity"] != measure
        shown = partial(_number, measure=None if correlation else measure, signed=True)
        rows.append(
            {
                "pair": f"{pair['a']} − {pair['b']}",
                "of": f"ρ of {words} with margin" if correlation else f"{words}{'' if measure in COUNTS else ' %'}",
                "difference": shown(pair["difference"]), "95 % CI": text.interval(pair["ci"], shown),
                **text.p_columns(pair),
            }
        )  # fmt: skip
    return rows


def _name(entry: Mapping[str, Any]) -> str:
    return str(entry["name"]) if entry["epoch"] is None else f"{entry['name']} epoch {entry['epoch']}"


def _number(value: float | None, measure: str | None = None, *, signed: bool = False) -> str:
    """A share in percent, or a participation ratio; without a measure, a rank correlation with two decimals."""
    scale, digits = {"participation_ratio": (1, 1), None: (1, 2)}.get(measure, (100, 1))
    return text.number(value, f"{'+' if signed else ''}.{digits}f", scale=scale)


def _signed(value: float) -> str:
    return _number(value, signed=True)


def _with_interval(answer: Mapping[str, Any], key: str, measure: str | None = None) -> str:
    return text.with_interval(answer[key], answer["ci"], lambda value: _number(value, measure, signed=True))


def _caption(summary: Mapping[str, Any]) -> str:
    several = text.several_seeds(summary["models"])
    caption = (
        f"{text.images_words(summary, summary['models'][0]['n'])}; {text.map_words(summary)}, threshold"
        f" {summary['threshold']}; {text.attack_words(summary['attack'])}. Means and differences of coverage and IoU in"
        " percent, among the images that are right when clean: the mean over those that the attack turns minus the mean"
        " over those that it does not"
        f"{'; of several seeds, over those that have images of both kinds' if several else ''}. Participation ratio: of"
        " every image by itself (contrib: of the mean over images). ρ: Spearman's rank correlation with the adversarial"
        " margin over all images;"
        f" given clean: with the clean margin held fixed. {text.interval_words(summary['models'])}; p: permutation test"
        f"{', of several seeds t test over seeds and images' if several else ''},"
        " p (Holm): corrected for all comparisons of the table."
        " Span IoU is measured on the attacked image, so it cannot be a cause. –, or no interval: too"
        " few images, or too many with the same value"
    )
    caption += floor_words(summary, summary["models"])
    notes = [f"{_name(entry)}: {entry['note']}" for entry in summary["models"] if entry["note"]]
    return "; ".join([caption, *notes])


def _across_caption(summary: Mapping[str, Any]) -> str:
    caption = (
        "ρ: Spearman's rank correlation. Interval over images: the order of these very models; over models: what other"
        " models may give (Fisher's z); p: permutation test over models"
    )
    note = summary["across"]["note"]
    caption += floor_words(summary, summary["across"]["points"])
    return f"{caption}; {note}" if note else caption
