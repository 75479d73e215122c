"""AGAIN supplement, Table 2: valid values of the last layer's weights per class, PGD-AT against AGAIN.

The paper's text gives the means only: 272.3 and 308 of 512 (ResNet-18 on CIFAR-10).
"""

from pathlib import Path

import pandas as pd

from figures import names, shared

TASKS = ("fc",)
MODELS = (names.STANDARD, names.PGD_AT, names.SMOOTH, names.NO_FUSION, names.AGAIN, names.LOGIT)


def draw(data: Path, out: Path) -> list[Path]:
    """Write again-table2."""
    rows = []
    for panel in shared.panels(data, "fc", wanted=MODELS, needed=(names.PGD_AT, names.AGAIN)):
        summary = panel.json("fc")
        for model in panel.models:
            entry = shared.entry(summary, model)
            paper = shared.papers()["again"]["table2"].get(model)
            counts = {str(number): str(count) for number, count in enumerate(entry["valid"])}
            rows.append(
                {"Data set": panel.title, "Training method": names.label(model), **counts,
                 "mean": f"{entry['valid_mean']:.1f}", "of": str(entry["features"]),
                 "%": shared.percent(entry["valid_share"], 1), "paper's mean, of 512": f"{paper}" if paper else "–"}
            )  # fmt: skip
    table = pd.DataFrame(rows).fillna("–")
    caption = "Values of the last layer's weight matrix above its mean, per class (numbered) and on average"
    return shared.save_table(table, out, "again-table2", caption=caption)


if __name__ == "__main__":
    shared.alone(draw)
