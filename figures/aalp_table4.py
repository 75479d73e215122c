"""AALP, Table 4: the share of the consistent set under ALP and AALP."""

from pathlib import Path

import pandas as pd

from figures import names, shared
from figures.compare import between

TASKS = ("sets",)
MODELS = (names.ALP, names.AALP)


def draw(data: Path, out: Path) -> list[Path]:
    """Write aalp-table4."""
    rows = []
    for panel in shared.panels(data, "sets", wanted=MODELS, needed=MODELS):
        summary = panel.json("sets")
        paper = shared.papers()["aalp"]["table4"].get(panel.folder.name.partition("-")[0], ["–", "–"])
        row = {"Data set": panel.title}
        for model, value in zip(panel.models, paper, strict=True):
            entry = shared.entry(summary, model)
            of = entry["sets"]["consistent"]
            row[f"{names.label(model)} %"] = f"{shared.percent(of['share'])} ({shared.percents(of['share_ci'])})"
            row[f"paper, {names.label(model)} %"] = str(value)
        found = between(summary["pairs"], "aalp", "alp", set="consistent")
        assert found is not None
        rows.append(row | {"difference": shared.signed(*found[:3]), "images": f"{entry['n']:,}"})
    caption = (
        "Share of images that are right when clean and when attacked with PGD, % (95 % interval), and AALP's less"
        " ALP's in points, paired by image"
    )
    return shared.save_table(pd.DataFrame(rows), out, "aalp-table4", caption=caption)


if __name__ == "__main__":
    shared.alone(draw)
