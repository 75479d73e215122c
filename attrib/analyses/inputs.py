"""What an analysis is given, checked before any work: the data, and whether every model fits it."""

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
    """The data of an analysis: a ``Dataset``, or what ``attrib.dataset`` takes; None: what the models know.

    Raises InputError where no data set is known, or more than one, and for anything else.
    """
    if isinstance(data, Dataset):
        return data
    return dataset(known_data(models) if data is None else data)


def known_data(models: Sequence[Model]) -> str:
    """The data set that the checkpoints were trained on; raises InputError where they name none or several."""
    known = {model.name: model.trained_on for model in models if model.trained_on}
    if not known:
        raise InputError("data: name one, since no model given says what it was trained on")
    if len(set(known.values())) > 1:
        listed = ", ".join(f"{name} on {trained_on}" for name, trained_on in known.items())
        raise InputError(f"the models were trained on different data ({listed}); name the data to look at")
    return str(next(iter(known.values())))


def check_labels(analysis: Analysis, data: Dataset | None) -> None:
    """Raise InputError where an analysis needs labels that the data lacks."""
    if analysis.needs_labels and data is not None and not data.labelled:
        raise InputError(
            f"{analysis.name}: needs labels, and {data.name} is unlabelled; put the pictures of every class into a"
            " folder called by its name, or take span, maps or robust, which explain and attack the prediction"
        )


def check_models(
    analysis: Analysis, models: Sequence[Model], data: Dataset | None, group: World, warn: Warn
) -> list[Model]:
    """The models with the layer that maps look at; every model is run on a few images of the data, one epoch of a run.

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
        raise InputError(f"{maps[0]}: maps made elsewhere can be measured by span, and without an attack")
    runs_taken = "runs" in analysis.takes
    for model in models:
        if model.epoch is not None and not runs_taken:
            raise InputError(f"{model.name}: {analysis.name} takes no runs; name one of its files, as {model.path}")
        check_fit(model, data)
        if model.trained_on not in (None, data.name):
            warn(f"{model.name} was trained on {model.trained_on}, and is looked at on {data.name}")
    if not analysis.needs_data:  # no model is run on it
        return list(models)
    attack = getattr(analysis, "attack", None)
    if attack and attack.name != "fgsm":
        for sentence in objections.warn_short_attack(attack.eps, attack.step_size, attack.steps):
            warn(sentence)
    few = next(data.batches(PROBED, order=torch.arange(min(PROBED, len(data))), device=group.device)).image
    checked, runs = [], set()
    for model in models:
        # Where one epoch of a run fits the data, the others do.
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
    """Whether maps made elsewhere have the images' size, and there is one for every image."""
    assert model.maps is not None
    came = next(iter(model.maps.values())).shape if model.maps else data.shape[1:]
    if tuple(came) != tuple(data.shape[1:]):
        found, wanted = ("x".join(map(str, shape)) for shape in (came, data.shape[1:]))
        raise InputError(f"{model.label}: expected maps of the images' size {wanted}, got {found}")
    lacking = [position for position in range(len(data)) if position not in model.maps]
    if lacking:
        raise InputError(
            f"{model.label}: no map for {len(lacking)} of the {len(data)} images, the first is {lacking[0]}; see limit"
            " (--limit)"
        )


def _check_answer(model: Model, data: Dataset, images: Tensor, analysis: Analysis, warn: Warn) -> int:
    """Run the model on a few images (N,C,H,W) of the data: its answers must fit, and warn where they are no logits.

    Returns the number of classes.
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
            f"{model.label} is quantised or not in float32, and runs in its own precision, whatever precision the"
            " result names"
        )
    if getattr(analysis, "attack", None) and isinstance(model.module, GatedClassifier):
        warn(
            f"{model.label} is gated, and its gates hide part of the gradient: an attack on the final logits alone"
            " flatters it; see attrib robust for the worst of its attacks"
        )
    return logits.shape[1]


def logits_of(model: Model, image: Tensor, *, classes: int, data: str) -> Tensor:
    """The model's answer to every image, in exact float32; raises InputError where that is not (N,K) finite logits.

    classes: K; 0: any. data: what the error calls the data that has so many classes.
    """
    try:
        with naming(model):
            logits = inference.logits(model.opened_module, image)
    except InputError:
        raise
    except Exception as error:  # of the model's own code, which may raise anything
        shape = "x".join(map(str, image.shape[1:]))
        raise InputError(
            f"{model.label}: the model does not take {shape} images ({one_line(error)}); see size (--size)"
        ) from None
    if classes and logits.shape[1] != classes:
        raise InputError(
            f"{model.label}: expected logits of shape (N,{classes}), one per class of {data}, got {tuple(logits.shape)}"
        )
    if not logits.isfinite().all():
        raise InputError(
            f"{model.label}: expected finite logits, got NaN or infinity; are its weights broken, or what it expects of"
            " its input (mean, std)?"
        )
    return logits


@contextmanager
def naming(model: Model, separator: str = ": ") -> Iterator[None]:
    """Put the model's name in front of an InputError of the body."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{model.label}{separator}{error}") from None
