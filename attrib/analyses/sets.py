"""Consistent and inconsistent sets (AALP, section 2.2, Tables 1 and 4, Figures 4 and 5).

Consistent: right on the clean and on the attacked image. Inconsistent: right on the clean image only. The other
images are wrong already when clean; they are reported too.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from attrib import formatting as text
from attrib import stats
from attrib.analyses.base import Analysis
from attrib.analyses.examples import display_images
from attrib.analyses.measured import CLEAN, Array, Context, Files, Findings, Measured
from attrib.analyses.options import Attack, option
from attrib.analyses.table import Table, differences
from attrib.lazy import Lazy

if TYPE_CHECKING:
    import pandas as pd
    import torch
    from matplotlib.figure import Figure

    from attrib import consistency, inference
    from attrib.analyses.result import Result
    from attrib.data import Batch
    from attrib.models.specs import Model
    from attrib.plots import sets as plots
else:
    consistency, inference = Lazy("attrib.consistency"), Lazy("attrib.inference")
    pd, plots, torch = Lazy("pandas"), Lazy("attrib.plots.sets"), Lazy("torch")

EXAMPLES = 4
"""Images per set in the figure of examples."""
COMPARED = ("consistent", "inconsistent")
"""The paper's two sets. Images in neither set are counted, but not compared and not followed over epochs."""
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
"""The quantities of a set, and their names in the printed table."""
PAPER = {
    "share": "share %", "probability_clean": "p clean %", "probability_adversarial": "p adv %",
    "ce_clean": "CE clean", "ce_adversarial": "CE adv", "alp": "ALP loss", "alp_share_of_total": "ALP %",
}  # fmt: skip
"""The columns of the paper's table. With the sum of both CE, it would be wider than a page."""
PERCENT = {"share", "probability_clean", "probability_adversarial", "alp_share", "alp_share_of_total"}


@dataclass(frozen=True, kw_only=True)
class Sets(Analysis):
    """Consistent and inconsistent sets of every model: their shares, confidences and losses (AALP, section 2.2).

    For the saved epochs of a run (a folder with epoch-*.pt), the ALP loss of both sets is measured at every epoch. The
    sets are those of the last epoch. If there are no other models, the last epoch is analysed as the model.
    """

    name: ClassVar[str] = "sets"
    keys: ClassVar[tuple[str, ...]] = ("model", "seed", "index")
    takes: ClassVar[tuple[str, ...]] = ("models", "runs")

    attack: Attack = option(Attack("pgd"), "The attack: fgsm, pgd or cw.")

    def looked_at(self, models: "Sequence[Model]") -> "Sequence[Model]":
        """The models; if there are only saved epochs, the last epoch of each run is added as a model."""
        if any(model.epoch is None for model in models):
            return models
        lasts = {model.name: model for model in models}
        return [*(replace(last, epoch=None) for last in lasts.values()), *models]

    def measure(self, model: "Model", batch: "Batch", context: Context) -> Measured:
        """The set of every image, with confidences and losses."""
        _, pairs, _ = self._attacked(model, batch, context)
        columns = pairs._asdict()
        membership = np.array(consistency.SETS)[columns.pop("membership").cpu().numpy()]
        return Measured({CLEAN: {"label": batch.label, "set": membership.tolist(), **columns}})

    def _attacked(
        self, model: "Model", batch: "Batch", context: Context
    ) -> "tuple[torch.Tensor, consistency.LogitPairs, torch.Tensor]":
        """The adversarial images, the measures of the logit pairs, and the logits (2,N,K), clean and adversarial."""
        adversarial = self.attack.images(
            model.opened_module, batch, seed=self.seed, precision=self.attack_precision(context.device)
        )
        images = (batch.image, adversarial)
        logits = torch.stack([inference.logits(model.opened_module, image) for image in images])
        return adversarial, consistency.logit_pairs(logits[0], logits[1], batch.label), logits

    def summarise(self, files: Files) -> dict[str, Any]:
        """Counts, shares and means of the sets."""
        pairs = []
        for rows in files.rows:
            names = (name for name in consistency.LogitPairs._fields if name != "membership")
            columns = {name: torch.tensor(rows[name].to_numpy()) for name in names}
            columns["membership"] = torch.tensor([consistency.SETS.index(name) for name in rows["set"]])
            pairs.append(consistency.LogitPairs(**columns))
        label = files["label"]
        return {
            "n": files.n,
            "accuracy": float((files["prediction"] == label).mean()),
            "adversarial_accuracy": float((files["prediction_adversarial"] == label).mean()),
            "sets": consistency.summary(*pairs, seed=self.seed),
        }

    def compare(self, a: Files, b: Files, findings: Findings) -> Iterator[dict[str, Any]]:
        """The difference of each set's share, paired by image."""
        for kind in COMPARED:
            in_a, in_b = (np.array([rows["set"] == kind for rows in files.rows]) for files in (a, b))
            yield {"set": kind, "quantity": f"share {kind}", "n": a.n, **stats.paired_shares(in_a, in_b).entry()}

    def about(self, findings: Findings, entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The attack, and the mean ALP loss of either set at every epoch."""
        runs = [self._run(findings, name) for name in findings.epochs]
        return {
            "seed": self.seed, "attack": self.attack_entry(findings.context),
            "precision": self.attack_precision(findings.context.device), "epochs": runs[0] if runs else None,
            **({"runs": runs} if len(runs) > 1 else {}),
        }  # fmt: skip

    def _run(self, findings: Findings, name: str) -> dict[str, Any]:
        history, epochs = _history(findings, name), [files.models[0] for files in findings.epochs[name]]
        entries = []
        for model in epochs:
            rows = history[history["epoch"] == model.epoch]
            sets = {}
            for kind in COMPARED:
                alp = rows.loc[rows["set"] == kind, "alp"].to_numpy(float)
                ends = stats.interval(alp, seed=self.seed)
                sets[kind] = {"n": len(alp), "alp": stats.mean(alp), "alp_ci": list(ends)}
            entries.append({"epoch": model.epoch, "checkpoint": model.path, "sets": sets})
        run = str(Path(epochs[-1].path).parent)
        return {"run": run, "fixed_at": epochs[-1].epoch, "epochs": entries}

    def frames(self, findings: Findings, summary: Mapping[str, Any]) -> "dict[str, pd.DataFrame]":
        """The rows of the models, and those of the epochs, in which an image's set is that at the last epoch."""
        models = [rows for files in findings.files.values() for rows in files.rows]
        frames = {"": pd.concat(models, ignore_index=True)}
        if findings.epochs:
            frames["epochs"] = pd.concat([_history(findings, name) for name in findings.epochs], ignore_index=True)
        return frames

    def arrays(self, findings: Findings, summary: Mapping[str, Any]) -> dict[str, dict[str, Array]]:
        """The figure of examples: for each model and set, the first images of each class.

        The attack runs again on these images, since all adversarial images would fill the memory.
        """
        data, device = findings.context.images, findings.context.device
        shape = len(findings.files), len(COMPARED), EXAMPLES
        height, width = data.shape[1:]
        arrays = {
            "model": np.array(list(findings.files)), "set": np.array(COMPARED), "index": np.full(shape, -1),
            "image": np.zeros((*shape, 2, height, width, 3), np.float32),
            "classes": np.full((*shape, 2), "", "U64"), "probability": np.zeros((*shape, 2, 2)),
        }  # fmt: skip
        for m, files in enumerate(findings.files.values()):
            with files.models[0].opened(device) as model:
                for s, kind in enumerate(COMPARED):
                    rows = files.rows[0]
                    order = _first_of_each_class(rows[rows["set"] == kind], EXAMPLES)
                    for batch in data.batches(EXAMPLES, order=torch.tensor(order, dtype=torch.int64), device=device):
                        place = m, s, slice(len(order))
                        for name, values in self._example(model, batch, findings.context).items():
                            arrays[name][place] = values
        return {"examples": arrays}

    def _example(self, model: "Model", batch: "Batch", context: Context) -> dict[str, Array]:
        """The images of a batch before and after the attack, with the probabilities of the two likeliest classes."""
        adversarial, _, logits = self._attacked(model, batch, context)
        wrong = logits[1].scatter(1, batch.label[:, None], -torch.inf).argmax(1)
        two = torch.stack([batch.label, wrong], 1)
        probability = logits.double().softmax(-1).gather(2, two.expand(2, -1, -1)).transpose(0, 1)
        return {
            "index": batch.index.cpu().numpy(),
            "image": np.stack([display_images(image).numpy() for image in (batch.image, adversarial)], 1),
            "classes": np.array(context.images.classes)[two.cpu().numpy()],
            "probability": probability.cpu().numpy(),
        }

    def tables(self, result: "Result") -> list[Table]:
        """Table 1 of every model, Table 4 with the paired differences, and the epochs, if there are any."""
        summary = result.summary
        tables = [
            Table(
                f"{entry['name']}: {entry['n']:,} images, {100 * entry['accuracy']:.2f} % right,"
                f" {100 * entry['adversarial_accuracy']:.2f} % of the adversarial ones",
                _model_rows(entry), f"{_caption(summary)}; losses in nats",
            ) for entry in summary["models"]
        ]  # fmt: skip
        if summary["pairs"]:
            tables.append(Table("Shares of the sets", _share_rows(summary), _caption(summary)))
            tables += differences(summary, _pair_rows(summary), "exact paired test (McNemar)")
        for run in _runs(summary):
            caption = f"the sets are those of epoch {run['fixed_at']}; {_caption(summary)}"
            tables.append(Table(f"Mean ALP loss over the epochs of {run['run']}", _epoch_rows(run), caption))
        return tables

    def papers(self, result: "Result") -> dict[str, Table]:
        """Tables 1 and 4."""
        summary = result.summary
        caption = (
            f"{_caption(summary)}, below each mean. p: probability of the true class; CE: cross-entropy in nats; ALP"
            " loss: squared distance of the logits, and its share of the set's total loss (CE clean + CE adv + ALP)"
        )
        losses = Table("Consistent and inconsistent sets: their confidence and losses", _paper_rows(summary), caption)
        return {"": losses, "shares": Table("Shares of the sets", _share_rows(summary), _caption(summary))}

    def figures(self, result: "Result") -> "dict[str, Figure]":
        """The scatter of confidences, the examples, and the ALP loss over the epochs."""
        summary = result.summary
        models = summary["models"]
        where = f"{text.data_words(summary)}, {text.attack_words(summary['attack'])}"
        seeds = text.first_seeds(models)
        figures = {
            # Several seeds' points would lie on top of one another.
            "sets": plots.confidence_scatter(
                result.rows[result.rows["seed"] == 0], models=[entry["name"] for entry in models],
                title=f"{where}, {models[0]['n']:,} images{seeds}", look=result.style,
            ),
            "sets-examples": plots.confidence_bars(
                result.arrays["examples"], title=f"{where}; examples chosen by position alone{seeds}",
                look=result.style,
            ),
        }  # fmt: skip
        for number, run in enumerate(_runs(summary)):
            rows = [
                {"epoch": entry["epoch"], "set": kind, "n": means["n"], "alp": means["alp"],
                 "low": means["alp_ci"][0], "high": means["alp_ci"][1]}
                for entry in run["epochs"] for kind, means in entry["sets"].items()
            ]  # fmt: skip
            title = f"{Path(run['run']).resolve().name}: {where}"
            name = "sets-epochs" if number == 0 else f"sets-epochs-{number}"
            figures[name] = plots.loss_over_epochs(pd.DataFrame(rows), title=title, look=result.style)
        return figures


def _runs(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    return summary.get("runs") or ([summary["epochs"]] if summary["epochs"] else [])


def _history(findings: Findings, run: str) -> "pd.DataFrame":
    """The rows of all epochs, with every image's set at the last epoch (AALP, Figure 4)."""
    epochs = findings.epochs[run]
    last = epochs[-1].rows[0].set_index("index")["set"]
    parts = [
        files.rows[0][["index", "label", "set", "alp"]].assign(set=files.rows[0]["index"].map(last))
        for files in epochs
    ]  # fmt: skip
    for part, files in zip(parts, epochs, strict=True):
        part.insert(0, "epoch", files.models[0].epoch)
    return pd.concat(parts, ignore_index=True)


def _first_of_each_class(rows: "pd.DataFrame", count: int) -> list[int]:
    """Positions of the first image of each class, then of the next ones, until there are ``count``, sorted."""
    firsts, rest = rows[~rows["label"].duplicated()], rows[rows["label"].duplicated()]
    return sorted([*firsts["index"].tolist(), *rest["index"].tolist()][:count])


def _caption(summary: Mapping[str, Any]) -> str:
    """The data, the attack and the intervals."""
    images = text.images_words(summary, summary["models"][0]["n"])
    intervals = f"{text.interval_words(summary['models'])} (of shares: Wilson)"
    return f"{images}, {text.attack_words(summary['attack'])}; {intervals}"


def _paper_rows(summary: Mapping[str, Any]) -> list[dict[str, str]]:
    """Table 1 as the paper has it, a row per set, and below each the row of its intervals."""
    rows = []
    for entry in summary["models"]:
        for kind, means in entry["sets"].items():
            seeds = text.seeds_column(entry, summary["models"])
            row = {"model": entry["name"], **seeds, "set": _plain(kind), "n": text.count(means["n"])}
            below = dict.fromkeys(row, "")
            for quantity, header in PAPER.items():
                row[header] = _number(quantity, means[quantity])
                below[header] = _interval(quantity, means[f"{quantity}_ci"])
            rows += [row, below]
    return rows


def _share_rows(summary: Mapping[str, Any]) -> list[dict[str, str]]:
    """Table 4: the sets' shares, a row per model."""
    rows = []
    for entry in summary["models"]:
        shares = {f"{_plain(kind)} %": _with_interval("share", means) for kind, means in entry["sets"].items()}
        seeds = text.seeds_column(entry, summary["models"])
        rows.append({"model": entry["name"], **seeds, "n": f"{entry['n']:,}", **shares})
    return rows


def _model_rows(entry: Mapping[str, Any]) -> list[dict[str, str]]:
    """Table 1 turned: a column per set leaves room for the intervals."""
    counts = {"": "images"} | {_plain(kind): text.count(means["n"]) for kind, means in entry["sets"].items()}
    return [
        counts,
        *(
            {"": words} | {_plain(kind): _with_interval(quantity, means) for kind, means in entry["sets"].items()}
            for quantity, words in QUANTITIES.items()
        ),
    ]


def _pair_rows(summary: Mapping[str, Any]) -> list[dict[str, str]]:
    return [
        {"pair": f"{pair['a']} − {pair['b']}", "set": _plain(pair["set"]), **text.difference_columns(pair)}
        for pair in summary["pairs"]
    ]


def _epoch_rows(run: Mapping[str, Any]) -> list[dict[str, str]]:
    rows = []
    for entry in run["epochs"]:
        sets = {
            f"{_plain(kind)} (n = {means['n']:,})": _with_interval("alp", means)
            for kind, means in entry["sets"].items()
        }
        rows.append({"epoch": str(entry["epoch"]), **sets})
    return rows


def _plain(kind: str) -> str:
    return kind.replace("-", " ")


def _with_interval(quantity: str, means: Mapping[str, Any]) -> str:
    return text.with_interval(means[quantity], means[f"{quantity}_ci"], lambda value: _number(quantity, value))


def _interval(quantity: str, ends: Sequence[float]) -> str:
    """An interval; empty if there is none (fewer than two images)."""
    return "" if text.missing(ends[0]) else text.interval(ends, lambda value: _number(quantity, value))


def _number(quantity: str, value: float) -> str:
    """Percent with two decimals; losses, which span orders of magnitude, with three digits."""
    if quantity in PERCENT:
        return text.percent(value)
    large = not text.missing(value) and value >= 1000
    return text.number(value, ",.0f") if large else text.number(value, "#.3g").rstrip(".")
