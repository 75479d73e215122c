"""Can the maps be trusted? Checks of sanity and faithfulness, each beside a control that does not know the model.

The checks: randomisation of the layers (Adebayo et al. 2018), insertion and deletion (Petsiuk et al. 2018), deletion of
the span, position of the span, and its stability under an attack.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

from attrib import formatting as text
from attrib import stats, targets, thresholds
from attrib.analyses.explaining import Explaining, View
from attrib.analyses.measured import CLEAN, Context, Files, Findings, Measured
from attrib.analyses.options import Attack, option
from attrib.analyses.table import Table
from attrib.errors import InputError
from attrib.lazy import Lazy

if TYPE_CHECKING:
    import pandas as pd
    import torch
    from matplotlib.figure import Figure
    from torch import Tensor

    from attrib import faithfulness, randomisation, spans
    from attrib.analyses.result import Result
    from attrib.data import Batch, Dataset
    from attrib.models.specs import Model
    from attrib.plots import check as plots
else:
    faithfulness, randomisation = Lazy("attrib.faithfulness"), Lazy("attrib.randomisation")
    spans, plots = Lazy("attrib.spans"), Lazy("attrib.plots.check")
    pd, torch = Lazy("pandas"), Lazy("torch")

CURVES = ("insertion", "deletion", "insertion_random", "deletion_random")
EDGES = "edge detector"
TITLE = "Do the maps mean anything? Every check beside its control"
SIGNED = (-1, 1)
"""Shares, correlations and drops of probabilities all lie in [-1,1]."""


class Check(NamedTuple):
    """A line of the table. ``value`` and ``control`` are columns of the table of images."""

    key: str
    says: str
    better: str
    value: str
    control: str
    control_is: str


CHECKS = (
    Check("similarity", "similarity, all randomised", "lower", "similarity", "similarity_edges", EDGES),
    Check("floor", "similarity, all randomised", "lower", "similarity", "similarity_floor", "architecture alone"),
    Check("ssim", "SSIM, all randomised", "lower", "ssim", "ssim_edges", EDGES),
    Check("insertion", "insertion area", "higher", "insertion", "insertion_random", "random order"),
    Check("deletion", "deletion area", "lower", "deletion", "deletion_random", "random order"),
    Check("span_vs_random", "drop without the span", "higher", "drop", "drop_random", "random pixels"),
    Check("span_vs_moved", "drop without the span", "higher", "drop", "drop_moved", "the span elsewhere"),
    Check("inside", "span on the object", "higher", "inside", "object_share", "object's share"),
    Check("pointing", "pointing game", "higher", "pointing", "object_share", "object's share"),
    Check("stability", "span IoU under attack", "higher", "iou", "iou_chance", "independent spans"),
)
CONTROLS = {
    "similarity": "similarity_edges", "ssim": "ssim_edges", "inside": "inside_edges", "pointing": "pointing_edges",
}  # fmt: skip
"""The checks that the edge detector can take itself; the others need a model."""


@dataclass(frozen=True, kw_only=True)
class Checks(Explaining):
    """Sanity and faithfulness of the maps: a line per check and model, with a control that does not know the model."""

    name: ClassVar[str] = "check"
    needs_labels: ClassVar[bool] = False
    keys: ClassVar[tuple[str, ...]] = ("model", "seed", "index")

    threshold: str = option("mean", thresholds.HELP, check=thresholds.parse_threshold)
    attack: Attack | None = option(Attack("pgd"), "Attack of the stability check: fgsm, pgd, cw or none.")
    curve_steps: int = option(20, "Number of steps of the insertion and deletion curves.", low=1)
    stages: int = option(8, "Number of stages in the randomisation of layers; maps are compared at each.", low=1)
    baseline: str = option(
        "mean", "Value of a removed pixel: mean (the image's mean colour) or black.", choices=("mean", "black")
    )

    def resolved(self, data: "Dataset | None") -> Self:
        """The analysis with the attack's strength; raises InputError for more steps of the curves than pixels."""
        pixels = data.shape[1] * data.shape[2] if data else self.curve_steps
        if self.curve_steps > pixels:
            raise InputError(f"curve_steps: expected 1 to {pixels}, the number of pixels, got {self.curve_steps}")
        return super().resolved(data)

    def describe(self, model: "Model", context: Context) -> dict[str, Any]:
        """How many layers each stage of the cascade re-initialises, and the lowest of them."""
        (batch,) = context.images.batches(1, order=torch.tensor([0]), device=context.device)
        layers = randomisation.parameter_layers(model.opened_module, batch.image)
        counts = randomisation.stage_counts(len(layers), self.stages)
        return {"cascade": [(count, layers[count - 1]) for count in counts]}

    def measure(self, model: "Model", batch: "Batch", context: Context) -> Measured:
        """The value of every check and control for every image."""
        views = self.views(model, batch, context)
        clean = views[CLEAN]
        # The class explained stays that of the trained model, even if a randomised copy predicts another.
        explained = batch._replace(label=targets.explained(self.target, batch.label, clean.prediction))
        columns = {
            "label": self.known_labels(batch, context),
            "prediction": clean.prediction,
            **self._randomisation(model, explained, clean.map, context),
            **self._curves(model, explained, clean.map),
            **self._spans(model, explained, views),
        }
        # There are a hundred columns: float32 is precise enough and halves the memory.
        return Measured(
            {
                CLEAN: {
                    name: column.float() if column.is_floating_point() else column for name, column in columns.items()
                }
            }
        )

    def _randomisation(self, model: "Model", batch: "Batch", maps: "Tensor", context: Context) -> "dict[str, Tensor]":
        """Similarity to the trained model's map after every stage, and that of the edge detector's map."""
        columns = {}
        for stage in randomisation.cascade(
            model.opened_module, batch.image, layer=model.layer, stages=self.stages, seed=self.seed
        ):
            copied = replace(model, module=stage.model, layer=stage.layer)
            other, _ = self.map_of(copied, batch.image, batch.label, batch.index, context)
            columns["similarity"] = columns[f"similarity_{stage.layers}"] = randomisation.spearman(maps, other)
            columns["ssim"] = columns[f"ssim_{stage.layers}"] = randomisation.ssim(maps, other)
        # The last copy has random weights only: on noise images its map depends on the architecture alone.
        noise = randomisation.noise_images(batch.image, batch.index, seed=self.seed)
        random, _ = self.map_of(copied, noise, batch.label, batch.index, context)
        # Computed twice, as maps are before and after randomisation: both are equal, since they do not use the model.
        before, after = randomisation.edges(batch.image), randomisation.edges(batch.image)
        return columns | {
            "similarity_floor": randomisation.spearman(maps, random),
            "similarity_edges": randomisation.spearman(before, after),
            "ssim_edges": randomisation.ssim(before, after),
        }

    def _curves(self, model: "Model", batch: "Batch", maps: "Tensor") -> "dict[str, Tensor]":
        """Insertion and deletion in the map's order and in a random one: areas and all points."""
        height, width = batch.image.shape[2:]
        random = faithfulness.random_maps(batch.index, (height, width), seed=self.seed)
        columns = {}
        for name in CURVES:
            run = faithfulness.insertion if name.startswith("insertion") else faithfulness.deletion
            order = random if name.endswith("random") else maps
            curve = run(
                model.opened_module, batch.image, batch.label, order, steps=self.curve_steps, baseline=self.baseline
            )
            columns[name] = faithfulness.area(curve, height * width)
            columns |= {f"{name}_{step}": points for step, points in enumerate(curve.unbind(1))}
        return columns

    def _spans(self, model: "Model", batch: "Batch", views: Mapping[str, View]) -> "dict[str, Tensor]":
        """How much the prediction depends on the span, where the span lies, and whether it stays there under attack."""
        maps = views[CLEAN].map
        mask = spans.span(maps, threshold=self.threshold)
        drops = faithfulness.span_deletion(
            model.opened_module, batch.image, batch.label, mask, index=batch.index, seed=self.seed,
            baseline=self.baseline,
        )  # fmt: skip
        columns = {
            "coverage": spans.coverage(mask), "empty": spans.empty(maps),
            "drop": drops.span, "drop_random": drops.random, "drop_moved": drops.moved,
        }  # fmt: skip
        if batch.mask is not None:
            edges = randomisation.edges(batch.image)
            columns |= {
                "inside": spans.inside(mask, batch.mask),
                "pointing": spans.pointing(maps, batch.mask),
                "object_share": spans.coverage(batch.mask),
                "inside_edges": spans.inside(spans.span(edges, threshold=self.threshold), batch.mask),
                "pointing_edges": spans.pointing(edges, batch.mask),
            }
        if self.attack:
            attacked = spans.span(views[self.attack.name].map, threshold=self.threshold)
            columns |= {"iou": spans.iou(mask, attacked), "iou_chance": faithfulness.chance_iou(mask, attacked)}
        return columns

    def summarise(self, files: Files) -> dict[str, Any]:
        """A line per check, similarity at every stage of the cascade, and the mean curves."""
        correct = files["prediction"] == files["label"]
        return {
            "n": files.n, "accuracy": float(correct.mean()),
            "checks": [self._line(check, files) for check in CHECKS if check.control in files],
            "cascade": self._cascade(files),
            "curves": {
                name: [files.mean(f"{name}_{step}") for step in range(self.curve_steps + 1)] for name in CURVES
            },
        }  # fmt: skip

    def _line(self, check: Check, files: Files) -> dict[str, Any]:
        value, control = files[check.value], files[check.control]
        counts = (value == value).sum(1)
        return {
            "check": check.key, "says": check.says, "better": check.better,
            "n": int(counts[0]) if len(files) == 1 else float(counts.mean()), "value": stats.mean(value),
            "ci": files.interval(check.value, seed=self.seed, within=SIGNED),
            "value_correct": files.mean(check.value, among=files["prediction"] == files["label"]),
            "control": stats.mean(control), "control_is": check.control_is,
            "margin": stats.mean(value - control), "margin_ci": list(stats.interval(value - control, seed=self.seed)),
        }  # fmt: skip

    def _cascade(self, files: Files) -> list[dict[str, Any]]:
        cascade = files.facts[0]["cascade"]
        stages = []
        for count, lowest in cascade:
            stage: dict[str, Any] = {"layers": count, "of": cascade[-1][0], "lowest": lowest}
            for kind in ("similarity", "ssim"):
                column = f"{kind}_{count}"
                ends = files.interval(column, seed=self.seed, within=SIGNED)
                stage |= {kind: files.mean(column), f"{kind}_ci": ends}
            stages.append(stage)
        return stages

    def row(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        """A model's checks side by side: KEY, KEY_ci, KEY_correct, KEY_control, KEY_margin, KEY_margin_ci."""
        row = {name: value for name, value in entry.items() if name != "checks"}
        for line in entry["checks"]:
            key = line["check"]
            row |= {
                key: line["value"], f"{key}_ci": line["ci"], f"{key}_correct": line["value_correct"],
                f"{key}_control": line["control"], f"{key}_margin": line["margin"],
                f"{key}_margin_ci": line["margin_ci"],
            }  # fmt: skip
        return row

    def compare(self, a: Files, b: Files, findings: Findings) -> Iterator[dict[str, Any]]:
        """The difference in value - control of every check, paired by image."""
        for check in CHECKS:
            if check.control in a and check.control in b:
                left, right = (files[check.value] - files[check.control] for files in (a, b))
                yield {"quantity": f"{check.key}_margin", **stats.paired(left, right, seed=self.seed).entry()}

    def about(self, findings: Findings, entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Map, threshold, class explained, attack, the points of the curves, and the edge detector's own lines."""
        context, pixels = findings.context, findings.context.images.shape[1] * findings.context.images.shape[2]
        first = next(iter(findings.files.values())).only(0)  # the edge detector is the same for every model
        return {
            "map": self.map_name, "threshold": self.threshold, "target": self.target,
            "target_class": self.target_words(findings.context.images), "baseline": self.baseline,
            "seed": self.seed, "attack": self.attack_entry(context), "precision": self.map_precision(context.device),
            "fractions": faithfulness.fractions(pixels, self.curve_steps),
            "control": {"name": EDGES, "checks": self._control_lines(first)},
        }  # fmt: skip

    def _control_lines(self, files: Files) -> list[dict[str, Any]]:
        return [
            {
                "check": check.key, "says": check.says, "better": check.better,
                "n": int((files[column] == files[column]).sum()), "value": files.mean(column),
                "ci": files.interval(column, seed=self.seed, within=SIGNED),
            }
            for check in CHECKS if (column := CONTROLS.get(check.key, "")) in files
        ]  # fmt: skip

    def frames(self, findings: Findings, summary: Mapping[str, Any]) -> "dict[str, pd.DataFrame]":
        """A row per image and model; columns without any value are left out."""
        parts = [rows.dropna(axis=1, how="all") for files in findings.files.values() for rows in files.rows]
        return {"": pd.concat(parts, ignore_index=True)}

    def tables(self, result: "Result") -> list[Table]:
        """Checks by model, then the differences between models."""
        summary = result.summary
        tables = [Table(TITLE, _rows(summary), _caption(summary))]
        if summary["pairs"]:
            words = text.p_words(summary["models"], "two-sided permutation test, paired by image")
            caption = f"Difference of value − control between two models; {words}"
            tables.append(Table("Paired differences", _pair_rows(summary), caption, pairs=True))
        return tables

    def papers(self, result: "Result") -> dict[str, Table]:
        """The checks, with fewer columns."""
        return {"": Table(TITLE, _rows(result.summary, plain=True), _caption(result.summary))}

    def figures(self, result: "Result") -> "dict[str, Figure]":
        """The cascade, insertion and deletion."""
        summary = result.summary
        title = f"{text.map_words(summary)}, {text.data_words(summary)}, {summary['models'][0]['n']:,} images"
        return {"check": plots.cascade_and_curves(summary, title=title, look=result.style)}


def _number(value: float | None) -> str:
    return text.number(value, ".3f")


def _rows(summary: Mapping[str, Any], *, plain: bool = False) -> list[dict[str, str]]:
    """A row per check and model; plain: with fewer columns, for a paper."""
    rows = []
    for check in CHECKS:
        for entry in (*summary["models"], summary["control"]):
            for line in entry["checks"]:
                if line["check"] == check.key:
                    name = {"check": check.says, "model": entry["name"]}
                    seeds = text.seeds_column(entry, summary["models"])
                    rows.append(name | seeds | _columns(line, plain=plain))
    return rows


def _columns(line: Mapping[str, Any], *, plain: bool) -> dict[str, str]:
    arrow = "" if plain else "↑ " if line["better"] == "higher" else "↓ "
    columns = {
        "better": arrow + line["better"], "value, 95 % CI": text.with_interval(line["value"], line["ci"], _number)
    }  # fmt: skip
    if "margin" not in line:
        return columns
    if not plain:
        columns["correct"] = _number(line["value_correct"])
    columns |= {
        "control": f"{_number(line['control'])} {line['control_is']}",
        "value − control, 95 % CI": text.with_interval(line["margin"], line["margin_ci"], _number),
    }
    return columns if plain else columns | {"n": text.count(line["n"])}


def _pair_rows(summary: Mapping[str, Any]) -> list[dict[str, str]]:
    checks = {f"{check.key}_margin": check for check in CHECKS}
    rows = []
    for pair in summary["pairs"]:
        check = checks[pair["quantity"]]
        rows.append(
            {
                "check": check.says, "control": check.control_is, "pair": f"{pair['a']} − {pair['b']}",
                "difference, 95 % CI": text.with_interval(pair["difference"], pair["ci"], _signed),
                **text.p_columns(pair),
            }
        )  # fmt: skip
    return rows


def _signed(value: float | None) -> str:
    return text.number(value, "+.3f")


def _caption(summary: Mapping[str, Any]) -> str:
    removed = "the mean colour of its image" if summary["baseline"] == "mean" else "black"
    caption = (
        f"{text.map_words(summary)}, threshold {summary['threshold']},"
        f" {text.images_words(summary, summary['models'][0]['n'])}, class explained: {text.target_words(summary)}; a"
        f" removed pixel is {removed}; similarity: Spearman; all layers randomised, one draw of weights"
        f" (seed {summary['seed']}); {text.interval_words(summary['models'])}"
    )
    return f"{caption}; {text.attack_words(summary['attack'])}" if summary["attack"] else caption
