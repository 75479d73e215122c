"""The line beside a section's title in the report: one number per model. No torch."""

from collections.abc import Callable
from typing import Any

from attrib.analyses.robust import WORST
from attrib.pages import checked
from attrib.pages.words import Summary, percent, signed, worst_words


def key_line(command: str, summary: Summary) -> str:
    """Name of the number, and its value for every model.

    >>> key_line("span", {"models": [{"name": "a", "asc": 0.4}, {"name": "b", "asc": 0.3}]}).replace("\u00a0", " ")
    'ASC: a 40.0 %, b 30.0 %'
    """
    label, number = _KEYS[command](summary)
    listed = ", ".join(f"{entry['name']} {number(entry)}" for entry in summary["models"])
    return f"{label}: {listed}"


def _robust(summary: Summary) -> tuple[str, Callable[[Any], str]]:
    return f"accuracy under {worst_words(summary)}", lambda entry: percent(entry["accuracies"][WORST])


def _rho(entry: Summary) -> str:
    rho = entry["coverage"]["partial"]["rho"]
    return "–" if rho is None else signed(rho)


_KEYS: dict[str, Callable[[Summary], tuple[str, Callable[[Any], str]]]] = {
    "span": lambda _: ("ASC", lambda entry: percent(entry["asc"])),
    "robust": _robust,
    "sets": lambda _: ("turned by the attack", lambda entry: percent(entry["sets"]["inconsistent"]["share"])),
    "contrib": lambda _: (
        "features that share the contribution",
        lambda entry: f"{entry['contribution']['participation_ratio']:.0f} of {entry['features']}",
    ),
    "fc": lambda _: ("valid values", lambda entry: percent(entry["valid_share"])),
    "check": lambda _: ("checks passed", lambda entry: checked.counted(checked.passed(entry))),
    "relate": lambda _: ("rank correlation of coverage with the margin, clean margin held fixed", _rho),
}
