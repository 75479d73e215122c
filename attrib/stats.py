"""Intervals and paired tests over images, by resampling (scipy): no distribution is assumed. No torch."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.floating]
"""One number per image, (N,); NaN where the image has none (the share of an empty span, say)."""

RESAMPLES = 2000
"""Bootstrap and permutation resamples: the ends of a 95 % interval rest on 50 of them, p goes down to 1/2001."""


class Paired(NamedTuple):
    """A mean difference between two models over the same images."""

    difference: float
    low: float
    high: float
    p: float


def mean(values: Values) -> float:
    """The mean over the images that have a value; NaN where none has."""
    held = values[~np.isnan(values)]
    return float(held.mean()) if len(held) else float("nan")


def interval(values: Values, *, seed: int = 0) -> tuple[float, float]:
    """95 % percentile bootstrap interval of the mean over images; (nan, nan) below two values.

    values: (N,), NaN entries are left out.
    """
    from scipy.stats import bootstrap

    held = np.asarray(values, float)[~np.isnan(values)]
    if len(held) < 2:
        return float("nan"), float("nan")
    if held.min() == held.max():
        return float(held[0]), float(held[0])
    result = bootstrap(
        (held,), np.mean, n_resamples=RESAMPLES, batch=_batch(held), method="percentile",
        rng=np.random.default_rng(seed),
    )  # fmt: skip
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def paired(a: Values, b: Values, *, seed: int = 0) -> Paired:
    """Mean of a - b over images with its 95 % bootstrap interval, and the p-value of a paired permutation test.

    a, b: (N,) in the same order of images; an image counts where both have a value. The test (two-sided) swaps
    the two models' values at random image by image, which is exact where they are exchangeable. NaN p below two.
    Raises ValueError for arrays of different lengths.
    """
    from scipy.stats import permutation_test

    if len(a) != len(b):
        raise ValueError(f"paired: expected as many values on both sides, got {len(a)} and {len(b)}")
    difference = np.asarray(a, float) - np.asarray(b, float)
    difference = difference[~np.isnan(difference)]
    low, high = interval(difference, seed=seed)
    if len(difference) < 2:
        return Paired(mean(difference), low, high, float("nan"))
    if not difference.any():
        return Paired(0.0, low, high, 1.0)
    result = permutation_test(
        (difference,), np.mean, permutation_type="samples", vectorized=True, n_resamples=RESAMPLES,
        batch=_batch(difference), rng=np.random.default_rng(seed),
    )  # fmt: skip
    return Paired(mean(difference), low, high, float(result.pvalue))


def _batch(values: Values) -> int:
    """Resamples to hold at a time: 2**19 numbers, so that memory does not grow with the number of images."""
    return max(1, 2**19 // len(values))


def image_weights(index: NDArray[np.integer], *, seed: int = 0) -> NDArray[np.float32]:
    """How often each resample draws each image: positions (n,) in the data set to counts (n, RESAMPLES).

    Poisson(1), a function of (seed, position) only: the Poisson bootstrap (Hanley & MacGibbon 2006), which needs no
    image to be kept. Weighted sums can be added up batch by batch and process by process, and since every model
    meets the same counts, differences between models are paired by image.
    """
    drawn = np.empty((len(index), RESAMPLES), np.float32)
    for row, position in enumerate(index.tolist()):
        drawn[row] = np.random.default_rng((seed, position)).poisson(1.0, RESAMPLES)
    return drawn


def basic_interval(estimate: float, resampled: Values) -> tuple[float, float]:
    """95 % basic bootstrap interval of a statistic that is no mean, from its values in the resamples (R,).

    A measure of inequality grows with the noise of what it is computed from, and a resample has that noise twice; the
    percentile interval then lies above the truth (of the Gini coefficient of mean contributions over 2,000 images it
    held the truth in 0 to 83 % of the trials, the basic one in 90 to 97 %). The basic interval takes the bias off,
    so with few images it may lie below the estimate. NaN entries are left out; (nan, nan) where nothing is left.
    """
    held = resampled[~np.isnan(resampled)]
    if not len(held):
        return float("nan"), float("nan")
    low, high = np.quantile(held, [0.025, 0.975])
    return float(2 * estimate - high), float(2 * estimate - low)


def basic_paired(a: float, b: float, resampled_a: Values, resampled_b: Values) -> Paired:
    """The difference a - b of a statistic between two models with its basic interval and the p-value that fits it.

    resampled_a, resampled_b: (R,), the statistic in the same resamples of images. p (two-sided) is the level at
    which the interval would just reach 0; NaN where nothing was resampled. No permutation test takes its place: the
    features of two models are not exchangeable, and need not be as many.
    """
    resampled = np.asarray(resampled_a, float) - np.asarray(resampled_b, float)
    held = resampled[~np.isnan(resampled)]
    low, high = basic_interval(a - b, held)
    if not len(held):
        return Paired(a - b, low, high, float("nan"))
    beyond = min(int((held >= 2 * (a - b)).sum()), int((held <= 2 * (a - b)).sum()))
    return Paired(a - b, low, high, min(1.0, 2 * (beyond + 1) / (len(held) + 1)))


def holm(p: Values) -> Values:
    """Holm's (1979) correction of the p-values (P,) of P comparisons made at once; NaN entries are no comparisons."""
    corrected = np.full(len(p), np.nan)
    order = np.argsort(p)[: int((~np.isnan(p)).sum())]  # NaN is sorted to the end
    factors = np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(1, np.maximum.accumulate(factors * p[order]))
    return corrected
