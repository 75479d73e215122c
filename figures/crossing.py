"""The two papers crossed: spans of AALP's models, contributions of AGAIN's.

AGAIN says that robust models should use more of the image, AALP that they use fewer features.
"""

from collections.abc import Sequence
from math import atanh, isnan, nan, sqrt, tanh
from typing import Any

import pandas as pd
from scipy.stats import norm, spearmanr

from figures import names
from figures.shared import Missing, Panel, Table, entry, over, percent, signed, with_ends

TASKS = ("span", "contrib", "robust")
BROKEN = 0.1
"""Robust models have a higher accuracy under attack than this: chance with ten classes."""
FEWEST = 5
"""Smallest number of robust models for a correlation."""
INSIDE = " *"
"""Mark of a coverage within the range of its floor."""
ASC, USED = "ASC %", "features used (PR of C / D) %"


def crossing(panels: Sequence[Panel]) -> Table:
    """A row per model, and one of correlations if there are enough robust models."""
    rows, entries = [], []
    for panel in panels:
        if not panel.done.keys() >= set(TASKS):
            continue
        of_place = measured(panel)
        entries += panel.json("span")["models"]
        rows += [
            {
                "Data set": panel.title, "Model": names.label(each["name"]),
                ASC: with_ends(each["asc"], each["asc_ci"]),
                "its floor %": each["floor"] + INSIDE * each["inside"],
                "empty maps %": percent(each["empty"], 1),
                USED: with_ends(each["used"], each["used_ci"], 1),
                "clean %": percent(each["clean"], 1),
                f"{names.attack(each['attack'])} %": percent(each["robust"], 1),
            }
            for each in of_place
        ]  # fmt: skip
        robust = [each for each in of_place if each["robust"] > BROKEN]
        if len(robust) >= FEWEST:
            words = f"rank correlation with robust accuracy, {len(robust)} robust models"
            cells = {
                words: signed(rho, *(() if isnan(low) else (low, high)), scale=1)
                for words, (rho, low, high) in zip((ASC, USED), correlations(robust).values(), strict=False)
            }
            rows.append({"Data set": panel.title, "Model": words, **cells})
    if not rows:
        raise Missing(
            "no span, contrib and robust results of the same folder; python -m figures.run --ckpts DIR makes them"
        )
    caption = (
        "Share of the image that every model uses (ASC: Grad-CAM above its mean), and share of the features before the"
        " last layer (participation ratio of C over their number), on clean test images, beside its accuracy."
        f" 95 % intervals are over {over(entries)}. An estimate may lie at the end of its interval, since intervals of"
        " PR are corrected for bias. Floor: ASC of the same network (AGAIN's gate form has another) with random"
        f" weights, mean and range of three draws.{INSIDE}: ASC is within that range, so that random weights cover as"
        " much. Empty maps count as covering nothing. A model with one seed is one file, not a method. Rank"
        " correlations (Spearman): over the models with more than 10 % accuracy under attack (chance), with 95 %"
        " intervals as if these models were independent, which variants of one method are not"
    )
    return Table(pd.DataFrame(rows).fillna(""), caption)


def measured(panel: Panel) -> list[dict[str, Any]]:
    """Of every model the coverage, the share of features used, and accuracy: clean and under the longest PGD."""
    span, contrib, robust = (panel.json(task) for task in TASKS)
    rows = []
    for name in sorted(panel.models, key=names.order):
        accuracies = entry(robust, name)["accuracies"]
        attack = [column for column in accuracies if column.startswith("pgd-")][-1]
        concentration, image = entry(contrib, name), entry(span, name)
        of, count = concentration["contribution"], concentration["features"]
        floor, ends = image["asc_floor"], image["asc_floor_range"]
        rows.append(
            {
                "name": name, "asc": image["asc"], "asc_ci": image["asc_ci"],
                "floor": percent(floor) if ends is None else with_ends(floor, ends),
                "inside": ends is not None and ends[0] <= image["asc"] <= ends[1],
                "empty": image["empty"] / image["n"],
                "used": of["participation_ratio"] / count,
                "used_ci": [end / count if end is not None else None for end in of["participation_ratio_ci"]],
                "clean": accuracies["clean"], "robust": accuracies[attack], "attack": attack,
            }
        )  # fmt: skip
    return rows


def correlations(measured: list[dict[str, Any]]) -> dict[str, tuple[float, float, float]]:
    """Spearman's rank correlation of coverage and of the share of features with robust accuracy, over M >= 4 models.

    Each with its 95 % interval by Fisher's transform with the variance (1 + rho^2 / 2) / (M - 3) (Bonett & Wright
    2000), NaN if models are in the same or the opposite order. Empty if all models are equally robust.
    """
    robust = [each["robust"] for each in measured]
    if min(robust) == max(robust):
        return {}
    by_quantity = {}
    for key in ("asc", "used"):
        rho = float(spearmanr([each[key] for each in measured], robust).statistic)
        half = norm.ppf(0.975) * sqrt((1 + rho**2 / 2) / (len(measured) - 3))
        perfect = abs(rho) > 1 - 1e-9
        ends = (nan, nan) if perfect else (tanh(atanh(rho) - half), tanh(atanh(rho) + half))
        by_quantity[key] = (rho, *ends)
    return by_quantity
