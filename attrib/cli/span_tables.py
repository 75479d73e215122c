"""The tables of ``attrib span``: its summary in words and numbers, for the terminal and for a paper."""

from typing import TYPE_CHECKING, Any

from attrib.cli.texts import (
    attack_words,
    count,
    interval,
    interval_words,
    number,
    p_value,
    p_words,
    percent,
    points,
    seeds_column,
)

if TYPE_CHECKING:
    import pandas as pd


def model_table(summary: dict[str, Any], *, plain: bool = False) -> "pd.DataFrame":
    """The table for people; ``plain`` leaves out what a paper's column has no room for."""
    import pandas as pd

    rows = []
    for entry in summary["models"]:
        kinds = [("clean", entry)]
        if "attacked" in entry:
            kinds.append((summary["attack"]["name"], entry["attacked"]))
        for kind, found in kinds:
            row = {"model": entry["name"], **seeds_column(entry, summary["models"])}
            if summary["attack"]:
                row["images"] = kind
            row |= {
                "n": f"{found['n']:,}",
                "accuracy %": percent(found["accuracy"]),
                "ASC %": percent(found["asc"]),
                "95 % CI": interval(found["asc_ci"], percent),
                "ASC % correct": percent(found["asc_correct"]),
            }
            if not plain:
                if entry["grid"]:
                    row[f"on {entry['grid']} grid %"] = percent(found["coverage_on_grid"])
                row |= {"curve area": f"{found['curve_area']:.4f}", "empty": count(found["empty"])}
                if summary["attack"]:
                    row["IoU with clean"] = percent(found.get("iou_with_clean"))
                if "pointing" in found:
                    row |= {
                        "in object %": percent(found.get("inside")),
                        "object covered %": percent(found.get("object_covered")),
                        "pointing %": percent(found["pointing"]),
                    }
            rows.append(row)
    return pd.DataFrame(rows).fillna("–")


def pair_table(summary: dict[str, Any]) -> "pd.DataFrame":
    import pandas as pd

    rows = []
    for pair in summary["pairs"]:
        row = {"pair": f"{pair['a']} − {pair['b']}"}
        if summary["attack"]:
            row["images"] = pair["images"]
        row |= {
            "difference (points)": points(pair["difference"]),
            "95 % CI": interval(pair["ci"], points),
            "p": p_value(pair["p"]),
            "span IoU": number(pair["iou"], ".3f"),
        }
        rows.append(row)
    return pd.DataFrame(rows)


def pair_caption(summary: dict[str, Any]) -> str:
    return p_words(summary["models"], "two-sided permutation test, paired by image")


def caption(summary: dict[str, Any]) -> str:
    images = summary["models"][0]["n"]
    said = (
        f"{summary['map']}, threshold {summary['threshold']}, {images:,} {summary['split']} images of {summary['data']}"
        f", class explained: {summary['target']}; {interval_words(summary['models'])}"
    )
    return f"{said}; {attack_words(summary['attack'])}" if summary["attack"] else said
