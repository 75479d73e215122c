"""The tables of ``attrib span``: its summary in words and numbers, for the terminal and for a paper."""

from typing import TYPE_CHECKING, Any

from attrib.cli import texts
from attrib.report_words import LEVEL, stands_without_empty

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
            row = {"model": entry["name"], **texts.seeds_column(entry, summary["models"])}
            if summary["attack"]:
                row["images"] = kind
            row |= {
                "n": f"{found['n']:,}",
                "accuracy %": texts.percent(found["accuracy"]),
                "ASC %": texts.percent(found["asc"]),
                "95 % CI": texts.interval(found["asc_ci"], texts.percent),
                **_floor_column(entry, summary["models"], plain=plain),
                "ASC % correct": texts.percent(found["asc_correct"]),
            }
            if not plain:
                if entry["grid"]:
                    row[f"on {entry['grid']} grid %"] = texts.percent(found["coverage_on_grid"])
                row |= {"curve area": f"{found['curve_area']:.4f}", "empty": texts.count(found["empty"])}
                if summary["attack"]:
                    row["IoU with clean %"] = texts.percent(found.get("iou_with_clean"))
                if "pointing" in found:
                    row |= {
                        "in object %": texts.percent(found.get("inside")),
                        "object covered %": texts.percent(found.get("object_covered")),
                        "pointing %": texts.percent(found["pointing"]),
                    }
            rows.append(row)
    return pd.DataFrame(rows).fillna("–")


def _floor_column(entry: dict[str, Any], models: list[dict[str, Any]], *, plain: bool) -> dict[str, str]:
    """The column "floor %", where any of the models has a floor; the mean alone for a paper's column."""
    if all(other.get("asc_floor") is None for other in models):
        return {}
    if plain or entry["asc_floor"] is None:
        return {"floor %": texts.percent(entry["asc_floor"])}
    return {"floor %": texts.with_interval(entry["asc_floor"], entry["asc_floor_range"], texts.percent)}


def pair_table(summary: dict[str, Any]) -> "pd.DataFrame":
    import pandas as pd

    rows = []
    for pair in summary["pairs"]:
        row = {"pair": f"{pair['a']} − {pair['b']}"}
        if summary["attack"]:
            row["images"] = pair["images"]
        row |= {
            "difference (points)": texts.points(pair["difference"]),
            "95 % CI": texts.interval(pair["ci"], texts.points),
            **texts.p_columns(pair),
            "span IoU %": texts.percent(pair["iou"]),
        }
        rows.append(row)
    return pd.DataFrame(rows)


def resting_on_empty(pair: dict[str, Any]) -> str:
    """What to say of a difference that is there with the empty maps only; nothing where that is not so."""
    rest = pair["without_empty"]
    if not pair["p_holm"] < LEVEL or stands_without_empty(pair):
        return ""
    return (
        f"{pair['a']} − {pair['b']}, {pair['images']} images: the difference in coverage rests on empty maps, which"
        f" cover 0; on the {rest['n']:,} images where neither model's is empty it is"
        f" {texts.with_interval(rest['difference'], rest['ci'], texts.points)} points, p (Holm)"
        f" {texts.p_value(rest['p_holm'])}"
    )


def pair_caption(summary: dict[str, Any]) -> str:
    return texts.p_words(summary["models"], "two-sided permutation test, paired by image")


def caption(summary: dict[str, Any]) -> str:
    images = summary["models"][0]["n"]
    said = (
        f"{summary['map']}, threshold {summary['threshold']}, {texts.images_words(summary, images)},"
        f" class explained: {summary['target']}; {texts.interval_words(summary['models'])}"
    )
    if any(entry.get("asc_floor") is not None for entry in summary["models"]):
        floor = summary["floor"]
        said += (
            f"; floor: ASC of the same network with random weights, mean (range) of {floor['networks']}"
            f" re-initialisations, first {floor['images']:,} clean images"
        )
    return f"{said}; {texts.attack_words(summary['attack'])}" if summary["attack"] else said
