"""The report's verdicts on the checks: which ones the maps of each model pass. No torch."""

from collections.abc import Mapping
from typing import Any


def passed(check: Mapping[str, Any]) -> dict[str, dict[str, bool]]:
    """By model and check, whether the model's maps pass, at 95 %; without checks that have too few images.

    A check that all of several models fail does not separate models, and is left out.
    """
    passes = {
        entry["name"]: {line["check"]: _passes(line) for line in entry["checks"] if line["margin_ci"][0] is not None}
        for entry in check["models"]
    }
    useless = {
        key for checks in passes.values() for key in checks
        if len(passes) > 1 and not any(other.get(key, False) for other in passes.values())
    }  # fmt: skip
    return {name: {key: checks[key] for key in checks if key not in useless} for name, checks in passes.items()}


def _passes(line: Mapping[str, Any]) -> bool:
    low, high = line["margin_ci"]
    return bool(low > 0 if line["better"] == "higher" else high < 0)


def counted(passes: Mapping[str, bool]) -> str:
    """How many checks a model's maps pass.

    >>> counted({"insertion": True, "deletion": False})
    '1 of 2'
    """
    return f"{sum(passes.values())} of {len(passes)}"


def left_out(check: Mapping[str, Any]) -> list[str]:
    """A clause for every check that no model passes: values and controls, without a verdict."""
    judged = passed(check)
    lines: dict[str, list[str]] = {}
    for entry in check["models"]:
        for line in entry["checks"]:
            if line["margin_ci"][0] is not None and line["check"] not in judged[entry["name"]]:
                words = f"{line['says']} (in brackets {line['control_is']})"
                lines.setdefault(words, []).append(f"{entry['name']} {line['value']:.2f} ({line['control']:.2f})")
    return [f"{words}: {', '.join(values)}" for words, values in lines.items()]
