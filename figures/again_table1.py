"""AGAIN supplement, Table 1: average attribution span coverage (ASC) under standard training, PGD-AT and AGAIN.

The paper's numbers are of ResNet-18 on CIFAR-10, its threshold is not printed; ours: Grad-CAM above the map's mean.
"""

from pathlib import Path

import pandas as pd

from figures import names, shared

TASKS = ("span",)
MODELS = (names.STANDARD, names.PGD_AT, names.NO_FUSION, names.AGAIN, names.LOGIT)
PRINTED = {"raw": "standard", "standard": "standard", "pgd-at": "pgd-at", "again": "again"}
"""Checkpoints whose model the paper has, and its key there."""


def draw(data: Path, out: Path) -> list[Path]:
    """Write again-table1."""
    rows, entries = [], []
    for panel in shared.panels(data, "span", wanted=MODELS, needed=(names.STANDARD, names.PGD_AT)):
        summary = panel.json("span")
        for model in panel.models:
            entry = shared.entry(summary, model)
            entries.append(entry)
            paper = shared.papers()["again"]["table1"].get(PRINTED.get(model, ""))
            rows.append(
                {
                    "Data set": panel.title, "Training method": names.label(model),
                    "Average ASC %": shared.percent(entry["asc"]), "95 % CI": shared.percents(entry["asc_ci"]),
                    "floor %": shared.percent(entry.get("asc_floor")),
                    "its range": shared.percents(entry.get("asc_floor_range") or ()),
                    "correct": shared.percent(entry["asc_correct"]),
                    "empty %": shared.percent(entry["empty"] / entry["n"]), "images": f"{entry['n']:,}",
                    "paper %": f"{paper:.2f}" if paper else "–",
                }
            )  # fmt: skip
    caption = (
        "Average attribution span coverage: share of the pixels where Grad-CAM of the true class exceeds the map's"
        " mean, clean test images; floor: the same network with random weights (mean and range of three, 200 images);"
        " correct: over those classified correctly; empty: maps without a"
        f" positive value, which count as covering nothing; 95 % intervals over {shared.over(entries)};"
        " paper: ResNet-18 on CIFAR-10, threshold not printed"
    )
    return shared.save_table(pd.DataFrame(rows), out, "again-table1", caption=caption)


if __name__ == "__main__":
    shared.alone(draw)
