"""The tables of ``attrib sets``, for people and for a paper, from its summary (what ``--json`` prints)."""

from typing import TYPE_CHECKING, Any

from attrib.cli import texts
from attrib.cli.common import print_table
from attrib.cli.texts import attack_words, interval, interval_words, p_words, points, seeds_column

if TYPE_CHECKING:
    import pandas as pd

QUANTITIES = {
    "share": "share of the images, %",
    "probability_clean": "true-class probability, clean, %",
    "probability_adversarial": "true-class probability, adversarial, %",
    "ce_clean": "cross-entropy, clean",
    "ce_adversarial": "cross-entropy, adversarial",
    "ce_sum": "cross-entropy, sum of both",
    "alp": "ALP loss (squared logits)",
    "alp_share_of_total": "ALP loss in the set's total loss, %",
    "alp_share": "the same, mean over images, %",
}
"""The quantities of a set, and what the table for people calls them."""
PAPER = {
    "share": "share %", "probability_clean": "p clean %", "probability_adversarial": "p adv %",
    "ce_clean": "CE clean", "ce_adversarial": "CE adv", "alp": "ALP loss", "alp_share_of_total": "ALP %",
}  # fmt: skip
"""The columns of the paper's table; the sum of the two CE beside it would make it wider than a page."""
PERCENT = {"share", "probability_clean", "probability_adversarial", "alp_share", "alp_share_of_total"}


def print_all(summary: dict[str, Any]) -> None:
    """Table 1 of every model, Table 4 with the paired differences, and the epochs where a run was given."""
    for entry in summary["models"]:
        title = (
            f"{entry['name']}: {entry['n']:,} images, {100 * entry['accuracy']:.2f} % right,"
            f" {100 * entry['adversarial_accuracy']:.2f} % of the adversarial ones"
        )
        print_table(_model_table(entry), title=title, caption=f"{caption(summary)}; losses in nats")
    if summary["pairs"]:
        print_table(share_table(summary), title="Shares of the sets", caption=caption(summary))
        print_table(
            pair_table(summary), title="Paired differences",
            caption=p_words(summary["models"], "exact paired test (McNemar)"),
        )  # fmt: skip
    if epochs := summary["epochs"]:
        print_table(
            _epoch_table(epochs), title=f"Mean ALP loss over the epochs of {epochs['run']}",
            caption=f"the sets are those of epoch {epochs['fixed_at']}; {caption(summary)}",
        )  # fmt: skip


def caption(summary: dict[str, Any]) -> str:
    """On what, under which attack, with which intervals."""
    images = texts.images_words(summary, summary["models"][0]["n"])
    intervals = f"{interval_words(summary['models'])} (of shares: Wilson)"
    return f"{images}, {attack_words(summary['attack'])}; {intervals}"


def paper_caption(summary: dict[str, Any]) -> str:
    """The caption, and what the columns of :func:`paper_table` are."""
    return (
        f"{caption(summary)}, below each mean. p: probability of the true class; CE: cross-entropy in nats; ALP loss:"
        " squared distance of the logits, and its share of the set's total loss (CE clean + CE adv + ALP)"
    )


def paper_table(summary: dict[str, Any]) -> "pd.DataFrame":
    """Table 1 as the paper has it, a row per set, and below each the row of its intervals."""
    import pandas as pd

    rows = []
    for entry in summary["models"]:
        for kind, found in entry["sets"].items():
            row = {
                "model": entry["name"],
                **seeds_column(entry, summary["models"]),
                "set": _plain(kind),
                "n": texts.count(found["n"]),
            }
            below = dict.fromkeys(row, "")
            for quantity, header in PAPER.items():
                row[header] = _number(quantity, found[quantity])
                below[header] = _interval(quantity, found[f"{quantity}_ci"])
            rows += [row, below]
    return pd.DataFrame(rows)


def share_table(summary: dict[str, Any]) -> "pd.DataFrame":
    """Table 4: the sets' shares, a row per model."""
    import pandas as pd

    rows = []
    for entry in summary["models"]:
        row = {"model": entry["name"], **seeds_column(entry, summary["models"]), "n": f"{entry['n']:,}"}
        for kind, found in entry["sets"].items():
            row[f"{_plain(kind)} %"] = _with_interval("share", found)
        rows.append(row)
    return pd.DataFrame(rows)


def _model_table(entry: dict[str, Any]) -> "pd.DataFrame":
    """Table 1 turned: a column per set leaves room for the intervals."""
    import pandas as pd

    counts = {"": "images"} | {_plain(kind): texts.count(found["n"]) for kind, found in entry["sets"].items()}
    rows = [
        {"": words} | {_plain(kind): _with_interval(quantity, found) for kind, found in entry["sets"].items()}
        for quantity, words in QUANTITIES.items()
    ]
    return pd.DataFrame([counts, *rows])


def pair_table(summary: dict[str, Any]) -> "pd.DataFrame":
    import pandas as pd

    rows = [
        {
            "pair": f"{pair['a']} − {pair['b']}", "set": _plain(pair["set"]),
            "difference (points)": points(pair["difference"]), "95 % CI": interval(pair["ci"], points),
            **texts.p_columns(pair),
        }
        for pair in summary["pairs"]
    ]  # fmt: skip
    return pd.DataFrame(rows)


def _epoch_table(epochs: dict[str, Any]) -> "pd.DataFrame":
    import pandas as pd

    rows = []
    for entry in epochs["epochs"]:
        row = {"epoch": str(entry["epoch"])}
        for kind, found in entry["sets"].items():
            row[f"{_plain(kind)} (n = {found['n']:,})"] = _with_interval("alp", found)
        rows.append(row)
    return pd.DataFrame(rows)


def _plain(kind: str) -> str:
    return kind.replace("-", " ")


def _with_interval(quantity: str, found: dict[str, Any]) -> str:
    return texts.with_interval(found[quantity], found[f"{quantity}_ci"], lambda value: _number(quantity, value))


def _interval(quantity: str, ends: list[float]) -> str:
    """Nothing where there is no interval (fewer than two images)."""
    return "" if ends[0] != ends[0] else interval(ends, lambda value: _number(quantity, value))


def _number(quantity: str, value: float) -> str:
    """Percent with two decimals; losses, which span orders of magnitude, with three digits."""
    if quantity in PERCENT:
        return texts.percent(value)
    return texts.number(value, ",.0f") if value >= 1000 else texts.number(value, "#.3g").rstrip(".")
