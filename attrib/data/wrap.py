"""Images from Python objects: tensors, arrays, pictures, torch datasets and loaders, Hugging Face data sets."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler, SequentialSampler

from attrib.bounds import LARGEST
from attrib.data import pictures
from attrib.errors import InputError

IMAGE_KEYS = ("image", "img", "pixel_values", "images")
LABEL_KEYS = ("label", "labels", "fine_label", "target", "class")
NO_IMAGES = "data: expected at least one image, got none"
_COLUMN = (Tensor, np.ndarray, list, type(None))
"""Types that hold all images, or all labels."""


class Arrays(NamedTuple):
    """Images in memory."""

    name: str
    images: Tensor
    """(N,C,H,W), uint8 or floats"""
    labels: Tensor | None
    """(N,) int64"""
    classes: tuple[str, ...] | None
    notes: tuple[str, ...] = ()


def arrays(data: Any, *, limit: int | None, size: int | None) -> Arrays:
    """The images, labels and class names in ``data``.

    data: images (N,C,H,W) or (N,H,W,C), or a pair or mapping of images and labels, as tensors or arrays; a picture or
    a list of pictures; a torch ``Dataset`` or ``DataLoader``, or rows with the keys image and label. Items are an
    image, a tuple (image, label, ...) or a mapping; an image is a picture or a tensor (C,H,W). Labels of -1 are
    unknown. limit: take the first so many. size: resize and crop pictures (not tensors) to it; default: their common
    size, else 224. The global random generator is not advanced.

    Raises InputError for anything else, and for images of different shapes.
    """
    notes: list[str] = []
    pair = isinstance(data, tuple) and len(data) == 2 and isinstance(data[0], _COLUMN)
    if pair or isinstance(data, Tensor | np.ndarray | Mapping):
        given, numbers = _parts(data)
        images = _images(given, size, notes) if isinstance(given, list) else _stacked(given)
        labels = None if numbers is None else _labels(numbers)
        if labels is not None and len(images) != len(labels):
            raise InputError(f"data: expected a label for each of the {len(images)} images, got {len(labels)}")
        return Arrays("tensors", images[:limit], None if labels is None else labels[:limit], None, tuple(notes))
    if isinstance(data, Image.Image):
        data = [data]
    if not isinstance(data, DataLoader | Dataset) and not (hasattr(data, "__len__") and hasattr(data, "__getitem__")):
        raise InputError(
            "data: expected a name as cifar10 or folder:DIR, a picture, attrib.dataset(...), tensors (images[,"
            f" labels]), a torch Dataset or DataLoader, got {type(data).__name__}"
        )
    with torch.random.fork_rng(devices=[]):
        pairs = list(_bounded(islice(_items(data, notes), limit), _count(data, limit)))
    given = [label for _, label in pairs]
    labels = None if all(label is None for label in given) else _labels(given)
    images = _images([image for image, _ in pairs], size, notes)
    return Arrays(_name(data), images, labels, _classes(data), tuple(notes))


def _inner(data: Any) -> Any:
    return data.dataset if isinstance(data, DataLoader) else data


def _name(data: Any) -> str:
    """The name for captions: that of a Hugging Face data set, else the class."""
    inner = _inner(data)
    name = getattr(getattr(inner, "info", None), "dataset_name", None)
    return "pictures" if isinstance(inner, list) else name or type(inner).__name__


def _count(data: Any, limit: int | None) -> int:
    """The number of images to expect; 0 if unknown."""
    inner = _inner(data)
    count = len(inner) if hasattr(inner, "__len__") else 0
    return count if limit is None else min(count, limit)


def _bounded(pairs: Iterable[tuple[Any, Any]], count: int) -> Iterator[tuple[Any, Any]]:
    """The pairs; raises InputError as soon as those so far, or ``count`` of the last size, need too much memory."""
    total = 0
    for image, label in pairs:
        nbytes = _nbytes(image)
        total += nbytes
        if (needed := max(total, nbytes * count)) > LARGEST:
            raise InputError(
                f"data: the images need {needed / 2**30:.0f} GiB of memory or more; name fewer with limit (--limit)"
            )
        yield image, label


def _nbytes(image: Any) -> int:
    if isinstance(image, Image.Image):
        return image.width * image.height * len(image.getbands())
    return int(image.nbytes) if isinstance(image, Tensor | np.ndarray) else 0


def _items(data: Any, notes: list[str]) -> Iterator[tuple[Any, Any]]:
    """Every image with its label or None."""
    if isinstance(data, DataLoader):
        for batch in _in_order(data, notes):
            if isinstance(batch, list) and batch and isinstance(batch[0], tuple | Mapping):  # rows, not collated
                yield from map(_parts, batch)
                continue
            image, label = _parts(batch)
            single = data.batch_size is None and data.batch_sampler is None
            yield from [(image, label)] if single else _rows(image, label)
        return
    rows: Iterable[Any] = data if isinstance(data, IterableDataset) else (data[at] for at in range(len(data)))
    yield from map(_parts, rows)


def _in_order(loader: "DataLoader[Any]", notes: list[str]) -> Iterable[Any]:
    """The batches of a loader without its shuffling, so that a position always means the same image."""
    if isinstance(loader.dataset, IterableDataset) or isinstance(loader.sampler, SequentialSampler):
        return loader
    if not isinstance(loader.sampler, RandomSampler) or loader.batch_size is None:
        notes.append(f"the images come in the order of the loader's {type(loader.sampler).__name__}")
        return loader
    notes.append("the loader shuffles; its images are taken in the order of its data set")
    return DataLoader(
        loader.dataset, batch_size=loader.batch_size, collate_fn=loader.collate_fn, num_workers=loader.num_workers,
        generator=torch.Generator(),
    )  # fmt: skip


def _parts(row: Any) -> tuple[Any, Any]:
    """Images and labels of a batch, or the image and the label of an item; None for missing labels."""
    if isinstance(row, Mapping):
        image_key = next((key for key in IMAGE_KEYS if key in row), None)
        if image_key is None:
            got = ", ".join(map(str, row))
            raise InputError(
                f"data: expected the images under one of the keys {', '.join(IMAGE_KEYS)}, got {got}; of several splits"
                " name one, as data['test']"
            )
        return row[image_key], next((row[key] for key in LABEL_KEYS if key in row), None)
    if isinstance(row, tuple | list):
        if not row:
            raise InputError("data: expected an image, or an image and its label, got an empty tuple")
        return row[0], row[1] if len(row) > 1 else None
    return row, None


def _rows(images: Any, labels: Any) -> Iterator[tuple[Any, Any]]:
    """The images of a batch, each with its label."""
    for at, image in enumerate(images):
        yield image, None if labels is None else labels[at]


def _images(images: Sequence[Any], size: int | None, notes: list[str]) -> Tensor:
    """Stack images of one kind and shape to a tensor (N,C,H,W)."""
    if not images:
        raise InputError(NO_IMAGES)
    if all(isinstance(image, Image.Image) for image in images):
        shared = {pictures.upright_size(image) for image in images}
        if size is None and len(shared) > 1:
            size = pictures.DEFAULT_SIZE
            notes.append(f"the pictures share no size: resized and cropped to {size}x{size}; name another with size")
        target = next(iter(shared)) if size is None else (size, size)
        if (at := next((at for at, image in enumerate(images) if pictures.is_transparent(image)), None)) is not None:
            notes.append(f"picture {at}: {pictures.TRANSPARENT}")
        grey = all(image.mode in ("1", "L") or image.mode.startswith("I") for image in images)
        try:
            return torch.from_numpy(np.stack([pictures.pixels_of(image, target, 1 if grey else 3) for image in images]))
        except ValueError as error:
            raise InputError(f"data: a picture cannot be converted: {error}") from None
    if not all(isinstance(image, Tensor | np.ndarray) for image in images):
        kinds = sorted({type(image).__name__ for image in images})
        raise InputError(f"data: expected images as tensors (C,H,W) or PIL pictures, got {', '.join(kinds)}")
    shapes = {tuple(image.shape) for image in images}
    if len(shapes) > 1:
        listed = " and ".join(map(str, sorted(shapes)[:2]))
        raise InputError(f"data: expected images of one shape, got {listed}; resize and crop them in the data set")
    return _shaped(torch.stack([_tensor(image) for image in images]))


def _stacked(images: Any) -> Tensor:
    """Images in one tensor or array as a tensor (N,C,H,W)."""
    if images.ndim == 3 and 3 in (images.shape[0], images.shape[2]):
        raise InputError(
            f"data: expected images (N,C,H,W), got {tuple(images.shape)}, which may be one image or several; of one"
            " image give image[None], of grey images images[:, None]"
        )
    return _shaped(_tensor(images))


def _tensor(array: Any) -> Tensor:
    return array if isinstance(array, Tensor) else torch.as_tensor(np.array(array))  # a copy: tensors must be writable


def _shaped(tensor: Tensor) -> Tensor:
    """Images as (N,C,H,W), from (N,H,W), (N,H,W,C) or (N,C,H,W)."""
    if not len(tensor):
        raise InputError(NO_IMAGES)
    if tensor.ndim == 3:
        tensor = tensor[:, None]
    if tensor.ndim == 4 and tensor.shape[3] in (1, 3) and tensor.shape[1] not in (1, 3):
        tensor = tensor.permute(0, 3, 1, 2)
    if tensor.dtype == torch.bool:
        tensor = tensor.float()
    return tensor.detach().contiguous()


def _labels(labels: Any) -> Tensor | None:
    """Labels as (N,) int64; None if all are unknown (-1)."""
    try:
        numbers = torch.as_tensor(np.asarray([int(label) if _is_whole(label) else label for label in labels]))
    except (ValueError, TypeError, RuntimeError):
        if isinstance(labels, list | tuple) and labels:
            kind = next(type(label).__name__ for label in labels if not _is_whole(label))
        else:
            kind = type(labels).__name__
        raise InputError(f"label: expected whole numbers, one per image, got {kind}") from None
    if numbers.ndim == 2 and numbers.shape[1] == 1:  # as Keras has them
        numbers = numbers[:, 0]
    if numbers.ndim != 1 or numbers.is_floating_point():
        raise InputError(
            f"label: expected whole numbers of shape (N,), got {numbers.dtype} {tuple(numbers.shape)}; of one-hot"
            " labels take argmax(1)"
        )
    if bool((numbers == -1).all()):
        return None
    if bool((numbers < 0).any()):
        raise InputError(f"label: expected whole numbers from 0 up, or -1 for all, got {int(numbers.min())}")
    return numbers.long()


def _is_whole(label: Any) -> bool:
    if isinstance(label, Tensor):
        return label.ndim == 0 and not label.is_floating_point()
    if isinstance(label, np.ndarray | np.generic):
        return label.ndim == 0 and label.dtype.kind in "iub"
    return isinstance(label, int)


def _classes(data: Any) -> tuple[str, ...] | None:
    """The class names in torchvision's ``classes`` or Hugging Face's ``features``; None without them."""
    while isinstance(data, DataLoader) or isinstance(getattr(data, "dataset", None), Dataset):
        data = data.dataset
    names = getattr(data, "classes", None)
    features = getattr(data, "features", None)
    if names is None and isinstance(features, Mapping):
        names = next((getattr(features[key], "names", None) for key in LABEL_KEYS if key in features), None)
    return tuple(map(str, names)) if isinstance(names, list | tuple) and names else None
