"""Which map and threshold rule comes closest to AGAIN's Table 1? A table of our own.

The supplement does not print its rule. Distance: mean absolute difference to the paper's three values, in points.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from figures import names, shared

MODELS = (names.STANDARD, names.PGD_AT, names.AGAIN)
TASKS = ("span",)
PAPER = ("standard", "pgd-at", "again")


def draw(data: Path, out: Path) -> list[Path]:
    """Write asc-rules."""
    rows = []
    for panel in shared.panels(data, "span", wanted=MODELS, needed=MODELS):
        of_place = [_row(panel, task) for task in rules(panel)]
        rows += sorted(of_place, key=lambda row: float(row["distance"]))
    caption = (
        "Average attribution span coverage, %, under every map and threshold rule, clean test images, by distance to"
        " the paper's 54.86, 51.80 and 53.54 (ResNet-18 on CIFAR-10); order: of"
        " these estimates (the paper has standard > AGAIN > PGD-AT); PGD-AT and AGAIN stand for the checkpoints named"
        " in the column of models"
    )
    return shared.save_table(pd.DataFrame(rows), out, "asc-rules", caption=caption)


def rules(panel: shared.Panel) -> list[str]:
    """The tasks that measured coverage with some rule for the panel's models."""
    done = shared.manifest(panel.folder)
    return [
        task for task, record in done.items()
        if (task == "span" or task.startswith("span-")) and set(panel.models) <= record["models"].keys()
    ]  # fmt: skip


def distance(summary: dict[str, Any], models: list[str]) -> float:
    """Mean absolute difference to the paper's three values, in points."""
    printed = shared.papers()["again"]["table1"]
    ours = [100 * shared.entry(summary, model)["asc"] for model in models]
    off = [abs(value - printed[key]) for value, key in zip(ours, PAPER, strict=True)]
    return float(sum(off) / len(off))


def order(summary: dict[str, Any], models: Sequence[str]) -> str:
    """The models by falling ASC: ``standard > AGAIN > PGD-AT``. Of the estimates: no test is behind it."""
    return order_of(sorted(models, key=lambda model: shared.entry(summary, model)["asc"], reverse=True))


def order_of(models: Sequence[str]) -> str:
    """Models by their labels, in this order."""
    return " > ".join(names.label(model) for model in models)


def _row(panel: shared.Panel, task: str) -> dict[str, str]:
    summary = panel.json(task)
    row = {"Data set": panel.title, "map": summary["map"], "rule": summary["threshold"]}
    for words, model in zip(("standard", "PGD-AT", "AGAIN"), panel.models, strict=True):
        row[words] = shared.percent(shared.entry(summary, model)["asc"])
    row |= {"distance": f"{distance(summary, panel.models):.2f}", "order": order(summary, panel.models)}
    return row | {"images": f"{summary['models'][0]['n']:,}", "models": ", ".join(panel.models)}


if __name__ == "__main__":
    shared.alone(draw)
