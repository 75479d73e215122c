"""Estimates over several files, the seeds of a method: means, t intervals over seeds and images, p-values. No torch."""

from typing import Any, NamedTuple

import numpy as np

from attrib.lazy import Lazy
from attrib.stats.permutation import Values

scipy_stats, scipy_optimize = Lazy("scipy.stats"), Lazy("scipy.optimize")

ANYTHING = (-np.inf, np.inf)
LOWEST = 1e-12
"""The smallest p that is reported from a normal or t distribution, whose tails are not reliable further out."""


class Paired(NamedTuple):
    """A mean difference between two models over the same images."""

    difference: float
    low: float
    high: float
    p: float

    def entry(self) -> dict[str, Any]:
        """The entries ``difference``, ``ci`` and ``p`` of a summary."""
        return {"difference": self.difference, "ci": [self.low, self.high], "p": self.p}


class Spread(NamedTuple):
    """An estimate over several files, and the two parts of its error."""

    value: float
    seeds: float
    """Squared standard error from the choice of seeds."""
    degrees: int
    """Degrees of freedom of ``seeds``."""
    images: float
    """Squared standard error from the choice of images; NaN below two."""


def mean(values: Values) -> float:
    """The mean over the images that have a value; for (S,N) the mean of the files' means. NaN without any value.

    >>> mean(np.array([0.25, 0.75, np.nan])), mean(np.array([[1.0, 2.0], [4.0, 5.0]]))
    (0.5, 3.0)
    """
    rows = np.atleast_2d(np.asarray(values, float))
    means = [row[~np.isnan(row)].mean() for row in rows if not np.isnan(row).all()]
    return float(np.mean(means)) if means else float("nan")


NOTHING = Spread(float("nan"), float("nan"), 1, float("nan"))


def spread_of(rows: Values) -> Spread:
    """The mean over S >= 2 files and N images, (S,N), with its error; NaN error if fewer than two files have values."""
    rows = rows[~np.isnan(rows).all(1)]
    if len(rows) < 2:
        return NOTHING._replace(value=mean(rows))
    present = ~np.isnan(rows)
    means = np.nanmean(rows, 1)
    # Each image's contribution to the mean of the files' means, to first order; files may miss different images.
    part = (np.where(present, rows - means[:, None], 0) / present.sum(1, keepdims=True)).mean(0)[present.any(0)]
    images = len(part) * part.var(ddof=1) if len(part) > 1 else float("nan")
    return Spread(float(means.mean()), float(means.var(ddof=1)) / len(means), len(means) - 1, float(images))


def variance_of_mean(values: Values) -> float:
    return float(values.var(ddof=1)) / len(values) if len(values) > 1 else float("nan")


def difference_of(a: Values, b: Values, images: float) -> Spread:
    """mean(a) - mean(b) of the files' estimates (Sa,) and (Sb,), Sa + Sb > 2; images: the images' variance."""
    degrees = len(a) + len(b) - 2
    pooled = sum(float(((side - side.mean()) ** 2).sum()) for side in (a, b)) / degrees
    value = float(a.mean() - b.mean())
    if abs(value) <= 1e-12 * max(np.abs(a).max(), np.abs(b).max()):  # only rounding
        value = 0.0
    return Spread(value, pooled * (1 / len(a) + 1 / len(b)), degrees, images)


def _half_width(spread: Spread, level: float) -> float:
    """Half the width of the interval with confidence 1 - ``level``."""
    seeds = float(scipy_stats.t.isf(level / 2, spread.degrees)) ** 2 * spread.seeds
    return float(np.sqrt(seeds + float(scipy_stats.norm.isf(level / 2)) ** 2 * spread.images))


def ends_of(spread: Spread, within: tuple[float, float] = ANYTHING) -> tuple[float, float]:
    half = _half_width(spread, 0.05)
    return within_bounds([spread.value - half, spread.value + half], within)


def compared(spread: Spread, within: tuple[float, float] = ANYTHING) -> Paired:
    """The difference with its 95 % interval, and as p the level at which the interval would just reach 0.

    within: the range of possible differences, to which the interval is clipped.
    """
    low, high = ends_of(spread, within)
    if low != low:
        p = float("nan")
    elif spread.value == 0:
        p = 1.0
    elif abs(spread.value) >= _half_width(spread, LOWEST):
        p = LOWEST
    else:
        p = float(scipy_optimize.brentq(lambda level: _half_width(spread, level) - abs(spread.value), LOWEST, 1.0))
    return Paired(spread.value, low, high, p)


def mean_over_seeds(values: Values) -> Paired:
    """``mean`` and ``interval`` of S >= 2 seeds, (S,N), and the p for a mean of 0.

    >>> result = mean_over_seeds(np.array([[0.2, 0.3, 0.1], [0.3, 0.3, 0.4]]))
    >>> round(result.difference, 3), result.p > 0.05
    (0.267, True)
    """
    return compared(spread_of(np.asarray(values, float)))


def groups_over_seeds(a: Values, b: Values, *, within: tuple[float, float] = ANYTHING) -> Paired:
    """The difference of the means of two groups of images over S >= 2 seeds, with interval and p.

    a, b: (S,N) in the same order of images, NaN if an image is not in the group. Every seed may have other groups.
    within: the range of possible differences, to which the interval is clipped.

    >>> a, b = np.array([[0.1, 0.2, np.nan], [0.2, np.nan, np.nan]]), np.array([[np.nan] * 2 + [0.4]] * 2)
    >>> round(groups_over_seeds(a, b).difference, 3)
    -0.225
    """
    counts = [(~np.isnan(group)).sum(1, keepdims=True) for group in (a, b)]
    with np.errstate(invalid="ignore", divide="ignore"):
        means = [np.nansum(group, 1, keepdims=True) / count for group, count in zip((a, b), counts, strict=True)]
        # Each image's contribution to its group's mean, to first order.
        first, second = (
            np.nan_to_num(group - mean) / count for group, mean, count in zip((a, b), means, counts, strict=True)
        )
        return compared(spread_of(means[0] - means[1] + a.shape[1] * (first - second)), within)


def over_seeds(estimates: Values, resampled: Values, *, within: tuple[float, float] = ANYTHING) -> Paired:
    """The mean over S >= 2 seeds of a statistic that is no mean, its 95 % interval, and the p for a value of 0.

    estimates: (S,); resampled: (S,R), in the same resamples of images. Seeds whose estimate is NaN are left out; NaN
    interval and p if fewer than two are left.

    >>> result = over_seeds(np.array([0.2, 0.3]), np.array([[0.2, 0.21, 0.19], [0.3, 0.31, 0.29]]))
    >>> round(result.difference, 3), result.low < 0 < result.high
    (0.25, True)
    """
    present = ~np.isnan(estimates)
    values, count = estimates[present], int(present.sum())
    if count < 2:
        return Paired(mean(estimates), np.nan, np.nan, np.nan)
    images = variance_over_images(complete(resampled[present]))
    return compared(Spread(float(values.mean()), float(values.var(ddof=1)) / count, count - 1, images), within)


def complete(values: Values) -> Values:
    """Values (R,) or (S,R) as rows, without the resamples in which any file has NaN."""
    rows = np.atleast_2d(np.asarray(values, float))
    return rows[:, ~np.isnan(rows).any(0)]


def variance_over_images(resamples: Values) -> float:
    """The images' part of the error: the variance over resamples (S,R) of the mean over seeds."""
    return float(resamples.mean(0).var(ddof=1)) if resamples.shape[1] > 1 else float("nan")


def bias_of(estimates: Values, resamples: Values) -> float:
    return float(resamples.mean() - estimates.mean()) if resamples.size else float("nan")


def within_bounds(ends: list[float], within: tuple[float, float]) -> tuple[float, float]:
    low, high = np.clip(ends, *within)
    return float(low), float(high)
