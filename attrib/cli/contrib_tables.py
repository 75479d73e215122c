"""The tables of ``attrib contrib``: its summary in words and numbers, for the terminal and for a paper."""

from itertools import product
from typing import TYPE_CHECKING, Any

from attrib.cli import texts

if TYPE_CHECKING:
    import pandas as pd

QUANTITIES = {"contribution": "C", "relevance": "R", "scale_free": "C_scale_free"}
"""What is measured: its name in the summary, and its column in the CSVs."""
SHOWN = {"contribution": "C", "relevance": "R", "scale_free": "C/e"}
STATISTICS = {"mean": "1000 × mean", "gini": "Gini", "participation_ratio": "participation ratio", "high": "high"}
"""What is asked of its distribution over features, and how the tables call it."""


def model_table(summary: dict[str, Any]) -> "pd.DataFrame":
    """The table for people and papers: the models below one another in each statistic of each quantity."""
    import pandas as pd

    rows = []
    for quantity, statistic in product(QUANTITIES, STATISTICS):
        for entry in summary["models"]:
            kinds = {"clean": entry}
            if summary["attack"]:
                kinds[summary["attack"]["name"]] = entry["attacked"]
            for kind, measured in kinds.items():
                numbers = measured[quantity]
                row = {"of": SHOWN[quantity], "statistic": STATISTICS[statistic], "model": entry["name"]}
                row |= texts.seeds_column(entry, summary["models"])
                if summary["attack"]:
                    row["images"] = kind
                row |= {
                    "value": _number(statistic, numbers[statistic]),
                    "95 % CI": _interval(statistic, numbers[f"{statistic}_ci"]),
                    "correct": _number(statistic, numbers[f"{statistic}_correct"]),
                }
                rows.append(row)
    return pd.DataFrame(rows)


def pair_table(summary: dict[str, Any]) -> "pd.DataFrame":
    """The differences between models, a line per pair, quantity and statistic."""
    import pandas as pd

    rows = []
    for pair in summary["pairs"]:
        pair_of = f"{pair['a']} − {pair['b']}"
        row = {"of": SHOWN[pair["of"]], "statistic": STATISTICS[pair["statistic"]], "pair": pair_of}
        if summary["attack"]:
            row["images"] = pair["images"]
        row |= {
            "difference": _number(pair["statistic"], pair["difference"], signed=True),
            "95 % CI": _interval(pair["statistic"], pair["ci"], signed=True),
            **texts.p_columns(pair),
        }
        rows.append(row)
    return pd.DataFrame(rows)


def _number(statistic: str, value: float, *, signed: bool = False) -> str:
    digits = {"mean": ".4g", "gini": ".3f", "participation_ratio": ".1f", "high": ".4g"}[statistic]
    return texts.number(value, f"{'+' if signed else ''}{digits}", scale=1000 if statistic == "mean" else 1)


def _interval(statistic: str, ends: list[float], *, signed: bool = False) -> str:
    return texts.interval(ends, lambda end: _number(statistic, end, signed=signed))


def caption(summary: dict[str, Any]) -> str:
    """What the columns are, and of how many images."""
    said = (
        "C: mean absolute gradient of the loss before the last layer; R: times the activation; C/e: C with the size of "
        f"p − onehot(y) divided out; high: features above {summary['multiple']:g} × the model's median; "
        f"{texts.images_words(summary, summary['models'][0]['n'])}; correct: over those classified correctly; "
        f"{texts.interval_words(summary['models'], 'basic bootstrap')}"
    )
    return f"{said}; {texts.attack_words(summary['attack'])}" if summary["attack"] else said
