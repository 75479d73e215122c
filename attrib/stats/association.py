"""How two quantities of the images are associated: differences of groups and rank correlations, by resampling.

Plain functions of arrays, one number per image; images with NaN in either array are left out. No torch.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from attrib.lazy import Lazy
from attrib.stats.permutation import (
    RESAMPLES,
    Values,
    as_column,
    as_columns,
    at_a_time,
    difference_of_means,
    pairings,
    two_groups,
)

scipy_stats = Lazy("scipy.stats")


class Difference(NamedTuple):
    """A difference of two groups' means with its 95 % interval and p; NaN if a group is too small."""

    difference: float
    low: float
    high: float
    p: float
    n_a: float
    n_b: float
    """Numbers of images; for seeds, their mean."""


class Correlation(NamedTuple):
    """Spearman's rank correlation with its 95 % interval and p; NaN if undefined."""

    rho: float
    low: float
    high: float
    p: float
    n: float
    """Number of images; for seeds, the mean."""


def mean_difference(a: Values, b: Values, *, seed: int = 0) -> Difference:
    """mean(a) - mean(b) of two groups of images, its 95 % percentile bootstrap interval, and a permutation test's p.

    a: (N,); b: (M,). Each group is resampled by itself; the test (two-sided) exchanges images between the groups. NaN
    if a group is empty; NaN interval and p if a group has one image.

    >>> round(mean_difference(np.array([0.5, 0.6, 0.7, 0.6]), np.array([0.1, 0.2, 0.2, 0.3])).difference, 3)
    0.4
    >>> mean_difference(np.array([0.5, 0.6]), np.array([]))
    Difference(difference=nan, low=nan, high=nan, p=nan, n_a=2, n_b=0)
    """
    a, b = (values[~np.isnan(values)] for values in (as_column("a", a), as_column("b", b)))
    counts = len(a), len(b)
    if min(counts) < 2:
        difference = float(a.mean() - b.mean()) if min(counts) else np.nan
        return Difference(difference, np.nan, np.nan, np.nan, *counts)
    resampled = scipy_stats.bootstrap(
        (a, b), difference_of_means, n_resamples=RESAMPLES, batch=at_a_time(sum(counts)), method="percentile",
        vectorized=True, rng=np.random.default_rng(seed),
    )  # fmt: skip
    low, high = resampled.confidence_interval
    return Difference(float(a.mean() - b.mean()), float(low), float(high), two_groups(a, b, seed=seed), *counts)


def rank_correlation(x: Values, y: Values, *, seed: int = 0) -> Correlation:
    """Spearman's rank correlation over images, its 95 % percentile bootstrap interval, and a permutation test's p.

    x, y: (N,), one number per image; ties share their mean rank, and every resample is ranked anew. The test
    (two-sided) pairs the values at random. NaN below two images or if x or y is constant; NaN interval and p below
    three. Raises InputError for arrays of different lengths.

    >>> round(rank_correlation(np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.0, 9.0, 4.0, 16.0])).rho, 3)
    0.8
    """
    return resampled_correlation(x, y, seed=seed)[0]


def partial_rank_correlation(x: Values, y: Values, given: Values, *, seed: int = 0) -> Correlation:
    """The partial rank correlation of x and y with ``given`` held fixed, and its 95 % percentile bootstrap interval.

    x, y, given: (N,). It tells whether x predicts y beyond ``given``. p is NaN, since no permutation preserves the
    relation of x or y to ``given``. NaN as for ``rank_correlation``, and if ``given`` ranks the images as x or y does.
    Raises InputError for arrays of different lengths.

    >>> given = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])  # x and y are noisy copies of it
    >>> x, y = given + [1.5, 0, 0, 0, 0, 0], given + [0, 0, 0, 0, -1.5, 0]
    >>> round(partial_rank_correlation(x, y, given).rho, 3), round(rank_correlation(x, y).rho, 3)
    (-0.029, 0.886)
    """
    return resampled_correlation(x, y, given, seed=seed)[0]


def resampled_correlation(*columns: Values, seed: int) -> tuple[Correlation, Values]:
    """The correlation of two columns (N,) with an optional third held fixed, and its values in resamples (R,)."""
    present, values = _present(*columns)
    count = len(values[0])
    rho = _spearman(values) if count >= len(values) else np.nan
    if count < 3 or np.isnan(rho):
        return Correlation(rho, np.nan, np.nan, np.nan, count), np.full(RESAMPLES, np.nan)
    resampled = _resampled(values, present, seed=seed)
    p = np.nan
    if len(values) == 2:
        p = pairings(scipy_stats.rankdata(values[0]), scipy_stats.rankdata(values[1]), seed=seed)
    return Correlation(rho, *percentile_ends(resampled), p, count), resampled


def _present(*columns: Values) -> tuple[NDArray[np.bool_], list[Values]]:
    """The images for which all columns have a value, bool (N,), and the columns for these images."""
    stacked = np.array(as_columns(**dict(zip(("x", "y", "given"), columns, strict=False))))
    present = ~np.isnan(stacked).any(0)
    return present, list(stacked[:, present])


def _spearman(columns: Sequence[Values]) -> float:
    """Spearman's correlation of the first two columns, with an optional third held fixed."""
    return _correlation(np.array([scipy_stats.rankdata(column) for column in columns]), np.ones(len(columns[0])))


def _correlation(ranks: NDArray[Any], drawn: NDArray[Any]) -> float:
    """The (partial) correlation of two (or three) rows of ranks (P,N); drawn: (N,) counts of each image."""
    if not drawn.any():  # with few images that have a value, a resample may contain none of them
        return float("nan")
    centred = ranks - (ranks @ drawn / drawn.sum())[:, None]
    cross = (centred * drawn) @ centred.T
    size = np.sqrt(np.diag(cross))
    if not size.all():
        return float("nan")
    cross = np.clip(cross / np.outer(size, size), -1, 1)
    if len(ranks) == 2:
        return float(cross[0, 1])
    residual = np.sqrt((1 - cross[0, 2] ** 2) * (1 - cross[1, 2] ** 2))
    if not residual > 1e-7:  # the third column determines another, up to rounding
        return float("nan")
    return float(np.clip((cross[0, 1] - cross[0, 2] * cross[1, 2]) / residual, -1, 1))


def _resampled(columns: Sequence[Values], present: NDArray[np.bool_], *, seed: int) -> Values:
    """``_spearman`` in each resample of the images, (R,); present: (N,) images for which the columns have values.

    All N images are resampled, so that several models get the same resamples even if they miss different images.
    scipy's bootstrap would sort every resample. Here, an image that is drawn k times counts as k ties, whose rank
    follows from a cumulative sum over the values sorted once; this is thirty times as fast.
    """
    correlations = np.full(RESAMPLES, np.nan)
    places = [np.unique(column, return_inverse=True)[1] for column in columns]
    generator, images = np.random.default_rng(seed), len(present)
    for resample in range(RESAMPLES):
        drawn = np.bincount(generator.integers(images, size=images), minlength=images)[present]
        ranks = np.empty((len(places), len(drawn)))
        for row, place in enumerate(places):
            ties = np.bincount(place, drawn)
            ranks[row] = (np.cumsum(ties) - (ties - 1) / 2)[place]
        correlations[resample] = _correlation(ranks, drawn)
    return correlations


def percentile_ends(resampled: Values) -> tuple[float, float]:
    """The ends of the percentile interval; NaN if more than one resample in twenty has no correlation.

    This happens if nearly all images tie. The interval would then rest on the resamples with one of the few others.
    """
    if np.isnan(resampled).mean() > 0.05:
        return float("nan"), float("nan")
    low, high = np.nanquantile(resampled, [0.025, 0.975])
    return float(low), float(high)
