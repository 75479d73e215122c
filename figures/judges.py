"""How each of the papers' claims is judged from the results of one data set and architecture.

Every judge takes a panel with all models of the folder and returns its findings, none where the results are not there.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from math import sqrt
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import t as student

from figures import asc_rules, curves, names, shared
from figures.compare import OPEN, REFUTED, REPRODUCED, Difference, apart, between, verdict
from figures.shared import Panel, entry, percent, pick, signed


class Finding(NamedTuple):
    """What one folder of results says of a claim."""

    verdict: str
    numbers: str


def here(place: Path, task: str) -> dict[str, Any] | None:
    """A task's JSON, where it is there."""
    return shared.read_json(place / f"{task}.json") if task in shared.manifest(place) else None


def _who(summary: dict[str, Any], *models: str) -> str:
    """On how many images and seeds a comparison rests."""
    return f"{entry(summary, models[0])['n']:,} images, {_seeds(summary, *models)}"


def _seeds(summary: dict[str, Any], *models: str) -> str:
    """``1 seed each``, or ``1 to 3 seeds``."""
    counts = [len(entry(summary, model).get("seeds") or [0]) for model in models]
    low, high = min(counts), max(counts)
    return f"{low} to {high} seeds" if low < high else f"{low} seed{'s' if low > 1 else ''} each"


def _listed(found: Iterable[tuple[str, Difference | None]], *, scale: float = 100, digits: int = 2) -> str:
    return "; ".join(
        f"{words} {signed(*each, scale=scale, digits=digits) if each else 'unknown'}".strip() for words, each in found
    )


def _empty(summary: dict[str, Any], models: list[str]) -> str:
    """Whose maps are empty more than once in a hundred: their coverage, 0, says that there is no map."""
    found = {model: entry(summary, model) for model in models}
    shares = {model: of["empty"] / of["n"] for model, of in found.items()}
    said = [f"{percent(share)} % of {names.label(model)}'s" for model, share in shares.items() if share > 0.01]
    return f"; of the maps {' and '.join(said)} are empty and count as covering nothing" if said else ""


def asc_order(panel: Panel) -> list[Finding]:
    findings = []
    for form, baseline in shared.forms(panel.models):
        models = [pick(panel.models, names.STANDARD), baseline, form]
        summary = here(panel.folder, "span")
        if summary is None or not all(models):
            continue
        known = [model for model in models if model]
        said, (first, second) = asc_rules.order(summary, known)
        tasks = asc_rules.rules(panel._replace(models=known))
        held = [task for task in tasks if asc_rules.order(panel.json(task), known)[0] == REPRODUCED]
        values = ", ".join(f"{names.label(m)} {percent(entry(summary, m)['asc'])}" for m in known)
        label = names.label(known[2])
        numbers = _listed([(f"standard − {label}", first), (f"{label} − {names.label(known[1])}", second)])
        findings.append(
            Finding(
                said, f"{values} %; {numbers} points; Grad-CAM, threshold mean; {_who(summary, *known)}; the order"
                f" holds under {len(held)} of {len(tasks)} maps and rules{_empty(summary, known)}",
            )
        )  # fmt: skip
    return findings


def asc_values(panel: Panel) -> list[Finding]:
    models = [pick(panel.models, each) for each in asc_rules.MODELS]
    known = [model for model in models if model]
    tasks = asc_rules.rules(panel._replace(models=known)) if len(known) == 3 else []
    if not tasks:
        return []
    best = min(tasks, key=lambda task: asc_rules.distance(panel.json(task), known))
    summary = panel.json(best)
    values = ", ".join(f"{names.label(m)} {percent(entry(summary, m)['asc'])}" for m in known)
    off = asc_rules.distance(summary, known)
    numbers = f"closest: {summary['map']}, {summary['threshold']}: {values} %, {off:.1f} points off on average"
    if panel.folder.name != shared.papers()["again"]["place"]:
        return [Finding(OPEN, f"another data set or architecture than the paper's; {numbers}")]
    printed = shared.papers()["again"]["table1"]
    near = all(
        abs(100 * entry(summary, m)["asc"] - printed[key]) <= 1 for m, key in zip(known, asc_rules.PAPER, strict=True)
    )
    return [Finding(REPRODUCED if near else REFUTED, numbers)]


def valid(panel: Panel) -> list[Finding]:
    summary, findings = here(panel.folder, "fc"), []
    if summary is None:
        return []
    for model, adversarial in shared.forms(panel.models):
        a, b = (entry(summary, name) for name in (model, adversarial))
        difference = np.array(a["valid"], float) - np.array(b["valid"], float)
        half = float(student.ppf(0.975, len(difference) - 1) * difference.std(ddof=1) / sqrt(len(difference)))
        mean = float(difference.mean())
        found = Difference(mean, mean - half, mean + half)
        findings.append(
            Finding(
                verdict([found]), f"{names.label(model)} {a['valid_mean']:.1f}, {names.label(adversarial)}"
                f" {b['valid_mean']:.1f} of {a['features']}; {signed(*found, scale=1, digits=1)} a class, Student's"
                f" interval over the {len(difference)} classes; {_seeds(summary, model, adversarial)};"
                " the paper: 308 and 272.3 of 512",
            )
        )  # fmt: skip
    return findings


def contributions(statistic: str, words: str, scale: float) -> Callable[[Panel], list[Finding]]:
    def judge(panel: Panel) -> list[Finding]:
        summary = here(panel.folder, "contrib")
        models = [pick(panel.models, each) for each in (names.STANDARD, names.ADV, names.ALP, names.AALP)]
        known = [model for model in models if model]
        if summary is None or len(known) < 4:
            return []
        found = [
            (f"{names.label(a)} − {names.label(b)}",
             between(summary["pairs"], a, b, images="clean", of="contribution", statistic=statistic))
            for a, b in pairwise(known)
        ]  # fmt: skip
        values = ", ".join(
            f"{names.label(m)} {scale * entry(summary, m)['contribution'][statistic]:.3g}" for m in known
        )
        numbers = f"{words}: {values}; {_listed(found, scale=scale)}; {_who(summary, *known)}"
        return [Finding(verdict(each for _, each in found), numbers)]

    return judge


def _accuracies(summary: dict[str, Any], a: str, b: str, column: str) -> Difference | None:
    """Accuracy a − accuracy b under an attack: paired by image where the command compared the two."""
    first, second = entry(summary, a), entry(summary, b)
    return between(summary["pairs"], a, b, attack=column) or apart(
        first["accuracies"][column], first["intervals"][column],
        second["accuracies"][column], second["intervals"][column],
    )  # fmt: skip


def gains(*pairs: tuple[str, str], without: Sequence[str] = ("clean",)) -> Callable[[Panel], list[Finding]]:
    """pairs: models a and b of a − b, a finding for each; without: the columns in which the paper reports a loss."""

    def judge(panel: Panel) -> list[Finding]:
        summary = here(panel.folder, "robust")
        findings = []
        for a, b in pairs:
            if summary is None or not {a, b} <= set(panel.models):
                continue
            found = [
                (names.attack(column), _accuracies(summary, a, b, column))
                for column in entry(summary, a)["accuracies"] if column not in without
            ]  # fmt: skip
            numbers = f"{names.label(a)} − {names.label(b)}, points: {_listed(found, digits=1)}; {_who(summary, a, b)}"
            findings.append(Finding(verdict(each for _, each in found), numbers))
        return findings

    return judge


def consistent(panel: Panel) -> list[Finding]:
    summary = here(panel.folder, "sets")
    if summary is None:
        return []
    found = between(summary["pairs"], "aalp", "alp", set="consistent")
    shares = ", ".join(f"{names.label(m)} {percent(entry(summary, m)['sets']['consistent']['share'])} %"
                       for m in ("alp", "aalp"))  # fmt: skip
    return [Finding(verdict([found]), f"{shares}; {_listed([('difference', found)])}; {_who(summary, 'alp', 'aalp')}")]


def convergence(panel: Panel) -> list[Finding]:
    summary = here(panel.folder, "evolve")
    if summary is None or len(summary["runs"]) < 2:
        return []
    runs = {run["name"]: {each["epoch"]: each for each in run["epochs"]} for run in summary["runs"]}
    common = sorted(runs["alp"].keys() & runs["aalp"].keys())
    early = common[: max(1, len(common) // 2)]
    column = "robust_accuracy"
    found = {
        epoch: apart(*(part for name in ("aalp", "alp") for part in (
            runs[name][epoch][column], runs[name][epoch][f"{column}_ci"],
        )))
        for epoch in early
    }  # fmt: skip
    numbers = _listed([(f"epoch {epoch}", each) for epoch, each in found.items()])
    return [Finding(verdict(found.values()), f"accuracy under PGD, AALP − ALP, points: {numbers};"
                    f" {summary['n']:,} images, one run each")]  # fmt: skip


def best_alpha(panel: Panel) -> list[Finding]:
    findings = []
    for task in ("alpha-again", "alpha-again-logit"):
        summary = here(panel.folder, task)
        best = shared.papers()["again"]["figure4"]["best"]
        at = {curves.alpha_of(each["name"]): each["name"] for each in summary["models"]} if summary else {}
        if summary is None or best not in at:
            continue
        column = list(entry(summary, at[best])["accuracies"])[2]
        found = [
            (f"{best:g} − {alpha:g}", _accuracies(summary, at[best], name, column))
            for alpha, name in sorted(at.items()) if alpha != best
        ]  # fmt: skip
        numbers = f"{names.attack(column)}, points: {_listed(found)}; {_who(summary, *at.values())}"
        findings.append(Finding(verdict(each for _, each in found), numbers))
    return findings


def alpha_trade(panel: Panel) -> list[Finding]:
    summary = here(panel.folder, "alpha-aalp")
    if summary is None:
        return []
    low, *_, high = sorted(summary["models"], key=lambda each: curves.alpha_of(each["name"]))
    attack = list(low["accuracies"])[2]
    up = _accuracies(summary, high["name"], low["name"], attack)
    down = _accuracies(summary, low["name"], high["name"], "clean")
    words = f"alpha {curves.alpha_of(low['name']):g} to {curves.alpha_of(high['name']):g}"
    said = _listed([(f"{names.attack(attack)} gained", up), ("clean lost", down)])
    return [Finding(verdict([up, down]), f"{words}: {said} points; {low['n']:,} images")]


def rising_loss(panel: Panel) -> list[Finding]:
    summary = here(panel.folder, "sets-epochs")
    if summary is None or len(summary["epochs"]["epochs"]) < 2:
        return []
    first, *_, last = summary["epochs"]["epochs"]
    change = {
        kind: apart(last["sets"][kind]["alp"], last["sets"][kind]["alp_ci"], first["sets"][kind]["alp"],
                    first["sets"][kind]["alp_ci"])
        for kind in ("inconsistent", "consistent")
        if None not in (first["sets"][kind]["alp"], last["sets"][kind]["alp"])
    }  # fmt: skip
    if len(change) < 2:
        return []
    falls = change["consistent"].reversed if change["consistent"] else None
    of = " and ".join(f"{first['sets'][kind]['n']:,}" for kind in change)
    numbers = f"ALP loss, last less first epoch: {_listed(change.items(), scale=1, digits=3)}; {of} images, one run"
    return [Finding(verdict([change["inconsistent"], falls]), numbers)]


def fewer_over_training(panel: Panel) -> list[Finding]:
    summary = here(panel.folder, "evolve")
    run = next((run for run in summary["runs"] if run["name"] == "aalp"), None) if summary else None
    if summary is None or run is None or len(run["epochs"]) < 2:
        return []
    first, *_, last = run["epochs"]
    key = "participation_ratio"
    found = apart(first[key], first[f"{key}_ci"], last[key], last[f"{key}_ci"])
    return [Finding(verdict([found]), f"participation ratio of C over {first['features']} features, epoch"
                    f" {first['epoch']} less epoch {last['epoch']}: {_listed([('', found)], scale=1)};"
                    f" {summary['n']:,} images, one run")]  # fmt: skip


def nearer(panel: Panel) -> list[Finding]:
    summary = here(panel.folder, "sets")
    if summary is None:
        return []
    shift = panel.json("sets-shift")
    found = between(shift["pairs"], "alp", "aalp")
    values = ", ".join(f"{names.label(each['name'])} {each['shift']:.3f}" for each in shift["models"])
    return [Finding(verdict([found]), f"mean |p clean − p attacked|: {values}; ALP − AALP"
                    f" {_listed([('', found)], scale=1, digits=3)}; {shift['models'][0]['n']:,} images")]  # fmt: skip


def two_sets(panel: Panel) -> list[Finding]:
    summary = here(panel.folder, "sets")
    if summary is None:
        return []
    of = entry(summary, "alp")["sets"]
    good, bad = of["consistent"], of["inconsistent"]
    columns = {
        "p clean": ("probability_clean", 1), "p attacked": ("probability_adversarial", 1), "CE": ("ce_sum", -1),
        "ALP loss": ("alp", -1), "ALP share": ("alp_share", -1),
    }  # fmt: skip
    found = []
    for words, (column, sign) in columns.items():
        if None in (good[column], bad[column]):
            return []
        difference = apart(good[column], good[f"{column}_ci"], bad[column], bad[f"{column}_ci"])
        found.append((words, difference if sign > 0 or difference is None else difference.reversed))
    numbers = _listed(found, scale=1, digits=3)
    return [Finding(verdict(each for _, each in found), f"in the direction claimed: {numbers};"
                    f" {good['n']:,} consistent and {bad['n']:,} inconsistent images of ALP")]  # fmt: skip


def guided(panel: Panel) -> list[Finding]:
    findings = []
    for task, a, b in (("gd-madry", "adv-gd", "madry"), ("gd-alp", "aalp-gd", "alp")):
        summary = here(panel.folder, task)
        if summary is not None:
            found = [(names.attack(column), between(summary["pairs"], a, b, attack=column))
                     for column in ("pgd-10", "cw-10")]  # fmt: skip
            words = f"{names.label(a)} − {names.label(b)}"
            findings.append(Finding(verdict(each for _, each in found),
                                    f"{words}: {_listed(found, digits=1)} points; {_who(summary, a, b)}"))  # fmt: skip
    return findings


def gap(panel: Panel) -> list[Finding]:
    summary = here(panel.folder, "gap")
    if summary is None:
        return []
    found = []
    for model, base in shared.forms([each["name"] for each in summary["models"]]):
        a, b = (entry(summary, name)["gap"] for name in (base, model))
        column = "pgd-10"
        difference = apart(
            a["difference"][column], a["intervals"][column], b["difference"][column], b["intervals"][column]
        )
        gaps = ", ".join(f"{names.label(m)} {percent(g['difference'][column])}" for m, g in ((base, a), (model, b)))
        numbers = f"gap under PGD-10: {gaps} points; {_listed([('smaller by', difference)])}"
        found.append(Finding(verdict([difference]), f"{numbers}; {_who(summary, base, model)}"))
    return found


def weights(panel: Panel) -> list[Finding]:
    if not {"alp", "aalp-gd"} <= set(panel.models) or not {"fc", "contrib"} <= shared.manifest(panel.folder).keys():
        return []
    arrays, table = panel.arrays("fc"), panel.table("contrib")
    norms = {}
    for model in ("alp", "aalp-gd"):
        relevance = table.loc[table["model"] == model, "R"].to_numpy(float)
        norms[model] = arrays[f"norm {model}"][relevance >= np.median(relevance)]
    ends = {model: _student(values) for model, values in norms.items()}
    found = apart(*ends["alp"], *ends["aalp-gd"])
    values = ", ".join(f"{names.label(model)} {mean:.3f}" for model, (mean, _) in ends.items())
    numbers = f"{values}; {_listed([('smaller by', found)], scale=1, digits=3)}"
    return [
        Finding(
            verdict([found]), f"mean norm of W's columns over the features with R ≥ median: {numbers}, Student's"
            f" interval over {len(norms['alp'])} features; one seed each",
        )
    ]  # fmt: skip


def _student(values: Sequence[float]) -> tuple[float, tuple[float, float]]:
    mean = float(np.mean(values))
    half = float(student.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / sqrt(len(values)))
    return mean, (mean - half, mean + half)
