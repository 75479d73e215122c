"""Analyses of maps: which map, of which class, on clean and on attacked images. No torch until it runs."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np

from attrib import map_table, targets
from attrib.analyses.base import Analysis
from attrib.analyses.measured import CLEAN, Context, Findings
from attrib.analyses.options import Attack, option
from attrib.lazy import Lazy

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from attrib import maps
    from attrib.analyses import inputs
    from attrib.data import Batch, Dataset
    from attrib.inference import Precision
    from attrib.models.specs import Model
else:
    torch, maps, inputs = Lazy("torch"), Lazy("attrib.maps"), Lazy("attrib.analyses.inputs")


class View(NamedTuple):
    """A model's maps and predictions of a batch."""

    image: "Tensor"
    """(N,C,H,W), clean or attacked"""
    prediction: "Tensor"
    """(N,)"""
    map: "Tensor"
    """(N,H,W)"""
    grid: "Tensor | None"
    """(N,h,w): the map before it was upsampled from a layer's grid, if it was"""
    probability: "Tensor"
    """(N,), of the predicted class; NaN if unknown"""


@dataclass(frozen=True, kw_only=True)
class Explaining(Analysis):
    """An analysis of maps: which map, of which class, on clean and on attacked images."""

    map: Any = option("gradcam", map_table.HELP, check=map_table.check_map)
    samples: int | None = option(None, "Number of noisy copies for smoothgrad (default: 32).", low=1)
    sigma: float | None = option(None, "Noise of smoothgrad, a share of the pixels' range (default: 0.15).", low=0)
    window: int | None = option(None, "Window of occlusion in pixels (default: an eighth of the image).", low=1)
    integration_steps: int | None = option(None, "Number of steps of integrated-gradients (default: 32).", low=1)
    layer: str | None = option(None, "Dotted name of the layer of Grad-CAM, Eq. 6 etc. (default: the last stage).")
    target: str | int = option(
        "label", "The class explained: label (true class), prediction, or a class by its name or number.",
        check=targets.check_target, parse=str,
    )  # fmt: skip
    attack: Attack | None = option(None, "Explain adversarial images too: fgsm, pgd or cw.")

    def __post_init__(self) -> None:
        super().__post_init__()
        map_table.check_map(self.map, layer=self.layer, options=self.map_options)

    @property
    def map_options(self) -> dict[str, Any]:
        """The options of the map that are set."""
        return {name: value for name in map_table.OPTIONS if (value := getattr(self, name)) is not None}

    @property
    def map_name(self) -> str:
        """The map's name; of a function its qualified name."""
        return str(self.options()["map"])

    def map_precision(self, device: "torch.device") -> "Precision":
        """The precision of maps: ``auto`` is fp32, but not for SmoothGrad, which averages rounding errors out."""
        return self.attack_precision(device) if self.map == "smoothgrad" else self.exact_precision(device)

    def views(self, model: "Model", batch: "Batch", context: Context) -> dict[str, View]:
        """The model's view of the batch by kind of images: clean and, if there is an attack, the attack's name."""
        images = {CLEAN: batch.image}
        if self.attack:
            images[self.attack.name] = self.attack.images(
                model.opened_module, batch, seed=self.seed, precision=self.attack_precision(context.device)
            )
        return {kind: self.view(model, batch, image, context) for kind, image in images.items()}

    def view(self, model: "Model", batch: "Batch", image: "Tensor", context: Context) -> View:
        """The model's view of the batch; image (N,C,H,W): its images, clean or attacked."""
        logits = self.answers(model, image, context)
        prediction = logits.argmax(1)
        target = targets.explained(self.target, batch.label, prediction)
        probability = logits.softmax(1).amax(1)
        return View(image, prediction, *self.map_of(model, image, target, batch.index, context), probability)

    def resolved(self, data: "Dataset | None") -> Self:
        """Turn the name of the class to explain into its number; for unlabelled data, explain the prediction."""
        if data is None:
            return super().resolved(data)
        target = targets.target_class(self.target, data.classes)
        if target == "label" and not data.labelled:
            target = "prediction"
        return replace(super().resolved(data), target=target)

    def objections(self, summary: Mapping[str, Any], findings: Findings) -> Iterable[str]:
        """Warn of models at chance, and of models whose maps are all empty."""
        yield from super().objections(summary, findings)
        yield from self.all_empty(findings)

    def all_empty(self, findings: Findings, *, images: str = CLEAN) -> Iterator[str]:
        """Warn of every model or run whose maps are all empty (the column ``empty``).

        images: the kind of images, if the rows have no such column.
        """
        groups = {name: [files] for name, files in findings.files.items()} | findings.epochs
        for name, files in groups.items():
            for kind in files[0].kinds() if "images" in self.keys else [images]:
                of_kind = [part.where(images=kind) if "images" in self.keys else part for part in files]
                if all(part["empty"].all() for part in of_kind):
                    yield (
                        f"{name}: every map of the {kind} images is empty, so its numbers mean nothing; choose a"
                        " layer that has an effect on the class explained (--layer), or another map (--map)"
                    )

    def target_words(self, data: "Dataset") -> str:
        """The class explained, for captions."""
        return data.classes[self.target] if isinstance(self.target, int) else self.target

    def map_of(
        self, model: "Model", image: "Tensor", target: "Tensor", index: "Tensor", context: Context
    ) -> "tuple[Tensor, Tensor | None]":
        """The map (N,H,W) of the target classes (N,), and the map on its layer's grid, if it has one."""
        with inputs.naming(model):
            return maps.attribution(
                self.map, model.opened_module, image, target, layer=model.layer, reshape=model.reshape, seed=self.seed,
                index=index, precision=self.map_precision(context.device), options=self.map_options,
            )  # fmt: skip


def grid_of(view: View) -> str:
    """The size of the map's grid, such as 8x8."""
    return "x".join(map(str, (view.map if view.grid is None else view.grid).shape[1:]))


def map_file_view(model: "Model", batch: "Batch") -> View:
    """The maps of the batch's images from a map file; the predictions are unknown (-1)."""
    assert model.maps is not None
    rows = [model.maps[position] for position in batch.index.tolist()]
    unknown = torch.full_like(batch.index, -1)
    loaded = torch.from_numpy(np.stack(rows)).to(batch.image.device)
    return View(batch.image, unknown, loaded, None, torch.full_like(loaded[:, 0, 0], torch.nan))
