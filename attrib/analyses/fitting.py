"""Fit data to the models: the size and channels of pictures, and the class of each class folder."""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from attrib import inference
from attrib.analyses.base import Analysis
from attrib.analyses.measured import Context
from attrib.class_names import folded, meanings
from attrib.data import CATALOG, Batch, Dataset, dataset
from attrib.data.matching import by_position, by_wordnet_id, matched
from attrib.data.pictures import DEFAULT_SIZE, TRANSPARENT, Pictures, first_transparent
from attrib.errors import InputError
from attrib.models.outside import Normalized
from attrib.models.specs import Model

DARK = 0.01
"""If all pixels are below this, the data is probably in other units."""
DARK_SAMPLE = 16
"""Images that are checked for dark pixels, spread over the data."""
TRANSPARENT_SAMPLE = 100
"""Pictures that are checked for transparent pixels, the first of the data: reading all would take twice as long."""


def fitted(data: Dataset, models: Sequence[Model], device: torch.device, warn: Callable[[str], None]) -> Dataset:
    """The data in the form that the models expect, with their classes.

    Pictures get the models' size, and become grey for models of grey images. Unlabelled data gets the models' classes.
    Class folders are matched to the classes by name if they are fewer or in another order; if no name matches, the data
    becomes unlabelled. Raises InputError for a list of class names that does not fit.
    """
    for note in data.notes:
        warn(note)
    data = _pictures(data, models, device)
    if isinstance(data.images, Pictures) and data.images.by_default:
        warn(
            f"the pictures of {data.name} differ in size or exceed 2 megapixels: they are resized and cropped to"
            f" {DEFAULT_SIZE}x{DEFAULT_SIZE}; name another size with size (--size)"
        )
    if isinstance(data.images, Pictures) and (path := first_transparent(data.images.paths[:TRANSPARENT_SAMPLE])):
        warn(f"{path}: {TRANSPARENT}")
    _warn_dark(data, warn)
    _check_first_label(data, models, device)
    if not data.labelled or data.numbered or data.folders:
        names, count = _classes_of(data, models, device)
        if count:
            labelled = _labelled(data, names, count, warn)
            if names:
                _warn_borrowed(models, data, labelled, count, warn)
            data = labelled
    return data


def _warn_borrowed(
    models: Sequence[Model], data: Dataset, labelled: Dataset, count: int, warn: Callable[[str], None]
) -> None:
    """Warn of models whose outputs are read by the class names of another model.

    data, labelled: before and after ``_labelled`` with the names of the models.
    """
    names = {model.name: _names_of(model) for model in models if model.maps is None}
    lender = next((name for name, own in names.items() if own), None)
    nameless = [name for name, own in names.items() if not own]
    if lender is None or not nameless or (data.source and data.source.classes):
        return
    alone = _labelled(data, None, count, lambda _: None)
    if labelled.labelled and alone.labelled and torch.equal(labelled.labels, alone.labels):
        return
    warn(
        f"{_few(nameless)}: the class names are unknown, so the outputs are taken to be in the order of {lender}'s"
        f" classes ({_few(names[lender] or ())}); if they are, name them with classes (--classes, or attrib.model(...,"
        " classes=)); if they are not, analyse that model alone"
    )


def _pictures(data: Dataset, models: Sequence[Model], device: torch.device) -> Dataset:
    """Pictures with the channels and the size that all models expect."""
    images = data.images
    if not isinstance(images, Pictures) or not models:
        return data
    expected = [_input_of(model) for model in models]
    sizes = {each[1] for each in expected}
    if {each[0] for each in expected} == {1} or _takes_only_grey(data, models, device):
        images = replace(images, channels=1)
    (size,) = sizes if len(sizes) == 1 else (None,)
    given = data.source is not None and data.source.size is not None
    # Resize what a Normalized would shrink, or a checkpoint refuse. A Normalized may enlarge smaller pictures itself.
    needed = all(model.checkpoint for model in models) or images.by_default or min(images.size) > min(size or (1,))
    if size and not given and needed:
        images = replace(images, size=size, by_default=False)
    return data if images is data.images else replace(data, images=images)


def _input_of(model: Model) -> tuple[int | None, tuple[int, int] | None]:
    """The channels and the size (H,W) of a model's images; None if unknown."""
    if model.checkpoint:
        channels, height, width = model.checkpoint.input_shape
        return channels, (height, width)
    if isinstance(model.module, Normalized):
        front = model.module
        return None if front.mean is None else front.mean.numel(), front.size
    return None, None


def _takes_only_grey(data: Dataset, models: Sequence[Model], device: torch.device) -> bool:
    """Whether the models, of unknown input shape, refuse colour images and accept grey ones."""
    if not isinstance(data.images, Pictures) or any(model.checkpoint or model.module is None for model in models):
        return False
    if any(_count_of(model, data, device) for model in models):
        return False
    grey = replace(data, images=replace(data.images, channels=1))
    return all(_count_of(model, grey, device) for model in models)


def _warn_dark(data: Dataset, warn: Callable[[str], None]) -> None:
    """Warn if all pixels are nearly black, as they are in a file with other units."""
    if not len(data):
        return
    order = torch.linspace(0, len(data) - 1, min(DARK_SAMPLE, len(data))).long()
    brightest = max(float(batch.image.max()) for batch in data.batches(len(order), order=order))
    if brightest < DARK:
        warn(
            f"the brightest pixel of {len(order)} images of {data.name} is {255 * brightest:.3g}/255: are these"
            " masks of 0 and 1, 8-bit values in a 16-bit file, or pixels divided by 255 twice?"
        )


def _check_first_label(data: Dataset, models: Sequence[Model], device: torch.device) -> None:
    """Raise InputError for labels 1 to K, without names, and a model of K classes."""
    count = len(data.classes) - 1
    if not data.labelled or not len(data) or data.classes != tuple(map(str, range(count + 1))):
        return
    first = int(data.labels.min())
    if first > 0 and any(_count_of(model, data, device) == count for model in models):
        raise InputError(
            f"labels: expected 0 to {count - 1} for the model's {count} classes, got {first} to {count}; subtract 1, so"
            " that they begin at 0"
        )


def _classes_of(
    data: Dataset, models: Sequence[Model], device: torch.device
) -> tuple[tuple[str, ...] | None, int | None]:
    """The names and the number of the models' classes; None if unknown, or if the models differ."""
    given = data.source.classes if data.source else None
    known = {names for model in models if (names := _names_of(model))}
    counts = [count for model in models if (count := _count_of(model, data, device))]
    if given is None and (len(known) > 1 or len(set(counts)) > 1):
        if not data.labelled:
            return None, None  # each model explains its own prediction
        if len(set(counts)) > 1:
            listed = " and ".join(map(str, sorted(set(counts))))
            raise InputError(
                f"expected models with the same number of classes, got {listed}; analyse them one by one, or use images"
                " without labels"
            )
        if len(known) > 1:
            raise InputError(
                f"the models name their classes differently{_first_difference(models)}; if only the spelling differs,"
                " give the names once, with classes of the data (--classes); if the order differs, analyse the models"
                " one by one, or put one into a module that returns its outputs in the other's order"
            )
    names = given or next(iter(known), None)
    count = next(iter(counts), None)
    if given and count and len(given) != count:
        raise InputError(f"classes: expected {count} names, one per class of the model, got {len(given)}")
    return (names if count is None or names is None or len(names) == count else None), count or len(names or ()) or None


def _first_difference(models: Sequence[Model]) -> str:
    """``: class 0 is cat of a, dog of b``, for the first class that two models name differently."""
    one, *others = [(model.label, names) for model in models if (names := _names_of(model))]
    label, names = next(other for other in others if other[1] != one[1])
    position = next((at for at, (a, b) in enumerate(zip(one[1], names, strict=False)) if a != b), None)
    if position is None:
        return ""
    return f": class {position} is {one[1][position]} of {one[0]}, {names[position]} of {label}"


def with_classes(model: Model, count: int) -> Model:
    """The model with a name for each of its ``count`` classes; numbers if the names are unknown."""
    names = _names_of(model)
    return replace(model, classes=names if names and len(names) == count else tuple(map(str, range(count))))


def _names_of(model: Model) -> tuple[str, ...] | None:
    """The model's own class names, or those of its training data; None if unknown."""
    if names := getattr(model, "classes", None):
        return tuple(names)
    trained_on = CATALOG.get(model.trained_on or "")
    return trained_on.classes if trained_on else None


def check_names(model: Model, count: int) -> None:
    """Raise InputError if the model has class names, but not ``count`` of them."""
    if model.classes is not None and len(model.classes) != count:
        raise InputError(
            f"{model.label}: classes: expected {count} names, one per class of the model, got {len(model.classes)}"
        )


def _count_of(model: Model, data: Dataset, device: torch.device) -> int | None:
    """How many classes a model has; None if it has no module or does not accept the images."""
    if model.checkpoint:
        check_names(model, model.checkpoint.num_classes)
        return model.checkpoint.num_classes
    if model.module is None or not len(data):
        return None
    (batch,) = data.batches(1, order=torch.tensor([0]), device=device)
    try:
        logits = inference.logits(model.module, batch.image)
    except Exception:  # a user's model may raise anything; check_models reports it
        return None
    check_names(model, logits.shape[1])
    return logits.shape[1]


def _labelled(data: Dataset, names: tuple[str, ...] | None, count: int, warn: Callable[[str], None]) -> Dataset:
    """The data with the models' classes."""
    classes = names or tuple(map(str, range(count)))
    if not data.labelled or data.numbered:
        return replace(data, classes=classes) if count >= len(data.classes) else data
    assert data.folders is not None
    folders = list(data.folders)
    positions = (matched(folders, names) if names else None) or by_wordnet_id(folders, count)
    if positions is None and (positions := by_position(folders, count)) and (names or len(folders) < count):
        warn(
            f"the class folders of {data.name} have numbers as names, which are taken as the positions of the"
            f" model's classes, from 0{f': {folders[0]} is {names[positions[0]]}' if names else ''}"
        )
    if positions is not None:
        if positions == list(data.folders.values()) and (len(folders) == count or data.classes == classes):
            return data if names is None else replace(data, classes=classes)  # in order already, or matched before
        labels = torch.tensor(positions)[data.labels]
        return replace(data, classes=classes, labels=labels, folders=dict(zip(folders, positions, strict=True)))
    unmatched = _few([folder for folder in folders if folded(folder) not in meanings(names)]) if names else ""
    if len(folders) >= count:
        if names and len(folders) == count:
            warn(
                f"no class of the model is called {unmatched}, so the class folders of {data.name} are taken in their"
                f" order: {folders[0]} is {names[0]}, ..., {folders[-1]} is {names[-1]}"
            )
        return data
    reason = f"none is called {unmatched}" if unmatched else "the names do not say which is which"
    parts = [folded(part) for name in names or () for part in {name, *name.split(",")}]
    if shared := [folder for folder in folders if parts.count(folded(folder)) > 1]:
        reason = f"several of them are called {_few(shared)}"
    of_imagenet = count >= 1000 and re.fullmatch(r"n\d{8}", folders[0])
    advice = " or install timm, which knows these WordNet ids" if of_imagenet else ""
    warn(
        f"{data.name} has {len(folders)} class folder{'s' * (len(folders) > 1)} ({_few(folders)}), the model {count}"
        f" classes, and {reason}: taken as unlabelled; name the model's classes with classes (--classes FILE){advice}"
    )
    return replace(data, classes=classes, labels=None, folders=None)


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + ", ..." * (len(names) > 3)


BYTES = 2 * 10**9
"""Bytes of activations that one pass may keep."""
KEPT = 160
"""Bytes that a ResNet-50 keeps for its gradient per byte of an image, about."""


def batch_size_for(usual: int, data: Dataset | None, models: Sequence[Model] = ()) -> int:
    """The usual batch size, or a smaller one that keeps about 2 GB of activations: 250 at 64x64, 20 at 224x224.

    The size of an image is that of the data, or the larger size to which a model resizes it.

    >>> from attrib.data import dataset
    >>> batch_size_for(250, dataset("glyphs", limit=1)), batch_size_for(250, dataset(torch.zeros(1, 3, 224, 224)))
    (250, 20)
    """
    if data is None:
        return usual
    channels, *own = data.shape
    pixels = max(height * width for height, width in [own, *(size for _, size in map(_input_of, models) if size)])
    return max(1, min(usual, BYTES // (KEPT * 4 * channels * pixels)))


def with_labels(analysis: Analysis, model: Model, batch: Batch, context: Context) -> Batch:
    """The batch; if it is unlabelled, with the model's predictions as labels (-1 for map files)."""
    if batch.label is not None:
        return batch
    unknown = model.module is None
    return batch._replace(
        label=torch.full_like(batch.index, -1) if unknown else analysis.predictions(model, batch.image, context)
    )


def about_data(data: Dataset) -> dict[str, Any]:
    """The data in a summary, with the class of each class folder."""
    about: dict[str, Any] = {"data": data.name, "split": data.split}
    if not data.labelled:
        about["unlabelled"] = True
    if data.folders:
        about["folders"] = {
            folder: {"class": position, "name": data.classes[position]} for folder, position in data.folders.items()
        }
    return about


def data_card(name: str, models: Sequence[Model]) -> dict[str, Any]:
    """Facts about a data set or folder of pictures, fitted to the models."""
    notes: list[str] = []
    data = fitted(dataset(f"folder:{name}" if Path(name).is_dir() else name), models, torch.device("cpu"), notes.append)
    about = about_data(data)
    return {
        "path": about.pop("data"), "images": len(data), "size": "x".join(map(str, data.shape)),
        "classes": len(data.classes), **about, "notes": notes,
    }  # fmt: skip
