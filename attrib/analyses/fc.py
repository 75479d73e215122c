"""Valid values of the last layer's weights (AGAIN supplement, 4.4, Table 2, Figure 3).

An entry of the weight matrix W (K,D) is valid if it is greater than the mean of W.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from attrib import formatting as text
from attrib import stats
from attrib.analyses.base import Analysis
from attrib.analyses.last_layer import check_last_layers, fc_option, last_layer_of
from attrib.analyses.measured import Array, Context, Files, Findings, Pass
from attrib.analyses.options import option
from attrib.analyses.table import Table
from attrib.errors import InputError
from attrib.lazy import Lazy

if TYPE_CHECKING:
    import pandas as pd
    import torch
    from matplotlib.figure import Figure
    from torch import Tensor

    from attrib import features
    from attrib.analyses.result import Result
    from attrib.data import Dataset, catalog
    from attrib.models import layers
    from attrib.models.specs import Model
    from attrib.plots import fc as plots
else:
    catalog, features, layers = Lazy("attrib.data.catalog"), Lazy("attrib.features"), Lazy("attrib.models.layers")
    pd, plots, torch = Lazy("pandas"), Lazy("attrib.plots.fc"), Lazy("torch")

TITLE = "Valid values of the last layer's weight matrix W per class"
PRINTED = 30
"""With more classes, the printed table shows only the means; the CSV has all classes."""
SYMMETRIC = {"mean": 0.5, "class-mean": 0.5, "absolute": None}
"""Share of valid values if weights are distributed symmetrically about their mean; of |W| it depends on the shape."""
RULES = {
    "mean": "valid: above the mean of W",
    "class-mean": "valid: above the mean of the class's row of W",
    "absolute": "valid: absolute values above their mean",
}


@dataclass(frozen=True, kw_only=True)
class LastLayer(Analysis):
    """Valid values of the last layer's weights, per class and on average, and their picture in red and white.

    If a model is not a checkpoint, its last layer is found by running one image of the data. The data also names the
    classes.
    """

    name: ClassVar[str] = "fc"
    needs_data: ClassVar[bool] = False
    needs_labels: ClassVar[bool] = False

    rule: str = option(
        "mean", "Valid: above W's mean (mean), the mean of the class's row (class-mean), or |W| (absolute).",
        choices=tuple(RULES),
    )  # fmt: skip
    fc: str | None = fc_option()

    def looked_at(self, models: "Sequence[Model]") -> "Sequence[Model]":
        """The models given; raises InputError if ``fc`` is not a layer of theirs."""
        check_last_layers(models, self.fc)
        return models

    def passes(self, models: "Sequence[Model]", data: "Dataset") -> list[Pass]:
        """No images: only the weights are used."""
        return []

    def describe(self, model: "Model", context: Context) -> dict[str, Any]:
        """The valid values of the last layer's weight, bool (K,D), and the names of the K classes."""
        weight = self._weight(model, context)
        valid = features.valid_values(weight, rule=self.rule).cpu().numpy()
        return {"valid": valid, "classes": _class_names(model, context.data, len(valid))}

    def _weight(self, model: "Model", context: Context) -> "Tensor":
        """The last layer's weight (K,D)."""
        layer = last_layer_of(model, self.fc)
        if layer is None:
            if context.data is None:
                raise InputError(
                    f"{model.label}: the last layer is unknown, since the model is not a checkpoint; name it with fc"
                    " (--fc NAME), or name data (--data NAME), of which one image is run"
                )
            image = next(context.data.batches(1, device=context.device)).image
            try:
                layer = layers.last_linear(model.opened_module, image)
            except InputError as error:
                raise InputError(f"{model.label}: {error}") from None
        weight = getattr(layer, "weight", None)
        # A 1x1 convolution has a matrix as its weight, too.
        if not isinstance(weight, torch.Tensor) or weight.ndim < 2 or weight.shape[2:].numel() != 1:
            raise InputError(
                f"{model.label}: expected a last layer with a weight of shape (K,D), got {type(layer).__name__}; see fc"
                " (--fc)"
            )
        return weight.detach().flatten(1)

    def summarise(self, files: Files) -> dict[str, Any]:
        """Valid values per class and on average; over several seeds their means, and the interval of the average."""
        counts, width = _counts(files), files.facts[0]["valid"].shape[1]
        summary = {
            "features": width, "classes": files.facts[0]["classes"],
            "valid": (counts.mean(0) if len(files) > 1 else counts[0]).tolist(),
            "valid_mean": float(counts.mean()), "valid_share": float(counts.mean() / width),
        }  # fmt: skip
        if len(files) > 1:
            summary["valid_mean_ci"] = list(stats.interval(_without_images(counts), within=(0, width)))
        return summary

    def compare(self, a: Files, b: Files, findings: Findings) -> Iterator[dict[str, Any]]:
        """The difference of two models with as many classes and features; with seeds its interval and p."""
        if a.facts[0]["valid"].shape != b.facts[0]["valid"].shape:
            return
        counts = _counts(a), _counts(b)
        first, second = (each.mean(0) for each in counts)
        pair: dict[str, Any] = {
            "quantity": "valid_mean", "difference": float(first.mean() - second.mean()),
            "more": int((first > second).sum()), "fewer": int((first < second).sum()), "classes": len(first),
            "p": float("nan"),  # two single files allow no test
        }  # fmt: skip
        if max(len(a), len(b)) > 1:
            pair |= stats.paired(*map(_without_images, counts)).entry()
        yield pair

    def about(self, findings: Findings, entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The rule, and the share of valid values that it gives for symmetric weights."""
        return {"rule": self.rule, "expected_symmetric": SYMMETRIC[self.rule]}

    def objections(self, summary: Mapping[str, Any], findings: Findings) -> Iterable[str]:
        """No warnings: no model is run."""
        return ()

    def frames(self, findings: Findings, summary: Mapping[str, Any]) -> "dict[str, pd.DataFrame]":
        """A row per file and class."""
        tables = [
            pd.DataFrame(
                {
                    "model": name, "seed": model.seed, "class": facts["classes"], "valid": facts["valid"].sum(1),
                    "total": facts["valid"].shape[1],
                }
            )
            for name, files in findings.files.items()
            for model, facts in zip(files.models, files.facts, strict=True)
        ]  # fmt: skip
        return {"": pd.concat(tables, ignore_index=True)}

    def arrays(self, findings: Findings, summary: Mapping[str, Any]) -> dict[str, dict[str, Array]]:
        """The valid values (K,D) of every name's first file, by the name's position, for the figure."""
        return {"": {f"valid_{place}": each.facts[0]["valid"] for place, each in enumerate(findings.files.values())}}

    def tables(self, result: "Result") -> list[Table]:
        """Models, then pairs."""
        summary, rows = result.summary, _rows(result.summary)
        count = max(len(entry["valid"]) for entry in summary["models"])
        shown = rows if count <= PRINTED else rows[count:]
        tables = [Table(TITLE, shown, _caption(summary))]
        if summary["pairs"]:
            tables.append(
                Table("Differences in valid values a class", _pair_rows(summary), _pair_caption(summary), pairs=True)
            )
        return tables

    def papers(self, result: "Result") -> dict[str, Table]:
        """The models, with every class."""
        return {"": Table(TITLE, _rows(result.summary), _caption(result.summary))}

    def figures(self, result: "Result") -> "dict[str, Figure]":
        """Valid values in red, the others in white."""
        summary = result.summary
        models, arrays = summary["models"], result.arrays[""]
        figure = plots.valid_picture(
            [arrays[f"valid_{place}"] for place in range(len(models))], models=[entry["name"] for entry in models],
            classes=[entry["classes"] for entry in models],
            title=f"Valid values of the last layer in red ({RULES[summary['rule']]})" + text.first_seeds(models),
            look=result.style,
        )  # fmt: skip
        return {"fc": figure}


def _class_names(model: "Model", data: "Dataset | None", count: int) -> list[str]:
    """The class names of the data, else of the checkpoint's training data, else numbers."""
    known: tuple[str, ...] = ()
    if data:
        known = data.classes or model.classes or ()
    elif model.checkpoint and model.checkpoint.data in catalog.CATALOG:
        known = catalog.CATALOG[model.checkpoint.data].classes
    return list(known) if len(known) == count else [str(number) for number in range(count)]


def _counts(files: Files) -> Array:
    """The number of valid values in every file and class, (S,K)."""
    return np.array([facts["valid"].sum(1) for facts in files.facts])


def _without_images(counts: Array) -> Array:
    """The mean of every seed, twice (S,2): ``attrib.stats`` expects several images."""
    return np.repeat(counts.mean(1)[:, None], 2, 1)


def _rows(summary: Mapping[str, Any]) -> list[dict[str, str]]:
    """Classes in rows, models in columns; below them the mean, its share, and the share of symmetric weights."""
    models, symmetric = summary["models"], summary["expected_symmetric"]
    names = [set(position) - {None} for position in zip_longest(*(entry["classes"] for entry in models))]
    # Models of different data sets share positions, not names.
    labels = [min(some) if len(some) == 1 else str(number) for number, some in enumerate(names)]
    rows = [
        {"class": label, **{entry["name"]: _count(entry, number) for entry in models}}
        for number, label in enumerate(labels)
    ]
    means = {"mean": lambda e: f"{e['valid_mean']:.1f} of {e['features']}", "mean %": _share_of_valid}
    if symmetric is not None:
        means["mean % if W were symmetric"] = lambda _: f"{100 * symmetric:.1f}"
    if text.several_seeds(models):
        means["mean: seeds, 95 % CI"] = _seeds
    return [*rows, *({"class": label, **{e["name"]: of(e) for e in models}} for label, of in means.items())]


def _count(entry: Mapping[str, Any], number: int) -> str:
    if number >= len(entry["valid"]):
        return "–"
    return text.number(entry["valid"][number], ".1f" if "seeds" in entry else "d")


def _share_of_valid(entry: Mapping[str, Any]) -> str:
    return f"{100 * entry['valid_share']:.1f}"


def _seeds(entry: Mapping[str, Any]) -> str:
    if "seeds" not in entry:
        return "1"
    return f"{len(entry['seeds'])}, {text.interval(entry['valid_mean_ci'], '{:.1f}'.format)}"


def _pair_rows(summary: Mapping[str, Any]) -> list[dict[str, str]]:
    rows = []
    for pair in summary["pairs"]:
        row = {"pair": f"{pair['a']} − {pair['b']}", "difference": _signed(pair["difference"])}
        if text.several_seeds(summary["models"]):
            ends = text.interval(pair["ci"], _signed) if "ci" in pair else "–"
            row |= {"95 % CI": ends, **text.p_columns(pair)}
        more, fewer = (f"{pair[side]} of {pair['classes']}" for side in ("more", "fewer"))
        rows.append(row | {"classes with more": more, "classes with fewer": fewer})
    return rows


def _signed(value: float) -> str:
    return text.number(value, "+.1f")


def _pair_caption(summary: Mapping[str, Any]) -> str:
    if not text.several_seeds(summary["models"]):
        return "Two files, not two methods, are compared, and there is no test without several seeds."
    return (
        "p: t test over seeds; a name with one file borrows the other's spread, which assumes that both spread alike."
        " p (Holm): corrected for all pairs."
    )


def _caption(summary: Mapping[str, Any]) -> str:
    models = summary["models"]
    caption = RULES[summary["rule"]]
    if text.several_seeds(models):
        return f"{caption}; of several seeds: means and t intervals; where a name has one file: of this file only"
    which = "this file" if len(models) == 1 else "these files"
    return f"{caption}; of {which} only: another training run can differ"
