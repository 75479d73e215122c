"""Parse radii and steps of attacks: a radius 8/255, a sweep FROM:TO:COUNT, steps 10,20."""

from typing import Any, NamedTuple

import numpy as np

from attrib.analyses.options import fraction
from attrib.errors import InputError


class Radius(NamedTuple):
    """A radius and the step size of the attacks at it."""

    eps: float
    step_size: float


def parse_eps(given: str) -> float | tuple[float, ...]:
    """A radius (0.03 or 8/255), or the radii of a sweep FROM:TO:COUNT. Raises InputError for anything else."""
    if ":" not in given:
        return fraction(given, "eps")
    first, _, rest = given.partition(":")
    last, _, count = rest.partition(":")
    if not count.isdecimal() or int(count) < 2:
        raise InputError(f"eps: expected a radius or FROM:TO:COUNT with at least 2 radii, as 0:16/255:9, got {given!r}")
    low, high = fraction(first, "eps"), fraction(last, "eps")
    if low >= high:
        raise InputError(f"eps: expected a sweep from a smaller to a larger radius, got {given!r}")
    return tuple(np.linspace(low, high, int(count)).tolist())


def parse_steps(given: str) -> tuple[int, ...]:
    """Numbers separated by commas. Raises InputError for anything else."""
    try:
        return tuple(int(part) for part in given.split(","))
    except ValueError:
        raise InputError(f"steps: expected numbers separated by commas, as 10,20, got {given!r}") from None


def rising(name: str, given: Any) -> tuple[float, ...]:
    """One number or several as a rising tuple without duplicates."""
    try:
        numbers = {float(each) for each in np.ravel(given)}
    except (TypeError, ValueError):
        numbers = set()
    if not numbers:
        raise InputError(f"{name}: expected a number or several, got {given!r}")
    return tuple(sorted(numbers))
