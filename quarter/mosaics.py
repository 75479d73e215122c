"""Pack images into lossless WebP mosaics, a bit more than half the size of the usual files, and unpack them.

A mosaic is NAME.webp, a grid of images, beside NAME.labels, a byte per image. NAME is DATA-SPLIT-NUMBER.
"""

import struct
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from attrib.errors import InputError
from attrib.files import folder

COLUMNS = 100
SIDE = {"cifar10": 32, "mnist": 28}
PARTS = {("cifar10", "train"): 5, ("cifar10", "test"): 1, ("mnist", "train"): 3, ("mnist", "test"): 1}
"""The number of mosaics of each data set and split."""


class Part(NamedTuple):
    """One mosaic of a data set."""

    data: str
    split: str
    number: int

    @property
    def name(self) -> str:
        """The name of its files, without suffix."""
        return f"{self.data}-{self.split}-{self.number}"


ALL = [Part(data, split, number) for (data, split), count in PARTS.items() for number in range(count)]


def write(images: Tensor, labels: Tensor, path: Path) -> None:
    """Write ``path``.webp and ``path``.labels, and check that they read back.

    images: (N,C,H,W) uint8, square, N a multiple of 100; labels: (N,). Raises InputError if Pillow fails.
    """
    count, channels, side, _ = images.shape
    grid = images.view(-1, COLUMNS, channels, side, side).permute(0, 3, 1, 4, 2)
    pixels = grid.reshape(count // COLUMNS * side, COLUMNS * side, channels).expand(-1, -1, 3).contiguous().numpy()
    webp = path.with_suffix(".webp")
    try:
        Image.fromarray(pixels).save(webp, lossless=True, quality=80, method=4)
    except (OSError, KeyError) as error:
        raise InputError(f"cannot write {webp}: {error}; install a Pillow with WebP") from None
    path.with_suffix(".labels").write_bytes(labels.to(torch.uint8).numpy().tobytes())
    if not torch.equal(read(path, side=side, channels=channels)[0], images):
        raise InputError(f"{webp} does not read back as it was written; install another Pillow")


def read(path: Path, *, side: int, channels: int) -> tuple[Tensor, Tensor]:
    """Images (N,channels,side,side) and labels (N,), both uint8."""
    with Image.open(path.with_suffix(".webp")) as opened:
        pixels = torch.from_numpy(np.array(opened.convert("RGB")))[..., :channels]
    rows = len(pixels) // side
    images = pixels.view(rows, side, COLUMNS, side, channels).permute(0, 2, 4, 1, 3)
    labels = np.frombuffer(path.with_suffix(".labels").read_bytes(), np.uint8)
    return images.reshape(-1, channels, side, side), torch.from_numpy(labels.copy())


def unpack(source: Path, target: Path) -> None:
    """Write the usual files of CIFAR-10 and MNIST below ``target`` from all mosaics in ``source``.

    Raises InputError if one is missing.
    """
    if missing := [part.name for part in ALL if not (source / part.name).with_suffix(".webp").exists()]:
        raise InputError(f"{source}: {', '.join(missing)} are missing; repeat the calls that carry them")
    for (data, split), count in PARTS.items():
        channels = 3 if data == "cifar10" else 1
        loaded = [
            read(source / Part(data, split, number).name, side=SIDE[data], channels=channels) for number in range(count)
        ]
        if data == "cifar10":
            _write_cifar(loaded, folder(target / "cifar-10-batches-bin"), split)
        else:
            _write_mnist(loaded, folder(target / "mnist"), split)


def _write_cifar(parts: Iterable[tuple[Tensor, Tensor]], place: Path, split: str) -> None:
    """Write the binary version: each record is a label and 3072 bytes of pixels."""
    for number, (images, labels) in enumerate(parts, 1):
        name = f"data_batch_{number}.bin" if split == "train" else "test_batch.bin"
        (place / name).write_bytes(torch.cat([labels[:, None], images.flatten(1)], 1).numpy().tobytes())


def _write_mnist(parts: list[tuple[Tensor, Tensor]], place: Path, split: str) -> None:
    """Write IDX files: type and number of dimensions, their sizes, the bytes."""
    images, labels = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    stem = "train" if split == "train" else "t10k"
    header = struct.pack(">4B3I", 0, 0, 8, 3, len(images), *images.shape[2:])
    (place / f"{stem}-images-idx3-ubyte").write_bytes(header + images.numpy().tobytes())
    header = struct.pack(">4BI", 0, 0, 8, 1, len(labels))
    (place / f"{stem}-labels-idx1-ubyte").write_bytes(header + labels.numpy().tobytes())
