"""What ``span`` and ``maps`` share: a model's maps of a batch, clean and attacked, and the examples of a picture."""

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from attrib.cli.common import AttackSettings, attacked, display_images
from attrib.cli.subjects import Subject, predictions
from attrib.errors import InputError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from attrib.data import Batch, Dataset
    from attrib.inference import Precision


class Explained(NamedTuple):
    """One model's view of one batch."""

    image: "Tensor"
    """(N,C,H,W): the batch's, or what the attack made of them."""
    prediction: "Tensor"
    """(N,)"""
    map: "Tensor"
    """(N,H,W)"""
    grid: "Tensor | None"
    """(N,h,w) where the map was brought up from a layer's grid."""


class How(NamedTuple):
    """What is computed for every image."""

    map: str
    target: str
    attack: AttackSettings | None
    seed: int
    precision: str
    device: "torch.device"

    def map_precision(self) -> "Precision":
        """Maps are thresholded, so ``auto`` keeps them in fp32; over SmoothGrad's many passes rounding evens out."""
        from attrib.inference import precision

        exact = self.precision == "auto" and self.map != "smoothgrad"
        return precision("fp32" if exact else self.precision, self.device)

    def attack_precision(self) -> "Precision":
        """An attack only has to be as strong: ``auto`` takes the fast one."""
        from attrib.inference import precision

        return precision(self.precision, self.device)

    def key(self) -> list[object]:
        """What the numbers depend on, ``auto`` as the precision that it stands for; not the device."""
        return [self.map, self.target, self.attack, self.seed, self.map_precision(), self.attack_precision()]


def explain(subject: Subject, batch: "Batch", how: How, *, classes: int) -> dict[str, Explained]:
    """The subject's maps of the batch, under ``clean`` and, where an attack is set, under its name."""
    images = {"clean": batch.image}
    if how.attack:
        images[how.attack.name] = attacked(subject, batch, how.attack, seed=how.seed, precision=how.attack_precision())
    found = {}
    for kind, image in images.items():
        prediction = predictions(subject, image, classes=classes)
        target = batch.label if how.target == "label" else prediction
        found[kind] = Explained(image, prediction, *map_of(subject, image, target, batch.index, how))
    return found


def map_of(
    subject: Subject, image: "Tensor", target: "Tensor", index: "Tensor", how: How
) -> "tuple[Tensor, Tensor | None]":
    """The map of the target classes (N,), (N,H,W), and on its own grid where it has one; no prediction is made."""
    from attrib.maps import attribution

    try:
        return attribution(
            how.map, subject.model, image, target, layer=subject.layer, seed=how.seed, index=index,
            precision=how.map_precision(),
        )  # fmt: skip
    except InputError as error:
        raise InputError(f"{subject.name}: {error}") from None


class Examples:
    """The few images that a picture shows: the first of each class, until there are ``count``; or those asked for."""

    def __init__(self, data: "Dataset", *, count: int, models: list[str], index: list[int] | None = None) -> None:
        self._classes = data.classes
        self._models = models
        if index is None:
            labels = data.labels.tolist()
            firsts = sorted(labels.index(label) for label in sorted(set(labels)))
            # Fewer classes than places: fill up with the next images in order.
            rest = [position for position in range(len(data)) if position not in set(firsts)][:count]
            index = sorted((firsts + rest)[:count])
        self.index = index
        self.pictures: dict[int, dict[str, Any]] = {}
        """Position in the data to what has been kept of it."""

    def add(
        self, model: int, batch: "Batch", views: dict[str, Explained], spans: "dict[str, Tensor]"
    ) -> None:  # fmt: skip
        """Keep what the picture needs of this batch: one kind of images, or the clean and the attacked ones."""
        for row, position in enumerate(batch.index.tolist()):
            if position in self.index:
                first = next(iter(views.values()))
                picture = self.pictures.setdefault(
                    position,
                    {
                        "image": display_images(first.image[row : row + 1])[0],
                        "label": self._classes[int(batch.label[row])],
                    },
                )
                picture[f"model {model}"] = [
                    self._kept(view, spans[kind], row) for kind, view in views.items()
                ]  # fmt: skip

    def _kept(self, view: Explained, spans: "Tensor", row: int) -> dict[str, Any]:
        said = int(view.prediction[row])
        return {
            "image": display_images(view.image[row : row + 1])[0],
            "map": view.map[row].cpu().numpy(), "span": spans[row].cpu().numpy(),
            "prediction": self._classes[said] if said >= 0 else "",
        }  # fmt: skip

    def arrays(self) -> dict[str, Any]:
        """What :func:`attrib.plots.maps.map_grid` takes."""
        pictures = [self.pictures[position] for position in self.index]
        seen = [[picture[f"model {m}"] for picture in pictures] for m in range(len(self._models))]
        found = {
            "image": np.stack([picture["image"] for picture in pictures]),
            "label": np.array([picture["label"] for picture in pictures]),
            "index": np.array(self.index),
            "model": np.array(self._models),
        }
        for part in ("map", "span", "prediction"):
            found[part] = np.array([[kinds[0][part] for kinds in row] for row in seen])
        if len(seen[0][0]) > 1:
            for part in ("image", "map", "span", "prediction"):
                found[f"attacked_{part}"] = np.array([[kinds[1][part] for kinds in row] for row in seen])
        return found
