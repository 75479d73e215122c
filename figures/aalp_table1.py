"""AALP, Table 1: confidence and losses of the ALP model's consistent and inconsistent set.

The paper's "classification loss" is not defined; beside it stands the sum of clean and adversarial cross-entropy.
"""

from pathlib import Path

import pandas as pd

from figures import names, shared

TASKS = ("sets",)
COLUMNS = {"probability_clean": "p clean %", "probability_adversarial": "p adv %", "ce_sum": "CE", "alp": "ALP loss"}


def draw(data: Path, out: Path) -> list[Path]:
    """Write aalp-table1."""
    rows, entries = [], []
    for panel in shared.panels(data, "sets", needed=(names.ALP,)):
        entry = shared.entry(panel.json("sets"), "alp")
        entries.append(entry)
        printed = shared.papers()["aalp"]["table1"].get(panel.folder.name.partition("-")[0], {})
        for kind in ("consistent", "inconsistent"):
            of = entry["sets"][kind]
            first = {"Data set": panel.title, "Set": kind}
            ours = {words: number(column, of[column]) for column, words in COLUMNS.items()}
            ends = {
                words: "–".join(number(column, end) for end in of[f"{column}_ci"]) for column, words in COLUMNS.items()
            }
            share = {"ALP %": shared.percent(of["alp_share_of_total"], 1)}
            rows.append({**first, "": f"ours, {of['n']:,} images", **ours, **share})
            rows.append({**dict.fromkeys(first, ""), "": "95 % interval", **ends, "ALP %": ""})
            if kind in printed:
                values = dict(zip(COLUMNS.values(), map(str, printed[kind]), strict=True))
                rows.append({**dict.fromkeys(first, ""), "": "paper", **values, "ALP %": "–"})
    caption = (
        "ALP model. p: mean probability of the true class; CE: cross-entropy of the clean plus that of the adversarial"
        " image, nats (the paper does not define its classification loss); ALP loss: squared distance of the logits,"
        f" and its share of the set's total loss; 95 % intervals over {shared.over(entries)}"
    )
    return shared.save_table(pd.DataFrame(rows), out, "aalp-table1", caption=caption)


def number(column: str, value: float | None) -> str:
    """Percent for probabilities, four digits after the point for losses, as in the paper."""
    if value is None:
        return "–"
    return shared.percent(value) if column.startswith("probability") else f"{value:.4f}"


if __name__ == "__main__":
    shared.alone(draw)
