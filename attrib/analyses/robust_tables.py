"""The tables and captions of ``attrib.analyses.robust.Robustness``, from its summary. No torch."""

from collections.abc import Mapping, Sequence
from typing import Any

from attrib import formatting as text

Entries = Sequence[Mapping[str, Any]]
"""The models of a summary."""


def title_of(attack: str) -> str:
    """The attack as papers write it."""
    special = {"clean": "clean", "worst": "worst", "autoattack": "AutoAttack"}
    return special.get(attack) or attack.upper()


def accuracy_rows(models: Entries) -> list[dict[str, str]]:
    """Attacks in rows, models in columns, each with its intervals."""
    rows = [
        {"attack": title_of(attack)}
        | {
            entry["name"]: text.with_interval(entry["accuracies"][attack], entry["intervals"][attack], text.percent)
            for entry in models
        }
        for attack in models[0]["accuracies"]
    ]
    if text.several_seeds(models):
        rows.append(
            {"attack": "seeds"} | {entry["name"]: text.seeds_column(entry, models)["seeds"] for entry in models}
        )
    return rows


def sweep_rows(models: Entries) -> list[dict[str, str]]:
    """Model and radius in rows, attacks in columns."""
    return [
        {
            "model": entry["name"], **text.seeds_column(entry, models), "eps": text.radius(point["eps"]),
            "step": text.radius(point["step_size"]),
            **{title_of(attack): text.percent(value) for attack, value in point["accuracies"].items()},
        }
        for entry in models for point in entry["sweep"]
    ]  # fmt: skip


def pair_rows(summary: Mapping[str, Any]) -> list[dict[str, str]]:
    """One row per pair and attack."""
    return [
        {
            "pair": f"{pair['a']} − {pair['b']}", "attack": title_of(pair["attack"]), **text.difference_columns(pair),
        }
        for pair in summary["pairs"]
    ]  # fmt: skip


def gap_rows(models: Entries) -> list[dict[str, str]]:
    """One row per model and attack."""
    return [
        {
            "model": entry["name"], "attack": title_of(attack), "train %": text.percent(entry["gap"]["train"][attack]),
            "test %": text.percent(entry["accuracies"][attack]), "gap": text.points(difference),
            "95 % CI": text.interval(entry["gap"]["intervals"][attack], text.points),
        }
        for entry in models for attack, difference in entry["gap"]["difference"].items()
    ]  # fmt: skip


def paper_rows(summary: Mapping[str, Any]) -> list[dict[str, str]]:
    """AALP's Table 2: a row per model (and radius of a sweep), a column per attack; below each its intervals."""
    rows = []
    for entry in summary["models"]:
        for point in entry.get("sweep", [entry]):
            row = {"model": entry["name"], **text.seeds_column(entry, summary["models"])}
            if "sweep" in entry:
                row["eps"] = text.radius(point["eps"])
            below = dict.fromkeys(row, "")
            for attack, value in point["accuracies"].items():
                row[f"{title_of(attack)} %"] = text.percent(value)
                below[f"{title_of(attack)} %"] = text.interval(point["intervals"][attack], text.percent)
            rows += [row, below]
    return rows


def title(summary: Mapping[str, Any]) -> str:
    """The title of the tables of accuracies; for unlabelled data it names predictions instead."""
    counted = "Predictions that do not change" if summary.get("unlabelled") else "Accuracy"
    return f"{counted} under attack (%), with 95 % intervals"


def caption(summary: Mapping[str, Any]) -> str:
    """The settings behind the numbers."""
    models, longest = summary["models"], max(summary["steps"])
    parts = [
        text.images_words(summary, models[0]["n"]),
        f"L-infinity, eps {text.radius(summary['eps'])}, step {text.radius(summary['step_size'])}",
        f"attacks in {summary['precision']}, judged in fp32",
    ]
    if summary["restarts"] > 1:
        parts.append(f"worst of {summary['restarts']} random starts")
    parts.append("broken is what any step breaks" if summary["worst"] else "the last step counts")
    parts.append(f"worst: right under PGD-{longest} and CW-{longest}, image by image")
    parts += [
        f"{entry['name']} is gated: the worst, image by image, of attacks on {', '.join(entry['attacked'])}"
        for entry in models if len(entry["attacked"]) > 1
    ]  # fmt: skip
    if summary["autoattack"]:
        used = summary["autoattack"]["parts"]
        without = ", without apgd-t, which needs four classes" if len(used) < 4 else ""
        parts.append(f"AutoAttack standard ({', '.join(used)}){without}")
    return "; ".join([*parts, text.interval_words(models, "Wilson")])


def plotted(entry: Mapping[str, Any], point: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row per attack for ``attrib.plot.accuracies``: of a model's entry, or of one point of its sweep."""
    return [
        {
            "model": entry["name"], "attack": title_of(attack), "eps": point.get("eps"), "accuracy": value,
            "low": point["intervals"][attack][0], "high": point["intervals"][attack][1],
        }
        for attack, value in point["accuracies"].items()
    ]  # fmt: skip
