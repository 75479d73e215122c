"""Data sets and batches: images in [0,1], labels, positions, and where there are any, masks of the object."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from attrib.data import download, glyphs, pictures, readers
from attrib.data.catalog import CATALOG, DATA_SETS
from attrib.errors import InputError, meant
from attrib.loss import check_classes
from attrib.noise import mixed_seed

SPLITS = ("train", "test")
WHOLE = "all"
"""The split of data that is not split into training and test images."""


class Batch(NamedTuple):
    """Images (N,C,H,W) float32 in [0,1], labels and positions (N,) int64, masks (N,H,W) bool or None.

    The position in the data set makes results of different models joinable, row by row.
    """

    image: Tensor
    label: Tensor
    index: Tensor  # type: ignore[assignment]  # hides tuple.index, which nobody asks of a batch
    mask: Tensor | None


class Source(NamedTuple):
    """What :func:`dataset` was given beside name, split and limit."""

    root: str | Path | None
    size: int | None
    seed: int


@dataclass(frozen=True, eq=False)
class Dataset:
    """A labelled set of images: one tensor (N,C,H,W), or picture files that are read batch by batch.

    A tensor is uint8, or floats that lie in [0,1] already. Raises InputError for anything else, and for labels that are
    no class: training relies on it, since a GPU aborts at such a label.
    """

    name: str
    split: str
    """train or test; all, where the data is not split."""
    classes: tuple[str, ...]
    images: Tensor | pictures.Pictures
    labels: Tensor
    masks: Tensor | None = None
    source: Source | None = None
    """None: not made by :func:`dataset`."""

    def __post_init__(self) -> None:
        if self.labels.device.type == "cpu":  # moved to another device, they have been checked
            check_classes(self.labels, len(self.classes))
            if isinstance(self.images, Tensor):
                _check_pixels(self.images)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C,H,W) of every image."""
        if isinstance(self.images, pictures.Pictures):
            return 3, *self.images.size
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    @cached_property
    def key(self) -> list[Any]:
        """What tells these images from others: name, split, shape, and a hash of their content.

        Of picture files the hash is of their paths, sizes and times of change.
        """
        digest = hashlib.sha256()
        if isinstance(self.images, pictures.Pictures):
            for path in self.images.paths:
                known = path.stat()
                digest.update(f"{path} {known.st_size} {known.st_mtime_ns}\n".encode())
        else:
            digest.update(self.images.cpu().contiguous().numpy().data)
        digest.update(self.labels.cpu().contiguous().numpy().data)
        if self.masks is not None:
            digest.update(self.masks.cpu().contiguous().numpy().data)
        return [self.name, self.split, len(self), list(self.shape), list(self.classes), digest.hexdigest()[:16]]

    def first(self, count: int) -> "Dataset":
        """The first so many images."""
        if count >= len(self):
            return self
        images = self.images
        return replace(
            self,
            images=images[:count] if isinstance(images, Tensor) else replace(images, paths=images.paths[:count]),
            labels=self.labels[:count],
            masks=None if self.masks is None else self.masks[:count],
        )

    def to(self, device: torch.device | str) -> "Dataset":
        """The same data set with what it holds in memory on that device; pictures stay in their files."""
        return replace(
            self,
            images=self.images.to(device) if isinstance(self.images, Tensor) else self.images,
            labels=self.labels.to(device),
            masks=None if self.masks is None else self.masks.to(device),
        )

    def batches(self, size: int, *, device: torch.device | str = "cpu", order: Tensor | None = None) -> Iterator[Batch]:
        """Batches of ``size`` images (the last one may be smaller) on ``device``, in their natural order.

        order: (M,) int64 positions to take instead, for training or a selection. Raises InputError for a
        size below 1, and on the way for a picture that cannot be read.
        """
        if size < 1:
            raise InputError(f"batch size: expected at least 1, got {size}")
        order = torch.arange(len(self), device=self.labels.device) if order is None else order
        parts = torch.split(order, size) if len(order) else ()
        images = self.images
        if isinstance(images, pictures.Pictures):
            return self._assemble(parts, images.batches(parts), device)
        # Moved before they become floats, at a quarter of the bytes.
        return self._assemble(parts, (images[part.to(images.device)] for part in parts), device)

    def _assemble(
        self, parts: tuple[Tensor, ...], images: Iterator[Tensor], device: torch.device | str
    ) -> Iterator[Batch]:
        for part, image in zip(parts, images, strict=True):
            at = part.to(self.labels.device)
            yield Batch(
                _as_floats(image.to(device)),
                self.labels[at].to(device),
                part.to(device),
                None if self.masks is None else self.masks[at].to(device),
            )


def _check_pixels(images: Tensor) -> None:
    expected = "images: expected uint8, or floats in [0,1], of shape (N,C,H,W)"
    if images.ndim != 4 or not (images.dtype == torch.uint8 or images.is_floating_point()):
        raise InputError(f"{expected}, got {images.dtype} {tuple(images.shape)}")
    if images.is_floating_point() and images.numel():
        low, high = map(float, images.aminmax())
        if not 0 <= low <= high <= 1:  # NaN is neither
            raise InputError(
                f"{expected}, got floats from {low:.4g} to {high:.4g}; divide by 255 or undo a normalisation"
            )


def _as_floats(image: Tensor) -> Tensor:
    """Pixels as float32 in [0,1]: uint8 divided by 255, floats as they are."""
    return image.float().div_(255) if image.dtype == torch.uint8 else image.float()


def training_split(count: int, *, holdout: int, seed: int) -> tuple[Tensor, Tensor]:
    """How ``python -m train`` splits ``count`` training images: positions to train on, and positions held out.

    The held-out images, at most a fifth, choose the epoch that is kept. Both (N,) int64 in random order, the same for
    every run with this seed.
    """
    held = min(holdout, max(1, count // 5))
    order = torch.randperm(count, generator=torch.Generator().manual_seed(mixed_seed(seed, 0)))
    return order[held:], order[:held]


def dataset(
    name: str,
    *,
    split: str = "test",
    root: str | Path | None = None,
    limit: int | None = None,
    size: int | None = None,
    seed: int = 0,
) -> Dataset:
    """The data set called ``name``: glyphs, mnist, svhn, cifar10, cifar100, folder:DIR or npz:FILE.

    split: ``train`` or ``test``; a folder without train/ and test/ (or val/) and an npz file are whole in either, and
    their data set's split is ``all``.
    root: where to look first, before ATTRIB_DATA and the user's cache; what is nowhere is downloaded there.
    limit: the first so many images (a folder's alternate between its classes). size: a folder's pictures are resized
    until their shorter side is ``size`` and cropped to the square at their centre; default: their own size
    where they share one, else 224. seed: of glyphs.

    Raises InputError for an unknown name or split, a limit or size below 1, and files that are missing or
    not what they should be.

    >>> data = dataset("glyphs", split="test", limit=100)
    >>> len(data), data.shape, data.classes[:2]
    (100, (3, 32, 32), ('0', '1'))
    >>> batch = next(data.batches(8))
    >>> batch.image.shape, batch.index.tolist()
    (torch.Size([8, 3, 32, 32]), [0, 1, 2, 3, 4, 5, 6, 7])
    """
    if split not in SPLITS:
        raise InputError(f"split: expected train or test, got {split!r}")
    for option, value in (("limit", limit), ("size", size)):
        if value is not None and value < 1:
            raise InputError(f"{option}: expected at least 1, got {value}")
    masks, source = None, Source(root, size, seed)
    kind, _, place = name.partition(":")
    if kind == "folder" and place:
        folder = Path(place).expanduser()
        files, labels, classes = pictures.folder(folder, split=split, size=size)
        files = replace(files, paths=files.paths[:limit])
        split = split if pictures.splits(folder) else WHOLE
        return Dataset(name, split, classes, files, labels[:limit].clone(), source=source)
    if kind == "npz" and place:
        images, labels, masks, classes = readers.npz(Path(place).expanduser())
    elif name == "glyphs":
        count, classes = CATALOG[name].counts[split], CATALOG[name].classes
        images, labels, masks = glyphs.render(torch.arange(min(count, limit or count)), seed=seed, split=split)
    elif name in CATALOG:
        images, labels = download.read(name, split=split, root=None if root is None else Path(root))
        classes = CATALOG[name].classes
    else:
        there = Path(name).expanduser()
        if there.exists():
            near = f"; did you mean {'folder' if there.is_dir() else 'npz'}:{name}?"
        else:
            near = meant(kind, ("folder", "npz"), after=f":{place}") if place else meant(name, CATALOG)
        raise InputError(f"data set: expected one of {', '.join(DATA_SETS)}, got {name!r}{near}")
    if size is not None and tuple(images.shape[2:]) != (size, size):
        height, width = images.shape[2:]
        raise InputError(f"size: {name} has images of {height}x{width}; only the pictures of a folder are resized")
    if limit is not None and limit < len(images):  # copies, since a view would keep the whole set in memory
        images, labels = images[:limit].clone(), labels[:limit].clone()
        masks = None if masks is None else masks[:limit].clone()
    return Dataset(name, WHOLE if kind == "npz" else split, classes, images, labels, masks, source)
