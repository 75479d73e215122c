"""Differences with intervals, from what the commands leave, and the verdict that they allow."""

from collections.abc import Iterable, Sequence
from math import hypot
from typing import Any, NamedTuple

REPRODUCED, REFUTED, OPEN = "reproduced", "not reproduced", "not decidable here"


class Difference(NamedTuple):
    """A difference and its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def reversed(self) -> "Difference":
        """The same the other way round."""
        return Difference(*(0.0 - each for each in (self.value, self.high, self.low)))  # and not -0.0


def between(pairs: Iterable[dict[str, Any]], a: str, b: str, **match: str) -> Difference | None:
    """The difference a - b in a command's ``pairs``, where the other keys match; None where it has none.

    match: keys of a pair, ``attack="pgd-10"``.
    """
    for pair in pairs:
        if all(pair.get(key) == value for key, value in match.items()) and None not in pair["ci"]:
            found = Difference(pair["difference"], *pair["ci"])
            if (pair["a"], pair["b"]) == (a, b):
                return found
            if (pair["a"], pair["b"]) == (b, a):
                return found.reversed
    return None


def apart(a: float, a_ends: Sequence[float], b: float, b_ends: Sequence[float]) -> Difference | None:
    """a - b from two estimates and their 95 % intervals, where no paired comparison is kept (Zou & Donner 2008).

    Exact for independent estimates, and too wide for those of the same images, which go up and down together.
    None where either has no interval.
    """
    if any(end is None or end != end for end in (*a_ends, *b_ends)):
        return None
    difference = a - b
    low = difference - hypot(a - a_ends[0], b_ends[1] - b)
    return Difference(difference, low, difference + hypot(a_ends[1] - a, b - b_ends[0]))


def verdict(found: Iterable[Difference | None]) -> str:
    """What differences say that the paper expects to be above 0.

    ``reproduced``: all intervals lie above 0. ``not reproduced``: one lies below it. ``not decidable here``: neither,
    or there is nothing to go by.
    """
    known = list(found)
    if any(each is not None and each.high < 0 for each in known):
        return REFUTED
    if known and all(each is not None and each.low > 0 for each in known):
        return REPRODUCED
    return OPEN
