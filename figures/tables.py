"""The papers' tables, with our numbers beside the paper's, and two tables of our own."""

from collections.abc import Sequence

import pandas as pd

from figures import asc_rules, names
from figures.compare import between
from figures.shared import Panel, Table, entry, over, papers, percent, percents, signed, with_ends

PRINTED = {"raw": "standard", "standard": "standard", "pgd-at": "pgd-at", "again": "again"}
"""From checkpoints to keys of AGAIN's Table 1."""
SETS = {"probability_clean": "p clean %", "probability_adversarial": "p adv %", "ce_sum": "CE", "alp": "ALP loss"}
GUIDED = ("clean", "pgd-10", "cw-10")


def again_table1(panels: Sequence[Panel]) -> Table:
    """AGAIN's Table 1."""
    rows, entries = [], []
    for panel in panels:
        for each in panel.entries():
            entries.append(each)
            paper = papers()["again"]["table1"].get(PRINTED.get(each["name"], ""))
            rows.append(
                {
                    "Data set": panel.title, "Training method": names.label(each["name"]),
                    "Average ASC %": percent(each["asc"]), "95 % CI": percents(each["asc_ci"]),
                    "floor %": percent(each.get("asc_floor")),
                    "its range": percents(each.get("asc_floor_range") or ()),
                    "correct": percent(each["asc_correct"]),
                    "empty %": percent(each["empty"] / each["n"]), "images": f"{each['n']:,}",
                    "paper %": f"{paper:.2f}" if paper else "–",
                }
            )  # fmt: skip
    caption = (
        "Average attribution span coverage: share of the pixels where Grad-CAM of the true class exceeds the map's"
        " mean, clean test images; floor: the same network with random weights (mean and range of three, 200 images);"
        " correct: over the images classified correctly; empty: maps without a"
        f" positive value, which count as covering nothing; 95 % intervals over {over(entries)};"
        " paper: ResNet-18 on CIFAR-10, threshold not printed"
    )
    return Table(pd.DataFrame(rows), caption)


def again_table2(panels: Sequence[Panel]) -> Table:
    """AGAIN's Table 2."""
    rows = []
    for panel in panels:
        for each in panel.entries():
            paper = papers()["again"]["table2"].get(each["name"])
            rows.append(
                {
                    "Data set": panel.title, "Training method": names.label(each["name"]),
                    **{str(number): str(count) for number, count in enumerate(each["valid"])},
                    "mean": f"{each['valid_mean']:.1f}", "of": str(each["features"]),
                    "%": percent(each["valid_share"], 1), "paper's mean, of 512": f"{paper}" if paper else "–",
                }
            )  # fmt: skip
    caption = "Values of the last layer's weight matrix above its mean, per class (numbered) and on average"
    return Table(pd.DataFrame(rows).fillna("–"), caption)


def rules(panels: Sequence[Panel]) -> Table:
    """Every map and threshold rule by its distance to AGAIN's Table 1."""
    rows = []
    for panel in panels:
        of_place = []
        for task in asc_rules.rules(panel):
            summary = panel.json(task)
            values = [percent(entry(summary, model)["asc"]) for model in panel.models]
            of_place.append(
                {
                    "Data set": panel.title, "map": summary["map"], "rule": summary["threshold"],
                    **dict(zip(("standard", "PGD-AT", "AGAIN"), values, strict=True)),
                    "distance": f"{asc_rules.distance(summary, panel.models):.2f}",
                    "order": asc_rules.order(summary, panel.models),
                    "images": f"{summary['models'][0]['n']:,}", "models": ", ".join(panel.models),
                }
            )  # fmt: skip
        rows += sorted(of_place, key=lambda row: float(row["distance"]))
    caption = (
        "Average attribution span coverage, %, under every map and threshold rule, clean test images, by distance to"
        " the paper's 54.86, 51.80 and 53.54 (ResNet-18 on CIFAR-10); order: that of"
        " these estimates (in the paper standard > AGAIN > PGD-AT); the column models names the checkpoints behind"
        " standard, PGD-AT and AGAIN"
    )
    return Table(pd.DataFrame(rows), caption)


def aalp_table1(panels: Sequence[Panel]) -> Table:
    """AALP's Table 1: three rows per set: ours, our intervals, the paper's."""
    rows, entries = [], []
    for panel in panels:
        alp = entry(panel.json(), "alp")
        entries.append(alp)
        printed = papers()["aalp"]["table1"].get(panel.data, {})
        for kind in ("consistent", "inconsistent"):
            of = alp["sets"][kind]
            ours = {words: _number(column, of[column]) for column, words in SETS.items()}
            ends = {words: "–".join(_number(column, end) for end in of[f"{column}_ci"])
                    for column, words in SETS.items()}  # fmt: skip
            blank = {"Data set": "", "Set": ""}
            rows += [
                {"Data set": panel.title, "Set": kind, "": f"ours, {of['n']:,} images", **ours,
                 "ALP %": percent(of["alp_share_of_total"], 1)},
                {**blank, "": "95 % interval", **ends, "ALP %": ""},
            ]  # fmt: skip
            if kind in printed:
                values = dict(zip(SETS.values(), map(str, printed[kind]), strict=True))
                rows.append({**blank, "": "paper", **values, "ALP %": "–"})
    caption = (
        "ALP model. p: mean probability of the true class; CE: cross-entropy of the clean plus that of the adversarial"
        " image, nats (the paper does not define its classification loss); ALP loss: squared distance of the logits,"
        f" and its share of the set's total loss; 95 % intervals over {over(entries)}"
    )
    return Table(pd.DataFrame(rows), caption)


def _number(column: str, value: float | None) -> str:
    """Percent for probabilities, four digits after the point for losses, as in the paper."""
    return percent(value) if column.startswith("probability") or value is None else f"{value:.4f}"


def aalp_table2(panels: Sequence[Panel]) -> Table:
    """AALP's Table 2: per model our row, our intervals and, if it exists, the paper's row."""
    rows, notes, paths = [], [], set()
    printed = papers()["aalp"]["table2"]
    for panel in panels:
        summary, more = panel.json(), ""
        for each in sorted(panel.entries(), key=lambda each: names.order(each["name"])):
            if len(each["attacked"]) > 1:
                paths.add(", ".join(each["attacked"]))
            values = {column: (value, each["intervals"][column]) for column, value in each["accuracies"].items()}
            if "autoattack" in panel.done:
                strongest = entry(panel.json("autoattack"), each["name"])
                values["autoattack"] = strongest["accuracies"]["autoattack"], strongest["intervals"]["autoattack"]
                more = f", AutoAttack on the first {strongest['n']:,}"
            blank = {"Data set": "", "Method": ""}
            rows += [
                {"Data set": panel.title, "Method": names.label(each["name"]), "": "ours",
                 **{column: percent(value, 1) for column, (value, _) in values.items()}},
                {**blank, "": "95 % interval", **{column: percents(ends, 1) for column, (_, ends) in values.items()}},
            ]  # fmt: skip
            if paper := printed.get(panel.data, {}).get("raw" if each["name"] == "standard" else each["name"]):
                theirs = {column: f"{value:.2f}" for column, value in zip(printed["columns"], paper, strict=True)}
                rows.append({**blank, "": "paper", **{column: theirs.get(column, "–") for column in values}})
        notes.append(
            f"{panel.title}: {each['n']:,} images, eps {summary['eps']:.4g}, step {summary['step_size']:.4g}{more}"
        )
    table = pd.DataFrame(rows).fillna("–")
    table.columns = pd.Index([*table.columns[:3], *map(names.attack, table.columns[3:])])
    caption = f"Accuracy, %. {'; '.join(notes)}; no restarts; the last step counts"
    for attacked in sorted(paths):
        caption += f"; for a gated model: the worst, image by image, of the attacks on {attacked}"
    return Table(table, caption)


def aalp_table3(panels: Sequence[Panel]) -> Table:
    """AALP's Table 3: without and with Guided Dropout, and the difference."""
    printed, rows = papers()["aalp"]["table3"]["svhn"], []
    for panel in panels:
        summary = panel.json()
        for each in summary["models"]:
            row = {"Data set": panel.title, "Method": names.label(each["name"]), "images": f"{each['n']:,}"}
            for column, paper in zip(GUIDED, printed[each["name"]], strict=True):
                row[names.attack(column)] = with_ends(each["accuracies"][column], each["intervals"][column], 1)
                row[f"paper, {names.attack(column)}"] = f"{paper:.2f}"
            rows.append(row)
        without, guided = (model["name"] for model in summary["models"])
        answers = {names.attack(column): between(summary["pairs"], guided, without, attack=column) for column in GUIDED}
        differences = {column: signed(*each[:3], digits=1) for column, each in answers.items() if each}
        rows.append({"Data set": panel.title, "Method": "difference", "images": "", **differences})
    caption = (
        "Accuracy, % (95 % interval), and the difference that Guided Dropout makes, in points, paired by image;"
        " paper: ResNet-9 on SVHN"
    )
    return Table(pd.DataFrame(rows).fillna(""), caption)


def aalp_table4(panels: Sequence[Panel]) -> Table:
    """AALP's Table 4."""
    rows = []
    for panel in panels:
        paper = papers()["aalp"]["table4"].get(panel.data, ["–", "–"])
        row = {"Data set": panel.title}
        for each, value in zip(panel.entries(), paper, strict=True):
            of = each["sets"]["consistent"]
            row[f"{names.label(each['name'])} %"] = with_ends(of["share"], of["share_ci"])
            row[f"paper, {names.label(each['name'])} %"] = str(value)
        difference = between(panel.json()["pairs"], "aalp", "alp", set="consistent")
        assert difference is not None
        rows.append(row | {"difference": signed(*difference[:3]), "images": f"{each['n']:,}"})
    caption = (
        "Share of images that are right both when clean and under PGD, % (95 % interval); difference: AALP minus ALP,"
        " in points, paired by image"
    )
    return Table(pd.DataFrame(rows), caption)
