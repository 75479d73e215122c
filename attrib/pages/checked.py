"""What the report makes of the checks: which a model's maps pass, and which no model's maps do. No torch."""

from collections.abc import Mapping
from typing import Any


def passed(check: Mapping[str, Any]) -> dict[str, dict[str, bool]]:
    """By model and check, whether its maps pass, at 95 %; without checks of too few images.

    A check that the maps of all of several models fail tells no model from another, and is left out.
    """
    each = {
        entry["name"]: {line["check"]: _passes(line) for line in entry["checks"] if line["margin_ci"][0] is not None}
        for entry in check["models"]
    }
    useless = {
        key for of_model in each.values() for key in of_model
        if len(each) > 1 and not any(other.get(key, False) for other in each.values())
    }  # fmt: skip
    return {name: {key: of_model[key] for key in of_model if key not in useless} for name, of_model in each.items()}


def _passes(line: Mapping[str, Any]) -> bool:
    low, high = line["margin_ci"]
    return bool(low > 0 if line["better"] == "higher" else high < 0)


def counted(of_model: Mapping[str, bool]) -> str:
    """How many checks a model's maps pass.

    >>> counted({"insertion": True, "deletion": False})
    '1 of 2'
    """
    return f"{sum(of_model.values())} of {len(of_model)}"


def left_out(check: Mapping[str, Any]) -> list[str]:
    """A clause for every check that no model's maps pass: its values beside its controls', without a verdict."""
    judged = passed(check)
    lines: dict[str, list[str]] = {}
    for entry in check["models"]:
        for line in entry["checks"]:
            if line["margin_ci"][0] is not None and line["check"] not in judged[entry["name"]]:
                words = f"{line['says']} (in brackets {line['control_is']})"
                lines.setdefault(words, []).append(f"{entry['name']} {line['value']:.2f} ({line['control']:.2f})")
    return [f"{words}: {', '.join(values)}" for words, values in lines.items()]
