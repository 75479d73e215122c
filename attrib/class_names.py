"""Class names, and the ways to write them. No torch."""

import re
from collections.abc import Sequence


def folded(name: str) -> str:
    """A name without the differences that do not matter.

    >>> folded("Tabby_Cat ") == folded("tabby  cat") == folded("tabby-cat")
    True
    """
    return " ".join(re.sub(r"[\s_-]+", " ", name).casefold().split())


def meanings(names: Sequence[str]) -> dict[str, int]:
    """Every way to write a class, folded, to its position: its name, the synonyms between commas, its WordNet id.

    What could be two classes is left out, as ImageNet's crane, a bird and a machine.
    """
    found: dict[str, set[int]] = {}
    exact: dict[str, set[int]] = {}
    for position, name in enumerate(names):
        parts = {name, *name.split(","), *re.findall(r"\bn\d{8}\b", name), re.sub(r"^n\d{8}\b", "", name)}
        for part in map(folded, parts):
            if part:
                found.setdefault(part, set()).add(position)
        exact.setdefault(folded(name), set()).add(position)
    return {part: positions.pop() for part, positions in (found | exact).items() if len(positions) == 1}
