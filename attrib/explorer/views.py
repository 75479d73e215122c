"""What one image looks like to each of several models: the arrays behind a picture of the explorer.

``ViewCache`` holds the models and the data and keeps what was computed. Each value is kept under all that it
depends on: another threshold computes no map again, another map no attack.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attrib import maps
from attrib.analyses.examples import display_images
from attrib.analyses.inputs import logits_of
from attrib.analyses.options import Attack
from attrib.data import Batch, Dataset, default_attack
from attrib.errors import InputError, one_line
from attrib.features import last_layer
from attrib.floor import SEEDS
from attrib.map_table import check_map
from attrib.models.specs import Model
from attrib.models.types import place_of
from attrib.randomisation import cascade
from attrib.spans import coverage, parse_threshold, span
from attrib.targets import TARGETS

KEPT = 512
"""Values that a cache keeps; the one that was not used for longest goes first."""

Value = TypeVar("Value")
Pixels = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class ViewCache:
    """Models by name, a data set, and what was computed of them.

    samples: noisy copies of SmoothGrad; seed: of its noise and of the attack's starts; floor: whether the coverage of
    networks with random weights stands beside every coverage.
    """

    models: Mapping[str, Model]
    data: Dataset
    samples: int
    seed: int
    floor: bool = True
    values: OrderedDict[Hashable, Any] = field(default_factory=OrderedDict)

    def get(self, key: Hashable, compute: Callable[[], Value]) -> Value:
        """The value under this key, computed if it is not kept."""
        if key in self.values:
            self.values.move_to_end(key)
        else:
            self.values[key] = compute()
            if len(self.values) > KEPT:
                self.values.popitem(last=False)
        value: Value = self.values[key]
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
    floor: float
    """The same of the clean image and the network with random weights, mean of three; NaN without."""
    features: NDArray[np.int64]
    """The features that contribute most to the loss of the target, in descending order, (F,)."""
    relevance: Pixels
    """Their |dL/dA_fc * A_fc|, (F,)."""
    error: str
    """Why there is no map, one line; empty where there is one."""
    features_error: str
    """Why there are no features, one line."""


def view(
    cache: ViewCache, name: str, position: int, *, kind: str, threshold: str, target: str, attack: Attack | None,
    top: int = 8,
) -> View:  # fmt: skip
    """The view that the model called ``name`` has of the image at ``position`` of the data.

    kind: one of ``attrib.map_table.MAPS``; threshold: a rule of ``attrib.span``; target: label or prediction
    (that of the image shown); attack: None for the clean image; top: how many features. Where this model has no map or
    no last layer, the view says why. Raises InputError for another target, map or threshold, and if the model cannot
    run.
    """
    if target not in TARGETS:
        raise InputError(f"target: expected one of {', '.join(TARGETS)}, got {target!r}")
    check_map(kind)
    parse_threshold(threshold)
    clean, shown = (
        display_images(image_of(cache, name, position, made_by)[None])[0].numpy() for made_by in (None, attack)
    )
    probability = torch.stack([probabilities(cache, name, position, made_by) for made_by in (None, attack)])
    prediction = probability.argmax(1).tolist()
    explained = int(cache.data.labels[position]) if target == "label" else prediction[1]
    heat, error = _or_why(lambda: attribution(cache, name, position, attack, kind=kind, target=explained))
    mask = None if heat is None else span(heat[None], threshold=threshold)
    with_floor = cache.floor and heat is not None
    random = floor_maps(cache, name, position, kind=kind, target=explained) if with_floor else None
    relevance, features_error = _or_why(lambda: relevances(cache, name, position, attack, target=explained))
    best = None if relevance is None else relevance.topk(min(top, len(relevance)))
    return View(
        model=name, image=shown, perturbation=shown - clean, probability=probability.numpy(),
        prediction=(prediction[0], prediction[1]), target=explained,
        map=None if heat is None else heat.numpy(), span=None if mask is None else mask[0].numpy(),
        coverage=float("nan") if mask is None else float(coverage(mask)), error=error,
        floor=float("nan") if random is None else float(coverage(span(random, threshold=threshold)).mean()),
        features=np.zeros(0, np.int64) if best is None else best.indices.numpy(),
        relevance=np.zeros(0, np.float32) if best is None else best.values.numpy(), features_error=features_error,
    )  # fmt: skip


def pgd_attack(data: str, *, eps: float, steps: int) -> Attack:
    """PGD of this radius, whose steps reach as many times as far as eps as those of the data set's usual attack."""
    usual = default_attack(data)
    return Attack("pgd", eps, min(1.0, usual.step_size * (eps / usual.eps) * (usual.steps / steps)), steps)


def image_of(cache: ViewCache, name: str, position: int, attack: Attack | None) -> Tensor:
    """The image after the attack on the model, (C,H,W) on the model's device; without an attack the image itself."""
    batch = _batch(cache, name, position)
    if attack is None:
        return batch.image[0]
    module = cache.models[name].opened_module
    return cache.get(
        ("attacked", name, position, attack),
        lambda: attack.images(module, batch, seed=cache.seed, precision="fp32")[0],
    )


def probabilities(cache: ViewCache, name: str, position: int, attack: Attack | None) -> Tensor:
    """The classes' probabilities, (K,) on the CPU; raises InputError if the model does not give K finite logits."""

    def compute() -> Tensor:
        image, data = image_of(cache, name, position, attack)[None], cache.data
        logits = logits_of(cache.models[name], image, classes=len(data.classes), data=data.name)
        return logits[0].float().softmax(0).cpu()

    return cache.get(("probabilities", name, position, attack), compute)


def attribution(cache: ViewCache, name: str, position: int, attack: Attack | None, *, kind: str, target: int) -> Tensor:
    """The map of the image shown for the class ``target``, (H,W) on the CPU; raises what the map or model raises."""

    def compute() -> Tensor:
        model, image = cache.models[name], image_of(cache, name, position, attack)[None]
        index, label = (torch.tensor([number], device=image.device) for number in (position, target))
        options = {"samples": cache.samples} if kind == "smoothgrad" else {}
        return maps.attribution(
            kind, model.opened_module, image, label, layer=model.layer, reshape=model.reshape, seed=cache.seed,
            index=index, options=options,
        ).map[0].cpu()  # fmt: skip

    return cache.get(("map", name, position, attack, kind, target), compute)


def floor_maps(cache: ViewCache, name: str, position: int, *, kind: str, target: int) -> Tensor | None:
    """Maps of the clean image on re-initialised copies of the model (``attrib.floor``), (R,H,W) on the CPU.

    None where the model has no weights to re-initialise, or cannot be copied.
    """

    def compute() -> Tensor | None:
        model, image = cache.models[name], image_of(cache, name, position, None)[None]
        index, label = (torch.tensor([number], device=image.device) for number in (position, target))
        options = {"samples": cache.samples} if kind == "smoothgrad" else {}
        found = []
        try:
            for seed in range(cache.seed, cache.seed + SEEDS):
                (random,) = cascade(model.opened_module, image, layer=model.layer, stages=1, seed=seed)
                found.append(
                    maps.attribution(
                        kind, random.model, image, label, layer=random.layer, reshape=model.reshape, seed=seed,
                        index=index, options=options,
                    ).map.cpu()
                )  # fmt: skip
        except InputError:
            return None
        return torch.cat(found)

    return cache.get(("floor", name, position, kind, target), compute)


def relevances(cache: ViewCache, name: str, position: int, attack: Attack | None, *, target: int) -> Tensor:
    """|dL/dA_fc * A_fc| of every feature, L being the loss of the class ``target``: (D,) on the CPU."""

    def compute() -> Tensor:
        image = image_of(cache, name, position, attack)[None]
        label = torch.tensor([target], device=image.device)
        return last_layer(cache.models[name].opened_module, image, label).relevance[0].float().cpu()

    return cache.get(("relevances", name, position, attack, target), compute)


def positions(data: Dataset, label: int | None) -> list[int]:
    """The positions of the images of one class, or (None) of all."""
    if label is None:
        return list(range(len(data)))
    return torch.nonzero(data.labels.cpu() == label).flatten().tolist()


def _or_why(compute: Callable[[], Tensor]) -> tuple[Tensor | None, str]:
    """The value and no reason, or no value and the reason."""
    try:
        return compute(), ""
    except Exception as error:  # the user's model runs here and may raise anything
        return None, one_line(error)


def _batch(cache: ViewCache, name: str, position: int) -> Batch:
    """The clean image on the model's device."""
    module = cache.models[name].opened_module
    device = place_of(module, torch.device("cpu"))
    order = torch.tensor([position])
    return cache.get(("batch", device, position), lambda: next(cache.data.batches(1, device=device, order=order)))
