"""How AALP's claims about the course of training are judged: one run per method, so at most a tendency.

Only epochs that were trained wholly at the full radius of the attack count. While eps grows, every method changes.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from figures import compare, names, precondition
from figures.compare import Difference
from figures.finding import Finding, Summary, cards, part
from figures.shared import Panel
from figures.verdicts import POINT


def full_radius(panel: Panel, model: str, epochs: Sequence[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[str]]:
    """The saved epochs trained at full eps, and why the claim cannot be tested; all epochs if that is unknown."""
    card = cards(panel).get(model, [{}])[0]
    share, total = card.get("eps warmup"), card.get("epochs")
    if share is None or total is None:
        return list(epochs), ["its checkpoint does not say over which share of the epochs eps grew"]
    later = [each for each in epochs if each["epoch"] - 1 >= share * total]
    if len(later) < 2:
        return list(epochs), [f"fewer than two saved epochs of {names.label(model)} at full eps"]
    return later, []


def rising_loss(panel: Panel, summary: Summary) -> list[Finding]:
    """Claim: over ALP training the ALP loss rises for the inconsistent and falls for the consistent set."""
    if len(summary["epochs"]["epochs"]) < 2:
        return []
    epochs, missing = full_radius(panel, "alp", summary["epochs"]["epochs"])
    missing = [*missing, *precondition.attack_differs(summary["attack"], panel.folder.name, "aalp", steps=True)]
    first, *_, last = epochs
    parts = []
    for kind, (before, after), words in (
        ("inconsistent", (first, last), "rises by"), ("consistent", (last, first), "falls by"),
    ):  # fmt: skip
        a, b = (each["sets"][kind] for each in (after, before))
        known = None not in (a["alp"], b["alp"])
        answer = compare.apart(a["alp"], a["alp_ci"], b["alp"], b["alp_ci"]) if known else None
        parts.append(part(f"{kind} set {words}", ("", answer), seeds=1, scale=1, digits=3, point=None, missing=missing))
    of = " and ".join(f"{first['sets'][kind]['n']:,} {kind}" for kind in ("inconsistent", "consistent"))
    return [Finding(parts, f"ALP loss, epochs {first['epoch']} and {last['epoch']}; {of} images, one run")]


def fewer_over_training(panel: Panel, summary: Summary) -> list[Finding]:
    """Claim: high-contribution features become fewer over AALP training. Control: they fall more than with ALP."""
    runs = {run["name"]: run["epochs"] for run in summary["runs"]}
    if not all(len(runs.get(name, [])) > 1 for name in ("alp", "aalp")):
        return []
    key = "participation_ratio"
    falls: dict[str, Difference | None] = {}
    missing, words = [], []
    for name in ("aalp", "alp"):
        epochs, why = full_radius(panel, name, runs[name])
        first, *_, last = epochs
        missing += [each for each in why if each not in missing]
        falls[name] = compare.apart(first[key], first[f"{key}_ci"], last[key], last[f"{key}_ci"])
        words.append(f"{names.label(name)} {first[key]:.1f} at epoch {first['epoch']}, {last[key]:.1f} at epoch"
                     f" {last['epoch']}")  # fmt: skip
    features = runs["aalp"][0]["features"]
    a, b = falls["aalp"], falls["alp"]
    control = compare.apart(a.value, a[1:3], b.value, b[1:3]) if a and b else None
    parts = [
        part(each, ("", answer), seeds=1, scale=1, digits=1, point=POINT * features, missing=missing)
        for each, answer in (("AALP falls by", a), ("and by more than ALP:", control))
    ]
    numbers = f"participation ratio of C over {features} features: {'; '.join(words)}; one run each"
    counts = _high(panel)
    return [Finding(parts, numbers + (f". Not judged: {counts}" if counts else ""))]


def _high(panel: Panel) -> str:
    """Features with C above twice the run's own median, at the first and the last saved epoch."""
    table = panel.table()
    words = []
    for run, rows in table.groupby("run", sort=False):
        ends = (rows.loc[rows["epoch"] == epoch, "C"] for epoch in (rows["epoch"].min(), rows["epoch"].max()))
        counts = [int((contribution > 2 * contribution.median()).sum()) for contribution in ends]
        words.append(f"{names.label(str(run))} {counts[0]} and {counts[1]}")
    return f"features with C above twice the own median, first and last epoch: {', '.join(words)}"


def convergence(panel: Panel, summary: Summary) -> list[Finding]:
    """Claim: AALP converges faster than ALP: more accurate under attack on average over the first half of training."""
    runs = {run["name"]: run["epochs"] for run in summary["runs"]}
    if not {"alp", "aalp"} <= runs.keys():
        return []
    column = "robust_accuracy"
    epochs, missing = full_radius(panel, "aalp", runs["aalp"])
    alp = {each["epoch"]: each for each in runs["alp"]}
    half = max(each["epoch"] for each in runs["aalp"]) / 2
    early = [each for each in epochs if each["epoch"] <= half and each["epoch"] in alp]
    if not early:
        missing = [*missing, "no saved epoch of the first half at full eps"]
    pairs = [
        compare.apart(
            each[column], each[f"{column}_ci"], alp[each["epoch"]][column], alp[each["epoch"]][f"{column}_ci"]
        )
        for each in early
    ]
    known = [pair for pair in pairs if pair]
    # All epochs are measured on the same images. Their errors may be correlated, so average the ends, too.
    mean = Difference(*(float(end) for end in np.mean([pair[:3] for pair in known], axis=0))) if known else None
    listed = ", ".join(str(each["epoch"]) for each in early)
    each = part("AALP − ALP, points:", ("", mean), seeds=1, digits=1, missing=missing)
    return [Finding([each], f"accuracy under PGD, mean of epochs {listed or '–'}; one run each")]
