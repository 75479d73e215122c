"""Data sets and batches: images in [0,1], labels, positions, and where there are any, masks of the object."""

import hashlib
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
"""The split of data that is not split into training and test images."""


class Batch(NamedTuple):
    """Images (N,C,H,W) float32 in [0,1], labels and positions (N,) int64, masks (N,H,W) bool or None.

    The labels are None where the data is unlabelled. The position in the data set makes results of different models
    joinable, row by row.
    """

    image: Tensor
    label: Any  # Tensor, or None: who needs labels checks that once, with Dataset.labelled
    index: Tensor  # type: ignore[assignment]  # hides tuple.index, which nobody asks of a batch
    mask: Tensor | None


class Source(NamedTuple):
    """What ``dataset`` was given beside name, split and limit."""

    root: str | Path | None
    size: int | None
    seed: int
    classes: tuple[str, ...] | None = None
    """The names of the model's classes."""


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """A set of images: one tensor (N,C,H,W), or picture files that are read batch by batch.

    A tensor is uint8, or floats that lie in [0,1] already. Raises InputError for anything else, and for labels that are
    no class: training relies on it, since a GPU aborts at such a label.
    """

    name: str
    split: str
    """train or test; all, where the data is not split."""
    classes: tuple[str, ...]
    """Empty where the data is unlabelled and no model has said what it knows."""
    images: Tensor | pictures.Pictures
    labels: Any  # Tensor, or None
    """(N,) int64; None: unlabelled."""
    masks: Tensor | None = None
    source: Source | None = None
    """None: not made by ``dataset``."""
    notes: tuple[str, ...] = ()
    """What a reader of the numbers should know, a sentence each."""
    folders: Mapping[str, int] | None = None
    """Of a folder: the name of each class folder to the class, a position in ``classes``."""
    numbered: bool = False
    """The classes are no more than the numbers up to the largest label: a model may have more."""

    def __post_init__(self) -> None:
        if isinstance(self.images, Tensor) and self.images.device.type == "cpu":  # elsewhere it has been checked
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
        known = f"{len(self.classes)} classes" if self.labelled else "unlabelled"
        return f"Dataset({self.name}{split}: {len(self):,} images of {shape}, {known})"

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
        """The paths of the pictures; empty where the images are no files."""
        return tuple(map(str, self.images.paths)) if isinstance(self.images, pictures.Pictures) else ()

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
        if self.labelled:
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
            labels=self.labels[:count] if self.labelled else None,
            masks=None if self.masks is None else self.masks[:count],
        )

    def to(self, device: torch.device | str) -> "Dataset":
        """The same data set with what it holds in memory on that device; pictures stay in their files."""
        return replace(
            self,
            images=self.images.to(device) if isinstance(self.images, Tensor) else self.images,
            labels=self.labels.to(device) if self.labelled else None,
            masks=None if self.masks is None else self.masks.to(device),
        )

    def batches(self, size: int, *, device: torch.device | str = "cpu", order: Tensor | None = None) -> Iterator[Batch]:
        """Batches of ``size`` images (the last one may be smaller) on ``device``, in their natural order.

        order: (M,) int64 positions to take instead, for training or a selection. Raises InputError for a
        size below 1, and on the way for a picture that cannot be read.
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
        # Moved before they become floats, at a quarter of the bytes.
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
        if not -ROUNDING <= low <= high <= 1 + ROUNDING:  # NaN is neither
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
    """A data set by its name, or from pictures, tensors, a torch ``Dataset`` or ``DataLoader``.

    name: glyphs, mnist, svhn, cifar10, cifar100, folder:DIR, npz:FILE, or cifar10c:CORRUPTION:SEVERITY; a picture
    file or a list of them; images (N,C,H,W), or a pair (images, labels), as tensors or arrays; a torch ``Dataset`` or
    ``DataLoader``, or anything else with rows of image and label (``attrib.data.wrap``). Without labels, as for a
    picture and a folder without class folders, the data is unlabelled.
    split: ``train`` or ``test``; a folder without train/ and test/ (or val/, ...) and all that has no split are whole
    in either, and their data set's split is ``all``.
    root: where to look first, before ATTRIB_DATA and the user's cache; what is nowhere is downloaded there.
    limit: the first so many images (a folder's alternate between its classes). size: pictures are resized
    until their shorter side is ``size`` and cropped to the square at their centre; default: their own size
    where they share one of at most 2 megapixels, else 224. seed: of glyphs. classes: the names of the model's classes
    in its order, or a file with a name per line, by which folders that are fewer than the classes are matched.

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
    for option, value, most in (("limit", limit, LARGEST_NUMBER), ("size", size, LARGEST_SIDE)):
        if value is not None and (not isinstance(value, int) or not 1 <= value <= most):
            raise InputError(f"{option}: expected at least 1 and at most {most}, in whole numbers, got {value!r}")
    source = Source(root, size, seed, None if classes is None else matching.read_classes(classes))
    if isinstance(name, Path):
        name = str(name)
    if isinstance(name, list | tuple) and name and all(isinstance(each, str | Path) for each in name):
        return _of_files([at_home(each) for each in name], source, limit)
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
    """Picture files, unlabelled."""
    for path in paths:
        if (there := found_at(path)) != "a file":
            raise InputError(f"{path}: expected a picture, found {there}")
    name = str(paths[0]) if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more"
    return Dataset(name, WHOLE, (), _sized(tuple(paths), source.size, limit), None, source=source)


def _sized(paths: tuple[Path, ...], size: int | None, limit: int | None) -> pictures.Pictures:
    """The first so many pictures, at the size asked for, that of all the pictures, or the usual one."""
    if size is not None:
        return pictures.Pictures(paths[:limit], (size, size))
    own = pictures.common_size(paths)
    usual = pictures.DEFAULT_SIZE, pictures.DEFAULT_SIZE
    return pictures.Pictures(paths[:limit], own or usual, by_default=own is None)


def _wrapped(data: Any, source: Source, limit: int | None) -> Dataset:
    """Images that are in memory, or that a Python object gives."""
    found = wrap.arrays(data, limit=limit, size=source.size)
    _check_size(found.name, found.images, source.size)
    classes, labels = found.classes, found.labels
    if classes is None and labels is not None and len(labels):
        classes = tuple(map(str, range(int(labels.max()) + 1)))
    return Dataset(
        found.name, WHOLE, classes or (), found.images, labels, notes=found.notes,
        numbered=found.classes is None and labels is not None,
    )  # fmt: skip


def _check_size(name: str, images: Tensor, size: int | None) -> None:
    if size is not None and tuple(images.shape[2:]) != (size, size):
        height, width = images.shape[2:]
        raise InputError(f"size: {name} has images of {height}x{width}; only pictures, as a folder's, are resized")


def _of_tensors(name: str, split: str, source: Source, limit: int | None) -> Dataset:
    """What is read into memory: public data, and arrays in a file."""
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
        if not (there := found_at(at_home(name))).startswith("nothing"):
            near = f"; did you mean {'folder' if there == 'a folder' else 'npz'}:{name}?"
        else:
            near = meant(kind, ("folder", "npz"), after=f":{place}") if place else meant(name, CATALOG)
        raise InputError(f"data set: expected one of {', '.join(DATA_SETS)}, got {name!r}{near}")
    _check_size(name, images, size)
    if limit is not None and limit < len(images):  # copies, since a view would keep the whole set in memory
        images, labels = images[:limit].clone(), labels[:limit].clone()
        masks = None if masks is None else masks[:limit].clone()
    return Dataset(name, WHOLE if kind in ("npz", "cifar10c") else split, classes, images, labels, masks, source)
