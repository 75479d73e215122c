"""A sentence that ranks models, from their values and the test of every pair."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

from attrib.analyses.span import LEVEL


class Pair(NamedTuple):
    """The difference of two models, a - b, in fractions."""

    a: str
    b: str
    difference: float
    low: float
    high: float
    p: float
    """Holm's correction over all comparisons of the analysis."""
    real: bool
    """p < 0.05; for coverage, also over the images where neither model's map is empty."""

    @property
    def more(self) -> str:
        """The model with the larger value."""
        return self.a if self.difference >= 0 else self.b

    @property
    def less(self) -> str:
        """The model with the smaller value."""
        return self.b if self.difference >= 0 else self.a


class Claim(NamedTuple):
    """Words for a larger value, as in "A uses more of the image than B"."""

    one: str
    many: str
    more: str
    most: str
    about: str
    """After "no difference", as in "in coverage"."""


def sentence(values: Mapping[str, float], pairs: Sequence[Pair], claim: Claim, *, files: Sequence[str]) -> str:
    """Rank the models from most to least, and name those that do not differ; empty if no pair was tested.

    values: of each model, fractions; files: models that are one file each, which the sentence calls files.
    """
    if not pairs:
        return ""
    if 0 < len(files) < len(values):
        labels = {name: f"the file {name}" if name in files else name for name in values}
        values = {labels[name]: value for name, value in values.items()}
        pairs = [pair._replace(a=labels[pair.a], b=labels[pair.b]) for pair in pairs]
    names = sorted(values, key=lambda name: -values[name])
    real = {frozenset((pair.more, pair.less)) for pair in pairs if pair.real}
    if not real:
        text = f"no difference {claim.about} was found between {joined(names)} ({_percent(names, values)})"
    elif groups := _groups(names, real):
        text = _ordered(groups, values, claim)
    else:
        text = _pairwise(names, pairs, values, claim)
    if len(files) == len(values):
        text = f"Of these files, {text}"
    elif text.startswith(("no difference", "the file ")):
        text = text[0].upper() + text[1:]
    only_empty = [f"{pair.more} and {pair.less}" for pair in pairs if pair.p < LEVEL and not pair.real]
    caveat = f" {joined(only_empty)} differ only if empty maps count as covering nothing." if only_empty else ""
    return f"{text}.{caveat}"


def _groups(names: Sequence[str], real: set[frozenset[str]]) -> list[list[str]]:
    """The names in order, in groups that do not differ; none if not all groups differ from one another."""
    groups = [[names[0]]]
    for name in names[1:]:
        if any(frozenset((name, other)) in real for other in groups[-1]):
            groups.append([name])
        else:
            groups[-1].append(name)
    apart = all(frozenset((a, b)) in real for above, below in combinations(groups, 2) for a in above for b in below)
    return groups if apart else []


def _ordered(groups: Sequence[Sequence[str]], values: Mapping[str, float], claim: Claim) -> str:
    """Groups that all differ, from most to least."""
    first, *rest = groups
    degree, link = (claim.more, " than ") if len(rest) == 1 else (claim.most, ", then ")
    below = "".join(f"{link}{joined(group)} ({_percent(group, values)})" for group in rest)
    verb = claim.one if len(first) == 1 else claim.many
    alike = [joined(group) for group in groups if len(group) > 1]
    return f"{joined(first)} {verb} {degree} ({_percent(first, values)}){below}" + (
        f"; between {', and between '.join(alike)} no difference was found" if alike else ""
    )


def _pairwise(names: Sequence[str], pairs: Sequence[Pair], values: Mapping[str, float], claim: Claim) -> str:
    """Every model with those below it, if there are no groups."""
    below = {name: [pair.less for pair in pairs if pair.real and pair.more == name] for name in names}
    clauses = [
        f"{name} {claim.one} {claim.more} ({_percent([name], values)}) than"
        f" {joined([f'{other} ({_percent([other], values)})' for other in names if other in below[name]])}"
        for name in names
        if below[name]
    ]
    return f"{'; '.join(clauses)}; between the others no difference was found"


def joined(names: Iterable[str]) -> str:
    """``a, b and c``."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def _percent(names: Sequence[str], values: Mapping[str, float]) -> str:
    return f"{joined(f'{100 * values[name]:.1f}' for name in names)}\u00a0%"
