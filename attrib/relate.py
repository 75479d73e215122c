"""Is a quantity of the images, or of the models, associated with robustness? The statistics of ``attrib relate``.

Images with NaN in either quantity are left out. No torch.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attrib import stats
from attrib.lazy import Lazy
from attrib.stats import RESAMPLES, Values, at_a_time
from attrib.stats.association import (
    Correlation,
    Difference,
    mean_difference,
    percentile_ends,
    rank_correlation,
    resampled_correlation,
)
from attrib.stats.permutation import as_columns

scipy_stats = Lazy("scipy.stats")

FEWEST_MODELS = 4
"""With fewer models, a rank correlation across them has no interval over models; two models have no correlation."""


def relation(
    values: Values, margin: Values, margin_adversarial: Values, correct: NDArray[np.bool_], *, seed: int = 0
) -> dict[str, Any]:
    """The association of a quantity of the images with one model's robustness on them.

    values: (N,), the quantity; margin, margin_adversarial: (N,), z_y - max_{j != y} z_j of the clean and of the
    adversarial image; correct: (N,), whether the clean image is classified correctly. Returns a Difference and three
    Correlations: ``broken`` (mean over the broken images minus mean over the others, among the correct), ``margin``
    (rank correlation with the adversarial margin, all images), ``margin_correct`` (the correct ones only) and
    ``partial`` (all images, the clean margin held fixed). An image is broken if it is correct and its adversarial
    margin is not above 0.

    >>> values, margin = np.array([0.1, 0.2, 0.3, 0.4]), np.array([-2.0, -1.0, 1.0, 2.0])
    >>> entry = relation(values, margin + 3, margin, np.array([True] * 4))
    >>> round(entry["broken"].difference, 3), round(entry["margin"].rho, 3)
    (-0.2, 1.0)
    """
    columns = as_columns(values=values, margin=margin, margin_adversarial=margin_adversarial, correct=correct)
    values, margin, margin_adversarial, is_correct = (column[None] for column in columns)
    return relations(values, margin, margin_adversarial, is_correct > 0, seed=seed)[0]


def relations(
    values: Values, margin: Values, margin_adversarial: Values, correct: NDArray[np.bool_], *, seed: int = 0,
    within: tuple[float, float] = stats.ANYTHING,
) -> list[dict[str, Any]]:  # fmt: skip
    """``relation`` of each of S files, with (S,N) instead of (N,), and, if S >= 2, last that of their method.

    The method's are the means over the files, its seeds, with intervals and p over seeds and images as in
    ``attrib.stats`` (also for ``partial``, which has no p for one file). Files without a value are left out.
    within: the range of possible differences of the method's values, to which the interval of ``broken`` is clipped.

    >>> values, margin = np.array([[0.1, 0.2, 0.3], [0.1, 0.3, 0.2]]), np.array([[-2.0, -1.0, 1.0], [-1.0, 1.0, 2.0]])
    >>> *seeds, method = relations(values, margin + 3, margin, margin > -9)
    >>> [round(entry["margin"].rho, 3) for entry in (*seeds, method)]
    [1.0, 0.5, 0.75]
    """
    robust = margin_adversarial > 0
    of_correct = np.where(correct, values, np.nan)
    entries: list[dict[str, Any]] = [
        {"broken": mean_difference(row[~withstands], row[withstands], seed=seed)}
        for row, withstands in zip(of_correct, robust, strict=True)
    ]
    if len(values) > 1:
        groups = [np.where(side, of_correct, np.nan) for side in (~robust, robust)]
        counts = (float((~np.isnan(group)).sum(1).mean()) for group in groups)
        entries.append({"broken": Difference(*stats.groups_over_seeds(*groups, within=within), *counts)})
    questions = {
        "margin": (values, margin_adversarial),
        "margin_correct": (of_correct, margin_adversarial),
        "partial": (values, margin_adversarial, margin),
    }
    for name, columns in questions.items():
        per_file = [resampled_correlation(*rows, seed=seed) for rows in zip(*columns, strict=True)]
        correlations = [correlation for correlation, _ in per_file]
        if len(values) > 1:
            rho = np.array([correlation.rho for correlation in correlations])
            over = stats.over_seeds(rho, np.array([resampled for _, resampled in per_file]), within=(-1, 1))
            correlations.append(Correlation(*over, float(np.mean([correlation.n for correlation in correlations]))))
        for entry, correlation in zip(entries, correlations, strict=True):
            entry[name] = correlation
    return entries


def across_models(x: Values, y: Values, *, seed: int = 0) -> Correlation:
    """Spearman's rank correlation over models, (M,) each, with p and the 95 % interval over models.

    The models count as a sample of a population of models: the interval is Fisher's z with the variance of Bonett and
    Wright (2000). A bootstrap would draw the same few models again. NaN interval below FEWEST_MODELS models and for a
    correlation of exactly 1 or -1. ``order_over_images`` tells how certain the order of these models themselves is.
    Raises InputError for arrays of different lengths.

    >>> correlation = across_models(np.array([0.1, 0.2, 0.3]), np.array([0.5, 0.6, 0.4]))
    >>> round(correlation.rho, 3), correlation.low, correlation.p
    (-0.5, nan, 1.0)
    """
    correlation = rank_correlation(x, y, seed=seed)._replace(low=np.nan, high=np.nan)
    rho, n = correlation.rho, correlation.n
    if n < 3:
        return correlation._replace(rho=np.nan)
    if n < FEWEST_MODELS or not abs(rho) < 1 - 1e-12:
        return correlation
    half = float(scipy_stats.norm.isf(0.025)) * np.sqrt((1 + rho**2 / 2) / (n - 3))
    low, high = np.tanh(np.arctanh(rho) + np.array([-half, half]))
    return correlation._replace(low=float(low), high=float(high))


def order_over_images(x: Sequence[Values], y: Sequence[Values], *, seed: int = 0) -> tuple[float, float]:
    """95 % interval over images of the rank correlation of M models' means of x with their means of y.

    x, y: per model (S,N), a row for each of its files over the same N images; NaN if an image has no value. All models
    get the same 2,000 resamples of the images (percentile bootstrap). The interval is for these models, not for others.
    (nan, nan) below three models, or if all means tie in more than one resample in twenty, as for equal images.

    >>> x = [np.array([[0.1, 0.2, 0.3]]) + shift for shift in (0.0, 1.0, 2.0)]
    >>> order_over_images(x, x)  # every resample gives this order
    (1.0, 1.0)
    """
    if len(x) < 3:
        return float("nan"), float("nan")
    generator, images = np.random.default_rng(seed), x[0].shape[1]
    rho: list[Values] = []
    for start in range(0, RESAMPLES, batch := at_a_time(images)):
        size = min(batch, RESAMPLES - start)
        drawn = generator.integers(images, size=(size, images)) + images * np.arange(size)[:, None]
        weights = np.bincount(drawn.ravel(), minlength=size * images).reshape(size, images).astype(float)
        ranks = [scipy_stats.rankdata(np.array([_means(rows, weights) for rows in side]), axis=0) for side in (x, y)]
        first, second = (rank - rank.mean(0) for rank in ranks)
        with np.errstate(invalid="ignore", divide="ignore"):
            rho.append((first * second).sum(0) / np.sqrt((first**2).sum(0) * (second**2).sum(0)))
    return percentile_ends(np.concatenate(rho))


def _means(rows: Values, weights: Values) -> Values:
    """The mean over files, rows (S,N), of their means in each resample, weights (R,N): (R,)."""
    present = ~np.isnan(rows)
    with np.errstate(invalid="ignore"):
        means = (weights @ np.where(present, rows, 0.0).T) / (weights @ present.T.astype(float))
    return np.asarray(means.mean(1))
