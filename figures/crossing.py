"""The two papers crossed: spans of AALP's models, contributions of AGAIN's. A table of our own.

AGAIN says that robust models should use more of the image, AALP that they use fewer features.
"""

from math import atanh, isnan, nan, sqrt, tanh
from pathlib import Path
from typing import Any

import pandas as pd
from scipy.stats import norm, spearmanr

from figures import names, shared

TASKS = ("span", "contrib", "robust")
BROKEN = 0.1
"""Accuracy under attack at or below which a model is no robust one: chance, with ten classes."""
FEWEST = 5
"""Robust models for a correlation."""


def draw(data: Path, out: Path) -> list[Path]:
    """Write crossing."""
    rows, entries = [], []
    for panel in shared.panels(data, "robust"):
        if not {"span", "contrib"} <= shared.manifest(panel.folder).keys():
            continue
        of_place = measured(panel)
        entries += panel.json("span")["models"]
        rows += [
            {
                "Data set": panel.title, "Model": names.label(each["name"]),
                "ASC %": f"{shared.percent(each['asc'])} ({shared.percents(each['asc_ci'])})",
                "its floor %": shared.percent(each["floor"]),
                "features used (PR of C / D) %":
                    f"{shared.percent(each['used'], 1)} ({shared.percents(each['used_ci'], 1)})",
                "clean %": shared.percent(each["clean"], 1),
                f"{names.attack(each['attack'])} %": shared.percent(each["robust"], 1),
            }
            for each in of_place
        ]  # fmt: skip
        words = {"asc": "ASC %", "used": "features used (PR of C / D) %"}
        robust = [each for each in of_place if each["robust"] > BROKEN]
        if len(robust) >= FEWEST:
            row = {
                "Data set": panel.title,
                "Model": f"rank correlation with robust accuracy, {len(robust)} robust models",
            }
            rows.append(row | {words[key]: _written(*rho) for key, rho in correlations(robust).items()})
    if not rows:
        raise shared.Missing(
            f"no span, contrib and robust results of the same folder in {data};"
            " python -m figures.run --ckpts DIR makes them"
        )
    caption = (
        "How much of the image (ASC: Grad-CAM above its mean) and how many of the features before the last layer"
        " (participation ratio of C as a share of their number) every model uses, on clean test images, beside its"
        f" accuracy; 95 % intervals over {shared.over(entries)}; the floor of ASC is that of the same network with"
        " random weights; a model with one seed is one file, not a method. Rank correlations (Spearman) are over the"
        " models that attacks leave above chance (10 %), with 95 % intervals over these models"
    )
    return shared.save_table(pd.DataFrame(rows).fillna(""), out, "crossing", caption=caption)


def _written(rho: float, low: float, high: float) -> str:
    return f"{rho:+.2f}".replace("-", "−") if isnan(low) else shared.signed(rho, low, high, scale=1)


def measured(panel: shared.Panel) -> list[dict[str, Any]]:
    """Per model its coverage, the share of features used, and accuracy clean and under the longest PGD."""
    span, contrib, robust = (panel.json(task) for task in TASKS)
    found = []
    for name in sorted(panel.models, key=names.order):
        accuracies = shared.entry(robust, name)["accuracies"]
        attack = [column for column in accuracies if column.startswith("pgd-")][-1]
        concentration, image = shared.entry(contrib, name), shared.entry(span, name)
        of, count = concentration["contribution"], concentration["features"]
        found.append(
            {
                "name": name, "asc": image["asc"], "asc_ci": image["asc_ci"],
                "floor": image.get("asc_floor"),
                "used": of["participation_ratio"] / count,
                "used_ci": [end / count if end is not None else None for end in of["participation_ratio_ci"]],
                "clean": accuracies["clean"], "robust": accuracies[attack], "attack": attack,
            }
        )  # fmt: skip
    return found


def correlations(measured: list[dict[str, Any]]) -> dict[str, tuple[float, float, float]]:
    """Spearman's rank correlation of coverage and of the share of features with robust accuracy, over M >= 4 models.

    Each with its 95 % interval by Fisher's transform with the variance (1 + rho^2 / 2) / (M - 3) (Bonett & Wright
    2000), NaN where models are in the same or the opposite order. Empty where all models are equally robust.
    """
    robust = [each["robust"] for each in measured]
    if min(robust) == max(robust):
        return {}
    found = {}
    for key in ("asc", "used"):
        rho = float(spearmanr([each[key] for each in measured], robust).statistic)
        half = norm.ppf(0.975) * sqrt((1 + rho**2 / 2) / (len(measured) - 3))
        perfect = abs(rho) > 1 - 1e-9
        ends = (nan, nan) if perfect else (tanh(atanh(rho) - half), tanh(atanh(rho) + half))
        found[key] = (rho, *ends)
    return found


if __name__ == "__main__":
    shared.alone(draw)
