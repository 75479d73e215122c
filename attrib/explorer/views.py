"""The arrays behind a picture of the explorer: one image under each of several models.

``ViewCache`` holds the models, the data and the computed values. The key of a value names everything that it depends
on, so a new threshold computes no map again, and a new map no attack.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from attrib import maps
from attrib.analyses.examples import display_images
from attrib.analyses.inputs import logits_of
from attrib.analyses.options import Attack
from attrib.analyses.run import execute
from attrib.analyses.span import Span
from attrib.data import Batch, Dataset, default_attack
from attrib.errors import InputError, one_line
from attrib.features import last_layer
from attrib.floor import SEEDS
from attrib.models.layers import named
from attrib.models.specs import Model
from attrib.models.types import place_of
from attrib.randomisation import cascade
from attrib.search import Seen, disagreement, matches, seen_in
from attrib.spans import coverage, span
from attrib.targets import explained as explained_classes

SEARCHED = 200
"""Largest number of images searched; each is attacked and explained under every model."""
KEPT = 512
"""Largest number of values in a cache; the least recently used one is dropped."""

Value = TypeVar("Value")
Pixels = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class ViewCache:
    """Models by name, a data set, and the values computed from them.

    seed: of SmoothGrad's noise and of the attack's starts; floor: whether every coverage has a floor, the coverage of
    networks with random weights.
    """

    models: Mapping[str, Model]
    data: Dataset
    seed: int
    floor: bool = True
    values: OrderedDict[Hashable, Any] = field(default_factory=OrderedDict)

    def get(self, key: Hashable, compute: Callable[[], Value]) -> Value:
        """The value under this key; compute it if the cache has none."""
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
    attacked: bool
    """Whether the image is attacked."""
    image: Pixels
    """(H,W,3) in [0,1], clean or attacked."""
    perturbation: Pixels
    """(H,W,3), the image minus the clean one; 0 without an attack."""
    probability: Pixels
    """(2,K), the probabilities of the classes for the clean image and for the one shown."""
    prediction: tuple[int, int]
    """The likeliest class of each of the two."""
    target: int
    """The class explained."""
    map: Pixels | None
    """(H,W), or None; ``error`` then gives the reason."""
    span: NDArray[np.bool_] | None
    coverage: float
    """Share of the image in [0,1]; NaN without a map."""
    floor: float
    """Coverage of the clean image under random weights, mean of three networks; NaN if unknown."""
    features: NDArray[np.int64]
    """The features that contribute most to the loss of the target, in descending order, (F,)."""
    relevance: Pixels
    """Their |dL/dA_fc * A_fc|, (F,)."""
    error: str
    """Why there is no map, one line; empty if there is one."""
    features_error: str
    """Why there are no features, one line."""


def view(
    cache: ViewCache, name: str, position: int, analysis: Span, *, attacked: bool = False, top: int = 8
) -> View:  # fmt: skip
    """Compute the view of the model ``name`` on the image at ``position`` of the data.

    analysis: which map, threshold, class and attack; its target is label, prediction (that of the image shown) or the
    number of a class. attacked: whether to show the attacked image; top: how many features. If this model has no map
    or no last layer, the view gives the reason. Raises InputError if the model cannot run.
    """
    attack = analysis.attack if attacked else None
    clean, shown = (display_images(image_of(cache, name, position, kind)[None])[0].numpy() for kind in (None, attack))
    probability = torch.stack([probabilities(cache, name, position, kind) for kind in (None, attack)])
    prediction = probability.argmax(1)
    explained = int(explained_classes(analysis.target, cache.data.labels[position].cpu()[None], prediction[1:]))
    heat, error = _or_reason(lambda: attribution(cache, name, position, attack, analysis=analysis, target=explained))
    mask = None if heat is None else span(heat[None], threshold=analysis.threshold)
    with_floor = cache.floor and heat is not None
    random = floor_maps(cache, name, position, analysis=analysis, target=explained) if with_floor else None
    relevance, features_error = _or_reason(lambda: relevances(cache, name, position, attack, target=explained))
    highest = None if relevance is None else relevance.topk(min(top, len(relevance)))
    return View(
        model=name, attacked=attacked, image=shown, perturbation=shown - clean, probability=probability.numpy(),
        prediction=(int(prediction[0]), int(prediction[1])), target=explained,
        map=None if heat is None else heat.numpy(), span=None if mask is None else mask[0].numpy(),
        coverage=float("nan") if mask is None else float(coverage(mask)), error=error,
        floor=float("nan") if random is None else float(coverage(span(random, threshold=analysis.threshold)).mean()),
        features=np.zeros(0, np.int64) if highest is None else highest.indices.numpy(),
        relevance=np.zeros(0, np.float32) if highest is None else highest.values.numpy(), features_error=features_error,
    )  # fmt: skip


def pgd_attack(data: str, *, eps: float, steps: int) -> Attack:
    """PGD with this radius; steps * step_size / eps is that of the data set's usual attack."""
    usual = default_attack(data)
    return Attack("pgd", eps, min(1.0, usual.step_size * (eps / usual.eps) * (usual.steps / steps)), steps)


def image_of(cache: ViewCache, name: str, position: int, attack: Attack | None) -> Tensor:
    """The attacked image, (C,H,W) on the model's device; without an attack the clean one."""
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


def attribution(
    cache: ViewCache, name: str, position: int, attack: Attack | None, *, analysis: Span, target: int
) -> Tensor:
    """The map of the image shown for the class ``target``, (H,W) on the CPU; raises what the map or model raises."""

    def compute() -> Tensor:
        model, image = cache.models[name], image_of(cache, name, position, attack)[None]
        layer = analysis.layer or model.layer
        return _map_of(analysis, model, model.opened_module, image, layer, position, target, cache.seed)[0]

    return cache.get(("map", name, position, attack, _map_key(analysis), target), compute)


def floor_maps(cache: ViewCache, name: str, position: int, *, analysis: Span, target: int) -> Tensor | None:
    """Maps of the clean image on re-initialised copies of the model (``attrib.floor``), (R,H,W) on the CPU.

    None where the model has no weights to re-initialise, or cannot be copied.
    """

    def compute() -> Tensor | None:
        model, image = cache.models[name], image_of(cache, name, position, None)[None]
        layer = named(model.opened_module, analysis.layer) if analysis.layer else model.layer
        random_maps = []
        try:
            for seed in range(cache.seed, cache.seed + SEEDS):
                (random,) = cascade(model.opened_module, image, layer=layer, stages=1, seed=seed)
                random_maps.append(_map_of(analysis, model, random.model, image, random.layer, position, target, seed))
        except InputError:
            return None
        return torch.cat(random_maps)

    return cache.get(("floor", name, position, _map_key(analysis), target), compute)


def _map_key(analysis: Span) -> Hashable:
    return analysis.map, analysis.layer, tuple(analysis.map_options.items())


def _map_of(
    analysis: Span, model: Model, module: nn.Module, image: Tensor, layer: nn.Module | str | None, position: int,
    target: int, seed: int,
) -> Tensor:  # fmt: skip
    """The module's map of the image (1,C,H,W), (1,H,W) on the CPU."""
    index, label = (torch.tensor([number], device=image.device) for number in (position, target))
    return maps.attribution(
        analysis.map, module, image, label, layer=layer, reshape=model.reshape, seed=seed, index=index,
        options=analysis.map_options,
    ).map.cpu()  # fmt: skip


def relevances(cache: ViewCache, name: str, position: int, attack: Attack | None, *, target: int) -> Tensor:
    """|dL/dA_fc * A_fc| of every feature, L being the loss of the class ``target``: (D,) on the CPU."""

    def compute() -> Tensor:
        image = image_of(cache, name, position, attack)[None]
        label = torch.tensor([target], device=image.device)
        return last_layer(cache.models[name].opened_module, image, label).relevance[0].float().cpu()

    return cache.get(("relevances", name, position, attack, target), compute)


def matching(
    cache: ViewCache, names: Sequence[str], analysis: Span, *, search: str | None, label: int | None
) -> list[int]:
    """Positions of the images that are of a class (None: any) and match a search (None: all images).

    names: the models; an image matches if it does so under any of them. search: one of ``attrib.search.SEARCHES``, or
    "disagreement", which sorts the images. A search covers the first SEARCHED images.
    """
    of_class = [at for at in range(len(cache.data)) if label in (None, int(cache.data.labels[at]))]
    if search is None or not names:
        return of_class
    # Take the cheapest attack, map and threshold where the search does not depend on them.
    assert analysis.attack
    attack = replace(analysis.attack, steps=1) if search in ("wrong", "disagreement") else analysis.attack
    if search in ("wrong", "turned"):
        analysis = Span(map="gradient", seed=cache.seed, precision=analysis.precision, floor=0)
    elif search == "empty":
        analysis = replace(analysis, threshold="mean")
    analysis = replace(analysis, attack=attack)

    def compute() -> Seen:
        data = cache.data.first(SEARCHED)
        models = [replace(cache.models[name], name=name, seed=0, seeds=1) for name in names]
        quiet: Callable[[str], None] = lambda _: None  # noqa: E731
        return seen_in(execute(analysis, models, data, out=None, batch_size=None, device="auto", warn=quiet)[0].rows)

    seen = cache.get(("seen", tuple(names), analysis), compute)
    if search == "disagreement":
        order = np.argsort(-disagreement(seen), kind="stable")
    else:
        order = np.flatnonzero(matches(seen)[search].any(0))
    return [at for at in order.tolist() if at in set(of_class)]


def _or_reason(compute: Callable[[], Tensor]) -> tuple[Tensor | None, str]:
    """The value and an empty text, or None and the reason."""
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
