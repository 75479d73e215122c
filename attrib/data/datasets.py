"""Data sets and batches: images in [0,1], labels, positions, and masks of the object if the data has them."""

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from attrib.bounds import LARGEST_NUMBER, LARGEST_SIDE, ROUNDING
from attrib.data import corruptions, download, folders, glyphs, matching, pictures, readers, wrap
from attrib.data.catalog import CATALOG, DATA_SETS
from attrib.errors import LONGEST_PATH, InputError, check_name, meant
from attrib.files import at_home, found_at
from attrib.loss import check_classes
from attrib.noise import mixed_seed

SPLITS = ("train", "test")
WHOLE = "all"
"""The split of data that has no separate training and test images."""


class Batch(NamedTuple):
    """Images (N,C,H,W) float32 in [0,1], labels and positions (N,) int64, masks (N,H,W) bool or None.

    The labels are None if the data is unlabelled. The positions in the data set join the results of different models.
    """

    image: Tensor
    label: Any  # Tensor or None: callers that need labels check Dataset.labelled once
    index: Tensor  # type: ignore[assignment]  # hides tuple.index, which no batch needs
    mask: Tensor | None


class Source(NamedTuple):
    """The arguments of ``dataset`` beside name, split and limit."""

    root: str | Path | None
    size: int | None
    seed: int
    classes: tuple[str, ...] | None = None
    """The names of the model's classes."""


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """A set of images: one tensor (N,C,H,W), or picture files that are read batch by batch.

    A tensor is uint8, or floats in [0,1]. Raises InputError for other images, and for labels outside the classes, at
    which a GPU would abort.
    """

    name: str
    split: str
    """train or test; all, if the data is not split."""
    classes: tuple[str, ...]
    """Empty if the data is unlabelled and no model has named its classes."""
    images: Tensor | pictures.Pictures
    labels: Any  # Tensor, or None
    """(N,) int64; None: unlabelled."""
    masks: Tensor | None = None
    source: Source | None = None
    """None: not made by ``dataset``."""
    notes: tuple[str, ...] = ()
    """Warnings that change how the numbers are read, a sentence each."""
    folders: Mapping[str, int] | None = None
    """Name of each class folder to its position in ``classes``; None if the data is no folder."""
    numbered: bool = False
    """The class names are only the numbers up to the largest label, so a model may have more classes."""

    def __post_init__(self) -> None:
        if isinstance(self.images, Tensor) and self.images.device.type == "cpu":  # checked before it went to a GPU
            _check_pixels(self.images)
        if self.labelled and self.labels.device.type == "cpu":
            if self.labels.shape != (len(self.images),) or self.labels.is_floating_point():
                got = f"{self.labels.dtype} {tuple(self.labels.shape)}"
                raise InputError(f"labels: expected {len(self.images)} whole numbers, one per image, got {got}")
            check_classes(self.labels, len(self.classes))
        check_name("data", self.name, longest=LONGEST_PATH)
        for name in self.classes:
            check_name("classes", name)

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        split = "" if self.split == WHOLE else f" {self.split}"
        shape = "x".join(map(str, self.shape))
        labels = f"{len(self.classes)} classes" if self.labelled else "unlabelled"
        return f"Dataset({self.name}{split}: {len(self):,} images of {shape}, {labels})"

    @property
    def labelled(self) -> bool:
        """Whether the images have labels."""
        return self.labels is not None

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C,H,W) of every image."""
        if isinstance(self.images, pictures.Pictures):
            return self.images.channels, *self.images.size
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    @property
    def files(self) -> tuple[str, ...]:
        """The paths of the pictures; empty if the images are no files."""
        return tuple(map(str, self.images.paths)) if isinstance(self.images, pictures.Pictures) else ()

    @cached_property
    def key(self) -> list[Any]:
        """An identifier of the data: name, split, shape, classes, and a hash of the content.

        For picture files the hash is over their paths, sizes and modification times.
        """
        digest = hashlib.sha256()
        if isinstance(self.images, pictures.Pictures):
            for path in self.images.paths:
                stat = path.stat()
                digest.update(f"{path} {stat.st_size} {stat.st_mtime_ns}\n".encode())
        else:
            digest.update(self.images.cpu().contiguous().numpy().data)
        if self.labelled:
            digest.update(self.labels.cpu().contiguous().numpy().data)
        if self.masks is not None:
            digest.update(self.masks.cpu().contiguous().numpy().data)
        return [self.name, self.split, len(self), list(self.shape), list(self.classes), digest.hexdigest()[:16]]

    def first(self, count: int) -> "Dataset":
        """The first ``count`` images."""
        if count >= len(self):
            return self
        images = self.images
        return replace(
            self,
            images=images[:count] if isinstance(images, Tensor) else replace(images, paths=images.paths[:count]),
            labels=self.labels[:count] if self.labelled else None,
            masks=None if self.masks is None else self.masks[:count],
        )

    def to(self, device: torch.device | str) -> "Dataset":
        """The same data set with its tensors on the device; pictures stay in their files."""
        return replace(
            self,
            images=self.images.to(device) if isinstance(self.images, Tensor) else self.images,
            labels=self.labels.to(device) if self.labelled else None,
            masks=None if self.masks is None else self.masks.to(device),
        )

    def batches(self, size: int, *, device: torch.device | str = "cpu", order: Tensor | None = None) -> Iterator[Batch]:
        """Batches of ``size`` images (the last one may be smaller) on ``device``.

        order: (M,) int64 positions to take, for training or a selection; default: all in order. Raises InputError for
        a size below 1, and during iteration for a picture that cannot be read.
        """
        if size < 1:
            raise InputError(f"batch size: expected at least 1, got {size}")
        if order is None:
            tensor = next((part for part in (self.labels, self.images) if isinstance(part, Tensor)), None)
            order = torch.arange(len(self), device=None if tensor is None else tensor.device)
        parts = torch.split(order, size) if len(order) else ()
        images = self.images
        if isinstance(images, pictures.Pictures):
            return self._assemble(parts, images.batches(parts), device)
        # _assemble moves the images before it makes them floats, which are four times as large.
        return self._assemble(parts, (images[part.to(images.device)] for part in parts), device)

    def _assemble(
        self, parts: tuple[Tensor, ...], images: Iterator[Tensor], device: torch.device | str
    ) -> Iterator[Batch]:
        for part, image in zip(parts, images, strict=True):
            yield Batch(
                _as_floats(image.to(device)),
                self.labels[part.to(self.labels.device)].to(device) if self.labelled else None,
                part.to(device),
                None if self.masks is None else self.masks[part.to(self.masks.device)].to(device),
            )


def _check_pixels(images: Tensor) -> None:
    expected = "images: expected uint8, or floats in [0,1], of shape (N,C,H,W), N >= 1"
    if images.ndim != 4 or not images.numel() or not (images.dtype == torch.uint8 or images.is_floating_point()):
        raise InputError(f"{expected}, got {images.dtype} {tuple(images.shape)}")
    if images.is_floating_point():
        low, high = map(float, images.aminmax())
        if not math.isfinite(low + high):
            at = (~images.isfinite()).flatten(1).any(1).nonzero().flatten().tolist()
            raise InputError(
                f"{expected}, got NaN or infinity in {len(at)} of {len(images)} images, the first is image {at[0]};"
                " mend them, or leave them out"
            )
        if not -ROUNDING <= low <= high <= 1 + ROUNDING:
            raise InputError(
                f"{expected}, got floats from {low:.4g} to {high:.4g}; divide by 255 or undo a normalisation"
            )


def _as_floats(image: Tensor) -> Tensor:
    """Pixels as float32 in [0,1]: uint8 divided by 255, floats as they are."""
    return image.float().div_(255) if image.dtype == torch.uint8 else image.float()


def training_split(count: int, *, holdout: int, seed: int) -> tuple[Tensor, Tensor]:
    """Split ``count`` training images as ``python -m train`` does: positions to train on, and held-out positions.

    The best epoch is chosen on the held-out images, at most a fifth. Both are (N,) int64 in an order that depends on
    the seed only.
    """
    held_out = min(holdout, max(1, count // 5))
    order = torch.randperm(count, generator=torch.Generator().manual_seed(mixed_seed(seed, 0)))
    return order[held_out:], order[:held_out]


def dataset(
    name: Any,
    *,
    split: str = "test",
    root: str | Path | None = None,
    limit: int | None = None,
    size: int | None = None,
    seed: int = 0,
    classes: str | Path | Sequence[str] | None = None,
) -> Dataset:
    """Load a data set by its name, or from pictures, tensors, a torch ``Dataset`` or ``DataLoader``.

    name: glyphs, mnist, svhn, cifar10, cifar100, folder:DIR, npz:FILE, or cifar10c:CORRUPTION:SEVERITY; a picture
    file or a list of them; images (N,C,H,W), or a pair (images, labels), as tensors or arrays; a torch ``Dataset`` or
    ``DataLoader``, or anything else with rows of image and label (``attrib.data.wrap``). Pictures and folders without
    class folders are unlabelled.
    split: ``train`` or ``test``. Data without splits, as a folder without train/ and test/ (or val/, ...), is taken
    whole for either, and its split is called ``all``.
    root: the folder to search first, before ATTRIB_DATA and the user's cache. Missing public data is downloaded to the
    cache. limit: take the first so many images (a folder's alternate between its classes). size: resize pictures until
    their shorter side is ``size``, and crop them to the square at their centre; default: their own size if they share
    one of at most 2 megapixels, else 224. seed: for glyphs. classes: the model's class names in order, or a file with
    a name per line; class folders are matched to them by name.

    Raises InputError for an unknown name or split, a limit or size below 1, and files that are missing or invalid.

    >>> data = dataset("glyphs", split="test", limit=100)
    >>> len(data), data.shape, data.classes[:2]
    (100, (3, 32, 32), ('0', '1'))
    >>> batch = next(data.batches(8))
    >>> batch.image.shape, batch.index.tolist()
    (torch.Size([8, 3, 32, 32]), [0, 1, 2, 3, 4, 5, 6, 7])
    """
    if split not in SPLITS:
        raise InputError(f"split: expected train or test, got {split!r}")
    for option, value, most in (("limit", limit, LARGEST_NUMBER), ("size", size, LARGEST_SIDE)):
        if value is not None and (not isinstance(value, int) or not 1 <= value <= most):
            raise InputError(f"{option}: expected at least 1 and at most {most}, in whole numbers, got {value!r}")
    source = Source(root, size, seed, None if classes is None else matching.read_classes(classes))
    if isinstance(name, Path):
        name = str(name)
    if isinstance(name, list | tuple) and name and all(isinstance(path, str | Path) for path in name):
        return _of_files([at_home(path) for path in name], source, limit)
    if not isinstance(name, str):
        return _wrapped(name, source, limit)
    kind, _, place = name.partition(":")
    if kind == "folder" and place:
        return _of_folder(name, at_home(place), split, source, limit)
    if folders.is_picture(Path(name)):
        return _of_files([at_home(name)], source, limit)
    return _of_tensors(name, split, source, limit)


def _of_folder(name: str, place: Path, split: str, source: Source, limit: int | None) -> Dataset:
    listed = folders.listed(place, split=split)
    return Dataset(
        name, split if folders.splits(place) else WHOLE, listed.classes, _sized(listed.paths, source.size, limit),
        None if listed.labels is None else torch.tensor(listed.labels[:limit]), source=source, notes=listed.notes,
        folders={folder: label for label, folder in enumerate(listed.classes)} or None,
    )  # fmt: skip


def _of_files(paths: Sequence[Path], source: Source, limit: int | None) -> Dataset:
    """An unlabelled data set of picture files."""
    for path in paths:
        if (actual := found_at(path)) != "a file":
            raise InputError(f"{path}: expected a picture, found {actual}")
    name = str(paths[0]) if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more"
    return Dataset(name, WHOLE, (), _sized(tuple(paths), source.size, limit), None, source=source)


def _sized(paths: tuple[Path, ...], size: int | None, limit: int | None) -> pictures.Pictures:
    """The first ``limit`` pictures at the given size, else at their common size, else at the default size."""
    if size is not None:
        return pictures.Pictures(paths[:limit], (size, size))
    common = pictures.common_size(paths)
    default = pictures.DEFAULT_SIZE, pictures.DEFAULT_SIZE
    return pictures.Pictures(paths[:limit], common or default, by_default=common is None)


def _wrapped(data: Any, source: Source, limit: int | None) -> Dataset:
    """A data set from tensors, or from a Python object that gives images."""
    name, images, labels, classes, notes = wrap.arrays(data, limit=limit, size=source.size)
    _check_size(name, images, source.size)
    numbered = classes is None and labels is not None
    if classes is None and labels is not None and len(labels):
        classes = tuple(map(str, range(int(labels.max()) + 1)))
    return Dataset(name, WHOLE, classes or (), images, labels, notes=notes, numbered=numbered)


def _check_size(name: str, images: Tensor, size: int | None) -> None:
    if size is not None and tuple(images.shape[2:]) != (size, size):
        height, width = images.shape[2:]
        raise InputError(f"size: {name} has images of {height}x{width}; only pictures, as a folder's, are resized")


def _of_tensors(name: str, split: str, source: Source, limit: int | None) -> Dataset:
    """A data set that is read into memory: public data, or arrays in a file."""
    kind, _, place = name.partition(":")
    masks, size = None, source.size
    if kind == "npz" and place:
        images, labels, masks, classes = readers.npz(at_home(place))
    elif kind == "cifar10c" and place:
        images, labels = corruptions.read(place, root=None if source.root is None else Path(source.root))
        classes = CATALOG["cifar10"].classes
    elif name == "glyphs":
        count, classes = CATALOG[name].counts[split], CATALOG[name].classes
        images, labels, masks = glyphs.render(torch.arange(min(count, limit or count)), seed=source.seed, split=split)
    elif name in CATALOG:
        images, labels = download.read(name, split=split, root=None if source.root is None else Path(source.root))
        classes = CATALOG[name].classes
    else:
        if not (actual := found_at(at_home(name))).startswith("nothing"):
            near = f"; did you mean {'folder' if actual == 'a folder' else 'npz'}:{name}?"
        else:
            near = meant(kind, ("folder", "npz"), after=f":{place}") if place else meant(name, CATALOG)
        raise InputError(f"data set: expected one of {', '.join(DATA_SETS)}, got {name!r}{near}")
    _check_size(name, images, size)
    if limit is not None and limit < len(images):  # a view would keep the whole set in memory
        images, labels = images[:limit].clone(), labels[:limit].clone()
        masks = None if masks is None else masks[:limit].clone()
    return Dataset(name, WHOLE if kind in ("npz", "cifar10c") else split, classes, images, labels, masks, source)
