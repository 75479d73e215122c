"""AALP, Table 2: accuracy of every method, clean and under FGSM, PGD and CW.

Under every row of ours its 95 % interval, then the paper's row where it has one. On MNIST ten steps of 0.01, as the
paper prints them, move a pixel by at most 0.1 of the 0.3 allowed, so PGD-10 is weak there.
"""

from pathlib import Path

import pandas as pd

from figures import names, shared

TASKS = ("robust",)


def draw(data: Path, out: Path) -> list[Path]:
    """Write aalp-table2."""
    rows, said, paths = [], [], set()
    printed = shared.papers()["aalp"]["table2"]
    for panel in shared.panels(data, "robust"):
        summary = panel.json("robust")
        more = ""
        of_paper = printed.get(panel.folder.name.partition("-")[0], {})
        for model in sorted(panel.models, key=names.order):
            entry = shared.entry(summary, model)
            if len(entry["attacked"]) > 1:
                paths.add(", ".join(entry["attacked"]))
            accuracies, intervals = dict(entry["accuracies"]), dict(entry["intervals"])
            if "autoattack" in shared.manifest(panel.folder):
                strongest = shared.entry(panel.json("autoattack"), model)
                accuracies["autoattack"] = strongest["accuracies"]["autoattack"]
                intervals["autoattack"] = strongest["intervals"]["autoattack"]
                more = f", AutoAttack on the first {strongest['n']:,}"
            columns = list(accuracies)
            first = {"Data set": panel.title, "Method": names.label(model)}
            blank = dict.fromkeys(first, "")
            rows.append({**first, "": "ours", **{c: shared.percent(accuracies[c], 1) for c in columns}})
            rows.append({**blank, "": "95 % interval", **{c: shared.percents(intervals[c], 1) for c in columns}})
            if paper := of_paper.get("raw" if model == "standard" else model):
                values = {c: f"{v:.2f}" for c, v in zip(printed["columns"], paper, strict=True)}
                rows.append({**blank, "": "paper", **{c: values.get(c, "–") for c in columns}})
        said.append(
            f"{panel.title}: {entry['n']:,} images, eps {summary['eps']:.4g}, step {summary['step_size']:.4g}{more}"
        )
    table = pd.DataFrame(rows).fillna("–")
    table.columns = pd.Index([*table.columns[:3], *map(names.attack, table.columns[3:])])
    caption = f"Accuracy, %. {'; '.join(said)}; no restarts, the last step counts"
    for attacked in sorted(paths):
        caption += f"; a gated model's is the worst, image by image, of the attacks on {attacked}"
        if "head 1" not in attacked:
            caption += " (heads: the mean of both; an upper bound, since attacks on each head by itself are stronger)"
    return shared.save_table(table, out, "aalp-table2", caption=caption)


if __name__ == "__main__":
    shared.alone(draw)
