"""Does one quantity of the images go with another? Differences of two groups and rank correlations, by resampling.

Plain functions of arrays, one number per image; NaN entries are left out pair by pair. No torch.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from attrib.lazy import Lazy
from attrib.stats.permutation import RESAMPLES, Values, as_column, as_columns, at_a_time, pairings, two_groups

scipy_stats = Lazy("scipy.stats")


class Difference(NamedTuple):
    """Mean of one group less that of another, with its 95 % interval and p; NaN where the groups are too small."""

    difference: float
    low: float
    high: float
    p: float
    n_a: float
    n_b: float
    """How many images; of seeds, the mean."""


class Correlation(NamedTuple):
    """Spearman's rank correlation with its 95 % interval and p; NaN where there is none."""

    rho: float
    low: float
    high: float
    p: float
    n: float
    """How many images; of seeds, the mean."""


def mean_difference(a: Values, b: Values, *, seed: int = 0) -> Difference:
    """mean(a) - mean(b) of two groups of images, its 95 % percentile bootstrap interval, and a permutation test's p.

    a: (N,); b: (M,). Either group is drawn anew by itself; the test (two-sided) exchanges images between the groups.
    An empty group gives NaN, and groups below two images no interval and no p.

    >>> round(mean_difference(np.array([0.5, 0.6, 0.7, 0.6]), np.array([0.1, 0.2, 0.2, 0.3])).difference, 3)
    0.4
    >>> mean_difference(np.array([0.5, 0.6]), np.array([]))  # no image was left over
    Difference(difference=nan, low=nan, high=nan, p=nan, n_a=2, n_b=0)
    """
    a, b = (values[~np.isnan(values)] for values in (as_column("a", a), as_column("b", b)))
    counts = len(a), len(b)
    if min(counts) < 2:
        difference = float(a.mean() - b.mean()) if min(counts) else np.nan
        return Difference(difference, np.nan, np.nan, np.nan, *counts)
    drawn = scipy_stats.bootstrap(
        (a, b), _less, n_resamples=RESAMPLES, batch=at_a_time(sum(counts)), method="percentile", vectorized=True,
        rng=np.random.default_rng(seed),
    )  # fmt: skip
    low, high = drawn.confidence_interval
    return Difference(float(a.mean() - b.mean()), float(low), float(high), two_groups(a, b, seed=seed), *counts)


def rank_correlation(x: Values, y: Values, *, seed: int = 0) -> Correlation:
    """Spearman's rank correlation over images, its 95 % percentile bootstrap interval, and a permutation test's p.

    x, y: (N,), one number per image; ties share their mean rank, and every resample is ranked anew. The test
    (two-sided) pairs the values at random. NaN below two images or where one side is constant; no p and no interval
    below three. Raises InputError for arrays of different lengths.

    >>> round(rank_correlation(np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.0, 9.0, 4.0, 16.0])).rho, 3)
    0.8
    """
    return resampled_correlation(x, y, seed=seed)[0]


def partial_rank_correlation(x: Values, y: Values, given: Values, *, seed: int = 0) -> Correlation:
    """The rank correlation of x and y with ``given`` held fixed: does x say of y what ``given`` does not say already?

    x, y, given: (N,). The partial correlation of the ranks with its 95 % percentile bootstrap interval; p is NaN,
    since no permutation leaves the relation of either to ``given`` as it is. NaN as for ``rank_correlation``, and
    where ``given`` ranks the images as x or y does. Raises InputError for arrays of different lengths.

    >>> given = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])  # of which both others are noisy copies
    >>> x, y = given + [1.5, 0, 0, 0, 0, 0], given + [0, 0, 0, 0, -1.5, 0]
    >>> round(partial_rank_correlation(x, y, given).rho, 3), round(rank_correlation(x, y).rho, 3)
    (-0.029, 0.886)
    """
    return resampled_correlation(x, y, given, seed=seed)[0]


def resampled_correlation(*columns: Values, seed: int) -> tuple[Correlation, Values]:
    """The correlation of two columns (N,), with a third one held fixed where there is one, and in resamples, (R,)."""
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


def _present(*given: Values) -> tuple[NDArray[np.bool_], list[Values]]:
    """Where all columns have a value, (N,), and the columns there, as floats."""
    together = np.array(as_columns(**dict(zip(("x", "y", "given"), given, strict=False))))
    present = ~np.isnan(together).any(0)
    return present, list(together[:, present])


def _less(a: NDArray[Any], b: NDArray[Any], axis: int = -1) -> NDArray[Any]:
    return np.asarray(a.mean(axis) - b.mean(axis))


def _spearman(columns: Sequence[Values]) -> float:
    """Spearman's correlation of the first two columns, with a third one held fixed where there is one."""
    return _correlation(np.array([scipy_stats.rankdata(column) for column in columns]), np.ones(len(columns[0])))


def _correlation(ranks: NDArray[Any], drawn: NDArray[Any]) -> float:
    """The (partial) correlation of two (or three) rows of ranks (P,N), every image as often as it was drawn (N,)."""
    if not drawn.any():  # of few images that have a value, a resample may hold none
        return float("nan")
    centred = ranks - (ranks @ drawn / drawn.sum())[:, None]
    cross = (centred * drawn) @ centred.T
    size = np.sqrt(np.diag(cross))
    if not size.all():
        return float("nan")
    cross = np.clip(cross / np.outer(size, size), -1, 1)
    if len(ranks) == 2:
        return float(cross[0, 1])
    left = np.sqrt((1 - cross[0, 2] ** 2) * (1 - cross[1, 2] ** 2))
    # Up to rounding, nothing is left of a column that the third one determines.
    return float(np.clip((cross[0, 1] - cross[0, 2] * cross[1, 2]) / left, -1, 1)) if left > 1e-7 else float("nan")


def _resampled(columns: Sequence[Values], present: NDArray[np.bool_], *, seed: int) -> Values:
    """``_spearman`` in each resample of the images, (R,), from the columns of those that are ``present``, (N,).

    All images are drawn, so that several models meet the same resamples whatever each is missing. scipy's bootstrap
    would sort every resample; here an image that is drawn k times counts as k ties, whose rank
    follows from a cumulative sum over the values as sorted once, which is thirty times as fast.
    """
    found = np.full(RESAMPLES, np.nan)
    places = [np.unique(column, return_inverse=True)[1] for column in columns]
    generator, images = np.random.default_rng(seed), len(present)
    for resample in range(RESAMPLES):
        drawn = np.bincount(generator.integers(images, size=images), minlength=images)[present]
        ranks = np.empty((len(places), len(drawn)))
        for row, place in enumerate(places):
            ties = np.bincount(place, drawn)
            ranks[row] = (np.cumsum(ties) - (ties - 1) / 2)[place]
        found[resample] = _correlation(ranks, drawn)
    return found


def percentile_ends(resampled: Values) -> tuple[float, float]:
    """The ends of the percentile interval; none where a resample in twenty has no correlation.

    So it is where nearly all images tie: what the others say would be an interval of the resamples that happen to hold
    the odd image out.
    """
    if np.isnan(resampled).mean() > 0.05:
        return float("nan"), float("nan")
    low, high = np.nanquantile(resampled, [0.025, 0.975])
    return float(low), float(high)
