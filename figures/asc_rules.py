"""Which map and threshold rule comes closest to AGAIN's Table 1? The supplement does not print its rule."""

from collections.abc import Sequence
from typing import Any

from figures import names
from figures.shared import Panel, entry, papers

MODELS = (names.STANDARD, names.PGD_AT, names.AGAIN)
PAPER = ("standard", "pgd-at", "again")


def rules(panel: Panel) -> list[str]:
    """The analyses that measured coverage, under any rule, for all of the panel's models."""
    return [
        task for task, record in panel.done.items()
        if (task == "span" or task.startswith("span-")) and set(panel.models) <= record["models"].keys()
    ]  # fmt: skip


def distance(summary: dict[str, Any], models: Sequence[str]) -> float:
    """Mean absolute difference to the paper's three values, in points."""
    printed = papers()["again"]["table1"]
    ours = [100 * entry(summary, model)["asc"] for model in models]
    errors = [abs(value - printed[key]) for value, key in zip(ours, PAPER, strict=True)]
    return float(sum(errors) / len(errors))


def orders(panel: Panel, models: Sequence[str]) -> list[str]:
    """The order of these models by ASC, under every map and rule that was measured."""
    return [order(panel.json(task), models) for task in rules(panel._replace(models=list(models)))]


def order(summary: dict[str, Any], models: Sequence[str]) -> str:
    """The models by falling ASC, ``standard > AGAIN > PGD-AT``: the order of the estimates, without a test."""
    return order_of(sorted(models, key=lambda model: entry(summary, model)["asc"], reverse=True))


def order_of(models: Sequence[str]) -> str:
    """The labels of models, in this order."""
    return " > ".join(names.label(model) for model in models)
