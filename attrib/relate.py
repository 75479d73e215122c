"""Does a quantity of the images, or of the models, go with robustness? ``attrib relate`` on arrays and tables.

NaN entries are left out pair by pair. No torch.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from attrib import stats
from attrib.stats import RESAMPLES, Values, at_a_time
from attrib.stats.association import (
    Correlation,
    Difference,
    mean_difference,
    percentile_ends,
    rank_correlation,
    resampled_correlation,
)

if TYPE_CHECKING:
    import pandas as pd

FEWEST_MODELS = 4
"""Below so many models a rank correlation across them has no interval over models; two have no correlation at all."""

COUNTS = ("participation_ratio",)
"""Of what is set against robustness, that which is no share of something."""

MODEL = -1
"""The epoch of a row that belongs to a model of its own and not to a run."""


class Point(NamedTuple):
    """A model, or a saved epoch of a run."""

    name: str
    epoch: int
    path: str | list[str]
    """The file; of several seeds, the files."""


def relation(
    values: Values, margin: Values, margin_adversarial: Values, correct: NDArray[np.bool_], *, seed: int = 0
) -> dict[str, Any]:
    """How a quantity of the images goes with the robustness of one model on them.

    values: (N,), the quantity; margin, margin_adversarial: (N,), z_y - max_{j != y} z_j of the clean and of the
    adversarial image; correct: (N,), whether the clean image is classified correctly. Returns a Difference and
    three Correlations: ``broken`` (the attacked-and-broken less those that stood, among the correct), ``margin`` (rank
    correlation with the adversarial margin, all images), ``margin_correct`` (the correct ones only) and ``partial``
    (all images, the clean margin held fixed). An image is broken if it is correct and its adversarial margin is not
    above 0.

    >>> values, margin = np.array([0.1, 0.2, 0.3, 0.4]), np.array([-2.0, -1.0, 1.0, 2.0])
    >>> found = relation(values, margin + 3, margin, np.array([True] * 4))
    >>> round(found["broken"].difference, 3), round(found["margin"].rho, 3)
    (-0.2, 1.0)
    """
    return relations(values[None], margin[None], margin_adversarial[None], correct[None], seed=seed)[0]


def relations(
    values: Values, margin: Values, margin_adversarial: Values, correct: NDArray[np.bool_], *, seed: int = 0
) -> list[dict[str, Any]]:
    """:func:`relation` of each of S files, (S,N) instead of (N,), and behind them, where S >= 2, of their method.

    The latter are the means over the files, seeds of one method, with intervals and p (also of ``partial``, which else
    has none) over seeds and images as :mod:`attrib.stats` has them; what a file lacks is left out.

    >>> values, margin = np.array([[0.1, 0.2, 0.3], [0.1, 0.3, 0.2]]), np.array([[-2.0, -1.0, 1.0], [-1.0, 1.0, 2.0]])
    >>> *seeds, method = relations(values, margin + 3, margin, margin > -9)
    >>> [round(found["margin"].rho, 3) for found in (*seeds, method)]
    [1.0, 0.5, 0.75]
    """
    stood = margin_adversarial > 0
    of_correct = np.where(correct, values, np.nan)
    found: list[dict[str, Any]] = [
        {"broken": mean_difference(row[~held], row[held], seed=seed)}
        for row, held in zip(of_correct, stood, strict=True)
    ]
    if len(values) > 1:
        groups = [np.where(side, of_correct, np.nan) for side in (~stood, stood)]
        counts = (float((~np.isnan(group)).sum(1).mean()) for group in groups)
        found.append({"broken": Difference(*stats.groups_over_seeds(*groups), *counts)})
    asked = {
        "margin": (values, margin_adversarial),
        "margin_correct": (of_correct, margin_adversarial),
        "partial": (values, margin_adversarial, margin),
    }
    for name, columns in asked.items():
        each = [resampled_correlation(*rows, seed=seed) for rows in zip(*columns, strict=True)]
        correlations = [correlation for correlation, _ in each]
        if len(values) > 1:
            rho = np.array([correlation.rho for correlation in correlations])
            over = stats.over_seeds(rho, np.array([resampled for _, resampled in each]), within=(-1, 1))
            correlations.append(Correlation(*over, float(np.mean([found.n for found in correlations]))))
        for entry, correlation in zip(found, correlations, strict=True):
            entry[name] = correlation
    return found


def across_models(x: Values, y: Values, *, seed: int = 0) -> Correlation:
    """Spearman's rank correlation over models, (M,) each, with p and the 95 % interval over models.

    The interval is for models that were drawn from a population of models: Fisher's z with the variance of Bonett and
    Wright (2000). A bootstrap would draw the same few models again. NaN interval below FEWEST_MODELS models and at a
    correlation of exactly 1 or -1, where z has none. How sure the order of these very models is says
    :func:`order_over_images`. Raises InputError for arrays of different lengths.

    >>> found = across_models(np.array([0.1, 0.2, 0.3]), np.array([0.5, 0.6, 0.4]))
    >>> round(found.rho, 3), found.low, found.p
    (-0.5, nan, 1.0)
    """
    from scipy.stats import norm

    found = rank_correlation(x, y, seed=seed)._replace(low=np.nan, high=np.nan)
    if found.n < 3:
        return found._replace(rho=np.nan)
    if found.n < FEWEST_MODELS or not abs(found.rho) < 1 - 1e-12:
        return found
    half = float(norm.isf(0.025)) * np.sqrt((1 + found.rho**2 / 2) / (found.n - 3))
    low, high = np.tanh(np.arctanh(found.rho) + np.array([-half, half]))
    return found._replace(low=float(low), high=float(high))


def order_over_images(x: Sequence[Values], y: Sequence[Values], *, seed: int = 0) -> tuple[float, float]:
    """95 % interval over images of the rank correlation of M models' means of x with their means of y.

    x, y: per model (S,N), a row for each of its files over the same N images; NaN where an image has no value. All
    models meet the same 2,000 resamples of the images (percentile bootstrap). The models are taken as they are: the
    interval does not speak of other models. (nan, nan) below three models, or where means tie in more than one
    resample in twenty, as all images have the same value.

    >>> x = [np.array([[0.1, 0.2, 0.3]]) + shift for shift in (0.0, 1.0, 2.0)]
    >>> order_over_images(x, x)  # every resample orders them so
    (1.0, 1.0)
    """
    from scipy.stats import rankdata

    if len(x) < 3:
        return float("nan"), float("nan")
    generator, images = np.random.default_rng(seed), x[0].shape[1]
    rho: list[Values] = []
    for start in range(0, RESAMPLES, batch := at_a_time(images)):
        size = min(batch, RESAMPLES - start)
        drawn = generator.integers(images, size=(size, images)) + images * np.arange(size)[:, None]
        weights = np.bincount(drawn.ravel(), minlength=size * images).reshape(size, images).astype(float)
        ranks = [rankdata(np.array([_means(rows, weights) for rows in side]), axis=0) for side in (x, y)]
        first, second = (each - each.mean(0) for each in ranks)
        with np.errstate(invalid="ignore", divide="ignore"):
            rho.append((first * second).sum(0) / np.sqrt((first**2).sum(0) * (second**2).sum(0)))
    return percentile_ends(np.concatenate(rho))


def _means(rows: Values, weights: Values) -> Values:
    """The mean over files (S,N) of their means in each resample, weights (R,N): (R,)."""
    there = ~np.isnan(rows)
    with np.errstate(invalid="ignore"):
        means = (weights @ np.where(there, rows, 0.0).T) / (weights @ there.T.astype(float))
    return np.asarray(means.mean(1))


def _files_of(table: "pd.DataFrame", point: Point) -> "list[pd.DataFrame]":
    rows = table[(table["model"] == point.name) & (table["epoch"] == point.epoch)]
    return [of_file for _, of_file in rows.groupby("seed")]


def _paths(point: Point) -> list[str]:
    return [point.path] if isinstance(point.path, str) else point.path


def _column(files: "Sequence[pd.DataFrame]", name: str) -> Values:
    """A column of every file, (S,N)."""
    return np.array([rows[name].to_numpy(float) for rows in files])


def image_relations(
    table: "pd.DataFrame", points: Sequence[Point], measures: Sequence[str], *, seed: int = 0
) -> list[dict[str, Any]]:
    """Every model's :func:`relation` of every measure, with Holm's correction over all that has a p.

    table: a row per image and file of a model or saved epoch: columns ``model``, ``seed`` (the file's position),
    ``epoch`` (MODEL where it is none), ``correct``, ``margin``, ``margin_adversarial`` and the measures'. Only
    ``broken`` and ``margin`` count as comparisons: the intervals beside them ask the same question once more. Of
    several seeds the entry is that of the method, and ``seeds`` holds each one's own, which is no further comparison.
    """
    entries, tested = [], []
    for point in points:
        files = _files_of(table, point)
        targets = [
            (_entry(point._replace(path=path), [rows]), [rows]) for rows, path in zip(files, _paths(point), strict=True)
        ]
        seeds = [entry for entry, _ in targets]
        if len(files) > 1:
            targets.append((_entry(point, files) | {"seeds": seeds}, files))
        entry = targets[-1][0]
        for measure in measures:
            values, margin, margin_adversarial = (
                _column(files, name) for name in (measure, "margin", "margin_adversarial")
            )
            found = relations(values, margin, margin_adversarial, _column(files, "correct") > 0, seed=seed)
            for (target, rows), each in zip(targets, found, strict=True):
                correct, stood = _column(rows, "correct") > 0, _column(rows, "margin_adversarial") > 0
                values = _column(rows, measure)
                target[measure] = {name: _as_dict(part) for name, part in each.items()}
                target[measure]["broken"] |= {
                    "mean_broken": stats.mean(np.where(correct & ~stood, values, np.nan)),
                    "mean_stood": stats.mean(np.where(correct & stood, values, np.nan)),
                }
            tested += [entry[measure]["broken"], entry[measure]["margin"]]
        entries.append(entry)
    for part, p in zip(tested, stats.holm(np.array([part["p"] for part in tested])).tolist(), strict=True):
        part["p_holm"] = p
    return entries


def _entry(point: Point, files: "Sequence[pd.DataFrame]") -> dict[str, Any]:
    """How many images of a model are what, over its files; of several the mean."""
    correct, stood = _column(files, "correct") > 0, _column(files, "margin_adversarial") > 0
    counts = [float(held.sum(1).mean()) for held in (correct, correct & ~stood, correct & stood)]
    n_correct, broken, left = counts if len(files) > 1 else map(int, counts)
    return {
        "name": point.name, "epoch": None if point.epoch == MODEL else point.epoch, "checkpoint": point.path,
        "n": len(files[0]), "correct": n_correct, "broken": broken, "stood": left,
        "accuracy": float(correct.mean()), "robust_accuracy": float(stood.mean()),
        "note": _note(broken, left),
    }  # fmt: skip


def _note(broken: float, stood: float) -> str | None:
    """Why there is no difference between the broken images and the others, where there is none."""
    if broken + stood == 0:
        return "no image is classified correctly"
    if broken == 0:
        return "no broken images"
    if stood == 0:
        return "no image stood: the attack broke all"
    return None


def model_relations(
    table: "pd.DataFrame", points: Sequence[Point], measures: Sequence[str], *, seed: int = 0
) -> dict[str, Any]:
    """The means of every model and saved epoch, and their rank correlations with robust accuracy.

    table: as for :func:`image_relations`; Holm's correction is over the measures. Of several seeds a model's point is
    the mean, and ``seeds`` holds each. A correlation has two intervals: ``ci`` over models (:func:`across_models`) and
    ``ci_images`` over images (:func:`order_over_images`).
    """

    def means(files: "Sequence[pd.DataFrame]") -> dict[str, Any]:
        stood = _column(files, "margin_adversarial") > 0
        found: dict[str, Any] = {
            "robust_accuracy": float(stood.mean()),
            "robust_accuracy_ci": list(stats.share_interval(stood)),
        }
        for measure in measures:
            values = _column(files, measure)
            found[measure] = stats.mean(values)
            bounds = (0, np.inf if measure in COUNTS else 1)
            found[f"{measure}_ci"] = list(stats.interval(values, seed=seed, within=bounds))
        return found

    entries = []
    for point in points:
        files = _files_of(table, point)
        entry = {"name": point.name, "epoch": None if point.epoch == MODEL else point.epoch, **means(files)}
        if len(files) > 1:
            entry["seeds"] = [means([rows]) for rows in files]
        entries.append(entry)
    robust = np.array([entry["robust_accuracy"] for entry in entries])
    found = {
        measure: across_models(np.array([entry[measure] for entry in entries]), robust, seed=seed)
        for measure in measures
    }
    corrected = stats.holm(np.array([each.p for each in found.values()])).tolist()
    of_points = [_files_of(table, point) for point in points]
    stood = [(_column(rows, "margin_adversarial") > 0).astype(float) for rows in of_points]
    correlations = {
        measure: _as_dict(each) | {"p_holm": p, "ci_images": list(order_over_images(values, stood, seed=seed))}
        for (measure, each), p in zip(found.items(), corrected, strict=True)
        for values in [[_column(rows, measure) for rows in of_points]]
    }
    runs = {point.name for point in points if point.epoch != MODEL}
    note = None
    if len(points) < FEWEST_MODELS:
        note = f"{len(points)} models: an interval over models needs at least {FEWEST_MODELS}"
    elif runs:
        note = "epochs of one run are no independent models: p and intervals are too sure"
    return {"points": entries, "correlations": correlations, "note": note}


def _as_dict(found: Any) -> dict[str, Any]:
    """A Difference or Correlation with its two ends as one interval."""
    named = found._asdict()
    return {"ci": [named.pop("low"), named.pop("high")], **named}
