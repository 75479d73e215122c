"""What ``attrib robust`` prints, writes for a paper and draws, from its summary."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrib.cli import common, texts

if TYPE_CHECKING:
    import pandas as pd


def title_of(attack: str) -> str:
    """The attack as papers write it."""
    special = {"clean": "clean", "worst": "worst", "autoattack": "AutoAttack"}
    return special.get(attack) or attack.upper()


def print_all(summary: dict[str, Any]) -> None:
    """Every table for people, on stdout."""
    common.print_table(accuracy_table(summary), title="Accuracy under attack (%)", caption=caption(summary))
    if "sweep" in summary["models"][0]:
        common.print_table(
            sweep_table(summary), title="Accuracy by radius (%)", caption="the first table: the largest radius"
        )
    if summary["pairs"]:
        common.print_table(
            pair_table(summary), title="Paired differences",
            caption=texts.p_words(summary["models"], "exact paired test (McNemar)"),
        )  # fmt: skip
    if "gap" in summary["models"][0]:
        common.print_table(
            gap_table(summary), title="Robust generalisation gap: training less test accuracy (points)",
            caption=f"{summary['models'][0]['gap']['n_train']:,} training images that every model was trained on (of a"
            " checkpoint of python -m train, without those held out for choosing the epoch; of others, any)",
        )  # fmt: skip


def accuracy_table(summary: dict[str, Any]) -> "pd.DataFrame":
    """Attacks in rows, so that several models fit side by side, each with its intervals."""
    import pandas as pd

    models = summary["models"]
    columns, rows = ["attack"], []
    for entry in models:
        columns += [entry["name"], "95 % CI"]
    for attack in models[0]["accuracies"]:
        row = [title_of(attack)]
        for entry in models:
            row += [
                texts.percent(entry["accuracies"][attack]),
                texts.interval(entry["intervals"][attack], texts.percent),
            ]
        rows.append(row)
    if texts.several_seeds(models):
        rows.append(
            ["seeds", *(text for entry in models for text in (*texts.seeds_column(entry, models).values(), ""))]
        )
    return pd.DataFrame(rows, columns=columns)


def sweep_table(summary: dict[str, Any]) -> "pd.DataFrame":
    """Model and radius in rows, attacks in columns."""
    import pandas as pd

    rows = []
    for entry in summary["models"]:
        for point in entry["sweep"]:
            row = {"model": entry["name"], **texts.seeds_column(entry, summary["models"])}
            row |= {"eps": f"{point['eps']:.4g}", "step": f"{point['step_size']:.4g}"}
            rows.append(row | {title_of(attack): texts.percent(value) for attack, value in point["accuracies"].items()})
    return pd.DataFrame(rows)


def pair_table(summary: dict[str, Any]) -> "pd.DataFrame":
    """One row per pair and attack."""
    import pandas as pd

    rows = [
        {
            "pair": f"{pair['a']} − {pair['b']}",
            "attack": title_of(pair["attack"]),
            "difference (points)": texts.points(pair["difference"]),
            "95 % CI": texts.interval(pair["ci"], texts.points),
            **texts.p_columns(pair),
        }
        for pair in summary["pairs"]
    ]
    return pd.DataFrame(rows)


def gap_table(summary: dict[str, Any]) -> "pd.DataFrame":
    """One row per model and attack."""
    import pandas as pd

    rows = []
    for entry in summary["models"]:
        for attack, difference in entry["gap"]["difference"].items():
            rows.append(
                {
                    "model": entry["name"],
                    "attack": title_of(attack),
                    "train %": texts.percent(entry["gap"]["train"][attack]),
                    "test %": texts.percent(entry["accuracies"][attack]),
                    "gap": texts.points(difference),
                    "95 % CI": texts.interval(entry["gap"]["intervals"][attack], texts.points),
                }
            )
    return pd.DataFrame(rows)


def paper_table(summary: dict[str, Any]) -> "pd.DataFrame":
    """AALP's Table 2: a row per model (and radius of a sweep), a column per attack, percentages."""
    import pandas as pd

    rows = []
    for entry in summary["models"]:
        for point in entry.get("sweep", [entry]):
            row = {"Data set": summary["data"], "Method": entry["name"], **texts.seeds_column(entry, summary["models"])}
            if "sweep" in entry:
                row["Radius"] = f"{point['eps']:.4g}"
            for attack, value in point["accuracies"].items():
                title = title_of(attack).replace("-", "")
                row[title[0].upper() + title[1:]] = f"{100 * value:.2f}%"
            rows.append(row)
    return pd.DataFrame(rows)


def caption(summary: dict[str, Any]) -> str:
    """Everything that the numbers rest on."""
    said = (
        f"{texts.images_words(summary, summary['models'][0]['n'])}; L-infinity, eps"
        f" {summary['eps']:.4g}, step {summary['step_size']:.4g}; attacks in {summary['precision']}, judged in fp32"
    )
    if summary["restarts"] > 1:
        said += f"; worst of {summary['restarts']} random starts"
    said += "; broken is what any step breaks" if summary["worst"] else "; the last step counts"
    longest = max(summary["steps"])
    said += f"; worst: right under PGD-{longest} and CW-{longest}, image by image"
    for entry in summary["models"]:
        if len(entry["attacked"]) > 1:
            said += (
                f"; {entry['name']} is gated: the worst, image by image, of attacks on {', '.join(entry['attacked'])}"
            )
    if summary["autoattack"]:
        used = summary["autoattack"]["parts"]
        said += f"; AutoAttack standard ({', '.join(used)})"
        if len(used) < 4:
            said += ", without apgd-t, which needs four classes"
    return f"{said}; {texts.interval_words(summary['models'], 'Wilson')}"


def paper_caption(summary: dict[str, Any]) -> str:
    """As :func:`caption`, and how wide the intervals are, which the table has no room for."""
    points = [point for entry in summary["models"] for point in entry.get("sweep", [entry])]
    widest = max(
        max(value - low, high - value)
        for point in points for value, (low, high) in zip(
            point["accuracies"].values(), point["intervals"].values(), strict=True
        )
    )  # fmt: skip
    said = f"Accuracy under attack: {caption(summary)}"
    return (
        said if widest != widest else f"{said}; no interval ends further than {100 * widest:.1f} points from its value."
    )


def draw(summary: dict[str, Any], out: Path) -> list[Path]:
    """The figure of the table, and the curves of a sweep; returns the files written."""
    import pandas as pd

    from attrib.plots import base
    from attrib.plots.robust import accuracies, eps_curves

    def rows(entry: dict[str, Any], point: dict[str, Any]) -> list[dict[str, Any]]:
        return [
            {
                "model": entry["name"], "attack": title_of(attack), "eps": point.get("eps", summary["eps"]),
                "accuracy": value, "low": point["intervals"][attack][0], "high": point["intervals"][attack][1],
            }
            for attack, value in point["accuracies"].items()
        ]  # fmt: skip

    models = summary["models"]
    dots = [
        {"model": entry["name"], "attack": title_of(attack), "accuracy": value}
        for entry in models for seed in entry.get("seeds", ()) for attack, value in seed["accuracies"].items()
    ]  # fmt: skip
    heading = f"{texts.data_words(summary)}, {models[0]['n']:,} images"
    bars = pd.DataFrame([row for entry in models for row in rows(entry, entry)])
    title = f"{heading}, eps {summary['eps']:.4g}"
    written = base.save(accuracies(bars, seeds=pd.DataFrame(dots), title=title), out / "robust")
    if "sweep" in models[0]:
        curves = pd.DataFrame([row for entry in models for point in entry["sweep"] for row in rows(entry, point)])
        longest = max(summary["steps"])
        shown = [f"PGD-{longest}", f"CW-{longest}", *(["AutoAttack"] if summary["autoattack"] else [])]
        written += base.save(eps_curves(curves, attacks=shown, title=heading), out / "robust-eps")
    return written
