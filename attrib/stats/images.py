"""Intervals and paired tests over images; for several files, over seeds and images. No torch."""

import numpy as np
from numpy.typing import NDArray

from attrib.errors import InputError
from attrib.lazy import Lazy
from attrib.stats.permutation import RESAMPLES, TAIL, Values, as_column, at_a_time, sign_flips
from attrib.stats.seeds import (
    ANYTHING,
    LOWEST,
    NOTHING,
    Paired,
    bias_of,
    compared,
    complete,
    difference_of,
    ends_of,
    groups_over_seeds,
    mean,
    over_seeds,
    spread_of,
    variance_of_mean,
    variance_over_images,
    within_bounds,
)

scipy_stats = Lazy("scipy.stats")

DIFFERENCE = (-1.0, 1.0)
"""The range of a difference of two shares."""
RARE = 10
"""A share with fewer images on either side counts as near 0 or 1."""


def interval(values: Values, *, seed: int = 0, within: tuple[float, float] = ANYTHING) -> tuple[float, float]:
    """95 % interval of the mean: percentile bootstrap over images, or over seeds and images; (nan, nan) below two.

    values: (N,) of one file, or (S,N) of S seeds of a method (see ``attrib.stats``). NaN entries are left out, and so
    are files without any value. within: the range of possible means, to which the interval is clipped.

    >>> low, high = interval(np.array([0.1, 0.2, 0.3, 0.4]))
    >>> 0.1 < low < 0.25 < high < 0.4
    True
    >>> [round(end, 3) for end in interval(np.array([[0.1, 0.2], [0.3, 0.4]]), within=(0, 1))]  # only two seeds
    [0.0, 1.0]
    """
    rows = np.atleast_2d(as_column("values", values, rows=True))
    if len(rows) > 1:
        return ends_of(spread_of(rows), within)
    present = rows[0][~np.isnan(rows[0])]
    if len(present) < 2:
        return float("nan"), float("nan")
    if present.min() == present.max():
        return float(present[0]), float(present[0])
    result = scipy_stats.bootstrap(
        (present,), np.mean, n_resamples=RESAMPLES, batch=at_a_time(len(present)), method="percentile",
        rng=np.random.default_rng(seed),
    )  # fmt: skip
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def share_interval(hits: NDArray[np.bool_]) -> tuple[float, float]:
    """95 % interval of a share of the images, such as an accuracy; (nan, nan) below two images.

    hits: (N,) of one file, or (S,N) of S seeds of a method. One file: Wilson's score interval (1927), whose coverage is
    right also near 0 and 1. Seeds: the interval over seeds and images. Its normal approximation fails if fewer than
    ``RARE`` images are hits, or fewer are not; it is then widened to include Wilson's interval for the mean share.

    >>> low, high = share_interval(np.arange(100) < 90)
    >>> round(low, 3), round(high, 3)
    (0.826, 0.945)
    >>> low, high = share_interval(np.zeros(100, bool))  # none of 100: the share may still be a few percent
    >>> low, round(high, 3)
    (0.0, 0.037)
    """
    rows = np.atleast_2d(hits)
    count, share = rows.shape[1], float(rows.mean())
    if count < 2:
        return float("nan"), float("nan")
    wilson = _wilson(share, count)
    if len(rows) == 1:
        return wilson
    low, high = interval(rows.astype(float), within=(0, 1))
    if min(share, 1 - share) * count >= RARE:
        return low, high
    return min(low, wilson[0]), max(high, wilson[1])


def _wilson(share: float, count: int) -> tuple[float, float]:
    z2 = float(scipy_stats.norm.isf(0.025)) ** 2
    centre, half = share + z2 / (2 * count), np.sqrt(z2 * (share * (1 - share) + z2 / (4 * count)) / count)
    ends = [float((centre + sign * half) / (1 + z2 / count)) for sign in (-1, 1)]
    return ends[0] if share > 0 else 0.0, ends[1] if share < 1 else 1.0


def paired(a: Values, b: Values, *, seed: int = 0, within: tuple[float, float] = ANYTHING) -> Paired:
    """Mean of a - b over images with its 95 % interval and p-value (two-sided); NaN p below two images.

    a, b: (N,), or (S,N) for S seeds of a method, in the same order of images. Images that lack a value in any file are
    left out. With one file on each side, the interval is a bootstrap, and p compares the two files by the permutation
    test ``attrib.stats.permutation.sign_flips``, which swaps the models' values at random, image by image.

    With several files on a side, p compares methods. The seeds' variance is pooled over both sides with Sa + Sb - 2
    degrees of freedom; a side with one file takes the other side's. The images' variance is that of the difference
    between the two sides' averages over seeds, image by image. within: the range of possible differences, to which the
    interval over seeds is clipped; p does not depend on it. Raises InputError for different numbers of images.

    >>> paired(np.array([0.3, 0.5, 0.1, 0.9]), np.array([0.2, 0.4, 0.0, 0.8])).p  # 2 of 16 sign flips reach as far
    0.125
    >>> seeds = np.array([[0.3, 0.5, 0.1], [0.4, 0.5, 0.1]])
    >>> result = paired(seeds, seeds[0])
    >>> round(result.difference, 4), result.low < 0 < result.high
    (0.0167, True)
    """
    rows_a, rows_b = (np.atleast_2d(as_column(name, values, rows=True)) for name, values in (("a", a), ("b", b)))
    if rows_a.shape[1] != rows_b.shape[1]:
        counts = f"{rows_a.shape[1]} and {rows_b.shape[1]}"
        raise InputError(f"a, b: expected the same number of values on both sides, got {counts}")
    present = ~np.isnan(np.vstack([rows_a, rows_b])).any(0)
    rows_a, rows_b = rows_a[:, present], rows_b[:, present]
    difference = rows_a.mean(0) - rows_b.mean(0)
    if max(len(rows_a), len(rows_b)) > 1:
        images = variance_of_mean(difference)
        spread = difference_of(rows_a.mean(1), rows_b.mean(1), images) if present.any() else NOTHING
        return compared(spread, within)
    low, high = interval(difference, seed=seed)
    if len(difference) < 2:
        return Paired(mean(difference), low, high, float("nan"))
    if not difference.any():
        return Paired(0.0, low, high, 1.0)
    return Paired(mean(difference), low, high, sign_flips(difference, seed=seed))


def paired_shares(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> Paired:
    """``paired`` for two shares of the same images, such as accuracies: a - b, its 95 % interval, and p.

    a, b: (N,) of one file, or (S,N) of S seeds of a method. One file on each side: the adjusted Wald interval of Bonett
    and Price (2012), which has a width even if the sides agree on every image, and McNemar's exact test on the images
    on which they differ. Seeds: as ``paired``; if fewer than ``RARE`` images differ, the interval is widened to include
    the former. All NaN below two images.

    >>> same = paired_shares(np.ones(60, bool), np.ones(60, bool))
    >>> round(same.low, 3), round(same.high, 3), same.p
    (-0.045, 0.045, 1.0)
    """
    rows_a, rows_b = np.atleast_2d(a), np.atleast_2d(b)
    result = paired(rows_a.astype(float), rows_b.astype(float), within=DIFFERENCE)
    count = rows_a.shape[1]
    if count < 2:
        return Paired(*[float("nan")] * 4)
    difference = rows_a.mean(0) - rows_b.mean(0)
    more, less = float(difference.clip(0).sum()), float((-difference).clip(0).sum())
    first, second = (more + 1) / (count + 2), (less + 1) / (count + 2)
    half = float(scipy_stats.norm.isf(0.025)) * np.sqrt((first + second - (first - second) ** 2) / (count + 2))
    low, high = within_bounds([first - second - half, first - second + half], DIFFERENCE)
    if max(len(rows_a), len(rows_b)) == 1:
        return result._replace(low=low, high=high)
    return result._replace(low=min(low, result.low), high=max(high, result.high)) if more + less < RARE else result


def unpaired_shares(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> tuple[float, float, float]:
    """The difference a - b of the shares of two groups of images, and its 95 % interval.

    a: (N,), b: (M,) of one file; or (S,N) and (S,M) of S seeds of a method. One file: Newcombe's (1998) interval, from
    both sides' Wilson intervals. Seeds: the interval over seeds and images; if a share is near 0 or 1 (``RARE``), it is
    widened to include Newcombe's for the mean shares.

    >>> [round(float(value), 3) for value in unpaired_shares(np.ones(100, bool), np.ones(50, bool))]
    [0.0, -0.037, 0.071]
    """
    sides = [np.atleast_2d(side) for side in (a, b)]
    (share_a, n), (share_b, m) = ((float(side.mean()), side.shape[1]) for side in sides)
    difference = share_a - share_b
    if min(n, m) < 2:
        return difference, float("nan"), float("nan")
    (low_a, high_a), (low_b, high_b) = _wilson(share_a, n), _wilson(share_b, m)
    low = difference - float(np.hypot(share_a - low_a, high_b - share_b))
    high = difference + float(np.hypot(high_a - share_a, share_b - low_b))
    if len(sides[0]) == 1:
        return difference, low, high
    # No image is in both groups: put them side by side, NaN where an image is in the other group.
    first, second = (np.full((len(side), n + m), np.nan) for side in sides)
    first[:, :n], second[:, n:] = sides
    result = groups_over_seeds(first, second, within=DIFFERENCE)
    if min(min(share_a, 1 - share_a) * n, min(share_b, 1 - share_b) * m) >= RARE:
        return result[:3]
    return difference, min(low, result.low), max(high, result.high)


def image_weights(index: NDArray[np.integer], *, seed: int = 0) -> NDArray[np.float32]:
    """How often each resample draws each image: positions (n,) in the data set to counts (n, RESAMPLES).

    The Poisson bootstrap (Hanley & MacGibbon 2006): counts are Poisson(1) and depend on (seed, position) only. Weighted
    sums can be added up batch by batch and process by process, without keeping any image. All models get the same
    counts, so differences between models are paired by image.

    >>> image_weights(np.array([0, 1])).shape
    (2, 2000)
    """
    drawn = np.empty((len(index), RESAMPLES), np.float32)
    for row, position in enumerate(index.tolist()):
        drawn[row] = np.random.default_rng((seed, position)).poisson(1.0, RESAMPLES)
    return drawn


def basic_interval(
    estimate: float | Values, resampled: Values, *, within: tuple[float, float] = ANYTHING
) -> tuple[float, float]:
    """95 % basic bootstrap interval of a statistic that is no mean, from its values in the resamples (R,).

    A measure of inequality grows with the noise of its inputs, and a resample has that noise twice, so the percentile
    interval lies too high: for the Gini coefficient of mean contributions over 2,000 images it covered the truth in 0
    to 83 % of the trials, the basic interval in 90 to 97 %. The basic interval subtracts the bias, so with few images
    it may lie below the estimate. NaN entries are left out; (nan, nan) if nothing is left.

    For S seeds of a method, with estimates (S,) and resampled (S,R) in the same resamples of images, it is the t
    interval over seeds and images (see ``attrib.stats``), with the bias subtracted. within: the range of possible
    values, to which the interval is clipped.

    >>> [round(end, 3) for end in basic_interval(0.5, np.array([0.4, 0.5, 0.7]))]  # mirrored at the estimate
    [0.31, 0.595]
    """
    estimates, resamples = np.atleast_1d(estimate), complete(resampled)
    if len(estimates) > 1:
        result = over_seeds(estimates, resamples)
        return within_bounds([end - bias_of(estimates, resamples) for end in (result.low, result.high)], within)
    value = float(estimates[0])
    if not resamples.size:
        return float("nan"), float("nan")
    low, high = np.quantile(resamples[0], [0.025, 0.975])
    return within_bounds([2 * value - high, 2 * value - low], within)


def basic_paired(
    a: float | Values, b: float | Values, resampled_a: Values, resampled_b: Values,
    *, within: tuple[float, float] = ANYTHING,
) -> Paired:  # fmt: skip
    """The difference a - b of a statistic between two models with its basic interval and the p-value that fits it.

    resampled_a, resampled_b: (R,), the statistic in the same resamples of images. p (two-sided) is the level at
    which the interval would just reach 0; NaN without resamples. Below TAIL it is that of a normal distribution, and
    never below LOWEST. A permutation test is impossible, since the features of two models are not exchangeable and may
    differ in number.

    With seeds, a, b: (Sa,), (Sb,), and resampled (Sa,R), (Sb,R): as for ``paired``, with the bias subtracted. within:
    the range of possible differences, to which the interval is clipped.

    >>> basic_paired(0.5, 0.2, np.array([0.4, 0.5, 0.6]), np.array([0.2, 0.2, 0.2])).difference
    0.3
    """
    values_a, values_b = np.atleast_1d(a), np.atleast_1d(b)
    difference = float(values_a.mean() - values_b.mean())
    resamples = complete(np.atleast_2d(resampled_a).mean(0) - np.atleast_2d(resampled_b).mean(0))
    if max(len(values_a), len(values_b)) > 1:
        bias = bias_of(np.array([difference]), resamples)
        shifted = difference_of(values_a, values_b, variance_over_images(resamples))._replace(value=difference - bias)
        return compared(shifted, within)._replace(difference=difference)
    resampled = resamples[0]
    low, high = basic_interval(difference, resampled, within=within)
    if not len(resampled):
        return Paired(difference, low, high, float("nan"))
    beyond = min(int((resampled >= 2 * difference).sum()), int((resampled <= 2 * difference).sum()))
    p = min(1.0, 2 * (beyond + 1) / (len(resampled) + 1))
    if p < TAIL:
        p = min(p, 2 * _normal_tail(resampled, 2 * difference))
    return Paired(difference, low, high, p)


def _normal_tail(resamples: Values, reached: float) -> float:
    """The probability beyond a value that hardly any of the resamples (R,) reaches, by a normal distribution.

    Its centre is the resamples' median. Its spread is their standard deviation, or the spread that fits the outermost
    hundredth on that side if it is larger, as on the long side of a skewed statistic.
    """
    away = (resamples - np.median(resamples)) * np.sign(reached - np.median(resamples))
    spread = max(float(away.std()), float(np.quantile(away, 0.99) / scipy_stats.norm.isf(0.01)))
    distance = abs(reached - float(np.median(resamples)))
    return max(LOWEST / 2, float(scipy_stats.norm.sf(distance / spread))) if spread > 0 else LOWEST / 2
