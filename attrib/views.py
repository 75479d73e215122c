"""What one image looks like to each of several models: the arrays behind a picture of the explorer.

A :class:`Desk` holds the models and the data and remembers what has been computed, each value under all that it
depends on: another threshold computes no map anew, another map no attack.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from attrib import inference
from attrib.attack import pgd
from attrib.data import Batch, Dataset, default_attack
from attrib.errors import InputError, one_line, refused
from attrib.features import last_layer
from attrib.maps import LAYER_MAPS, MAPS
from attrib.spans import coverage, parse_threshold, span

TARGETS = ("label", "prediction")
REMEMBERED = 512
"""Values that a desk keeps; the one that has not been asked for longest goes first."""

Value = TypeVar("Value")
Pixels = NDArray[np.float32]


class Attack(NamedTuple):
    """PGD's radius in pixels of [0,1], and its number of steps."""

    eps: float
    steps: int


@dataclass(eq=False)
class Desk:
    """Models by name, a data set, and what has been computed of them.

    layers: where the maps of LAYER_MAPS look, for the models named there (others: found by ``locate``); samples: the
    noisy copies of SmoothGrad; seed: of its noise and of the attack's starts.
    """

    models: dict[str, nn.Module]
    data: Dataset
    layers: dict[str, nn.Module]
    samples: int
    seed: int
    known: OrderedDict[Hashable, Any] = field(default_factory=OrderedDict)

    def remember(self, key: Hashable, compute: Callable[[], Value]) -> Value:
        """The value under this key, computed where it is not known."""
        if key in self.known:
            self.known.move_to_end(key)
        else:
            self.known[key] = compute()
            if len(self.known) > REMEMBERED:
                self.known.popitem(last=False)
        value: Value = self.known[key]
        return value


class View(NamedTuple):
    """One model's view of one image, as arrays."""

    model: str
    image: Pixels
    """(H,W,3) in [0,1]: the clean image, or what the attack made of it."""
    perturbation: Pixels
    """(H,W,3), the image less the clean one; 0 without an attack."""
    probability: Pixels
    """(2,K): the classes' probabilities for the clean image and for the one shown."""
    prediction: tuple[int, int]
    """The likeliest class of either."""
    target: int
    """The class explained."""
    map: Pixels | None
    """(H,W), or None where ``error`` says why there is none."""
    span: NDArray[np.bool_] | None
    coverage: float
    """Share of the image in [0,1]; NaN without a map."""
    features: NDArray[np.int64]
    """The features that contribute most to the loss of the target, in descending order, (F,)."""
    relevance: Pixels
    """Their |dL/dA_fc * A_fc|, (F,)."""
    error: str
    """Why there is no map, one line; empty where there is one."""
    features_error: str
    """Why there are no features, one line."""


def view(
    desk: Desk, name: str, position: int, *, kind: str, threshold: str, target: str, attack: Attack | None, top: int = 8
) -> View:
    """The view that the model called ``name`` has of the image at ``position`` of the data.

    kind: one of MAPS; threshold: a rule of :func:`attrib.span`; target: label or prediction (that of the image
    shown); attack: None for the clean image; top: how many features. What this model has no map or no last layer for
    is told in the view. Raises InputError for another target, map or threshold, and where the model cannot run.
    """
    if target not in TARGETS:
        raise refused("target", target, TARGETS)
    if kind not in MAPS:
        raise refused("map", kind, MAPS)
    parse_threshold(threshold)
    clean, shown = (_picture(attacked(desk, name, position, made_by)) for made_by in (None, attack))
    probability = torch.stack([probabilities(desk, name, position, made_by) for made_by in (None, attack)])
    prediction = probability.argmax(1).tolist()
    explained = int(desk.data.labels[position]) if target == "label" else prediction[1]
    heat, error = _or_why(lambda: attribution(desk, name, position, attack, kind=kind, target=explained))
    mask = None if heat is None else span(heat[None], threshold=threshold)
    found, features_error = _or_why(lambda: relevances(desk, name, position, attack, target=explained))
    best = None if found is None else found.topk(min(top, len(found)))
    return View(
        model=name, image=shown, perturbation=shown - clean, probability=probability.numpy(),
        prediction=(prediction[0], prediction[1]), target=explained,
        map=None if heat is None else heat.numpy(), span=None if mask is None else mask[0].numpy(),
        coverage=float("nan") if mask is None else float(coverage(mask)), error=error,
        features=np.zeros(0, np.int64) if best is None else best.indices.numpy(),
        relevance=np.zeros(0, np.float32) if best is None else best.values.numpy(), features_error=features_error,
    )  # fmt: skip


def attacked(desk: Desk, name: str, position: int, attack: Attack | None) -> Tensor:
    """The image after PGD on the model, (C,H,W) on the model's device; without an attack the image itself."""
    batch = _batch(desk, name, position)
    if attack is None:
        return batch.image[0]

    def compute() -> Tensor:
        usual = default_attack(desk.data.name)
        # So many steps of this size reach as many times as far as eps as the data set's usual ones do.
        step_size = usual.step_size * (attack.eps / usual.eps) * (usual.steps / attack.steps)
        model = desk.models[name]
        return pgd(
            model, batch.image, batch.label, eps=attack.eps, step_size=step_size, steps=attack.steps, seed=desk.seed,
            index=batch.index,
        )[0]  # fmt: skip

    return desk.remember(("attacked", name, position, attack), compute)


def probabilities(desk: Desk, name: str, position: int, attack: Attack | None) -> Tensor:
    """The classes' probabilities, (K,) on the CPU; raises InputError where the model does not give K logits."""

    def compute() -> Tensor:
        model, image = desk.models[name], attacked(desk, name, position, attack)[None]
        try:
            logits = inference.logits(model, image)
        except RuntimeError as error:
            raise InputError(f"{name}: the model does not take {_shape(image)} images ({one_line(error)})") from None
        count = len(desk.data.classes)
        if not isinstance(logits, Tensor) or logits.shape != (1, count):
            found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise InputError(f"{name}: expected logits of shape (1, {count}), one per class of the data, got {found}")
        return logits[0].float().softmax(0).cpu()

    return desk.remember(("probabilities", name, position, attack), compute)


def attribution(desk: Desk, name: str, position: int, attack: Attack | None, *, kind: str, target: int) -> Tensor:
    """The map of the image shown for the class ``target``, (H,W) on the CPU; raises what the map or model raises."""

    def compute() -> Tensor:
        image = attacked(desk, name, position, attack)[None]
        options: dict[str, Any] = {}
        if kind in LAYER_MAPS:
            options = {"layer": desk.layers.get(name)}
        elif kind == "smoothgrad":
            index = torch.tensor([position], device=image.device)
            options = {"samples": desk.samples, "seed": desk.seed, "index": index}
        return MAPS[kind](desk.models[name], image, torch.tensor([target], device=image.device), **options)[0].cpu()

    return desk.remember(("map", name, position, attack, kind, target), compute)


def relevances(desk: Desk, name: str, position: int, attack: Attack | None, *, target: int) -> Tensor:
    """|dL/dA_fc * A_fc| of every feature, L being the loss of the class ``target``: (D,) on the CPU."""

    def compute() -> Tensor:
        image = attacked(desk, name, position, attack)[None]
        label = torch.tensor([target], device=image.device)
        return last_layer(desk.models[name], image, label).relevance[0].float().cpu()

    return desk.remember(("relevances", name, position, attack, target), compute)


def positions(data: Dataset, label: int | None) -> list[int]:
    """The positions of the images of one class, or (None) of all."""
    if label is None:
        return list(range(len(data)))
    return torch.nonzero(data.labels.cpu() == label).flatten().tolist()


def _or_why(compute: Callable[[], Tensor]) -> tuple[Tensor | None, str]:
    """The value and no reason, or no value and the reason."""
    try:
        return compute(), ""
    except Exception as error:  # somebody else's model runs here and may raise anything
        return None, one_line(error)


def _batch(desk: Desk, name: str, position: int) -> Batch:
    """The clean image on the model's device."""
    device = next((parameter.device for parameter in desk.models[name].parameters()), torch.device("cpu"))
    order = torch.tensor([position])
    return desk.remember(("batch", device, position), lambda: next(desk.data.batches(1, device=device, order=order)))


def _picture(image: Tensor) -> Pixels:
    """(C,H,W) as a picture shows it: (H,W,3), grey repeated."""
    rgb = image if len(image) == 3 else image[:1].expand(3, -1, -1)
    return rgb.permute(1, 2, 0).cpu().numpy()


def _shape(image: Tensor) -> str:
    return "x".join(map(str, image.shape[1:]))
