"""Differences with intervals and p values, from what the commands leave."""

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
        """The same difference with the sides exchanged."""
        return Difference(0.0 - self.value, 0.0 - self.high, 0.0 - self.low, self.p)  # 0.0 - x: never -0.0


def between(pairs: Iterable[dict[str, Any]], a: str, b: str, **match: str) -> Difference | None:
    """The difference a - b in a command's ``pairs``, where the other keys match; None where there is no interval.

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
    """a - b from two estimates and their 95 % intervals, where no paired comparison is kept (Zou & Donner 2008).

    Exact for independent estimates. Too wide for estimates from the same images, which go up and down together.
    degrees: of freedom of the interval, see ``reaching``; 0: no p value. None where either has no interval.
    """
    if any(end is None or end != end for end in (*a_ends, *b_ends)):
        return None
    difference = a - b
    low = difference - hypot(a - a_ends[0], b_ends[1] - b)
    high = difference + hypot(a_ends[1] - a, b - b_ends[0])
    return reaching(difference, low, high, degrees=degrees)


def reaching(value: float, low: float, high: float, *, degrees: int) -> Difference:
    """The difference with the p value at which its interval would just reach 0, taking it for Student's.

    degrees: of freedom, the smaller number of seeds less one; 0: p is NaN. p < 0.05 exactly if the 95 % interval
    excludes 0. Beyond that p is on the safe side: some of the interval is from images, whose tail is lighter.
    """
    half = value - low if value > 0 else high - value
    if degrees < 1:
        return Difference(value, low, high)
    if half <= 0:
        return Difference(value, low, high, 0.0 if value else 1.0)
    p = 2 * float(student.sf(abs(value) / half * student.ppf(0.975, degrees), degrees))
    return Difference(value, low, high, p)
