"""The floor of ASC: the coverage with the same map and threshold on the same network with random weights.

A random network has a coverage too: random ReLU features give some 37 % under ``mean``. It depends on the architecture,
the map and the threshold. So an ASC only tells something about training if it is compared with its floor.
"""

import hashlib
from collections.abc import Hashable, Mapping
from itertools import chain
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from attrib import inference, map_table, maps, spans, targets
from attrib.data import Batch, Dataset, dataset
from attrib.errors import InputError
from attrib.fast import keep_prepared
from attrib.inference import Precision
from attrib.maps import Map
from attrib.models.tokens import Reshape
from attrib.models.types import place_of
from attrib.randomisation import Randomised, cascade

IMAGES = 200
"""The default number of images, taken from the start of the data."""
SEEDS = 3
"""The number of re-initialisations."""


class Floor(NamedTuple):
    """ASC on a network with random weights, as a fraction."""

    asc: float
    """The mean over the re-initialisations."""
    low: float
    """The smallest over the re-initialisations."""
    high: float
    """The largest over the re-initialisations."""


def asc_floor(
    model: nn.Module,
    data: Any,
    *,
    map: Map = "gradcam",
    threshold: str = "mean",
    target: str | int = "label",
    layer: nn.Module | None = None,
    reshape: Reshape | None = None,
    images: int = IMAGES,
    seed: int = 0,
    precision: Precision = "fp32",
    batch_size: int = 250,
    map_options: Mapping[str, Any] = map_table.NONE,
) -> Floor:
    """The floor of the model's ASC: the mean and the range of ``random_coverage`` over three re-initialisations.

    Their seeds are ``seed``, ``seed + 1`` and ``seed + 2``. Arguments and errors are those of ``random_coverage``.

    >>> import attrib
    >>> data = attrib.dataset("glyphs", limit=20)
    >>> model = attrib.build("lenet", num_classes=10, input_shape=data.shape)
    >>> floor = attrib.asc_floor(model, data)
    >>> 0 < floor.low <= floor.asc <= floor.high < 1
    True
    """
    ascs = [
        random_coverage(
            model, data, map=map, threshold=threshold, target=target, layer=layer, reshape=reshape, images=images,
            seed=number, precision=precision, batch_size=batch_size, map_options=map_options,
        ).double().mean().item()
        for number in range(seed, seed + SEEDS)
    ]  # fmt: skip
    return Floor(sum(ascs) / SEEDS, min(ascs), max(ascs))


def random_coverage(
    model: nn.Module,
    data: Any,
    *,
    map: Map = "gradcam",
    threshold: str = "mean",
    target: str | int = "label",
    layer: nn.Module | None = None,
    reshape: Reshape | None = None,
    images: int = IMAGES,
    seed: int = 0,
    precision: Precision = "fp32",
    batch_size: int = 250,
    map_options: Mapping[str, Any] = map_table.NONE,
) -> Tensor:
    """Coverage of the first ``images`` images on a copy of the model with random weights, (N,) in [0,1] on the CPU.

    All layers are re-initialised as in the last stage of ``attrib.cascade`` (Adebayo et al. 2018); the model is not
    changed. data: a Dataset, or what ``attrib.dataset`` takes. map: a name, or a function from model, image (N,C,H,W)
    and label (N,) to maps (N,H,W). threshold: a rule of ``attrib.span``. target: label, prediction (the random
    network's own; also used if the data is unlabelled), or a class. layer, reshape: for maps of a layer, as in
    ``attrib.gradcam``. seed: for the weights and SmoothGrad's noise. map_options: the map's options, as
    ``{"samples": 8}`` (``attrib.map_table.MAPS``).
    The result depends on the model's structure, not on its weights. It is cached as long as ``data`` exists, so that
    several models of one structure cost as much as one.

    Raises InputError for images < 1, another target, threshold or map, a layer with a map that takes none, and a model
    that has no parameters or cannot be copied.
    """
    _check(map, target, layer, images, map_options)
    if not isinstance(data, Dataset):
        data = dataset(data)
    target = targets.target_class(target, data.classes)
    if target == "label" and not data.labelled:
        target = "prediction"
    spans.parse_threshold(threshold)
    order = torch.arange(min(images, len(data)))
    device = place_of(model, torch.device("cpu"))
    (first,) = data.batches(1, order=order[:1], device=device)
    (random,) = cascade(model, first.image, layer=layer, stages=1, seed=seed)
    key = (*_structure(random), map, threshold, target, reshape, len(order), seed, precision, *map_options.items())
    cache = _cache.setdefault(data, {})
    if key not in cache:
        parts = []
        with keep_prepared(random.model):
            for batch in data.batches(batch_size, order=order, device=device):
                batch_maps = _maps(random, batch, map, target, reshape, seed, precision, map_options)
                parts.append(spans.coverage(spans.span(batch_maps, threshold=threshold)))
        cache[key] = torch.cat(parts).cpu()
    return cache[key].clone()


_cache: WeakKeyDictionary[Dataset, dict[Hashable, Tensor]] = WeakKeyDictionary()


def _check(map: Map, target: str | int, layer: nn.Module | None, images: int, options: Mapping[str, Any]) -> None:
    if images < 1:
        raise InputError(f"images: expected at least 1, got {images}")
    targets.check_target(target)
    map_table.check_map(map, layer=layer, options=options)


def _maps(
    random: Randomised, batch: Batch, map: Map, target: str | int, reshape: Reshape | None, seed: int,
    precision: Precision, options: Mapping[str, Any],
) -> Tensor:  # fmt: skip
    prediction = inference.logits(random.model, batch.image).argmax(1) if target == "prediction" else batch.index
    label = targets.explained(target, batch.label, prediction)
    return maps.attribution(
        map, random.model, batch.image, label, layer=random.layer, reshape=reshape, seed=seed, index=batch.index,
        precision=precision, options=options,
    ).map  # fmt: skip


def _structure(random: Randomised) -> tuple[Hashable, ...]:
    """An identifier of a re-initialised copy's function: two copies that share it compute the same.

    It covers the modules' classes and settings and all tensors: the new weights, and the unchanged buffers, as the mean
    and std of the input.
    """
    digest = hashlib.sha256()
    for name, tensor in chain(random.model.named_parameters(), random.model.named_buffers()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    modules = dict(random.model.named_modules())
    for name, module in modules.items():
        own = {key: value for key, value in vars(module).items() if key not in _OF_EVERY_MODULE}
        hooks = [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]
        digest.update(f"{name} {own} {hooks}".encode())
    layer = next((name for name, module in modules.items() if module is random.layer), None)
    return digest.hexdigest(), tuple(type(module) for module in modules.values()), layer


_OF_EVERY_MODULE = frozenset(vars(nn.Module()))
