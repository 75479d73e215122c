"""Compare class names despite different spellings. No torch."""

import re
from collections.abc import Sequence


def folded(name: str) -> str:
    """A name without differences in case, spaces, underscores and hyphens.

    >>> folded("Tabby_Cat ") == folded("tabby  cat") == folded("tabby-cat")
    True
    """
    return " ".join(re.sub(r"[\s_-]+", " ", name).casefold().split())


def meanings(names: Sequence[str]) -> dict[str, int]:
    """From every folded spelling of a class to its position: its name, its synonyms (after commas), its WordNet id.

    Ambiguous spellings are left out, as ImageNet's crane, a bird and a machine.
    """
    synonyms: dict[str, set[int]] = {}
    exact: dict[str, set[int]] = {}
    for position, name in enumerate(names):
        parts = {name, *name.split(","), *re.findall(r"\bn\d{8}\b", name), re.sub(r"^n\d{8}\b", "", name)}
        for part in map(folded, parts):
            if part:
                synonyms.setdefault(part, set()).add(position)
        exact.setdefault(folded(name), set()).add(position)
    return {part: positions.pop() for part, positions in (synonyms | exact).items() if len(positions) == 1}
