"""Two-sided p-values of permutation tests, also far below 1 / the number of resamples. No torch.

2,000 random permutations give no p below 1/2001. Holm's correction over the pairs of a dozen models turns that into a
p above 0.05. Each test therefore works in one of three ways:

- exact, if all permutations can be counted;
- a tail, if p is below ``TAIL``: an approximation of the permutation distribution that needs no resampling, by
  saddlepoint (sign flips, two groups) or by a beta distribution with its variance and kurtosis (pairings);
- 2,000 random permutations otherwise, and the observed one counts as one more, which is valid for any values.

No p is below ``SMALLEST``, so that none is 0.
"""

from math import comb, factorial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attrib.errors import InputError
from attrib.lazy import Lazy

scipy_stats, scipy_special = Lazy("scipy.stats"), Lazy("scipy.special")

Values = NDArray[np.floating]
"""One number per image, (N,); NaN if the image has none (such as the share of an empty span). Shape (S,N) is a row for
each of S files of one name, in the same order of images."""

RESAMPLES = 2000
"""Bootstrap and permutation resamples: the ends of a 95 % interval rest on 50 of them."""
TAIL = 0.01
"""Below this p the tail is used, since only 10 of 2,000 resamples lie beyond it on each side."""
SMALLEST = 1e-300
"""The smallest p that is reported."""
COUNTED = 32
"""All sign flips are counted for up to this many differences."""


def as_column(name: str, values: Any, *, rows: bool = False) -> Values:
    """Values as an array of floats (N,), with ``rows`` also (S,N); raises InputError for another shape."""
    try:
        array = np.asarray(values, float)
    except (TypeError, ValueError):
        array = np.array(None, float)
    if array.ndim != 1 and not (rows and array.ndim == 2):
        got = f"shape {array.shape}" if array.ndim else type(values).__name__
        raise InputError(f"{name}: expected numbers of shape (N,){' or (S,N)' * rows}, got {got}")
    return array


def as_columns(**given: Any) -> list[Values]:
    """``as_column`` of each; raises InputError also for different lengths."""
    columns = [as_column(name, values) for name, values in given.items()]
    if len({len(column) for column in columns}) > 1:
        counts = ", ".join(str(len(column)) for column in columns)
        raise InputError(f"{', '.join(given)}: expected the same number of values in each, got {counts}")
    return columns


def at_a_time(images: int) -> int:
    """The number of resamples to compute at a time: 2**19 numbers, so that memory does not grow with the images."""
    return max(1, 2**19 // images)


def sign_flips(difference: Values, *, seed: int = 0) -> float:
    """The p of the paired test that flips the signs of the differences (N,) at random.

    Differences of 0 carry no information and are left out. If all others have one size it is the sign test, which for
    right and wrong answers is McNemar's exact test. Tail: Robinson (1982). 1 if all are 0.

    >>> sign_flips(np.array([0.1, 0.2, 0.3, 0.4]))  # 2 of 16 sign flips reach as far
    0.125
    >>> sign_flips(np.ones(100)) == 2 * 0.5**100
    True
    """
    signed = difference[difference != 0]
    if not len(signed):
        return 1.0
    size = np.abs(signed) / np.abs(signed).max()
    total = abs(float(size @ np.sign(signed)))
    slack = 1e-12 * float(size.sum())  # for rounding
    if size.min() > 1 - 1e-12:
        return max(SMALLEST, float(scipy_stats.binomtest(int((signed > 0).sum()), len(signed)).pvalue))
    if len(size) <= COUNTED:
        return _all_flips(size, total - slack)
    tail = 2 * _flips_beyond(size, total)
    return max(SMALLEST, tail) if tail < TAIL else _some_flips(size, total - slack, seed=seed)


def _all_flips(size: Values, reached: float) -> float:
    """The share of all sign flips of the sizes (N,) whose sum is at least ``reached`` from 0.

    The sums of each half of the sizes are listed, and the pairs of them that reach far enough are counted.
    """
    halves = []
    for half in np.array_split(size, 2):
        sums = np.zeros(1)
        for value in half:
            sums = np.concatenate([sums + value, sums - value])
        halves.append(np.sort(sums))
    beyond = len(halves[1]) - np.searchsorted(halves[1], reached - halves[0])
    return float(min(1.0, 2 * int(beyond.sum()) / 2 ** len(size)))


def _some_flips(size: Values, reached: float, *, seed: int) -> float:
    count, beyond = len(size), 0
    generator = np.random.default_rng(seed)
    for start in range(0, RESAMPLES, batch := at_a_time(count)):
        bits = generator.integers(256, size=(min(batch, RESAMPLES - start), -(-count // 8)), dtype=np.uint8)
        sums = size.sum() - 2 * (np.unpackbits(bits, axis=1, count=count).astype(float) @ size)
        beyond += int((np.abs(sums) >= reached).sum())
    return (beyond + 1) / (RESAMPLES + 1)


def _flips_beyond(size: Values, total: float) -> float:
    """P(sum of s_i size_i >= total) for random signs s, by the saddlepoint of K(t) = sum of log cosh(t size_i)."""
    count, most = len(size), float(size.sum())
    if total <= 1e-9 * most:
        return 0.5
    if total >= most * (1 - 1e-12):  # all signs alike
        return 0.5**count
    tilt = 0.0
    for _ in range(500):  # K' is concave above 0, so Newton's steps never overshoot
        slope = np.tanh(tilt * size)
        curvature = float(((1 - slope**2) * size**2).sum())
        missing = total - float(slope @ size)
        if missing <= 1e-10 * (most - total) or not curvature:
            break
        tilt += missing / curvature
    scaled = tilt * size
    generating = float((scaled + np.log1p(np.exp(-2 * scaled)) - np.log(2)).sum())
    return _beyond(tilt * total - generating, tilt * np.sqrt(curvature))


def _beyond(exponent: float, scale: float) -> float:
    """Upper tail from a saddlepoint (Lugannani & Rice 1980) in Barndorff-Nielsen's form, which is always in [0,1]."""
    root = np.sqrt(2 * max(exponent, 0.0))
    # Very near the mean both terms vanish, and p is about 0.5.
    return float(scipy_stats.norm.sf(root + np.log(scale / root) / root)) if root > 1e-3 and scale > 0 else 0.5


def two_groups(a: Values, b: Values, *, seed: int = 0) -> float:
    """The p of the test that exchanges values between two groups, (N,) and (M,), for the difference of their means.

    Exact up to RESAMPLES ways to choose the groups, and for only two distinct values (Fisher's exact test, its nearer
    side doubled); tail: double saddlepoint (Booth & Butler 1990).

    >>> two_groups(np.array([0.5, 0.6, 0.7]), np.array([0.1, 0.2]))  # 1 of 10 choices on either side
    0.2
    """
    few, many = sorted((np.asarray(a, float), np.asarray(b, float)), key=len)
    ways = comb(len(few) + len(many), len(few))
    if ways > RESAMPLES:
        if len(np.unique(np.concatenate([few, many]))) == 2:
            return max(SMALLEST, _two_values(few, many))
        tail = 2 * _choices_beyond(few, many)
        if tail < TAIL:
            return max(SMALLEST, tail)
    test = scipy_stats.permutation_test(
        (few, many), difference_of_means, permutation_type="independent", n_resamples=RESAMPLES, vectorized=True,
        batch=at_a_time(len(few) + len(many)), rng=np.random.default_rng(seed),
    )  # fmt: skip
    return float(test.pvalue)


def difference_of_means(a: Values, b: Values, axis: int = -1) -> Values:
    """mean(a) - mean(b) along an axis."""
    return np.asarray(a.mean(axis) - b.mean(axis))


def _two_values(few: Values, many: Values) -> float:
    larger = [int((group == max(few.max(), many.max())).sum()) for group in (few, many)]
    drawn = scipy_stats.hypergeom(len(few) + len(many), sum(larger), len(few))
    return float(min(1.0, 2 * min(drawn.cdf(larger[0]), drawn.sf(larger[0] - 1))))


def _choices_beyond(few: Values, many: Values) -> float:
    """The share of all choices of len(few) among both groups' values whose sum is at least as far from its mean.

    A choice is a set of independent draws of every value with probability f, given that len(few) are drawn. Its tail
    is the double saddlepoint of K(t, u) = sum of log(1 - f + f exp(t x_i + u)).
    """
    count, pooled = len(few), np.concatenate([few, many])
    spread = float(pooled.std())
    if not spread > 1e-12 * float(np.abs(pooled).max()):
        return 0.5
    x = (pooled - pooled.mean()) / spread
    x = x if x[:count].sum() >= 0 else -x
    total, ordered = float(x[:count].sum()), np.sort(x)[::-1]
    edge = ordered[count - 1]
    # Several choices have the largest sum if values tie with the smallest chosen one.
    tied, chosen = int(np.isclose(ordered, edge).sum()), int(np.isclose(ordered[:count], edge).sum())
    least = comb(tied, chosen) / comb(len(x), count)
    most = float(ordered[:count].sum())
    if total >= most - 1e-9 * count:
        return least
    share = count / len(x)
    tilt = _tilt_of(x, share, total)
    if tilt is None:
        return 0.5
    field = tilt[0] * x + tilt[1]
    weight = _variances(share, field)
    curvature = weight.sum() * (weight @ x**2) - (weight @ x) ** 2
    generating = float(np.logaddexp(np.log1p(-share), np.log(share) + field).sum())
    exponent = float(tilt[0]) * total + float(tilt[1]) * count - generating
    scale = float(tilt[0]) * np.sqrt(max(curvature, 0.0) / (len(x) * share * (1 - share)))
    return max(least, _beyond(exponent, float(scale)))


def _chances(share: float, field: Values) -> Values:
    return np.asarray(scipy_special.expit(np.log(share) - np.log1p(-share) + field))


def _variances(share: float, field: Values) -> Values:
    chance = _chances(share, field)
    return chance * (1 - chance)


def _tilt_of(x: Values, share: float, total: float) -> Values | None:
    """The (t, u) at which the draws of x (N,) have the expected sum ``total`` and number; None without convergence."""
    count = share * len(x)
    tilt = np.zeros(2)

    def objective(at: Values) -> float:
        field = at[0] * x + at[1]
        return float(np.logaddexp(np.log1p(-share), np.log(share) + field).sum() - at[0] * total - at[1] * count)

    value = objective(tilt)
    for _ in range(200):  # Newton on a convex function; a step is halved until the function falls
        field = tilt[0] * x + tilt[1]
        chance, weight = _chances(share, field), _variances(share, field)
        gradient = np.array([chance @ x - total, chance.sum() - count])
        if np.abs(gradient).max() < 1e-9 * max(1.0, count):
            return tilt
        hessian = np.array([[weight @ x**2, weight @ x], [weight @ x, weight.sum()]])
        if not np.linalg.det(hessian) > 0:
            return None
        step = np.linalg.solve(hessian, gradient)
        size = 1.0
        while (after := objective(tilt - size * step)) > value and size > 1e-12:
            size /= 2
        tilt, value = tilt - size * step, after
    return None


def pairings(x: Values, y: Values, *, seed: int = 0) -> float:
    """The p of the test that pairs two columns (N,) at random, for their correlation; N >= 3 and neither constant.

    For ranks it is Spearman's test. Exact up to 9 pairs; tail: the symmetric beta distribution (Pearson's type II) with
    the variance and the kurtosis of all pairings (Pitman 1937).

    >>> pairings(np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.0, 3.0, 2.0, 4.0]))  # 8 of 24 pairings reach as far
    0.3333333333333333
    """
    count = len(x)
    if count > 9:
        tail = 2 * _pairings_beyond(x, y)
        if tail < TAIL:
            return max(SMALLEST, tail)
    centred = y - y.mean()
    # Pairings change neither means nor variances, so the sum of products orders them like the correlation.
    test = scipy_stats.permutation_test(
        (x - x.mean(),), lambda values, axis=-1: np.moveaxis(values, axis, -1) @ centred, permutation_type="pairings",
        n_resamples=factorial(count) if count <= 9 else RESAMPLES, batch=at_a_time(count), vectorized=True,
        rng=np.random.default_rng(seed),
    )  # fmt: skip
    return float(test.pvalue)


def _pairings_beyond(x: Values, y: Values) -> float:
    """The share of all pairings whose correlation is at least as far from 0, on the observed side."""
    count = len(x)
    first, second = ((column - column.mean()) / column.std() for column in (x, y))
    correlation = abs(float(first @ second)) / count
    # E r^4 = 3 / (N^2 - 1) (1 + (N - 2)(N - 3) / (3 N (N - 1)^2) g_x g_y), g = k_4 / k_2^2 (Pitman 1937).
    skew = _kurtosis(first) * _kurtosis(second) * (count - 2) * (count - 3) / (3 * count * (count - 1) ** 2)
    kurtosis = 3 * (count - 1) / (count + 1) * (1 + skew)
    # A beta's kurtosis is below the normal's 3. For heavier tails, the normal is the limit.
    shape = 3 / (3 - min(kurtosis, 3 - 1e-6)) - 2.5
    reach = np.sqrt((2 * shape + 3) / (count - 1))
    return float(scipy_stats.beta.sf((1 + correlation / reach) / 2, shape + 1, shape + 1))


def _kurtosis(standardised: Values) -> float:
    """k_4 / k_2^2 (Fisher's k-statistics) of values (N,) with mean 0 and standard deviation 1."""
    count = len(standardised)
    fourth = float((standardised**4).mean())
    return (count - 1) * ((count + 1) * fourth - 3 * (count - 1)) / ((count - 2) * (count - 3))
