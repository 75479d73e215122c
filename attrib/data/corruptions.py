"""CIFAR-10-C (Hendrycks and Dietterich, 2019): a file of 5 severities x 10,000 images for each corruption."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from attrib.data import download
from attrib.errors import InputError, one_line, refused

_FOLDERS = ("CIFAR-10-C", "cifar-10-c", "cifar10c", "")
_SEVERITIES = 5


def read(place: str, *, root: Path | None) -> tuple[Tensor, Tensor]:
    """Images (N,3,32,32) uint8 and labels (N,) of NAME:SEVERITY, where N is a fifth of the file.

    The official layout is NAME.npy (5N,32,32,3) uint8, one severity after the other, and labels.npy. Raises InputError
    for another severity, and for files that are missing or have another layout.
    """
    name, _, level = place.partition(":")
    if level not in map(str, range(1, _SEVERITIES + 1)):
        raise InputError(f"data set: expected cifar10c:NAME:SEVERITY with a severity from 1 to 5, got cifar10c:{place}")
    roots = list(download.roots(root))
    candidates = (each / sub for each in roots for sub in _FOLDERS)
    folder = next((candidate for candidate in candidates if (candidate / "labels.npy").is_file()), None)
    if folder is None:
        raise InputError(
            f"cifar10c: no folder CIFAR-10-C with labels.npy in {', '.join(map(str, roots))}; unpack CIFAR-10-C.tar"
            " (zenodo.org/records/2535967) there"
        )
    names = sorted(path.stem for path in folder.glob("*.npy") if path.stem != "labels")
    if name not in names:
        raise refused("cifar10c", name, names)
    try:
        images, labels = (np.load(folder / f"{stem}.npy", mmap_mode="r") for stem in (name, "labels"))
    except Exception as error:  # on arbitrary bytes numpy may raise anything
        raise InputError(f"cifar10c: {folder / name}.npy cannot be read ({one_line(error)}); unpack it again") from None
    if images.dtype != np.uint8 or images.shape[1:] != (32, 32, 3) or labels.shape != images.shape[:1]:
        raise InputError(
            f"cifar10c: expected {name}.npy uint8 (N,32,32,3) and labels.npy (N,) in {folder}, got {images.dtype}"
            f" {images.shape} and {labels.shape}"
        )
    count = len(images) // _SEVERITIES
    rows = slice((int(level) - 1) * count, int(level) * count)
    pixels = np.ascontiguousarray(images[rows].transpose(0, 3, 1, 2))
    return torch.from_numpy(pixels), torch.from_numpy(np.asarray(labels[rows]).astype(np.int64))
