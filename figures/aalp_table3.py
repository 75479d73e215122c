"""AALP, Table 3: Guided Dropout with standard, adversarial and ALP training.

The paper's numbers are of ResNet-9 on SVHN.
"""

from pathlib import Path
from typing import Any

import pandas as pd

from figures import names, shared
from figures.compare import between

TASKS = ("gd-raw", "gd-madry", "gd-alp")
COLUMNS = ("clean", "pgd-10", "cw-10")


def draw(data: Path, out: Path) -> list[Path]:
    """Write aalp-table3. Raises Missing where none of the three comparisons is there."""
    printed = shared.papers()["aalp"]["table3"]["svhn"]
    rows, missing = [], None
    for task in TASKS:
        try:
            found = shared.panels(data, task)
        except shared.Missing as error:
            missing = error
            continue
        for panel in found:
            summary = panel.json(task)
            for entry in summary["models"]:
                row = {"Data set": panel.title, "Method": names.label(entry["name"]), "images": f"{entry['n']:,}"}
                for column, paper in zip(COLUMNS, printed[entry["name"]], strict=True):
                    ends = shared.percents(entry["intervals"][column], 1)
                    row[names.attack(column)] = f"{shared.percent(entry['accuracies'][column], 1)} ({ends})"
                    row[f"paper, {names.attack(column)}"] = f"{paper:.2f}"
                rows.append(row)
            rows.append(_difference(summary, panel.title))
    if not rows:
        assert missing is not None
        raise missing
    table = pd.DataFrame(rows).fillna("")
    caption = (
        "Accuracy, % (95 % interval), and the difference that Guided Dropout makes, in points, paired by image;"
        " paper: ResNet-9 on SVHN"
    )
    return shared.save_table(table, out, "aalp-table3", caption=caption)


def _difference(summary: dict[str, Any], title: str) -> dict[str, str]:
    row = {"Data set": title, "Method": "difference", "images": ""}
    without, guided = (model["name"] for model in summary["models"])
    for column in COLUMNS:
        if found := between(summary["pairs"], guided, without, attack=column):
            row[names.attack(column)] = shared.signed(*found[:3], digits=1)
    return row


if __name__ == "__main__":
    shared.alone(draw)
