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
