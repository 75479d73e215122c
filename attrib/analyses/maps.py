"""Heat maps of a few images under every model, clean or attacked."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from attrib import formatting as text
from attrib import thresholds
from attrib.analyses.examples import arrays_of, kept_examples
from attrib.analyses.explaining import Explaining, View
from attrib.analyses.measured import CLEAN, Array, Context, Files, Findings, Measured, Pass
from attrib.analyses.options import Attack, option
from attrib.analyses.table import Table
from attrib.errors import InputError
from attrib.lazy import Lazy

if TYPE_CHECKING:
    import torch
    from matplotlib.figure import Figure

    from attrib import spans
    from attrib.analyses.result import Result
    from attrib.data import Batch, Dataset
    from attrib.models.specs import Model
    from attrib.plots import maps as plots
else:
    plots, spans, torch = Lazy("attrib.plots.maps"), Lazy("attrib.spans"), Lazy("torch")


def _positions(listed: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in listed.split(","))
    except ValueError:
        raise InputError(f"index: expected positions separated by commas, got {listed!r}") from None


def _check_index(index: Any) -> None:
    if not isinstance(index, list | tuple) or not index or not all(isinstance(position, int) for position in index):
        raise InputError(f"index: expected a list of whole numbers, got {index!r}")


@dataclass(frozen=True, kw_only=True)
class Maps(Explaining):
    """Heat maps of a few images under every model; with an attack, those of the adversarial images."""

    name: ClassVar[str] = "maps"
    keys: ClassVar[tuple[str, ...]] = ("model", "seed", "index")
    needs_labels: ClassVar[bool] = False

    threshold: str = option(
        "mean", f"Threshold of the spans saved with the maps: {thresholds.HELP}", check=thresholds.parse_threshold
    )  # fmt: skip
    images: int = option(8, "Images to show: the first of each class, then the next.", low=1)
    index: tuple[int, ...] | None = option(
        None, "Show the images at these positions instead, as 3,17,42.", check=_check_index, parse=_positions,
        show=lambda index: ",".join(map(str, index)),
    )  # fmt: skip

    attack: Attack | None = option(None, "Explain adversarial images instead of clean ones: fgsm, pgd or cw.")
    overlay: bool = option(
        False, "Also draw a figure maps-overlay: maps over their images. For unlabelled data, maps is that figure."
    )  # fmt: skip

    def pictured(self) -> int:
        """The number of images to show if no positions are given."""
        return self.images

    def shown(self, data: "Dataset") -> tuple[int, ...]:
        """The positions given, ascending; else the first image of each class, then the next ones."""
        if self.index is None:
            return super().shown(data)
        positions = tuple(sorted(set(self.index)))
        if positions[0] < 0 or positions[-1] >= len(data):
            listed = ",".join(map(str, self.index))
            raise InputError(f"index: expected positions in 0..{len(data) - 1}, got {listed}")
        return positions

    def passes(self, models: "Sequence[Model]", data: "Dataset") -> list[Pass]:
        """Only the images shown are measured."""
        return [Pass(data, torch.tensor(self.shown(data)))]

    def measure(self, model: "Model", batch: "Batch", context: Context) -> Measured:
        """The map of every image: its highest and mean value, and the map itself with its span."""
        image, kind = batch.image, CLEAN
        if self.attack:
            precision = self.attack_precision(context.device)
            image = self.attack.images(model.opened_module, batch, seed=self.seed, precision=precision)
            kind = self.attack.name
        view = self.view(model, batch, image, context)
        mask = spans.span(view.map, threshold=self.threshold)
        return Measured(
            {kind: self._columns(model, view, batch, context)},
            examples=kept_examples(model, batch, {kind: view}, {kind: mask}, context),
        )

    def _columns(self, model: "Model", view: View, batch: "Batch", context: Context) -> dict[str, Any]:
        classes, flat = context.classes_of(model), view.map.flatten(1).cpu()
        return {
            "label": [classes[k] if k >= 0 else "" for k in self.known_labels(batch, context).tolist()],
            "prediction": [classes[k] for k in view.prediction.tolist()],
            "probability": view.probability.double(),
            "highest": flat.amax(1).double(), "mean": flat.mean(1).double(), "empty": spans.empty(view.map),
        }  # fmt: skip

    def summarise(self, files: Files) -> dict[str, Any]:
        """The means over the images shown of each map's highest and mean value."""
        return {"n": files.n, "highest": files.mean("highest"), "mean": files.mean("mean")}

    def about(self, findings: Findings, entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Map, class explained and attack; under ``images`` a row per model and image."""
        context = findings.context
        return {
            "map": self.map_name, "target": self.target,
            "target_class": self.target_words(context.images), "seed": self.seed, "attack": self.attack_entry(context),
            "precision": self.map_precision(context.device), "images": findings.rows.to_dict("records"),
        }  # fmt: skip

    def objections(self, summary: Mapping[str, Any], findings: Findings) -> Iterable[str]:
        """Warn of models whose maps are all empty. The images shown are too few for other warnings."""
        return self.all_empty(findings, images=self.attack.name if self.attack else CLEAN)

    def arrays(self, findings: Findings, summary: Mapping[str, Any]) -> dict[str, dict[str, Array]]:
        """The maps and spans of every file, and the figure's arrays."""
        positions = sorted(findings.examples)
        arrays: dict[str, dict[str, Array]] = {}
        for model in (model for files in findings.files.values() for model in files.models):
            examples = [findings.examples[position][model.shown_as] for position in positions]
            (views,) = zip(*(example["kinds"].values() for example in examples), strict=True)
            arrays[model.stem] = {
                "index": np.array(positions), "map": np.stack([view["map"].numpy() for view in views]),
                "span": np.stack([view["span"].numpy() for view in views]),
            }  # fmt: skip
        return arrays | {"examples": arrays_of(findings)}

    def tables(self, result: "Result") -> list[Table]:
        """A row per model and image."""
        summary = result.summary
        several = any(row["seed"] for row in summary["images"])
        rows = [
            {
                "model": row["model"], **({"seed": str(row["seed"])} if several else {}), "index": str(row["index"]),
                **({"file": Path(row["file"]).name} if "file" in row else {}),
                **({} if summary.get("unlabelled") else {"label": row["label"]}), "prediction": row["prediction"],
                **({"probability %": text.percent(row["probability"])} if "probability" in row else {}),
                **{name: text.number(row[name], ".3g") for name in ("highest", "mean")},
            }
            for row in summary["images"]
        ]  # fmt: skip
        caption = f"{_words(summary)}; in the units of the score explained"
        if summary.get("unlabelled") or self.overlay:
            figure = "maps" if summary.get("unlabelled") else "maps-overlay"
            caption += f"; in the figure {figure} each map has a scale of its own"
        return [Table("Attribution maps", rows, caption)]

    def papers(self, result: "Result") -> dict[str, Table]:
        """No table: a paper shows the figure."""
        return {}

    def figures(self, result: "Result") -> "dict[str, Figure]":
        """Maps beside their images; over them with ``overlay``, and for unlabelled data."""
        title = _words(result.summary) + text.first_seeds(result.summary["models"])
        examples = result.arrays["examples"]
        if result.summary.get("unlabelled"):
            return {"maps": plots.overlay_grid(examples, title=title, look=result.style)}
        figures = {"maps": plots.map_grid(examples, title=title, look=result.style)}
        if self.overlay:
            figures["maps-overlay"] = plots.overlay_grid(examples, title=title, look=result.style)
        return figures


def _words(summary: Mapping[str, Any]) -> str:
    kind = summary["attack"]["name"] if summary["attack"] else CLEAN
    explained = f", class explained: {text.target_words(summary)}" if summary["target"] != "label" else ""
    return f"{text.map_words(summary)}, {text.data_words(summary)}, {kind} images{explained}"
