"""How AGAIN's claims are judged from the results of one data set and architecture.

Every judge takes a panel with all models of the folder and the JSON of the claim's analysis, and returns its findings:
none if models are missing.
"""

from typing import Any

from figures import asc_rules, compare, curves, names, shared
from figures.compare import Difference
from figures.finding import WORST, Finding, Summary, accuracy, basis, part, seeds
from figures.shared import Panel, entry, percent, pick
from figures.verdicts import POINT, Part


def asc_order(panel: Panel, summary: Summary) -> list[Finding]:
    """Claim: ASC of standard training > AGAIN > PGD-AT, with and without empty maps."""
    standard = pick(panel.models, names.STANDARD)
    if standard is None:
        return []
    findings = []
    for form, baseline in shared.forms(panel.models):
        models = [standard, baseline, form]
        parts = [_asc(summary, standard, form), _asc(summary, form, baseline)]
        of_models = [entry(summary, model) for model in models]
        values = ", ".join(f"{names.label(each['name'])} {percent(each['asc'])}" for each in of_models)
        empty = ", ".join(f"{names.label(each['name'])} {percent(each['empty'] / each['n'])}" for each in of_models)
        orders = asc_rules.orders(panel, models)
        paper = asc_rules.order_of([standard, form, baseline])
        numbers = (
            f"ASC, empty maps counted as 0: {values} %; empty maps: {empty} %; Grad-CAM, threshold mean;"
            f" {basis(summary, *models)}; the paper's order of the three values holds under"
            f" {orders.count(paper)} of {len(orders)} maps and rules, which give {len(set(orders))} orders"
        )
        findings.append(Finding(parts, numbers))
    return findings


def _asc(summary: Summary, a: str, b: str) -> Part:
    """ASC a - ASC b with and without empty maps, which must agree."""
    without = [
        {"a": pair["a"], "b": pair["b"], "images": pair["images"], **pair["without_empty"]}
        for pair in summary["pairs"] if "without_empty" in pair
    ]  # fmt: skip
    answers = [
        (words, compare.between(pairs, a, b, images="clean"))
        for words, pairs in (("with empty maps", summary["pairs"]), ("without", without))
    ]
    return part(f"{names.label(a)} − {names.label(b)}, points:", *answers, seeds=seeds(summary, a, b))


def asc_values(panel: Panel, summary: Summary) -> list[Finding]:
    """Claim: the three ASC values of Table 1, under the map and rule that were fixed before any result."""
    known = [model for role in asc_rules.MODELS if (model := pick(panel.models, role))]
    if len(known) < len(asc_rules.MODELS):
        return []
    printed = shared.papers()["again"]["table1"]
    parts = [
        part(
            f"{names.label(model)} {percent(entry(summary, model)['asc'])} %, printed {printed[key]:.2f} %:"
            " one point minus the distance", ("", _within_a_point(entry(summary, model), printed[key] / 100)),
            seeds=seeds(summary, model), point=None,
        )
        for model, key in zip(known, asc_rules.PAPER, strict=True)
    ]  # fmt: skip
    tasks = asc_rules.rules(panel._replace(models=known))
    best = min(tasks, key=lambda task: asc_rules.distance(panel.json(task), known))
    closest = panel.json(best)
    numbers = (
        f"Grad-CAM, threshold mean; {basis(summary, *known)}. Not judged, since it is the best of {len(tasks)} chosen"
        f" after the fact: {closest['map']}, {closest['threshold']} is"
        f" {asc_rules.distance(closest, known):.1f} points off on average"
    )
    return [Finding(parts, numbers)]


def _within_a_point(of_model: dict[str, Any], printed: float) -> Difference | None:
    """One point minus the distance of the ASC from the printed value: above 0 if it is within a point."""
    low, high = of_model["asc_ci"]
    if None in (low, high):
        return None
    ends = sorted((abs(low - printed), abs(high - printed)))
    nearest = 0.0 if low <= printed <= high else ends[0]
    files = len(of_model.get("seeds") or [0])
    return compare.reaching(
        POINT - abs(of_model["asc"] - printed), POINT - ends[1], POINT - nearest, degrees=files - 1
    )  # fmt: skip


def valid(panel: Panel, summary: Summary) -> list[Finding]:
    """Claim: more valid values with AGAIN. Classes are no replicates of a method: one seed has no interval."""
    findings = []
    for model, baseline in shared.forms(panel.models):
        a, b = (entry(summary, name) for name in (model, baseline))
        answer = compare.between(summary["pairs"], model, baseline)
        difference = "" if answer else f" {a['valid_mean'] - b['valid_mean']:+.1f}".replace("-", "−")
        words = f"{names.label(model)} − {names.label(baseline)}, valid values a class:{difference}"
        numbers = (
            f"{names.label(model)} {a['valid_mean']:.1f}, {names.label(baseline)} {b['valid_mean']:.1f} of"
            f" {a['features']}; symmetric weights have 50 %, {a['features'] / 2:g}; the paper: 308 and 272.3 of 512;"
            f" {basis(summary, model, baseline)}"
        )
        point = POINT * a["features"]
        each = part(words, ("", answer), seeds=seeds(summary, model, baseline), scale=1, digits=1, point=point)
        findings.append(Finding([each], numbers))
    return findings


def best_alpha(_: Panel, summary: Summary) -> list[Finding]:
    """Claim: alpha 0.6 is best: better than every other alpha of the sweep."""
    best = shared.papers()["again"]["figure4"]["best"]
    at = {curves.alpha_of(each["name"]): each["name"] for each in summary["models"]}
    if best not in at:
        return []
    parts = [accuracy(summary, at[best], name) for alpha, name in sorted(at.items()) if alpha != best]
    return [Finding(parts, basis(summary, *at.values()))]


def gap(_: Panel, summary: Summary) -> list[Finding]:
    """Claim: a smaller robust generalisation gap (training minus test accuracy) than PGD-AT."""
    findings = []
    for model, base in shared.forms([each["name"] for each in summary["models"]]):
        a, b = (entry(summary, name)["gap"] for name in (base, model))
        answer = compare.apart(
            a["difference"][WORST], a["intervals"][WORST], b["difference"][WORST], b["intervals"][WORST],
            degrees=seeds(summary, base, model) - 1,
        )  # fmt: skip
        gaps = ", ".join(f"{names.label(m)} {percent(g['difference'][WORST])}" for m, g in ((base, a), (model, b)))
        numbers = f"gap under {names.attack(WORST)}: {gaps} points; {basis(summary, base, model)}"
        words = f"gap of {names.label(base)} − gap of {names.label(model)}, points:"
        each = part(words, ("", answer), seeds=seeds(summary, base, model))
        findings.append(Finding([each], numbers))
    return findings


def smoothing(panel: Panel, summary: Summary) -> list[Finding]:
    """Claim of ours: the logit form beats PGD-AT with the label smoothing to which it reduces.

    The control must have all that AGAIN has. This holds without ramp and fusion. No control has feature fusion, so
    AGAIN's logit form with fusion is shown, but not tested.
    """
    pairs = {
        ("again-logit-plain", "pgd-at-smooth"): [],
        ("again-logit", "pgd-at-smooth-ramp"): ["the control lacks feature fusion"],
        ("again-logit", "pgd-at-smooth"): ["the control lacks ramp and feature fusion"],
    }  # fmt: skip
    return [
        Finding([accuracy(summary, a, b, missing=missing)], basis(summary, a, b))
        for (a, b), missing in pairs.items() if {a, b} <= set(panel.models)
    ]  # fmt: skip
