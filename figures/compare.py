"""Differences with intervals and p values, from the results of the commands."""

from collections.abc import Iterable, Sequence
from math import hypot
from typing import Any, NamedTuple

from scipy.stats import t as student


class Difference(NamedTuple):
    """A difference, its 95 % interval, and the two-sided p value of no difference (NaN where there is none)."""

    value: float
    low: float
    high: float
    p: float = float("nan")

    @property
    def reversed(self) -> "Difference":
        """The same difference with its sides exchanged."""
        return Difference(0.0 - self.value, 0.0 - self.high, 0.0 - self.low, self.p)  # 0.0 - x: never -0.0


def between(pairs: Iterable[dict[str, Any]], a: str, b: str, **match: str) -> Difference | None:
    """The difference a - b in a command's ``pairs``, if the other keys match; None if there is no interval.

    match: keys of a pair, ``attack="pgd-10"``.
    """
    for pair in pairs:
        if all(pair.get(key) == value for key, value in match.items()) and None not in pair.get("ci", [None]):
            low, high = pair["ci"]
            p = float("nan") if pair["p"] is None else pair["p"]
            difference = Difference(pair["difference"], low, high, p)
            if (pair["a"], pair["b"]) == (a, b):
                return difference
            if (pair["a"], pair["b"]) == (b, a):
                return difference.reversed
    return None


def apart(
    a: float, a_ends: Sequence[float], b: float, b_ends: Sequence[float], *, degrees: int = 0
) -> Difference | None:
    """a - b from two estimates and their 95 % intervals, for results without a paired comparison (Zou & Donner 2008).

    Exact for independent estimates. Too wide for estimates from the same images, which are correlated. degrees: of
    freedom of the interval, see ``reaching``; 0: no p value. None if either has no interval.
    """
    if any(end is None or end != end for end in (*a_ends, *b_ends)):
        return None
    difference = a - b
    low = difference - hypot(a - a_ends[0], b_ends[1] - b)
    high = difference + hypot(a_ends[1] - a, b - b_ends[0])
    return reaching(difference, low, high, degrees=degrees)


def reaching(value: float, low: float, high: float, *, degrees: int) -> Difference:
    """The difference with a p value from its interval, as if this were Student's: p < 0.05 exactly if it excludes 0.

    degrees: of freedom, the smaller number of seeds minus one; 0: p is NaN. Smaller p values are on the safe side: a
    part of the interval comes from images, whose tails are lighter.
    """
    half = value - low if value > 0 else high - value
    if degrees < 1:
        return Difference(value, low, high)
    if half <= 0:
        return Difference(value, low, high, 0.0 if value else 1.0)
    p = 2 * float(student.sf(abs(value) / half * student.ppf(0.975, degrees), degrees))
    return Difference(value, low, high, p)
