"""Contributions of the last layer's features (AALP, section 2.1, Eq. 5 and 7, Figures 1 and 7).

    C = mean_n |dL/dA_fc|,    R = mean_n |dL/dA_fc * A_fc|

C/e is C with |p - onehot(y)| divided out of every image. The statistics tell how evenly a quantity is distributed over
the features.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from attrib import formatting as text
from attrib import stats
from attrib.analyses.base import Analysis
from attrib.analyses.last_layer import check_last_layers, fc_option, last_layer_of
from attrib.analyses.measured import CLEAN, Array, Context, Files, Findings, Measured
from attrib.analyses.options import Attack, option
from attrib.analyses.table import Table, differences
from attrib.errors import InputError
from attrib.lazy import Lazy

if TYPE_CHECKING:
    import pandas as pd
    import torch
    from matplotlib.figure import Figure
    from torch import Tensor

    from attrib import features, inference
    from attrib.analyses import inputs
    from attrib.analyses.result import Result
    from attrib.data import Batch
    from attrib.features import Features
    from attrib.models.specs import Model
    from attrib.plots import contrib as plots
else:
    features, inference, inputs = Lazy("attrib.features"), Lazy("attrib.inference"), Lazy("attrib.analyses.inputs")
    pd, plots, torch = Lazy("pandas"), Lazy("attrib.plots.contrib"), Lazy("torch")

QUANTITIES = {"contribution": "C", "relevance": "R", "scale_free": "C_scale_free"}
"""The quantities: name in the summary to column in the CSVs."""
SHOWN = {"contribution": "C", "relevance": "R", "scale_free": "C/e"}
STATISTICS = {"mean": "1000 × mean", "gini": "Gini", "participation_ratio": "participation ratio", "high": "high"}
"""The statistics of a quantity over features: name in the summary to name in the tables."""
NUMBERS = list(product(enumerate(QUANTITIES), enumerate(STATISTICS)))
"""Every statistic of every quantity: position in arrays (3,4), and names."""
CORRECTED = "95 % CI and p: of the difference corrected for its bias from noise; the difference shown is not corrected."
"""The caption of differences of statistics whose bias ``stats.basic_paired`` subtracts."""


def _check_multiple(multiple: float) -> None:
    if not multiple > 0:
        raise InputError(f"multiple: expected a number above 0, got {multiple:g}")


@dataclass(frozen=True, kw_only=True)
class Contributions(Analysis):
    """Contributions of the last layer's features (C, R), how concentrated they are, and the paired differences."""

    name: ClassVar[str] = "contrib"
    images_table: ClassVar[str] = "images"

    multiple: float = option(2.0, "A contribution is high above this multiple of the median.", check=_check_multiple)
    fc: str | None = fc_option()
    attack: Attack | None = option(None, "Measure adversarial images too: fgsm, pgd or cw.")

    def looked_at(self, models: "Sequence[Model]") -> "Sequence[Model]":
        """The models given; raises InputError if ``fc`` is not a layer of theirs."""
        check_last_layers(models, self.fc)
        return models

    def measure(self, model: "Model", batch: "Batch", context: Context) -> Measured:
        """The quantities' means over features for every image, and their sums over images for every feature."""
        images = {CLEAN: batch.image}
        if self.attack:
            images[self.attack.name] = self.attack.images(
                model.opened_module, batch, seed=self.seed, precision=self.attack_precision(context.device)
            )
        weights = _weights(tuple(batch.index.tolist()), self.seed).to(batch.image.device)
        columns: dict[str, dict[str, Tensor | list[str]]] = {}
        sums: dict[str, Tensor] = {}
        resampled: dict[str, Tensor] = {}
        for kind, image in images.items():
            view = self._last_layer(model, image, batch.label, context)
            correct = view.prediction == batch.label
            values = torch.stack([getattr(view, quantity) for quantity in QUANTITIES])
            wide = values.double()
            columns[kind] = {
                "label": batch.label, "prediction": view.prediction, "correct": correct,
                **dict(zip(QUANTITIES.values(), wide.mean(2), strict=True)),
            }  # fmt: skip
            sums |= {
                f"all {kind}": wide.sum(1), f"correct {kind}": (wide * correct[None, :, None]).sum(1),
                f"images {kind}": torch.tensor([len(image), int(correct.sum())]),
            }  # fmt: skip
            # Within a batch, float32 is precise enough; batches are added in float64.
            resampled |= {
                f"resampled {kind}": (weights.T @ values.float()).double(), f"drawn {kind}": weights.sum(0).double()
            }  # fmt: skip
        return Measured(columns, sums=sums, resampled=resampled)

    def _last_layer(self, model: "Model", image: "Tensor", label: "Tensor", context: Context) -> "Features":
        precision, module = self.exact_precision(context.device), model.opened_module
        with inputs.naming(model):
            fc = last_layer_of(model, self.fc)
            view = features.last_layer(module, image, label, fc=fc, precision=precision)
        if precision != "fp32":  # as in every analysis, predictions are those in fp32
            view = view._replace(prediction=inference.logits(module, image).argmax(1))
        return view

    def condense(self, sums: Mapping[str, Array]) -> Mapping[str, Array]:
        """For each kind of images: statistics (3,4), the same in resamples (3,4,R), and the features' means (2,3,D)."""
        condensed: dict[str, Array] = {}
        for kind in (CLEAN, self.attack.name) if self.attack else (CLEAN,):
            images, correct = sums[f"images {kind}"]
            total, total_correct = sums[f"all {kind}"], sums[f"correct {kind}"]
            resampled = self._statistics(sums[f"resampled {kind}"], sums[f"drawn {kind}"])
            if images < 2:  # resamples of one image are all the same
                resampled = np.full_like(resampled, np.nan)
            with np.errstate(invalid="ignore"):
                means = np.stack([total / images, total_correct / correct])
            condensed |= {
                f"value {kind}": self._statistics(total, images), f"resampled {kind}": resampled,
                f"correct {kind}": self._statistics(total_correct, correct), f"features {kind}": means,
            }  # fmt: skip
        return condensed

    def _statistics(self, sums: Array, images: Any) -> Array:
        """Every statistic of every quantity, (3,4,...), from sums (3,...,D) over images; images: how many, (...)."""
        return np.stack([self._statistics_of_one(torch.from_numpy(quantity), images) for quantity in sums])

    def _statistics_of_one(self, sums: "Tensor", images: Any) -> Array:
        with np.errstate(invalid="ignore"):
            mean = sums.mean(-1).numpy() / images
        # The other statistics do not depend on scale, so sums do instead of means.
        high = features.high_contribution(sums, multiple=self.multiple).double().numpy()
        return np.stack(
            [mean, features.gini(sums).numpy(), features.participation_ratio(sums).numpy(),
             np.where(np.isnan(mean), np.nan, high)]
        )  # fmt: skip

    def summarise(self, files: Files) -> dict[str, Any]:
        """The statistics of each quantity, on clean images and, under ``attacked``, on adversarial ones."""
        summary = {"features": _width(files), **self._numbers(files, CLEAN)}
        for kind in files.kinds()[1:]:
            summary["attacked"] = self._numbers(files, kind)
        return summary

    def _numbers(self, files: Files, kind: str) -> dict[str, Any]:
        selected = files.where(images=kind)
        entry: dict[str, Any] = {"n": selected.n, "accuracy": selected.mean("correct")}
        entry |= {name: {} for name in QUANTITIES}
        for (row, quantity), (column, statistic) in NUMBERS:
            value, resampled = _values(files, kind, row, column)
            # With few images or seeds, an interval may exceed the range of the statistic.
            ends = stats.basic_interval(value, resampled, within=(0, _highest(statistic, files)))
            correct = files.sum(f"correct {kind}")[:, row, column]
            entry[quantity] |= {
                statistic: float(value.mean()), f"{statistic}_ci": list(ends),
                f"{statistic}_correct": float(correct.mean()),
            }  # fmt: skip
        return entry

    def compare(self, a: Files, b: Files, findings: Findings) -> Iterator[dict[str, Any]]:
        """The difference of every statistic, paired by image: both models use the same resamples."""
        for kind, ((row, quantity), (column, statistic)) in product(a.kinds(), NUMBERS):
            first, second = _values(a, kind, row, column), _values(b, kind, row, column)
            within = (-_highest(statistic, b), _highest(statistic, a))
            difference = stats.basic_paired(first[0], second[0], first[1], second[1], within=within)
            yield {
                "images": kind, "of": quantity, "statistic": statistic, "quantity": f"{quantity}_{statistic}",
                "n": a.where(images=kind).n, **difference.entry(),
            }  # fmt: skip

    def corrected(self, pairs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The differences with ``p_holm``, ordered by statistic."""
        numbers = [(quantity, statistic) for (_, quantity), (_, statistic) in NUMBERS]

        def place(pair: Mapping[str, Any]) -> tuple[bool, int]:
            return pair["images"] != CLEAN, numbers.index((pair["of"], pair["statistic"]))

        return super().corrected(sorted(pairs, key=place))

    def about(self, findings: Findings, entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The multiple of the median, attack and precision."""
        return {
            "multiple": self.multiple, "seed": self.seed, "attack": self.attack_entry(findings.context),
            "precision": self.exact_precision(findings.context.device),
        }  # fmt: skip

    def objections(self, summary: Mapping[str, Any], findings: Findings) -> Iterable[str]:
        """Warn of different numbers of features and of models at chance."""
        widths = {entry["name"]: entry["features"] for entry in summary["models"]}
        if len(set(widths.values())) > 1:
            listed = ", ".join(f"{name} {width}" for name, width in widths.items())
            yield f"the models have different numbers of features ({listed}), which alone changes the counts"
        yield from self.at_chance(findings)

    def frames(self, findings: Findings, summary: Mapping[str, Any]) -> "dict[str, pd.DataFrame]":
        """A row per feature (means over all images and over those classified correctly), and a row per image."""
        names = [f"{column}{suffix}" for suffix in ("", "_correct") for column in QUANTITIES.values()]
        tables = []
        for name, files in findings.files.items():
            for (model, sums), kind in product(zip(files.models, files.sums, strict=True), files.kinds()):
                means = sums[f"features {kind}"].reshape(len(names), -1)
                head = {"model": name, "seed": model.seed, "images": kind, "feature": np.arange(means.shape[1])}
                tables.append(pd.DataFrame({**head, **dict(zip(names, means, strict=True))}))
        return {"": pd.concat(tables, ignore_index=True), "images": findings.rows}

    def tables(self, result: "Result") -> list[Table]:
        """Models, then pairs."""
        summary = result.summary
        title = "Feature contributions: their size, and how evenly the features share them"
        table = Table(title, _model_rows(summary), _caption(summary))
        test = "two-sided, from the bootstrap (below 0.01 of a normal distribution), paired by image"
        pairs = differences(summary, _pair_rows(summary), test)
        return [table, *(replace(each, caption=f"{CORRECTED} {each.caption}") for each in pairs)]

    def figures(self, result: "Result") -> "dict[str, Figure]":
        """How the features' contributions are distributed."""
        summary, table = result.summary, result.frames[""]
        title = f"{text.data_words(summary)}, {summary['models'][0]['n']:,} images{text.first_seeds(summary['models'])}"
        figure = plots.contribution_curves(
            table[table["seed"] == 0], multiple=summary["multiple"], title=title, look=result.style
        )
        return {"contrib": figure}


@lru_cache(maxsize=1)
def _weights(index: tuple[int, ...], seed: int) -> "Tensor":
    """``stats.image_weights`` (N,R), cached: the next model gets the same images."""
    return torch.from_numpy(stats.image_weights(np.array(index), seed=seed))


def _width(files: Files) -> int:
    """The number of features."""
    return int(files.sums[0][f"features {CLEAN}"].shape[-1])


def _highest(statistic: str, files: Files) -> float:
    """The largest possible value of a statistic; all but the mean and Gini count features."""
    return {"mean": np.inf, "gini": 1.0}.get(statistic, _width(files))


def _values(files: Files, kind: str, row: int, column: int) -> tuple[Array, Array]:
    """A statistic of every file, (S,), and in the resamples, (S,R)."""
    return files.sum(f"value {kind}")[:, row, column], files.sum(f"resampled {kind}")[:, row, column]


def _model_rows(summary: Mapping[str, Any]) -> list[dict[str, str]]:
    """A row per quantity, statistic, model and kind of images."""
    rows = []
    for quantity, statistic in product(QUANTITIES, STATISTICS):
        for entry in summary["models"]:
            kinds = {CLEAN: entry}
            if summary["attack"]:
                kinds[summary["attack"]["name"]] = entry["attacked"]
            for kind, measured in kinds.items():
                numbers = measured[quantity]
                row = {"of": SHOWN[quantity], "statistic": STATISTICS[statistic], "model": entry["name"]}
                row |= text.seeds_column(entry, summary["models"])
                if summary["attack"]:
                    row["images"] = kind
                row |= {
                    "value": _number(statistic, numbers[statistic]),
                    "95 % CI": _interval(statistic, numbers[f"{statistic}_ci"]),
                    "correct": _number(statistic, numbers[f"{statistic}_correct"]),
                }
                rows.append(row)
    return rows


def _pair_rows(summary: Mapping[str, Any]) -> list[dict[str, str]]:
    """A row per pair, quantity and statistic."""
    rows = []
    for pair in summary["pairs"]:
        statistic = pair["statistic"]
        row = {
            "of": SHOWN[pair["of"]], "statistic": STATISTICS[statistic], "pair": f"{pair['a']} − {pair['b']}"
        }  # fmt: skip
        if summary["attack"]:
            row["images"] = pair["images"]
        row |= {
            "difference": _number(statistic, pair["difference"], signed=True),
            "95 % CI": _interval(statistic, pair["ci"], signed=True), **text.p_columns(pair),
        }  # fmt: skip
        rows.append(row)
    return rows


def _number(statistic: str, value: float | None, *, signed: bool = False) -> str:
    digits = {"mean": ".4g", "gini": ".3f", "participation_ratio": ".1f", "high": ".4g"}[statistic]
    return text.number(value, f"{'+' if signed else ''}{digits}", scale=1000 if statistic == "mean" else 1)


def _interval(statistic: str, ends: Sequence[float], *, signed: bool = False) -> str:
    return text.interval(ends, lambda end: _number(statistic, end, signed=signed))


def _caption(summary: Mapping[str, Any]) -> str:
    """The meaning of the columns, and the number of images."""
    caption = (
        "C: mean absolute gradient of the loss before the last layer; R: times the activation; C/e: C with the size of"
        f" p − onehot(y) divided out; high: features above {summary['multiple']:g} × the model's median;"
        f" {text.images_words(summary, summary['models'][0]['n'])}; correct: over those classified correctly;"
        f" {text.interval_words(summary['models'], 'basic bootstrap')}"
    )
    return f"{caption}; {text.attack_words(summary['attack'])}" if summary["attack"] else caption
