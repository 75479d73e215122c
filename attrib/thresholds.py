"""The table of rules for the threshold of a span, for the parser, the options' help, the explorer and the report.

A new rule needs a record here, its mask in ``attrib.spans``, and its function of a histogram in templates/spans.js.
No torch.
"""

import math
from typing import Literal, NamedTuple

from attrib.errors import InputError, meant


class Rule(NamedTuple):
    """A rule, written ``NAME``, or ``NAME:NUMBER`` if it has a parameter."""

    words: str
    """Its name in menus."""
    parameter: str = ""
    """The letter of its number; empty: it has none."""
    low: float = 0.0
    high: float = 1.0
    closed: Literal["left", "right"] = "left"
    """The end that belongs to the range."""
    default: float = math.nan

    def accepts(self, value: float) -> bool:
        """Whether the number is in the range; NaN is not."""
        return self.low <= value < self.high if self.closed == "left" else self.low < value <= self.high


RULES = {
    "mean": Rule("above its mean"),
    "max": Rule("above t × maximum", parameter="t", closed="left", default=0.3),
    "otsu": Rule("Otsu"),
    "mass": Rule("fewest that hold q", parameter="q", closed="right", default=0.5),
    "quantile": Rule("above the q-quantile", parameter="q", closed="left", default=0.75),
}


def spelling(name: str) -> str:
    """The rule as users write it: ``mean``, ``max:t``."""
    return f"{name}:{RULES[name].parameter}" if RULES[name].parameter else name


def _with_range(name: str) -> str:
    rule = RULES[name]
    below, above = ("<=", "<") if rule.closed == "left" else ("<", "<=")
    return f"{spelling(name)} ({rule.low:g} {below} {rule.parameter} {above} {rule.high:g})" if rule.parameter else name


*_FIRST, _LAST = map(spelling, RULES)
HELP = f"{', '.join(_FIRST)} or {_LAST}."
"""The help of an option that takes a rule."""


def parse_threshold(rule: str) -> tuple[str, float]:
    """Split a threshold rule into its name and its number, NaN if it has none.

    Raises InputError for a rule that is not in the table, or a number outside its range.
    """
    name, colon, text = rule.partition(":") if isinstance(rule, str) else ("", "", "")
    record = RULES.get(name)
    if record and not record.parameter and not colon:
        return name, math.nan
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if record and record.parameter and record.accepts(value):
        return name, value
    near = "" if record else meant(name, RULES, after=f"{colon}{text}")
    raise InputError(f"threshold: expected {', '.join(map(_with_range, RULES))}, got {rule!r}{near}")
