"""The rule that turns differences into verdicts. One rule for all claims of both papers, and pure functions only.

A claim has parts; each part is a difference that the paper expects above 0. The verdict on a part is one of six tiers:

- *not tested*: the models or the measurements are not the paper's, or not good enough (``figures.precondition``).
- One or two seeds: *tendency* if the 95 % interval excludes 0, else *undecided*. These compare files, not methods.
- Three or more seeds: *reproduced* or *contrary* if the corrected p is below 0.05; else *no difference* if the whole
  interval lies within one point of 0; else *undecided*.
- If a part has two answers (with and without empty maps), they must agree, else it is *undecided*.

The correction is Holm's over all claims tested. A claim with several parts shares its weight among them (weighted
Holm, Holm 1979, section 4), so that the page as a whole calls something *reproduced* or *contrary* by mistake in at
most 5 % of cases. A claim with one part is thus corrected for the number of claims, not of all their parts.
"""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import nct
from scipy.stats import t as student

from figures.compare import Difference

NOT_TESTED, UNDECIDED, TENDENCY = "not tested", "undecided", "tendency"
REPRODUCED, CONTRARY, NO_DIFFERENCE = "reproduced", "contrary", "no difference"
TIERS = (REPRODUCED, CONTRARY, NO_DIFFERENCE, TENDENCY, UNDECIDED, NOT_TESTED)
LEVEL = 0.05
SEEDS = 3
"""The fewest seeds on either side that allow a verdict about methods."""
POINT = 0.01
"""One point of a share."""


class Part(NamedTuple):
    """One comparison of a claim."""

    words: str
    """What is compared."""
    answers: tuple[Difference | None, ...]
    """The difference, which the paper expects above 0; several readings must agree. None: no interval."""
    seeds: int
    """Files per method, on the side that has fewer."""
    point: float | None = POINT
    """One point in the unit of the difference; None where the unit has none."""
    missing: tuple[str, ...] = ()
    """Why the part cannot be tested; empty if it can."""


class Verdict(NamedTuple):
    """The verdict on a part."""

    tier: str
    p_holm: float = float("nan")
    side: int = 0
    """Direction of a tendency: 1 for the claim, -1 against it."""

    def __str__(self) -> str:
        return f"{self.tier} {'for' if self.side > 0 else 'against'} it" if self.tier == TENDENCY else self.tier


def decide(claims: Sequence[Sequence[Part]]) -> list[list[Verdict]]:
    """The verdicts on all parts of all claims; ``claims`` must hold everything that is shown, for Holm's correction."""
    tested = [(number, part) for number, claim in enumerate(claims) for part in claim if _has_test(part)]
    shares = Counter(number for number, _ in tested)
    corrected = weighted_holm(
        np.array([_p(part) for _, part in tested]), np.array([1 / shares[number] for number, _ in tested])
    )
    remaining = iter(corrected.tolist())
    return [
        [_verdict(part, next(remaining) if _has_test(part) else float("nan")) for part in claim] for claim in claims
    ]


def weighted_holm(p: NDArray[np.floating], weights: NDArray[np.floating]) -> NDArray[np.floating]:
    """Holm's (1979) correction of p values (P,) with weights (P,) > 0; equal weights give the usual one.

    A hypothesis is rejected while p / weight is the smallest and p is at most ``level * weight / remaining weights``.

    >>> weighted_holm(np.array([0.01, 0.04, 0.03]), np.ones(3)).tolist()
    [0.03, 0.06, 0.06]
    >>> weighted_holm(np.array([0.01, 0.01, 0.04]), np.array([0.5, 0.5, 1])).round(3).tolist()
    [0.04, 0.04, 0.04]
    """
    order = np.lexsort((np.arange(len(p)), p / weights))
    remaining = np.cumsum(weights[order][::-1])[::-1]
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(1, np.maximum.accumulate(p[order] * remaining / weights[order]))
    return corrected


def counted(verdicts: Sequence[Verdict]) -> str:
    """The verdicts on a claim's parts in words: ``reproduced``, or ``reproduced 4 of 5, undecided 1 of 5``."""
    counts = Counter(map(str, sorted(verdicts, key=lambda verdict: TIERS.index(verdict.tier))))
    if len(counts) == 1:
        return next(iter(counts))
    return ", ".join(f"{words} {count} of {len(verdicts)}" for words, count in counts.items())


def smallest_observed(*, claims: int, seeds: int = SEEDS) -> float:
    """The smallest observed difference, in standard errors, that the first of ``claims`` tests can call real.

    Student's t with 2 S - 2 degrees of freedom, two-sided, at the level that Holm's first step allows.

    >>> round(smallest_observed(claims=1), 2)  # the usual t table: 4 degrees of freedom
    2.78
    """
    return float(student.isf(LEVEL / claims / 2, 2 * seeds - 2))


def power(effect: float, *, claims: int, seeds: int = SEEDS) -> float:
    """The probability that a true difference of so many standard errors is called *reproduced*, if no other is true.

    effect: in standard errors of the difference between two methods of ``seeds`` seeds each, s sqrt(2 / S) with s the
    standard deviation between seeds.

    >>> power(9, claims=19) > 0.8
    True
    """
    return float(nct.sf(smallest_observed(claims=claims, seeds=seeds), 2 * seeds - 2, effect))


def detectable(*, claims: int, seeds: int = SEEDS, wanted: float = 0.8) -> float:
    """The true difference, in standard errors, that is called *reproduced* with probability ``wanted``."""
    return float(brentq(lambda effect: power(effect, claims=claims, seeds=seeds) - wanted, 0.1, 100))


def _has_test(part: Part) -> bool:
    known = [answer for answer in part.answers if answer is not None and answer.p == answer.p]
    return not part.missing and part.seeds >= SEEDS and 0 < len(known) == len(part.answers)


def _p(part: Part) -> float:
    """All answers must differ from 0, so the largest p counts."""
    return max(answer.p for answer in part.answers if answer is not None)


def _verdict(part: Part, p_holm: float) -> Verdict:
    known = [answer for answer in part.answers if answer is not None]
    if part.missing:
        return Verdict(NOT_TESTED)
    if not known or len(known) < len(part.answers):
        return Verdict(UNDECIDED)
    sides = {int(np.sign(answer.value)) for answer in known}
    side = sides.pop() if len(sides) == 1 else 0
    if part.seeds < SEEDS:
        sure = side and all(answer.low > 0 or answer.high < 0 for answer in known)
        return Verdict(TENDENCY, side=side) if sure else Verdict(UNDECIDED)
    if p_holm < LEVEL and side:
        return Verdict(REPRODUCED if side > 0 else CONTRARY, p_holm)
    point = part.point
    if point is not None and all(-point < answer.low and answer.high < point for answer in known):
        return Verdict(NO_DIFFERENCE, p_holm)
    return Verdict(UNDECIDED, p_holm)
