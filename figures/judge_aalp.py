"""How AALP's claims about features, sets and accuracy are judged from the results of one data set and architecture.

Every judge takes a panel with all models of the folder and the JSON of the claim's analysis, and returns its findings:
none if models are missing.
"""

from itertools import pairwise
from typing import Any

import numpy as np

from attrib import stats
from figures import compare, curves, names, precondition, shared
from figures.compare import Difference
from figures.finding import Finding, Judge, Summary, accuracy, basis, cards, part, seeds
from figures.shared import Panel, entry, percent, pick
from figures.verdicts import POINT, Part

LADDER = (names.STANDARD, names.ADV, names.ALP, names.AALP)
"""COM, ADV, ALP and AALP of Figures 1 and 7."""


def contributions(statistic: str, words: str, *, scale: float, share: bool) -> Judge:
    """Claim: contributions fall, COM > ADV > ALP > AALP, on clean and attacked images (the figures do not say which).

    statistic: of C; share: whether it counts features, so that one point is a hundredth of their number.
    """

    def judge(panel: Panel, summary: Summary) -> list[Finding]:
        known = [model for role in LADDER if (model := pick(panel.models, role))]
        if len(known) < len(LADDER):
            return []
        point = POINT * entry(summary, known[0])["features"] if share else None
        parts = [
            _contribution(panel, summary, a, b, images=images, statistic=statistic, scale=scale, point=point)
            for images in ("clean", "pgd") for a, b in pairwise(known)
        ]  # fmt: skip
        values = ", ".join(
            f"{names.label(m)} {scale * entry(summary, m)['contribution'][statistic]:.4g}" for m in known
        )
        numbers = f"{words}, clean images: {values}; {basis(summary, *known)}"
        if share:
            counts = ", ".join(f"{names.label(m)} {entry(summary, m)['contribution']['high']:.3g}" for m in known)
            numbers += f". Not judged: features with C above twice the model's own median: {counts}"
        return [Finding(parts, numbers)]

    return judge


def _contribution(
    panel: Panel, summary: Summary, a: str, b: str, *, images: str, statistic: str, scale: float,
    point: float | None,
) -> Part:  # fmt: skip
    missing = [] if images == "clean" else _section2(summary["attack"], panel)
    answer = compare.between(summary["pairs"], a, b, images=images, of="contribution", statistic=statistic)
    words = f"{names.label(a)} − {names.label(b)}, {'clean' if images == 'clean' else 'attacked'}:"
    return part(words, ("", answer), seeds=seeds(summary, a, b), scale=scale, point=point, missing=missing)


def _section2(attack: dict[str, Any], panel: Panel) -> list[str]:
    """How an attack differs from that of AALP's section 2."""
    return precondition.attack_differs(attack, panel.folder.name, "aalp", steps=True)


def two_sets(panel: Panel, summary: Summary) -> list[Finding]:
    """Claim: ALP's consistent images have higher confidence, lower losses and a lower share of ALP loss."""
    of = entry(summary, "alp")["sets"]
    good, bad = of["consistent"], of["inconsistent"]
    columns = {
        "p of clean images": ("probability_clean", 1, POINT),
        "p of attacked images": ("probability_adversarial", 1, POINT),
        "classification loss": ("ce_sum", -1, None), "ALP loss": ("alp", -1, None),
        "ALP share of the total loss": ("alp_share_of_total", -1, POINT),
    }  # fmt: skip
    files = seeds(summary, "alp")
    parts = []
    for words, (column, sign, point) in columns.items():
        answer = None
        if None not in (good[column], bad[column]):
            answer = compare.apart(
                good[column], good[f"{column}_ci"], bad[column], bad[f"{column}_ci"], degrees=files - 1
            )
        claimed = answer.reversed if answer is not None and sign < 0 else answer
        words = f"{words}, {'higher' if sign > 0 else 'lower'} by"
        parts.append(
            part(words, ("", claimed), seeds=files, scale=1, digits=3, point=point,
                 missing=_section2(summary["attack"], panel))
        )  # fmt: skip
    numbers = f"{good['n']:,.0f} consistent and {bad['n']:,.0f} inconsistent images of ALP; {basis(summary, 'alp')}"
    return [Finding(parts, numbers)]


def gains(*pairs: tuple[str, str]) -> Judge:
    """Claim: the first model of each pair is more accurate under attack than the second."""

    def judge(panel: Panel, summary: Summary) -> list[Finding]:
        known = [(a, b) for a, b in pairs if {a, b} <= set(panel.models)]
        models = dict.fromkeys(model for pair in known for model in pair)
        return [Finding([accuracy(summary, a, b) for a, b in known], basis(summary, *models))] if known else []

    return judge


def alpha_trade(_: Panel, summary: Summary) -> list[Finding]:
    """Claim: a larger alpha improves the defence and costs clean accuracy: alpha 1, which the paper chose, and 0."""
    at = {curves.alpha_of(each["name"]): each["name"] for each in summary["models"]}
    chosen = shared.papers()["aalp"]["figure6"]["chosen"]
    if not {0, chosen} <= at.keys():
        return []
    low, high = at[0], at[chosen]
    return [Finding([accuracy(summary, high, low), accuracy(summary, low, high, "clean")], basis(summary, low, high))]


def consistent(panel: Panel, summary: Summary) -> list[Finding]:
    """Claim: the share of the consistent set is larger with AALP than with ALP."""
    answer = compare.between(summary["pairs"], "aalp", "alp", set="consistent")
    shares = ", ".join(f"{names.label(m)} {percent(entry(summary, m)['sets']['consistent']['share'])} %"
                       for m in ("alp", "aalp"))  # fmt: skip
    each = part("AALP − ALP, points:", ("", answer), seeds=seeds(summary, "alp", "aalp"),
                missing=_section2(summary["attack"], panel))  # fmt: skip
    return [Finding([each], f"{shares}; {basis(summary, 'alp', 'aalp')}")]


def nearer(panel: Panel, summary: Summary) -> list[Finding]:
    """Claim: AALP's points lie nearer to the line y = x: attacks move the true class's probability less."""
    shift = panel.json("sets-shift")
    answer = compare.between(shift["pairs"], "alp", "aalp")
    values = ", ".join(f"{names.label(each['name'])} {each['shift']:.3f}" for each in shift["models"])
    files = min(each.get("seeds", 1) for each in shift["models"])
    each = part("ALP − AALP", ("", answer), seeds=files, scale=1, digits=3,
                missing=_section2(summary["attack"], panel))  # fmt: skip
    images = shared.images(shift["models"][0]["n"])
    return [Finding([each], f"mean |p clean − p attacked|: {values}; {images}, {files} seed{'s'[: files - 1]} each")]


def weights(panel: Panel, _: Summary) -> list[Finding]:
    """Claim: Guided Dropout shrinks the weights of high-contribution features, through the L2 penalty.

    Features are no replicates of a method: one seed has no interval.
    """
    known = (panel.folder / "contrib-weights.json").exists()
    norms = {each["name"]: each["norms"] for each in panel.json("contrib-weights")["models"]} if known else {}
    if not {"alp", "aalp-gd"} <= norms.keys():
        return []
    a, b = (norms[model] for model in ("alp", "aalp-gd"))
    # One number per seed and no images: all "images" of a seed agree.
    paired = stats.paired(*(np.repeat(np.array(side)[:, None], 2, 1) for side in (a, b)))
    answer = Difference(*paired) if len(a) > 1 or len(b) > 1 else None
    decays = [card.get("weight decay") for model in ("alp", "aalp-gd") for card in cards(panel).get(model, [{}])]
    missing = [] if all(decays) else ["trained without weight decay, through which the paper explains the effect"]
    words = f"ALP − AALP-gd: {'' if answer else f'{paired.difference:+.3f}'.replace('-', '−')}".strip()
    each = part(words, ("", answer), seeds=min(len(a), len(b)), scale=1, digits=3, point=None, missing=missing)
    values = f"ALP {np.mean(a):.3f} ({len(a)} seeds), AALP-gd {np.mean(b):.3f} ({len(b)} seeds)"
    return [Finding([each], f"mean norm of W's columns over the features with R ≥ median: {values}")]
