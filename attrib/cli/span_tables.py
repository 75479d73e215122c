"""The tables of ``attrib span``: its summary in words and numbers, for the terminal and for a paper."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd


def model_table(summary: dict[str, Any], *, plain: bool = False) -> "pd.DataFrame":
    """The table for people; ``plain`` leaves out what a paper's column has no room for."""
    import pandas as pd

    def percent(value: float | None) -> str:
        return "–" if value is None or value != value else f"{100 * value:.2f}"

    rows = []
    for entry in summary["models"]:
        kinds = [("clean", entry)]
        if "attacked" in entry:
            kinds.append((summary["attack"]["name"], entry["attacked"]))
        for kind, found in kinds:
            low, high = found["asc_ci"]
            row = {"model": entry["name"]}
            if summary["attack"]:
                row["images"] = kind
            row |= {
                "n": f"{found['n']:,}",
                "accuracy %": percent(found["accuracy"]),
                "ASC %": percent(found["asc"]),
                "95 % CI": f"{percent(low)}–{percent(high)}",
                "ASC % correct": percent(found["asc_correct"]),
            }
            if not plain:
                if entry["grid"]:
                    row[f"on {entry['grid']} grid %"] = percent(found["coverage_on_grid"])
                row |= {"curve area": f"{found['curve_area']:.4f}", "empty": str(found["empty"])}
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
        low, high = pair["ci"]
        row = {"pair": f"{pair['a']} − {pair['b']}"}
        if summary["attack"]:
            row["images"] = pair["images"]
        p = pair["p"]
        row |= {
            "difference (points)": f"{100 * pair['difference']:+.2f}",
            "95 % CI": f"{100 * low:+.2f} … {100 * high:+.2f}",
            "p": "–" if p != p else f"{p:.4f}" if p >= 0.001 else "< 0.001",
            "span IoU": f"{pair['iou']:.3f}",
        }
        rows.append(row)
    return pd.DataFrame(rows)


def caption(summary: dict[str, Any]) -> str:
    count = summary["models"][0]["n"]
    said = (
        f"{summary['map']}, threshold {summary['threshold']}, {count:,} {summary['split']} images of {summary['data']}"
        f", class explained: {summary['target']}; 95 % bootstrap intervals over images"
    )
    if attack := summary["attack"]:
        said += f"; {attack['name']} eps {attack['eps']:.4g}, step {attack['step_size']:.4g}, {attack['steps']} steps"
    return said
