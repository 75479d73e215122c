"""Check the input of an analysis before any work: the data, and whether every model fits it."""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from attrib import inference, objections
from attrib.analyses.base import Analysis
from attrib.analyses.fitting import check_names, with_classes
from attrib.data import Dataset, dataset
from attrib.errors import InputError, one_line
from attrib.models import checkpoint, probe
from attrib.models.gated import GatedClassifier
from attrib.models.layers import named
from attrib.models.outside import Normalized
from attrib.models.several import with_layer
from attrib.models.specs import Model
from attrib.models.types import takes_autocast
from attrib.parallel import World

Warn = Callable[[str], None]
PROBED = 3
"""Images on which every model is tried before any work."""


def dataset_of(data: Any, models: Sequence[Model]) -> Dataset:
    """The data of an analysis; data: a ``Dataset``, an argument of ``attrib.dataset``, or None: the models' own.

    Raises InputError for anything else, and if the models' training data is unknown or differs.
    """
    if isinstance(data, Dataset):
        return data
    return dataset(known_data(models) if data is None else data)


def known_data(models: Sequence[Model]) -> str:
    """The data set that the checkpoints were trained on; raises InputError if they name none or several."""
    known = {model.name: model.trained_on for model in models if model.trained_on}
    if not known:
        raise InputError("data: expected the name of a data set, since the models do not name their training data")
    if len(set(known.values())) > 1:
        listed = ", ".join(f"{name} on {trained_on}" for name, trained_on in known.items())
        raise InputError(f"the models were trained on different data ({listed}); name the data to use")
    return str(next(iter(known.values())))


def check_labels(analysis: Analysis, data: Dataset | None) -> None:
    """Raise InputError if an analysis needs labels that the data lacks."""
    if analysis.needs_labels and data is not None and not data.labelled:
        raise InputError(
            f"{analysis.name}: needs labels, and {data.name} is unlabelled; put the pictures of every class into a"
            " folder with the name of the class, or use span, maps, check or robust, which explain and attack the"
            " prediction"
        )


def check_models(
    analysis: Analysis, models: Sequence[Model], data: Dataset | None, group: World, warn: Warn
) -> list[Model]:
    """Run every model (one epoch of each run) on a few images, and return the models with the layer for maps.

    Raises InputError for a model that does not fit the data or has no such layer.
    """
    layer = getattr(analysis, "layer", None)
    if layer:
        example = None if data is None else _first_image(data, group)
        models = [
            replace(each, layer=named(each.module, layer, example)) if each.module else replace(each, layer_name=layer)
            for each in models
        ]  # fmt: skip
    if data is None:
        return list(models)
    maps = [model.label for model in models if model.maps is not None]
    if maps and (analysis.name != "span" or getattr(analysis, "attack", None)):
        raise InputError(f"{maps[0]}: expected a model, got a map file, which only span can measure, without an attack")
    runs_taken = "runs" in analysis.takes
    for model in models:
        if model.epoch is not None and not runs_taken:
            raise InputError(f"{model.name}: {analysis.name} takes no runs; name one file of it, as {model.path}")
        check_fit(model, data)
        if model.trained_on not in (None, data.name):
            warn(f"{model.name} was trained on {model.trained_on}, but is analysed on {data.name}")
    if not analysis.needs_data:  # no model is run on it
        return list(models)
    attack = getattr(analysis, "attack", None)
    if attack and attack.name != "fgsm":
        for sentence in objections.warn_short_attack(attack.eps, attack.step_size, attack.steps):
            warn(sentence)
    few = next(data.batches(PROBED, order=torch.arange(min(PROBED, len(data))), device=group.device)).image
    checked, runs = [], set()
    for model in models:
        # If one epoch of a run fits the data, the others do.
        if model.maps is None and (model.epoch is None or model.name not in runs):
            with model.opened(group.device) as opened:
                count = _check_answer(opened, data, few, analysis, warn)
            if not data.classes:
                model = with_classes(model, count)
        if model.epoch is not None:
            runs.add(model.name)
        checked.append(with_layer(model, few[:1]))
    return checked


def _first_image(data: Dataset, group: World) -> Tensor:
    (first,) = data.batches(1, order=torch.tensor([0]), device=group.device)
    return first.image


def check_fit(model: Model, data: Dataset) -> None:
    """Raise InputError if classes, shape or channels do not fit; the model is not run."""
    if model.maps is not None:
        _check_maps(model, data)
    elif model.checkpoint:
        try:
            count = len(data.classes) or model.checkpoint.num_classes
            checkpoint.check_data(model.checkpoint, classes=count, shape=data.shape)
        except InputError as error:
            raise InputError(f"{model.path if model.epoch is not None else model.label}: {error}") from None
    elif isinstance(model.module, Normalized) and model.module.mean is not None:
        given, channels = model.module.mean.shape[1], data.shape[0]
        if given != channels:
            raise InputError(
                f"{model.label}: mean, std: expected one number for each of the {channels} channels of {data.name}, got"
                f" {given}"
            )


def _check_maps(model: Model, data: Dataset) -> None:
    """Raise InputError if a map file lacks a map for an image, or has maps of another size."""
    assert model.maps is not None
    shape = next(iter(model.maps.values())).shape if model.maps else data.shape[1:]
    if tuple(shape) != tuple(data.shape[1:]):
        got, expected = ("x".join(map(str, sides)) for sides in (shape, data.shape[1:]))
        raise InputError(f"{model.label}: expected maps of the images' size {expected}, got {got}")
    lacking = [position for position in range(len(data)) if position not in model.maps]
    if lacking:
        raise InputError(
            f"{model.label}: no map for {len(lacking)} of the {len(data)} images, the first is {lacking[0]}; see limit"
            " (--limit)"
        )


def _check_answer(model: Model, data: Dataset, images: Tensor, analysis: Analysis, warn: Warn) -> int:
    """Run the model on a few images (N,C,H,W); returns the number of classes. Warns of output that is no logits.

    Raises InputError if the output does not fit the data.
    """
    count = len(data.classes)
    advice = {
        "folder": "; leave out the folders that are no class of the model",
        "npz": ": name every class of the model in an array 'classes'",
    }.get(data.name.partition(":")[0], "")
    named_data = f"{data.name} ({count} class{'es' * (count > 1)}{advice})"
    logits = logits_of(model, images, classes=count, data=named_data)
    check_names(model, logits.shape[1])
    with naming(model, " "):
        for sentence in probe.objections(model.opened_module, images, attacked=analysis.attacks):
            warn(f"{model.label} {sentence}")
    if not takes_autocast(model.opened_module):
        warn(
            f"{model.label} is quantised or not in float32: it runs in its own precision, not in the one that the"
            " result names"
        )
    if getattr(analysis, "attack", None) and isinstance(model.module, GatedClassifier):
        warn(
            f"{model.label} is gated, and its gates hide part of the gradient: an attack on the final logits alone"
            " overestimates its accuracy; attrib robust reports the worst of several attacks"
        )
    return logits.shape[1]


def logits_of(model: Model, image: Tensor, *, classes: int, data: str) -> Tensor:
    """The model's logits (N,K) in exact float32; raises InputError for other output, and for NaN or infinity.

    classes: K; 0: any number. data: the name of the data in the error's message.
    """
    try:
        with naming(model):
            logits = inference.logits(model.opened_module, image)
    except InputError:
        raise
    except Exception as error:  # the model's own code may raise anything
        shape = "x".join(map(str, image.shape[1:]))
        channels = re.search(r"to have (\d+) channels?, but got \d+ channels", str(error))  # torch's convolutions
        advice = "see size (--size)"
        if channels:
            advice = f"it takes {channels[1]}-channel images: convert them, or put it into a module that does"
        raise InputError(
            f"{model.label}: the model does not take {shape} images ({one_line(error)}); {advice}"
        ) from None
    if classes and logits.shape[1] != classes:
        raise InputError(
            f"{model.label}: expected logits of shape (N,{classes}), one per class of {data}, got {tuple(logits.shape)}"
        )
    if not logits.isfinite().all():
        raise InputError(
            f"{model.label}: expected finite logits, got NaN or infinity; check its weights, and its input (mean, std)"
        )
    return logits


@contextmanager
def naming(model: Model, separator: str = ": ") -> Iterator[None]:
    """Put the model's name in front of an InputError of the body."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{model.label}{separator}{error}") from None
