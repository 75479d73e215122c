"""Intervals and paired tests over images, and over seeds where a method has several files. No torch.

One file: images are resampled (scipy) and no distribution is assumed. The answer is about this file: another training
run of the same method may give another.

Several files, the seeds of one method: what is asked is what the method does, and the error of that has two parts.
The seeds' estimates scatter, s^2 / S, known from S - 1 degrees of freedom only, which Student's t makes up for; and
all seeds met the same N images, so that averaging over seeds leaves the images' part, v, which is known well. Of each
part alone the interval's half-width would be t s / sqrt(S) and z sqrt(v); together it is the root of the sum of
their squares. (In simulations with S = 2, 3 and 5 it holds the truth in 95 to 99 % of the trials, whatever the ratio
of the two parts. One t quantile for both holds it in 100 % where images dominate, being twice as wide as it need be
at S = 3; Satterthwaite's degrees of freedom in 88 % where two seeds dominate.) Where seeds differ image by image but
not on the whole, both parts hold that, and the interval is too wide rather than too narrow. Seeds that agree leave the
interval over images. p is the level at which the interval of the difference would just reach 0.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.floating]
"""One number per image, (N,); NaN where the image has none (the share of an empty span, say). Where it says (S,N):
a row for each of S files behind one name, in the same order of images."""

RESAMPLES = 2000
"""Bootstrap and permutation resamples: the ends of a 95 % interval rest on 50 of them, p goes down to 1/2001."""
ANYTHING = (-np.inf, np.inf)


class Paired(NamedTuple):
    """A mean difference between two models over the same images."""

    difference: float
    low: float
    high: float
    p: float


class Spread(NamedTuple):
    """An estimate over several files, and what its error is made of."""

    value: float
    seeds: float
    """Squared standard error from the choice of seeds,"""
    degrees: int
    """known from so many degrees of freedom,"""
    images: float
    """and from the choice of images; NaN below two."""


def mean(values: Values) -> float:
    """The mean over the images that have a value; of (S,N) the mean of the files' means. NaN where none has.

    >>> mean(np.array([0.25, 0.75, np.nan])), mean(np.array([[1.0, 2.0], [4.0, 5.0]]))
    (0.5, 3.0)
    """
    rows = np.atleast_2d(np.asarray(values, float))
    means = [row[~np.isnan(row)].mean() for row in rows if not np.isnan(row).all()]
    return float(np.mean(means)) if means else float("nan")


def interval(values: Values, *, seed: int = 0, within: tuple[float, float] = ANYTHING) -> tuple[float, float]:
    """95 % interval of the mean: percentile bootstrap over images, or over seeds and images; (nan, nan) below two.

    values: (N,) of one file, or (S,N) of S seeds of a method (see above); NaN entries are left out, and so are files
    without any, if two are left. within: what the mean cannot leave, which t intervals over few seeds would.

    >>> low, high = interval(np.array([0.1, 0.2, 0.3, 0.4]))
    >>> 0.1 < low < 0.25 < high < 0.4
    True
    >>> [round(end, 3) for end in interval(np.array([[0.1, 0.2], [0.3, 0.4]]), within=(0, 1))]  # two seeds tell little
    [0.0, 1.0]
    """
    from scipy.stats import bootstrap

    rows = np.atleast_2d(np.asarray(values, float))
    if len(rows) > 1:
        return _ends(_spread(rows), within)
    held = rows[0][~np.isnan(rows[0])]
    if len(held) < 2:
        return float("nan"), float("nan")
    if held.min() == held.max():
        return float(held[0]), float(held[0])
    result = bootstrap(
        (held,), np.mean, n_resamples=RESAMPLES, batch=at_a_time(len(held)), method="percentile",
        rng=np.random.default_rng(seed),
    )  # fmt: skip
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def share_interval(held: NDArray[np.bool_]) -> tuple[float, float]:
    """95 % interval of a share of the images, an accuracy among them; (nan, nan) below two images.

    held: (N,) of one file, or (S,N) of S seeds of a method. Of one file it is the percentile bootstrap's, exactly and
    without resampling: N draws with replacement hold Binomial(N, share) of them, and its quantiles are the ends. Where
    all or none are held there is nothing to resample, nor do seeds differ, and Clopper and Pearson's bound for one
    file's images stands on the open side. Otherwise, of seeds, the interval is over seeds and images.

    >>> low, high = share_interval(np.arange(100) < 90)
    >>> round(low, 2), round(high, 2)
    (0.84, 0.95)
    >>> low, high = share_interval(np.zeros(100, bool))  # none of 100: the share may still be a few percent
    >>> low, round(high, 3)
    (0.0, 0.036)
    """
    from scipy.stats import binom

    rows = np.atleast_2d(held)
    count = rows.shape[1]
    if count < 2:
        return float("nan"), float("nan")
    if rows.all() or not rows.any():
        bound = 0.025 ** (1 / count)
        return (bound, 1.0) if rows.all() else (0.0, 1 - bound)
    if len(rows) > 1:
        return interval(rows.astype(float), within=(0, 1))
    low, high = (float(binom.ppf(q, count, rows.mean())) / count for q in (0.025, 0.975))
    return low, high


def paired(a: Values, b: Values, *, seed: int = 0) -> Paired:
    """Mean of a - b over images with its 95 % interval and p-value (two-sided); NaN p below two images.

    a, b: (N,), or (S,N) for S seeds of a method, in the same order of images; an image counts where every file has a
    value. One file on either side: bootstrap, and a permutation test that swaps the two models' values at random
    image by image, which is exact where they are exchangeable (scipy's ``permutation_test`` of type "samples", with
    the sign flips multiplied out in batches). p then compares two files.

    With several files on a side p compares methods: the seeds' variance is pooled over both sides, Sa + Sb - 2
    degrees of freedom; a side with one file borrows the other's spread, having none of its own. The images' part is
    that of the difference between the two sides' averages over seeds, image by image. Raises ValueError for different
    numbers of images.

    >>> paired(np.array([0.3, 0.5, 0.1, 0.9]), np.array([0.2, 0.4, 0.0, 0.8])).p  # 2 of 16 sign flips reach as far
    0.125
    >>> seeds = np.array([[0.3, 0.5, 0.1], [0.4, 0.5, 0.1]])
    >>> found = paired(seeds, seeds[0])
    >>> round(found.difference, 4), found.low < 0 < found.high
    (0.0167, True)
    """
    rows_a, rows_b = (np.atleast_2d(np.asarray(values, float)) for values in (a, b))
    if rows_a.shape[1] != rows_b.shape[1]:
        counts = f"{rows_a.shape[1]} and {rows_b.shape[1]}"
        raise ValueError(f"paired: expected as many values on both sides, got {counts}")
    held = ~np.isnan(np.vstack([rows_a, rows_b])).any(0)
    rows_a, rows_b = rows_a[:, held], rows_b[:, held]
    difference = rows_a.mean(0) - rows_b.mean(0)
    if max(len(rows_a), len(rows_b)) > 1:
        images = _variance_of_mean(difference)
        return _compared(_difference(rows_a.mean(1), rows_b.mean(1), images) if held.any() else _NOTHING)
    low, high = interval(difference, seed=seed)
    if len(difference) < 2:
        return Paired(mean(difference), low, high, float("nan"))
    if not difference.any():
        return Paired(0.0, low, high, 1.0)
    return Paired(mean(difference), low, high, _sign_flips(difference, seed=seed))


def _sign_flips(difference: Values, *, seed: int) -> float:
    """The two-sided p of the permutation test that turns the signs of the differences (N,) around."""
    count = len(difference)
    total, slack = difference.sum(), 1e-12 * np.abs(difference).sum()  # equal but for rounding is equal
    exact = 2**count <= RESAMPLES
    resamples = 2**count if exact else RESAMPLES
    generator = np.random.default_rng(seed)
    below = above = 0
    for start in range(0, resamples, batch := at_a_time(count)):
        size = min(batch, resamples - start)
        flipped: NDArray[np.integer]
        if exact:
            flipped = np.arange(start, start + size)[:, None] >> np.arange(count) & 1
        else:
            bits = generator.integers(256, size=(size, -(-count // 8)), dtype=np.uint8)
            flipped = np.unpackbits(bits, axis=1, count=count)
        sums = total - 2 * (flipped.astype(float) @ difference)
        below += int((sums <= total + slack).sum())
        above += int((sums >= total - slack).sum())
    # As scipy has it: where not all flips were tried, the one that was observed counts among them.
    tried = 0 if exact else 1
    return float(min(1.0, 2 * (min(below, above) + tried) / (resamples + tried)))


_NOTHING = Spread(float("nan"), float("nan"), 1, float("nan"))


def _spread(rows: Values) -> Spread:
    """The mean over the files that have values, of S >= 2 files and N images, (S,N); NaN below two such files."""
    rows = rows[~np.isnan(rows).all(1)]
    if len(rows) < 2:
        return _NOTHING._replace(value=mean(rows))
    held = ~np.isnan(rows)
    means = np.nanmean(rows, 1)
    # What each image adds to the mean of the files' means, to first order: files may miss different images.
    part = (np.where(held, rows - means[:, None], 0) / held.sum(1, keepdims=True)).mean(0)[held.any(0)]
    images = len(part) * part.var(ddof=1) if len(part) > 1 else float("nan")
    return Spread(float(means.mean()), float(means.var(ddof=1)) / len(means), len(means) - 1, float(images))


def _variance_of_mean(values: Values) -> float:
    return float(values.var(ddof=1)) / len(values) if len(values) > 1 else float("nan")


def _difference(a: Values, b: Values, images: float) -> Spread:
    """a - b of the files' estimates, (Sa,) and (Sb,), not both alone, with the variance that is the images'."""
    degrees = len(a) + len(b) - 2
    pooled = sum(float(((side - side.mean()) ** 2).sum()) for side in (a, b)) / degrees
    value = float(a.mean() - b.mean())
    if abs(value) <= 1e-12 * max(np.abs(a).max(), np.abs(b).max()):  # equal but for rounding is equal
        value = 0.0
    return Spread(value, pooled * (1 / len(a) + 1 / len(b)), degrees, images)


def _half_width(found: Spread, level: float) -> float:
    """Half the width of the interval that leaves out ``level``."""
    from scipy.stats import norm, t

    seeds = float(t.isf(level / 2, found.degrees)) ** 2 * found.seeds
    return float(np.sqrt(seeds + float(norm.isf(level / 2)) ** 2 * found.images))


def _ends(found: Spread, within: tuple[float, float] = ANYTHING) -> tuple[float, float]:
    half = _half_width(found, 0.05)
    return _within([found.value - half, found.value + half], within)


def _compared(found: Spread) -> Paired:
    """The difference with its ends and the level at which they would just reach 0."""
    from scipy.optimize import brentq

    low, high = _ends(found)
    lowest = 1e-12
    if low != low:
        p = float("nan")
    elif found.value == 0:
        p = 1.0
    elif abs(found.value) >= _half_width(found, lowest):
        p = lowest
    else:
        p = float(brentq(lambda level: _half_width(found, level) - abs(found.value), lowest, 1.0))
    return Paired(found.value, low, high, p)


def at_a_time(images: int) -> int:
    """Resamples to hold at a time: 2**19 numbers, so that memory does not grow with the number of images."""
    return max(1, 2**19 // images)


def image_weights(index: NDArray[np.integer], *, seed: int = 0) -> NDArray[np.float32]:
    """How often each resample draws each image: positions (n,) in the data set to counts (n, RESAMPLES).

    Poisson(1), a function of (seed, position) only: the Poisson bootstrap (Hanley & MacGibbon 2006), which needs no
    image to be kept. Weighted sums can be added up batch by batch and process by process, and since every model
    meets the same counts, differences between models are paired by image.

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

    A measure of inequality grows with the noise of what it is computed from, and a resample has that noise twice; the
    percentile interval then lies above the truth (of the Gini coefficient of mean contributions over 2,000 images it
    held the truth in 0 to 83 % of the trials, the basic one in 90 to 97 %). The basic interval takes the bias off,
    so with few images it may lie below the estimate. NaN entries are left out; (nan, nan) where nothing is left.

    Of S seeds of a method, estimates (S,) and (S,R) in the same resamples of images, it is the t interval over seeds
    and images (see above), with the same bias taken off. within: what the statistic cannot leave.

    >>> [round(end, 3) for end in basic_interval(0.5, np.array([0.4, 0.5, 0.7]))]  # the resamples lean the other way
    [0.31, 0.595]
    """
    estimates, resamples = np.atleast_1d(estimate), _resamples(resampled)
    if len(estimates) > 1:
        found = over_seeds(estimates, resamples)
        return _within([end - _bias(estimates, resamples) for end in found[1:3]], within)
    value = float(estimates[0])
    if not resamples.size:
        return float("nan"), float("nan")
    low, high = np.quantile(resamples[0], [0.025, 0.975])
    return _within([2 * value - high, 2 * value - low], within)


def basic_paired(a: float | Values, b: float | Values, resampled_a: Values, resampled_b: Values) -> Paired:
    """The difference a - b of a statistic between two models with its basic interval and the p-value that fits it.

    resampled_a, resampled_b: (R,), the statistic in the same resamples of images. p (two-sided) is the level at
    which the interval would just reach 0; NaN where nothing was resampled. No permutation test takes its place: the
    features of two models are not exchangeable, and need not be as many.

    With seeds, a, b: (Sa,), (Sb,), and resampled (Sa,R), (Sb,R): as :func:`paired` has it, with the bias taken off.

    >>> basic_paired(0.5, 0.2, np.array([0.4, 0.5, 0.6]), np.array([0.2, 0.2, 0.2])).difference
    0.3
    """
    values_a, values_b = np.atleast_1d(a), np.atleast_1d(b)
    difference = float(values_a.mean() - values_b.mean())
    resamples = _resamples(np.atleast_2d(resampled_a).mean(0) - np.atleast_2d(resampled_b).mean(0))
    if max(len(values_a), len(values_b)) > 1:
        bias = _bias(np.array([difference]), resamples)
        shifted = _difference(values_a, values_b, _variance(resamples))._replace(value=difference - bias)
        return _compared(shifted)._replace(difference=difference)
    held = resamples[0]
    low, high = basic_interval(difference, held)
    if not len(held):
        return Paired(difference, low, high, float("nan"))
    beyond = min(int((held >= 2 * difference).sum()), int((held <= 2 * difference).sum()))
    return Paired(difference, low, high, min(1.0, 2 * (beyond + 1) / (len(held) + 1)))


def mean_over_seeds(values: Values) -> Paired:
    """:func:`mean` and :func:`interval` of S >= 2 seeds, (S,N), and the p of the mean's being 0.

    >>> found = mean_over_seeds(np.array([[0.2, 0.3, 0.1], [0.3, 0.3, 0.4]]))
    >>> round(found.difference, 3), found.p > 0.05
    (0.267, True)
    """
    return _compared(_spread(np.asarray(values, float)))


def groups_over_seeds(a: Values, b: Values) -> Paired:
    """The mean of one group of images less that of another, over S >= 2 seeds, with interval and p.

    a, b: (S,N) in the same order of images, NaN where an image is not in the group, which may be another one for every
    seed.

    >>> broken, stood = np.array([[0.1, 0.2, np.nan], [0.2, np.nan, np.nan]]), np.array([[np.nan] * 2 + [0.4]] * 2)
    >>> round(groups_over_seeds(broken, stood).difference, 3)
    -0.225
    """
    counts = [(~np.isnan(group)).sum(1, keepdims=True) for group in (a, b)]
    with np.errstate(invalid="ignore", divide="ignore"):
        means = [np.nansum(group, 1, keepdims=True) / count for group, count in zip((a, b), counts, strict=True)]
        # What each image adds to its group's mean, to first order.
        first, second = (
            np.nan_to_num(group - mean) / count for group, mean, count in zip((a, b), means, counts, strict=True)
        )
        return mean_over_seeds(means[0] - means[1] + a.shape[1] * (first - second))


def over_seeds(estimates: Values, resampled: Values, *, within: tuple[float, float] = ANYTHING) -> Paired:
    """The mean over S >= 2 seeds of a statistic that is no mean, its 95 % interval, and the p of its being 0.

    estimates: (S,); resampled: (S,R), in the same resamples of images. Seeds whose estimate is NaN are left out; NaN
    interval and p where fewer than two are left.

    >>> found = over_seeds(np.array([0.2, 0.3]), np.array([[0.2, 0.21, 0.19], [0.3, 0.31, 0.29]]))
    >>> round(found.difference, 3), found.low < 0 < found.high
    (0.25, True)
    """
    some = ~np.isnan(estimates)
    held, count = estimates[some], int(some.sum())
    if count < 2:
        return Paired(mean(estimates), np.nan, np.nan, np.nan)
    images = _variance(_resamples(resampled[some]))
    found = _compared(Spread(float(held.mean()), float(held.var(ddof=1)) / count, count - 1, images))
    return Paired(found.difference, *_within([found.low, found.high], within), found.p)


def _resamples(values: Values) -> Values:
    """Values (R,) or (S,R) as rows, without the resamples in which a file has none."""
    rows = np.atleast_2d(np.asarray(values, float))
    return rows[:, ~np.isnan(rows).any(0)]


def _variance(resamples: Values) -> float:
    """The images' part of the error: the variance of the averages over seeds, (S,R)."""
    return float(resamples.mean(0).var(ddof=1)) if resamples.shape[1] > 1 else float("nan")


def _bias(estimates: Values, resamples: Values) -> float:
    return float(resamples.mean() - estimates.mean()) if resamples.size else float("nan")


def _within(ends: list[float], within: tuple[float, float]) -> tuple[float, float]:
    low, high = np.clip(ends, *within)
    return float(low), float(high)


def holm(p: Values) -> Values:
    """Holm's (1979) correction of the p-values (P,) of P comparisons made at once; NaN entries are no comparisons.

    >>> holm(np.array([0.01, 0.04, 0.03])).tolist()
    [0.03, 0.06, 0.06]
    """
    corrected = np.full(len(p), np.nan)
    order = np.argsort(p)[: int((~np.isnan(p)).sum())]  # NaN is sorted to the end
    factors = np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(1, np.maximum.accumulate(factors * p[order]))
    return corrected
