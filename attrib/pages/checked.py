"""The report's verdicts on the checks: which ones the maps of a model pass. No torch."""

from collections.abc import Mapping
from typing import Any

from attrib.analyses.check import EDGES


def passed(entry: Mapping[str, Any]) -> dict[str, bool]:
    """By check, whether the model's maps pass, at 95 %; without checks that have too few images.

    Similarity to an edge detector's map is left out: that control is 1 by construction, so all maps that use the
    weights at all lie below it. Maps that do not use them fail beside the architecture alone.
    """
    return {
        line["check"]: _passes(line) for line in entry["checks"]
        if line["margin_ci"][0] is not None and line["control_is"] != EDGES
    }  # fmt: skip


def _passes(line: Mapping[str, Any]) -> bool:
    low, high = line["margin_ci"]
    return bool(low > 0 if line["better"] == "higher" else high < 0)


def counted(passes: Mapping[str, bool]) -> str:
    """How many checks a model's maps pass.

    >>> counted({"insertion": True, "deletion": False})
    '1 of 2'
    """
    return f"{sum(passes.values())} of {len(passes)}"
