"""Attribution span coverage (AGAIN supplement, 4.3, Table 1).

    S_n = {p : M_n(p) > tau},    ASC = mean_n |S_n| / (H W)

The span S_n of an image is the set of pixels whose attribution M_n lies above the threshold tau.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from attrib import formatting as text
from attrib import stats
from attrib.analyses.examples import arrays_of, kept_examples
from attrib.analyses.explaining import View, grid_of, map_file_view
from attrib.analyses.floored import Floored, floor_column, floor_words
from attrib.analyses.measured import CLEAN, Array, Context, Files, Findings, Measured
from attrib.analyses.options import option
from attrib.analyses.table import Table, differences
from attrib.lazy import Lazy

if TYPE_CHECKING:
    import torch
    from matplotlib.figure import Figure
    from torch import Tensor

    from attrib import maps, spans
    from attrib.analyses.result import Result
    from attrib.data import Batch
    from attrib.models.specs import Model
    from attrib.plots import maps as map_plots
    from attrib.plots import span as plots
else:
    maps, spans = Lazy("attrib.maps"), Lazy("attrib.spans")
    map_plots, plots, torch = Lazy("attrib.plots.maps"), Lazy("attrib.plots.span"), Lazy("torch")

LEVELS = np.linspace(0, 1, 41)
WHERE_KNOWN = ("coverage_on_grid", "iou_with_clean", "inside", "object_covered", "pointing")
"""Columns that need a grid, an attack, or masks of the object."""
LEVEL = 0.05
TITLE = "Attribution span coverage (ASC): the mean share of an image's pixels in the span"


@dataclass(frozen=True, kw_only=True)
class Span(Floored):
    """Attribution span coverage (ASC) of every model, with intervals, and the paired differences."""

    name: ClassVar[str] = "span"
    takes: ClassVar[tuple[str, ...]] = ("models", "map files")
    needs_labels: ClassVar[bool] = False

    save_maps: bool = option(False, "Write every map and span to OUT/span-NAME.npz.")

    def pictured(self) -> int:
        """The number of images in the figure of examples."""
        return 4 if self.attack else 6

    def measure(self, model: "Model", batch: "Batch", context: Context) -> Measured:
        """Coverage of every image, clean and attacked."""
        views = self.views(model, batch, context) if model.maps is None else {CLEAN: map_file_view(model, batch)}
        masks = {kind: spans.span(view.map, threshold=self.threshold) for kind, view in views.items()}
        return Measured(
            {kind: self._columns(view, masks[kind], masks[CLEAN], batch, context) for kind, view in views.items()},
            sums={f"curve {kind}": _pixels_above(view.map) for kind, view in views.items()}
            | {f"pixels {kind}": torch.tensor(view.map.numel()) for kind, view in views.items()},
            examples=kept_examples(model, batch, views, masks, context),
            maps=(views[CLEAN].map, masks[CLEAN]) if self.save_maps else None,
            keep=masks,
        )

    def _columns(
        self, view: View, mask: "Tensor", clean: "Tensor", batch: "Batch", context: Context
    ) -> "dict[str, Any]":
        label = self.known_labels(batch, context)
        correct = view.prediction == label
        columns: dict[str, Any] = {
            "label": label, "prediction": view.prediction,
            "correct": correct if context.images.labelled else torch.full_like(correct, torch.nan, dtype=torch.double),
            "coverage": spans.coverage(mask), "curve_area": spans.curve_area(view.map), "empty": spans.empty(view.map),
        }  # fmt: skip
        if view.grid is not None:
            columns["coverage_on_grid"] = spans.coverage(spans.span(view.grid, threshold=self.threshold))
        if mask is not clean:
            columns["iou_with_clean"] = spans.iou(mask, clean)
        if batch.mask is not None:
            columns |= {
                "inside": spans.inside(mask, batch.mask), "object_covered": spans.object_covered(mask, batch.mask),
                "pointing": spans.pointing(view.map, batch.mask),
            }  # fmt: skip
        return columns | {"grid": [grid_of(view) if view.grid is not None else ""] * len(mask)}

    def across(self, a: "dict[str, Tensor]", b: "dict[str, Tensor]") -> "dict[str, dict[str, Tensor]]":
        """The IoU of two models' spans."""
        return {kind: {"iou": spans.iou(a[kind], b[kind]).double()} for kind in a if kind in b}

    def summarise(self, files: Files) -> dict[str, Any]:
        """ASC and related means, on clean images and, under ``attacked``, on adversarial ones."""
        grid = files.rows[0]["grid"].iloc[0]
        summary = {"grid": grid or None, **self._means(files, CLEAN)}
        for kind in files.kinds()[1:]:
            summary["attacked"] = self._means(files, kind)
        return summary | self.floor_entry(files)

    def _means(self, files: Files, kind: str) -> dict[str, Any]:
        selected = files.where(images=kind)
        known = bool((selected["prediction"] >= 0).all()) and "correct" in selected
        return {
            "n": selected.n,
            "accuracy": selected.mean("correct") if known else None,
            "asc": selected.mean("coverage"),
            "asc_ci": selected.interval("coverage", seed=self.seed, within=(0, 1)),
            "asc_correct": selected.mean("coverage", among=selected["correct"] > 0) if known else None,
            "curve_area": selected.mean("curve_area"),
            "empty": selected.count("empty"),
            **{name: selected.mean(name) for name in WHERE_KNOWN if name in selected},
            "curve": (files.sum(f"curve {kind}").mean(0) / files.sum(f"pixels {kind}").mean()).tolist(),
        }

    def compare(self, a: Files, b: Files, findings: Findings) -> Iterator[dict[str, Any]]:
        """The difference in coverage, paired by image, with empty maps and without."""
        names = a.models[0].name, b.models[0].name
        paired = partial(stats.paired, seed=self.seed, within=stats.DIFFERENCE)
        for kind in a.kinds():
            if kind not in b.kinds():
                continue
            left, right = (files.where(images=kind)["coverage"] for files in (a, b))
            filled = (np.vstack([left, right]) > 0).all(0)  # only an empty map covers nothing
            both = paired(left, right)
            rest = both if filled.all() else paired(left[:, filled], right[:, filled])
            pairs = findings.across[(findings.across["a"] == names[0]) & (findings.across["b"] == names[1])]
            iou = pairs.loc[pairs["images"] == kind, "iou"].to_numpy(float)
            yield {
                "images": kind, "quantity": "coverage", "n": left.shape[1], **both.entry(),
                "without_empty": {"n": int(filled.sum()), **rest.entry()},
                "iou": stats.mean(iou.reshape(left.shape[1], -1).mean(1)),  # over pairs of seeds, then over images
            }  # fmt: skip

    def corrected(self, pairs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Holm's correction over all differences, and over all without empty maps."""
        rest = stats.with_holm(pair["without_empty"] for pair in pairs)
        both = super().corrected(pairs)
        return [pair | {"without_empty": without} for pair, without in zip(both, rest, strict=True)]

    def about(self, findings: Findings, entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Map, threshold, class explained, attack and floor."""
        context, images = findings.context, findings.context.images
        made_here = any(files.models[0].maps is None for files in findings.files.values())
        return {
            "map": self.map_name if made_here else "from files", "threshold": self.threshold, "target": self.target,
            "target_class": self.target_words(images), "seed": self.seed, "attack": self.attack_entry(context),
            "precision": self.map_precision(context.device) if made_here else None,
            **self.about_floor(images),
        }  # fmt: skip

    def objections(self, summary: Mapping[str, Any], findings: Findings) -> Iterable[str]:
        """Warn of different grids, floors that are missing or reached, models at chance, and what empty maps decide."""
        grids = {entry["name"]: entry["grid"] for entry in summary["models"] if entry["grid"]}
        if len(set(grids.values())) > 1:
            listed = ", ".join(f"{name} {grid}" for name, grid in grids.items())
            yield f"the models' maps lie on different grids ({listed}), which alone changes coverage"
        for files in findings.files.values():
            yield from self.without_floor(files)
        as_random = [
            entry["name"] for entry in summary["models"]
            if (ends := entry.get("asc_floor_range")) and ends[0] <= entry["asc"] <= ends[1]
        ]  # fmt: skip
        if as_random:
            yield f"{', '.join(as_random)}: the ASC lies within the range of its floor, so random weights cover as much"
        yield from super().objections(summary, findings)
        for pair in summary["pairs"]:
            n = pair["without_empty"]["n"]  # 0: all maps of a model are empty, which has its own warning
            if n and pair["p_holm"] < LEVEL and not stands_without_empty(pair):
                yield _resting_on_empty(pair)

    def arrays(self, findings: Findings, summary: Mapping[str, Any]) -> dict[str, dict[str, Array]]:
        """The figure of examples."""
        return {"examples": arrays_of(findings)}

    def tables(self, result: "Result") -> list[Table]:
        """Models, then pairs."""
        summary = result.summary
        table = Table(TITLE, _model_rows(summary), _caption(summary))
        test = "two-sided permutation test, paired by image"
        title = "Paired differences in ASC"
        return [table, *differences(summary, _pair_rows(summary), test, title=title)]

    def papers(self, result: "Result") -> dict[str, Table]:
        """The models, with fewer columns."""
        summary = result.summary
        return {"": Table(TITLE, _model_rows(summary, plain=True), _caption(summary))}

    def figures(self, result: "Result") -> "dict[str, Figure]":
        """The examples with their spans, and the distribution of coverage."""
        summary = result.summary
        models, attack = summary["models"], summary["attack"]
        rule = f"{text.map_words(summary)}, threshold {summary['threshold']}, {text.data_words(summary)}"
        attacked = f"; attacked by {text.attack_words(attack)}" if attack else ""
        clean = result.rows[result.rows["images"] == CLEAN]
        return {
            "span": map_plots.map_grid(
                result.arrays["examples"], title=f"{rule}{attacked}{text.first_seeds(models)}", spans=True,
                look=result.style,
            ),
            "span-coverage": plots.coverage_distribution(
                clean, models=[entry["name"] for entry in models], levels=LEVELS,
                curves=np.array([entry["curve"] for entry in models]),
                floors={e["name"]: e["asc_floor"] for e in models if e.get("asc_floor") is not None},
                title=f"{rule}, {models[0]['n']:,} {'clean ' if attack else ''}images", look=result.style,
            ),
        }  # fmt: skip


def _pixels_above(maps: "Tensor") -> "Tensor":
    """The number of pixels of all images above every level, (T,): whole numbers, so that sums are exact."""
    pixels = maps.shape[1] * maps.shape[2]
    return (spans.coverage_curve(maps, LEVELS.tolist()).double() * pixels).round().sum(0)


def stands_without_empty(pair: Mapping[str, Any]) -> bool:
    """Whether a difference in coverage is significant, with the same sign, where neither model's map is empty."""
    rest = pair["without_empty"]
    real = not text.missing(rest["p_holm"]) and rest["p_holm"] < LEVEL
    return bool(real and rest["difference"] * pair["difference"] > 0)


def _resting_on_empty(pair: Mapping[str, Any]) -> str:
    rest = pair["without_empty"]
    return (
        f"{pair['a']} − {pair['b']}, {pair['images']} images: the difference in coverage rests on empty maps, which"
        f" cover 0; on the {rest['n']:,} images where neither model's is empty it is"
        f" {text.with_interval(rest['difference'], rest['ci'], text.points)} points, p (Holm)"
        f" {text.p_value(rest['p_holm'])}"
    )


def _model_rows(summary: Mapping[str, Any], *, plain: bool = False) -> list[dict[str, str]]:
    """A row per model and kind of images; plain: with fewer columns, for a paper."""
    rows = []
    for entry in summary["models"]:
        kinds = [(CLEAN, entry)]
        if "attacked" in entry:
            kinds.append((summary["attack"]["name"], entry["attacked"]))
        for kind, means in kinds:
            row = {"model": entry["name"], **text.seeds_column(entry, summary["models"])}
            if summary["attack"]:
                row["images"] = kind
            row |= {
                "n": f"{means['n']:,}", "accuracy %": text.percent(means["accuracy"]),
                "ASC %": text.percent(means["asc"]), "95 % CI": text.interval(means["asc_ci"], text.percent),
                **floor_column(entry, summary["models"]),
                "ASC % correct": text.percent(means["asc_correct"]),
            }  # fmt: skip
            rows.append(row if plain else row | _more_columns(summary, entry, means))
    return rows


def _more_columns(summary: Mapping[str, Any], entry: Mapping[str, Any], means: Mapping[str, Any]) -> dict[str, str]:
    """The columns that a paper's table leaves out."""
    columns = {}
    if entry["grid"]:
        columns[f"on {entry['grid']} grid %"] = text.percent(means["coverage_on_grid"])
    columns |= {"curve area": f"{means['curve_area']:.4f}", "empty": text.count(means["empty"])}
    if summary["attack"]:
        columns["IoU with clean %"] = text.percent(means.get("iou_with_clean"))
    if "pointing" in means:
        columns |= {
            "in object %": text.percent(means.get("inside")),
            "object covered %": text.percent(means.get("object_covered")),
            "pointing %": text.percent(means["pointing"]),
        }
    return columns


def _pair_rows(summary: Mapping[str, Any]) -> list[dict[str, str]]:
    rows = []
    for pair in summary["pairs"]:
        images = {"images": pair["images"]} if summary["attack"] else {}
        rows.append(
            {"pair": f"{pair['a']} − {pair['b']}", **images, **text.difference_columns(pair),
             "span IoU %": text.percent(pair["iou"])}
        )  # fmt: skip
    return rows


def _caption(summary: Mapping[str, Any]) -> str:
    elsewhere = all("maps" in entry for entry in summary["models"])
    caption = (
        f"{text.map_words(summary)}, threshold {summary['threshold']},"
        f" {text.images_words(summary, summary['models'][0]['n'])}"
        f"{'' if elsewhere else ', class explained: ' + text.target_words(summary)};"
        f" {text.interval_words(summary['models'])}"
    )
    caption += floor_words(summary, summary["models"])
    return f"{caption}; {text.attack_words(summary['attack'])}" if summary["attack"] else caption
