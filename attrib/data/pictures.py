"""Folders of pictures, ImageNet style: listed at once, read when they are asked for, by worker processes."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from attrib.errors import InputError, one_line

_SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".gif"))
_DEFAULT_SIZE = 224
_SAMPLE = 64
_WORKERS = 4

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Pictures:
    """Picture files, each to be resized so that it covers ``size`` (H,W) and cropped to its centre."""

    paths: tuple[Path, ...]
    size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, positions: Sequence[int]) -> Pixels | InputError:
        """The pictures at these positions, (N,3,H,W) uint8, or what is wrong with one of them.

        A worker's error is returned, since raised it would come out of the loader wrapped in a traceback; and
        arrays go through a pipe, where tensors would need more shared memory than containers tend to have.
        """
        try:
            return np.stack([self._read(self.paths[at]) for at in positions])
        except InputError as error:
            return error

    def batches(self, parts: Sequence[Tensor]) -> Iterator[Tensor]:
        """The pictures at the positions (B,) of every part, (B,3,H,W) uint8, decoded ahead of their use."""
        workers = min(_WORKERS, os.cpu_count() or 1, len(parts))
        loader: DataLoader[Pixels | InputError] = DataLoader(
            self,  # type: ignore[arg-type]  # not a Dataset by name, but all that is asked of one
            batch_size=None,
            sampler=[part.tolist() for part in parts],
            num_workers=workers if workers > 1 else 0,
            collate_fn=_as_it_is,
            generator=torch.Generator(),  # or it would draw from the global one
        )
        for pixels in loader:
            if isinstance(pixels, InputError):
                raise pixels
            yield torch.from_numpy(pixels)

    def _read(self, path: Path) -> Pixels:
        height, width = self.size
        with _opened(path) as file:
            picture = _eight_bits(file).convert("RGB")
        scale = max(height / picture.height, width / picture.width)
        across, down = max(width, round(picture.width * scale)), max(height, round(picture.height * scale))
        if (across, down) != picture.size:
            picture = picture.resize((across, down), Image.Resampling.BILINEAR)
        left, top = (across - width) // 2, (down - height) // 2
        return np.asarray(picture.crop((left, top, left + width, top + height))).transpose(2, 0, 1)


def _eight_bits(picture: Image.Image) -> Image.Image:
    """Pillow clips the 16 bits of a grey picture where it should scale them, and knows no white of floats."""
    if picture.mode == "F":
        raise ValueError("its pixels are floats, of which nothing says what is white")
    if not picture.mode.startswith("I"):
        return picture
    values = np.asarray(picture)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError(f"expected at most 16 bits a pixel, got {values.min()} to {values.max()}")
    return Image.fromarray((values / 257).round().astype(np.uint8))


def _as_it_is(batch: object) -> object:
    return batch


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """The picture in a file; what goes wrong in opening or decoding it is an InputError naming the file."""
    try:
        with Image.open(path) as picture:
            yield picture
    except Exception as error:  # OSError, SyntaxError, ValueError, struct.error ...: each format has its own
        reason = one_line(error).removesuffix(f" {str(path)!r}")
        raise InputError(f"{path}: not a picture that can be read ({reason}); mend or remove it") from None


def splits(root: Path) -> dict[str, Path]:
    """The folders of the splits, ``train`` and ``test``; none where the folder is not split."""
    held_out = next((root / n for n in ("test", "val") if (root / n).is_dir()), None)
    return {"train": root / "train", "test": held_out} if (root / "train").is_dir() and held_out else {}


def folder(root: Path, *, split: str, size: int | None) -> tuple[Pictures, Tensor, tuple[str, ...]]:
    """The pictures below ``root``, one folder per class, with labels (N,) and class names.

    The order is the first picture of each class, then the second of each, by name, so that the first so many hold
    all classes.
    ``root/train`` and ``root/test`` (or ``val``), where both exist, are the splits; otherwise every split is
    the whole folder. ``size`` None: the pictures' own, if a sample of them has one in common, else 224x224.
    Raises InputError where there are no pictures.
    """
    if not root.is_dir():
        found = "a file" if root.is_file() else "nothing"
        raise InputError(f"folder:{root}: expected a folder with one folder per class, found {found}")
    if places := splits(root):
        root = places[split]
    try:
        entries = sorted(root.iterdir())
    except OSError as error:
        raise InputError(f"folder:{root}: cannot be listed ({error.strerror})") from None
    classes = [entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
    if not classes:
        raise InputError(f"folder:{root}: expected one folder per class in it, found none")
    per_class = [_pictures_below(root / name) for name in classes]
    ranked = sorted(
        (rank, label, path) for label, pictures in enumerate(per_class) for rank, path in enumerate(pictures)
    )
    paths = tuple(path for _, _, path in ranked)
    if not paths:
        raise InputError(f"folder:{root}: no pictures in its {len(classes)} folders ({', '.join(sorted(_SUFFIXES))})")
    labels = torch.tensor([label for _, label, _ in ranked])
    return Pictures(paths, _common_size(paths) if size is None else (size, size)), labels, tuple(classes)


def _pictures_below(root: Path) -> list[Path]:
    return sorted(
        Path(where, name)
        for where, _, names in os.walk(root)
        for name in names
        if Path(name).suffix.lower() in _SUFFIXES and not name.startswith(".")
    )


def _common_size(paths: Sequence[Path]) -> tuple[int, int]:
    """The (H,W) that a sample of the pictures has in common, or the default; only headers are read."""
    sizes = set()
    for path in paths[:: -(-len(paths) // _SAMPLE)]:
        with _opened(path) as picture:
            sizes.add((picture.height, picture.width))
    return sizes.pop() if len(sizes) == 1 else (_DEFAULT_SIZE, _DEFAULT_SIZE)
