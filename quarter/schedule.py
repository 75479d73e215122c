"""Decide what to start next on one device, and estimate how long an epoch takes. The functions keep no state."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

from figures.models import Row
from quarter.ledger import history
from quarter.rates import Rate

COST = {
    "raw": 0.25, "raw-gd": 0.25, "pgd-at": 1.0, "pgd-at-smooth": 1.0, "pgd-at-smooth-ramp": 1.0, "pgd-at-awp": 1.15,
    "again-logit-plain": 1.0, "again-release": 1.25, "again-own": 1.15, "again": 1.15, "again-no-hff": 1.15,
    "again-logit-awp": 1.2,
}  # fmt: skip
"""Seconds per epoch relative to pgd-at, overestimated rather than underestimated."""
USUAL_COST = 1.1
"""The cost of a method that is not listed."""


class Job(NamedTuple):
    """A training or an analysis, as the scheduler sees it."""

    small: bool
    """Whether it may run beside others."""
    seconds: float
    """The time until it is finished."""
    least: float
    """The least remaining time for which it may start."""


def next_job(waiting: Sequence[Job], running: Sequence[Job], *, remaining: float, slots: int) -> int | None:
    """The position in ``waiting`` of the job to start now; None: start nothing.

    waiting: in order of value. running: their ``seconds`` are those that remain. remaining: seconds until the deadline.
    slots: how many small jobs may run at a time.
    """
    if len(running) >= slots or any(not job.small for job in running):
        return None
    longest = max((job.seconds for job in running), default=0.0)
    for position, job in enumerate(waiting):
        if job.least > remaining:
            continue
        if job.small or not running:
            return position
        # Wait for a large job only if it still fits after the running jobs.
        if longest + job.least <= remaining:
            return None
    return None


def epoch_seconds(row: Row, runs: Path, rates: Mapping[str, Rate]) -> float | None:
    """Estimate the seconds per epoch of a run; None if nothing is known.

    Sources, in order: its own log; the logs of other methods of its place, scaled by their relative cost; ``rates``,
    measured with PGD-AT.
    """
    own = _steady(runs / row.key)
    if own is not None:
        return own
    known = [
        seconds / cost(log.parent.name.partition("-seed")[0])
        for log in (runs / row.place).glob("*/log.jsonl")
        if (seconds := _steady(log.parent)) is not None
    ]
    if not known and row.place in rates:
        known = [rates[row.place].seconds]
    return cost(row.method) * median(known) if known else None


def cost(method: str) -> float:
    """Seconds per epoch of a method relative to PGD-AT."""
    return COST.get(method, USUAL_COST)


def _steady(run: Path) -> float | None:
    """Seconds per epoch without the first, which compiles and warms up; None for fewer than two epochs."""
    later = [record["seconds"] for record in history(run)[1:]]
    return median(later) if later else None
